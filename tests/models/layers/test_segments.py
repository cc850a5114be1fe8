"""Laws of the transformer over segments: causal, normalised, and the same one symbol at a time."""

from __future__ import annotations

import itertools

import pytest
import torch

from models.layers.segments import Segment, SegmentTransformer


@pytest.fixture
def net() -> SegmentTransformer:
    torch.manual_seed(0)
    made = SegmentTransformer([Segment(3, 2), Segment(2, 2)], width=16, depth=2, heads=2, dropout=0.0, classes=2).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def every_sequence() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(3), range(3), range(2), range(2))))


def test_probabilities_of_all_sequences_add_up_to_one(net: SegmentTransformer) -> None:
    sequences = every_sequence()
    for label in (0, 1):
        log_p = net(sequences, torch.full((len(sequences),), label))
        assert float(torch.exp(log_p.sum(1)).sum()) == pytest.approx(1, abs=1e-5)


def test_a_symbol_depends_on_those_before_it_and_on_the_label(net: SegmentTransformer) -> None:
    a, b = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 1, 1, 0]])
    y = torch.tensor([0])
    torch.testing.assert_close(net(a, y)[:, :2], net(b, y)[:, :2])
    assert not torch.allclose(net(a, y)[:, 3], net(torch.tensor([[2, 1, 0, 1]]), y)[:, 3])
    assert not torch.allclose(net(a, y), net(a, torch.tensor([1])))


def test_steps_answer_what_the_whole_pass_answers(net: SegmentTransformer) -> None:
    sequences = every_sequence()[::5]
    y = torch.arange(len(sequences)) % 2
    whole = net(sequences, y)
    cache = torch.zeros(len(sequences), *net.body.cache_shape)
    symbol = torch.full((len(sequences),), 7)  # nothing stands before the first place
    for place in range(net.length):
        logits, cache = net.step(symbol, torch.full((len(sequences),), place), cache, y)
        symbol = sequences[:, place]
        log_p = torch.log_softmax(logits, -1)[torch.arange(len(sequences)), symbol]
        torch.testing.assert_close(log_p, whole[:, place], rtol=1e-4, atol=1e-5)
    # The second segment has two symbols, and the third is out of the question.
    assert float(torch.softmax(logits, -1)[:, 2].max()) == 0
