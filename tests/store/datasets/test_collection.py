from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from contracts.data import Part
from contracts.errors import Conflict, Internal, InvalidInput, NameTaken, NotFound, StoreFull, TooLarge
from contracts.jobs import JobKind
from store import Store, StoreSettings
from store.blobs import Blobs
from store.datasets import Datasets, UploadedFile
from tests.store.datasets.conftest import Ingest, lines, npy, npz

CSV = lines(50, lambda i: f"{i},{i * 0.5}", "a,b")


def upload(tmp_path: Path, content: bytes = CSV.encode(), name: str = "a.csv") -> list[UploadedFile]:
    path = tmp_path / f"upload-{name}"
    path.write_bytes(content)
    return [UploadedFile(name, path)]


def test_same_bytes_and_overrides_are_the_same_dataset(store: Store, tmp_path: Path) -> None:
    first, created = store.datasets.ingest("d", upload(tmp_path), {})
    assert created
    assert store.datasets.ingest("d", upload(tmp_path), {}) == (first, False)
    other, created = store.datasets.ingest("other", upload(tmp_path, name="b.csv"), {"split": {}})
    assert created  # as a name
    assert (other.name, other.digest) == ("other", first.digest)
    assert store.datasets.open("other").count() == 50
    changed, created = store.datasets.ingest("e", upload(tmp_path), {"drop": ["b"]})
    assert created
    assert changed.digest != first.digest
    with pytest.raises(NameTaken, match="'d'"):
        store.datasets.ingest("d", upload(tmp_path), {"drop": ["b"]})
    with pytest.raises(NameTaken):
        store.datasets.ingest("d", upload(tmp_path, b"a,b\n" + b"1,2\n" * 5), {})
    assert len(store.blobs.list("datasets")) == 2 * len(store.blobs.list(f"datasets/{first.digest}"))


def test_equal_uploads_at_once_are_one_dataset(store: Store, tmp_path: Path) -> None:
    files = upload(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: store.datasets.ingest("d", files, {}), range(4)))
    assert sum(created for _, created in answers) == 1
    assert len({dataset.digest for dataset, _ in answers}) == 1
    assert store.datasets.open("d").count() == 50


def test_arrays_go_with_the_last_name(store: Store, tmp_path: Path, clean: Callable[[], None]) -> None:
    store.datasets.ingest("d", upload(tmp_path), {})
    store.datasets.ingest("e", upload(tmp_path), {})
    store.datasets.delete("d")
    assert store.datasets.open("e").count() == 50
    store.datasets.delete("e")
    clean()


def test_one_name_for_two_uploads_at_once(store: Store, tmp_path: Path) -> None:
    uploads = [upload(tmp_path, f"a\n{lines(20 + i, str)}".encode(), f"{i}.csv") for i in range(3)]

    def run(index: int) -> bool:
        try:
            return store.datasets.ingest("d", uploads[index], {})[1]
        except NameTaken:
            return False

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(run, range(3))) == 1
    (dataset,) = store.catalogue.list_datasets()
    assert {key.split("/")[1] for key in store.blobs.list("datasets")} == {dataset.digest}


@pytest.mark.parametrize("name", ["", "A", "a b", "a@1", "-a", "a" * 64, "../a"])
def test_names(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="no dataset name"):
        store.datasets.ingest(name, upload(tmp_path), {})


def test_delete(store: Store, tmp_path: Path, clean: Callable[[], None]) -> None:
    dataset, _ = store.datasets.ingest("d", upload(tmp_path), {})
    job, _ = store.catalogue.insert_job(JobKind.TRAIN, {"dataset": "d"})
    with pytest.raises(Conflict):
        store.datasets.delete("d")
    assert store.datasets.open("d").count() == 50
    store.catalogue.request_cancel(job.id)
    assert store.datasets.delete(dataset.digest) == dataset
    clean()
    with pytest.raises(NotFound):
        store.datasets.open("d")
    assert store.datasets.ingest("d", upload(tmp_path), {})[1]


