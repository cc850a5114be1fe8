from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.errors import InvalidInput
from workers.training.weights import load_weights


class Module(nn.Module):
    def __init__(self, width: int = 2, components: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("means", torch.zeros(components))


def test_loads_what_fits() -> None:
    source, target = Module(), Module()
    load_weights(target, source.state_dict())
    assert torch.equal(target.layer.weight, source.layer.weight)


def test_names_what_does_not_fit() -> None:
    with pytest.raises(InvalidInput, match=r"layer.weight has shape \(3, 3\), saved \(2, 2\).*config"):
        load_weights(Module(3), Module(2).state_dict())
    state = Module().state_dict()
    del state["layer.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(InvalidInput) as caught:
        load_weights(Module(), state)
    assert {problem.location for problem in caught.value.errors} == {"layer.bias", "extra"}


def test_fitted_buffers_may_take_the_saved_size() -> None:
    target = Module(components=3)
    load_weights(target, Module(components=5).state_dict(), refit_buffers=True)
    assert target.get_buffer("means").shape == (5,)
    with pytest.raises(InvalidInput, match="means"):
        load_weights(Module(components=3), Module(components=5).state_dict())
