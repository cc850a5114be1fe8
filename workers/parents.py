"""Trained versions that a new model is built on: their modules, digests and alphabets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import load_file

from contracts.data import DataProfile, DataSpec
from contracts.families import FamilyConfig, config_adapter
from engine.tokeniser import TOKENISER_FILE
from models.family import Family
from store import Store
from workers.training.weights import build_seeded, load_weights


@dataclass(frozen=True)
class Parents:
    """By role: the trained ``families``, the ``digests`` of their artifacts; ``files`` that the child's artifact keeps
    of them, by name."""

    families: dict[str, Family[Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def load_parents(store: Store, config: FamilyConfig, spec: DataSpec, profile: DataProfile) -> Parents:
    """Load what ``config`` names, in eval mode. Raises NotFound for a version that is not there any more, InvalidInput
    where it does not fit."""
    found = Parents()
    for role, reference in config.parent_references().items():
        version = store.catalogue.resolve(reference)
        config.check_parent(role, reference, version.manifest, spec)
        folder = store.artifacts.fetch(version.digest)
        settled = config_adapter.validate_python(version.manifest.config)
        # What data decided stands in the config and the weights; only the sizes of the profile are looked at.
        family = build_seeded(settled, version.manifest.data, profile, 0)
        load_weights(family, load_file(folder / "weights.safetensors"), refit_buffers=True)
        found.families[role] = family.eval()
        found.digests[role] = version.digest
        if TOKENISER_FILE in version.manifest.files:
            found.files[f"{role}.{TOKENISER_FILE}"] = (folder / TOKENISER_FILE).read_bytes()
    return found
