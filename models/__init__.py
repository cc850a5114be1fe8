"""The mathematics: one family = one file; shared building blocks stand in ``models.layers``.

``FAMILIES`` maps a family's name to its class; everything generic (trainer, exporter, contract tests) goes
through it. A family's file is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from contracts.data import DataProfile, DataSpec
from contracts.errors import InvalidInput
from contracts.families import FamilyConfig
from models.family import Family

__all__ = ["FAMILIES", "build"]


class _Families(Mapping[str, type[Family[Any]]]):
    """Family name → class, imported on first use."""

    def __init__(self, places: dict[str, tuple[str, str]]) -> None:
        """``places``: name → (module, class)."""
        self._places = places

    def __getitem__(self, name: str) -> type[Family[Any]]:
        module, attribute = self._places[name]
        family: type[Family[Any]] = getattr(import_module(module), attribute)
        return family

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


FAMILIES: Mapping[str, type[Family[Any]]] = _Families(
    {
        "pca": ("models.pca", "PCA"),
        "autoencoder": ("models.autoencoder", "Autoencoder"),
        "vae": ("models.vae", "VAE"),
        "hierarchical_vae": ("models.hierarchical_vae", "HierarchicalVAE"),
        "vqvae": ("models.vqvae", "VQVAE"),
        "flow": ("models.flow", "Flow"),
        "gan": ("models.gan", "GAN"),
        "simclr": ("models.simclr", "SimCLR"),
        "clip": ("models.clip", "CLIP"),
        "dalle": ("models.dalle", "DALLE"),
        "autoregressive": ("models.autoregressive", "Autoregressive"),
    }
)


def build(
    config: FamilyConfig,
    spec: DataSpec,
    profile: DataProfile,
    parents: Mapping[str, Family[FamilyConfig]] | None = None,
) -> Family[Any]:
    """Return the untrained family of ``config``, every None of its config resolved.

    ``parents``: role → trained family, exactly those that the config names. Raises InvalidInput for an unknown family,
    data it cannot train on, or wrong parents.
    """
    if config.family not in FAMILIES:
        raise InvalidInput(f"there is no family `{config.family}`; choose one of {', '.join(FAMILIES)}")
    config.check_data(spec)
    family = FAMILIES[config.family]
    if set(parents or {}) != set(config.parent_references()):
        wanted = ", ".join(config.parent_references()) or "none"
        raise InvalidInput(f"{config.family} needs these parents: {wanted}; got {', '.join(parents or {}) or 'none'}")
    return family(config, spec, profile, parents)