def test_reading(ingest: Ingest) -> None:
    x = np.random.default_rng(0).normal(size=(300, 4))
    reader = ingest(npy(x), "x.npy")
    assert reader.count() == 300
    assert sum(reader.count(part) for part in Part) == 300
    assert reader.dataset.parts == {part: reader.count(part) for part in Part}
    np.testing.assert_array_equal(reader.read(None, slice(None)).x, x)
    np.testing.assert_array_equal(reader.read(None, np.array([7, 3, 3])).x, x[[7, 3, 3]])
    train = reader.read(Part.TRAIN, slice(None)).x
    np.testing.assert_array_equal(reader.read(Part.TRAIN, np.array([5, 2])).x, train[[5, 2]])
    batches = list(reader.batches(Part.TRAIN, 100))
    assert [len(batch) for batch in batches[:-1]] == [100] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), train)
    assert reader.read(None, slice(0, 0)).x.shape == (0, 4)
    for wrong in ([300], [-1]):
        with pytest.raises(InvalidInput, match=r"0\.\.299"):
            reader.read(None, np.array(wrong))
    profile = reader.profile()
    assert profile.rows == len(train)
    np.testing.assert_allclose(profile.mean, train.mean(0), rtol=1e-12)
    np.testing.assert_allclose(profile.std, train.std(0), rtol=1e-12)
    np.testing.assert_array_equal(profile.minimum, train.min(0))
    np.testing.assert_array_equal(profile.maximum, train.max(0))


def test_digits(ingest: Ingest) -> None:
    digits = load_digits()
    content = npz(images=digits.images, y=digits.target)
    reader = ingest(content, "digits.npz", image={"levels": 17})
    assert reader.spec.row_shape == (8, 8, 1)
    assert reader.spec.image is not None
    assert reader.spec.image.levels == 17
    rows = reader.read(None, slice(None))
    np.testing.assert_array_equal(rows.x[..., 0], digits.images)
    np.testing.assert_array_equal(rows.y, digits.target)
    assert reader.spec.label is not None
    assert reader.spec.label.categories == tuple("0123456789")
    np.testing.assert_allclose(
        reader.profile().mean, reader.read(Part.TRAIN, slice(None)).x.reshape(-1, 64).mean(0), rtol=1e-12
    )


def test_a_remote_store_is_fetched_once(settings: StoreSettings, store: Store, tmp_path: Path) -> None:
    blobs = Blobs("memory:///", settings.home)
    datasets = Datasets(settings, store.catalogue, blobs)
    dataset, _ = datasets.ingest("d", upload(tmp_path), {})
    assert datasets.open("d").count() == 50
    blobs.delete("datasets")
    assert datasets.open("d").read(None, slice(0, 1)).x.tolist() == [[0, 0]]
    datasets.delete("d")
    assert not (settings.cache / "datasets" / dataset.digest).exists()


def test_lost_arrays_are_told(store: Store, tmp_path: Path) -> None:
    store.datasets.ingest("d", upload(tmp_path), {})
    store.blobs.delete("datasets")
    with pytest.raises(Internal, match="upload it again"):
        store.datasets.open("d")


def test_progress(store: Store, tmp_path: Path) -> None:
    seen: list[int] = []
    store.datasets.ingest("d", upload(tmp_path, npy(np.zeros((20000, 2))), "x.npy"), {"split": {"valid": 0, "test": 0}},
                          on_progress=seen.append)  # fmt: skip
    assert seen == [8192, 16384, 20000]


def test_limits(settings: StoreSettings, tmp_path: Path) -> None:
    with Store.open(settings.model_copy(update={"max_upload_bytes": 100, "min_rows": 10}), migrate=True) as store:
        with pytest.raises(TooLarge, match="100 are allowed"):
            store.datasets.ingest("d", upload(tmp_path), {})
        with pytest.raises(InvalidInput, match="9 rows; a dataset needs at least 10"):
            store.datasets.ingest("d", upload(tmp_path, lines(9, str, "a").encode()), {})
        assert store.datasets.ingest("d", upload(tmp_path, lines(10, str, "a").encode()), {})[0].rows == 10


def test_no_file(store: Store) -> None:
    with pytest.raises(InvalidInput, match="no file"):
        store.datasets.ingest("d", [], {})


@pytest.mark.parametrize("content", [CSV.encode() * 1, npy(np.random.default_rng(0).normal(size=(20_000, 8)))])
def test_a_full_disk_keeps_nothing(
    store: Store, tmp_path: Path, clean: Callable[[], None], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = upload(tmp_path, content, "x.npy" if content.startswith(b"\x93") else "x.csv")
    if len(content) > 100_000:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limit[1]))
        try:
            with pytest.raises(StoreFull, match="no room"):
                store.datasets.ingest("d", files, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    else:

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr("store.datasets.content.save_profile", full)
            with pytest.raises(StoreFull, match="no room"):
                store.datasets.ingest("d", files, {})
    clean()
    assert store.datasets.ingest("d", files, {})[1]


def test_a_catalogue_that_fails_leaves_no_arrays(
    store: Store, tmp_path: Path, clean: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise NameTaken("x")

    with monkeypatch.context() as patched:
        patched.setattr(type(store.catalogue), "insert_dataset", taken)
        with pytest.raises(NameTaken):
            store.datasets.ingest("d", upload(tmp_path), {})
    clean()
