from __future__ import annotations

import pytest
from pydantic import ValidationError

from contracts.artifact import FileEntry, Kind, Manifest, Verb, VerbSpec
from contracts.data import Column, ColumnType, DataSpec, Measure

MANIFEST = Manifest(
    family="pca",
    kind=Kind.LATENT,
    config={"family": "pca", "components": 2},
    data=DataSpec(modality="table", columns=(Column(name="a", type=ColumnType.REAL),)),
    graphs={},
    verbs={Verb.ENCODE: VerbSpec(supported=True), Verb.DECODE: VerbSpec(supported=False, refusal="use another")},
    measure=Measure.DENSITY,
    seed=0,
    steps=1,
    dataset="0" * 64,
    space="s",
    files={"card.json": FileEntry(sha256="0" * 64, size=1)},
)


def test_verbs() -> None:
    assert MANIFEST.supports(Verb.ENCODE)
    assert not MANIFEST.supports(Verb.DECODE)
    assert not MANIFEST.supports(Verb.SAMPLE)


def test_manifests_survive_json_and_refuse_what_they_do_not_know() -> None:
    assert Manifest.model_validate_json(MANIFEST.model_dump_json()) == MANIFEST
    for change in ({"format_version": 2}, {"more": 1}, {"files": {"a": {"sha256": "x", "size": 1}}}):
        with pytest.raises(ValidationError):
            Manifest.model_validate({**MANIFEST.model_dump(), **change})
