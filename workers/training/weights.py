"""Where a family's weights come from: a seed, or what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contracts.data import DataProfile, DataSpec
from contracts.errors import FieldProblem, InvalidInput
from contracts.families import FamilyConfig
from models import build
from models.family import Family, hash_words

_INITIAL = 0x696E6974


def build_seeded(
    config: FamilyConfig,
    spec: DataSpec,
    profile: DataProfile,
    seed: int,
    parents: Mapping[str, Family[FamilyConfig]] | None = None,
) -> Family[Any]:
    """Build a family whose initial weights depend on ``seed`` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_words(seed, _INITIAL))
        return build(config, spec, profile, parents)


def load_weights(family: nn.Module, tensors: Mapping[str, Tensor], *, refit_buffers: bool = False) -> None:
    """Copy ``tensors`` into the parameters and buffers of the same names.

    ``refit_buffers``: buffers whose shape was found by fitting (a mixture's components) may take the saved shape.
    Raises InvalidInput naming the weights that are missing, superfluous or of another shape.
    """
    own = family.state_dict()
    buffers = dict(family.named_buffers())
    problems = [
        FieldProblem(location=name, message="is not in the saved weights") for name in own if name not in tensors
    ]
    problems += [FieldProblem(location=name, message="is not in this model") for name in tensors if name not in own]
    for name, tensor in own.items():
        saved = tensors.get(name)
        if saved is None or saved.shape == tensor.shape:
            continue
        if refit_buffers and name in buffers:
            _replace_buffer(family, name, saved.to(tensor.device))
        else:
            problems.append(
                FieldProblem(location=name, message=f"has shape {tuple(tensor.shape)}, saved {tuple(saved.shape)}")
            )
    if problems:
        raise InvalidInput(
            f"the saved weights do not fit this model ({len(problems)} differ; first: {problems[0].location} "
            f"{problems[0].message}); use the config and the columns that the version was trained with",
            errors=problems[:20],
        )
    with torch.no_grad():
        family.load_state_dict(dict(tensors))


def _replace_buffer(family: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = family.get_submodule(owner) if owner else family
    module.register_buffer(leaf, value.clone())
