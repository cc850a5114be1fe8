from __future__ import annotations

from datetime import UTC, datetime

import pytest

from contracts.data import Column, ColumnType, DataSpec, Part
from contracts.errors import Conflict, InvalidInput, NameTaken, NotFound
from contracts.jobs import JobKind
from store.catalogue import Catalogue, Dataset

SPEC = DataSpec(modality="table", columns=(Column(name="a", type=ColumnType.REAL),))


def dataset(name: str, digit: str) -> Dataset:
    parts = {Part.TRAIN: 8, Part.VALID: 1, Part.TEST: 1}
    return Dataset(name, digit * 64, SPEC, rows=10, parts=parts, size=80, created_at=datetime.now(UTC))


def test_insert_and_get(catalogue: Catalogue) -> None:
    stored, created = catalogue.insert_dataset(dataset("d", "1"))
    assert created
    for key in ("d", "1" * 64):
        assert catalogue.get_dataset(key) == stored
    assert (stored.spec, stored.rows, stored.parts[Part.TRAIN]) == (SPEC, 10, 8)


def test_same_digest_is_the_same_dataset(catalogue: Catalogue) -> None:
    first, _ = catalogue.insert_dataset(dataset("d", "1"))
    assert catalogue.insert_dataset(dataset("d", "1")) == (first, False)


def test_a_dataset_may_have_several_names(catalogue: Catalogue) -> None:
    first, _ = catalogue.insert_dataset(dataset("d", "1"))
    other, created = catalogue.name_dataset("1" * 64, "other")
    assert created
    assert (other.name, other.digest, other.parts) == ("other", first.digest, first.parts)
    assert catalogue.name_dataset("1" * 64, "other") == (other, False)
    assert catalogue.insert_dataset(dataset("b", "1"))[1]
    assert catalogue.get_dataset("1" * 64) == first
    assert [each.name for each in catalogue.list_datasets()] == ["b", "d", "other"]
    catalogue.insert_dataset(dataset("e", "2"))
    with pytest.raises(NameTaken):
        catalogue.name_dataset("1" * 64, "e")
    with pytest.raises(NotFound):
        catalogue.name_dataset("3" * 64, "f")
    catalogue.insert_job(JobKind.TRAIN, {"dataset": "other"})
    assert catalogue.delete_dataset("d") == first  # the job goes on under the other name
    with pytest.raises(Conflict):
        catalogue.delete_dataset("1" * 64)
    catalogue.insert_job(JobKind.TRAIN, {"dataset": "1" * 64})
    catalogue.delete_dataset("b")
    with pytest.raises(Conflict):
        catalogue.delete_dataset("other")


def test_by_digest_every_name_goes(catalogue: Catalogue) -> None:
    for name in "de":
        catalogue.insert_dataset(dataset(name, "1"))
    catalogue.delete_dataset("1" * 64)
    assert catalogue.list_datasets() == []


def test_a_name_is_given_once(catalogue: Catalogue) -> None:
    catalogue.insert_dataset(dataset("d", "1"))
    catalogue.insert_dataset(dataset("e", "2"))
    with pytest.raises(NameTaken, match="'d'"):
        catalogue.insert_dataset(dataset("d", "3"))
    with pytest.raises(NameTaken):
        catalogue.insert_dataset(dataset("d", "2"))


def test_not_found_names_what_exists(catalogue: Catalogue) -> None:
    with pytest.raises(NotFound, match="none has been uploaded"):
        catalogue.get_dataset("x")
    catalogue.insert_dataset(dataset("d", "1"))
    with pytest.raises(NotFound, match="datasets are: d"):
        catalogue.get_dataset("x")


def test_list(catalogue: Catalogue) -> None:
    for name, digit in zip("cab", "123", strict=True):
        catalogue.insert_dataset(dataset(name, digit))
    assert [each.name for each in catalogue.list_datasets()] == ["a", "b", "c"]
    assert [each.name for each in catalogue.list_datasets(limit=1, after="a")] == ["b"]


@pytest.mark.parametrize("key", ["d", "1" * 64])
def test_a_dataset_in_use_is_not_deleted(catalogue: Catalogue, key: str) -> None:
    catalogue.insert_dataset(dataset("d", "1"))
    job, _ = catalogue.insert_job(JobKind.TRAIN, {"dataset": key})
    with pytest.raises(Conflict, match=job.id):
        catalogue.delete_dataset("d")
    catalogue.claim_job(job.id, "w")
    with pytest.raises(Conflict, match="running"):
        catalogue.delete_dataset("1" * 64)
    assert catalogue.get_dataset(key).name == "d"


def test_delete(catalogue: Catalogue) -> None:
    stored, _ = catalogue.insert_dataset(dataset("d", "1"))
    job, _ = catalogue.insert_job(JobKind.TRAIN, {"dataset": "d"})
    catalogue.request_cancel(job.id)
    assert catalogue.delete_dataset("d") == stored
    with pytest.raises(NotFound):
        catalogue.delete_dataset("d")


def test_a_name_with_a_nul_is_refused_or_not_found(catalogue: Catalogue) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        catalogue.get_dataset("a\0b")
    with pytest.raises((InvalidInput, NotFound)):
        catalogue.resolve("a\0b")
    with pytest.raises((InvalidInput, NotFound)):
        catalogue.get_job("a\0b")
