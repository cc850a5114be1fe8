from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contracts.data import Part, Role
from contracts.errors import BadRequest, InvalidInput, LatentserveError, TooLarge, UnsupportedMedia
from store import Store, StoreSettings
from store.datasets import UploadedFile
from tests.store.datasets.conftest import Ingest, gzipped, idx, npy, npz, pictures, png, tarred, zipped

ALL: Any = slice(None)


def mnist_like(n: int = 40, test: int = 10) -> dict[str, bytes]:
    labels = (np.arange(n + test) % 3).astype(np.uint8)
    images = pictures(n + test)
    return {
        "train-images-idx3-ubyte.gz": gzipped(idx(images[:n])),
        "train-labels-idx1-ubyte.gz": gzipped(idx(labels[:n])),
        "t10k-images-idx3-ubyte.gz": gzipped(idx(images[n:])),
        "t10k-labels-idx1-ubyte.gz": gzipped(idx(labels[n:])),
    }


def test_idx_parts(ingest: Ingest) -> None:
    files = mnist_like()
    reader = ingest(files)
    assert (reader.spec.modality, reader.spec.row_shape, reader.spec.split.by) == ("image", (4, 5, 1), "given")
    images = pictures(50)
    rows = reader.read(None, ALL)
    np.testing.assert_array_equal(rows.x[..., 0], images)
    np.testing.assert_array_equal(rows.y, np.arange(50) % 3)
    assert rows.x.dtype == np.uint8
    np.testing.assert_array_equal(reader.read(Part.TEST, ALL).x[..., 0], images[40:])
    assert 0 < reader.count(Part.VALID) < 20
    shuffled = ingest(dict(reversed(files.items())))
    assert shuffled.dataset == reader.dataset


def test_idx_alone_and_in_pairs(ingest: Ingest) -> None:
    images, labels = pictures(30), np.arange(30) % 2
    alone = ingest({"a.idx": idx(images)})
    assert alone.spec.split.by == "hash"
    assert alone.spec.label is None
    pair = ingest({"my-images-idx3-ubyte": idx(images), "my-labels-idx1-ubyte": idx(labels)})
    np.testing.assert_array_equal(pair.read(None, ALL).y, labels)
    odd = ingest({"train-images.idx": idx(images), "labels.idx": idx(labels)})
    np.testing.assert_array_equal(odd.read(None, ALL).y, labels)
    colour = ingest({"a.idx": idx(pictures(30, (4, 5, 3)))})
    assert colour.spec.row_shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"t10k-labels-idx1-ubyte.gz": None}, "for some parts only"),
        ({"t10k-images-idx3-ubyte.gz": None}, "without images"),
        ({"train-labels-idx1-ubyte.gz": gzipped(idx(np.zeros(39)))}, "39 labels for the 40 images"),
        ({"train-labels-idx1-ubyte.gz": gzipped(idx(np.zeros(40))[:-1])}, "cut short"),
        ({"train-labels-idx1-ubyte.gz": gzipped(idx(np.zeros(40)) + b"x")}, "its header says 48"),
        ({"train-labels-idx1-ubyte.gz": gzipped(idx(np.zeros(40)))[:-9]}, "damaged or cut short"),
        ({"t10k-images-idx3-ubyte.gz": gzipped(idx(pictures(10, (4, 4))))}, "different names or shapes"),
        ({"test-images.idx": idx(pictures(10))}, "both images of one part"),
        ({"notes.csv": b"a,b\n1,2\n"}, "different formats"),
    ],
)
def test_bad_idx(ingest: Ingest, clean: Any, change: dict[str, bytes | None], told: str) -> None:
    files = {name: content for name, content in {**mnist_like(), **change}.items() if content is not None}
    with pytest.raises(InvalidInput, match=told):
        ingest(files)
    clean()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (idx(np.zeros(30)), "labels only"),
        (b"\0\0\x08\x03\0\0", "no whole IDX"),
        (idx(np.zeros((0, 2, 2))), "no rows"),
    ],
)
def test_bad_lone_idx(ingest: Ingest, clean: Any, content: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(content, "a.idx")
    clean()


def test_arrays_of_images(ingest: Ingest) -> None:
    grey = pictures(20)
    np.testing.assert_array_equal(ingest(npy(grey), "x.npy").read(None, ALL).x[..., 0], grey)
    np.testing.assert_array_equal(ingest(npy(grey.astype(float)), "x.npy").read(None, ALL).x[..., 0], grey)
    colour = pictures(20, (4, 5, 3))
    np.testing.assert_array_equal(ingest(npy(colour), "x.npy").read(None, ALL).x, colour)
    first = ingest(npy(colour.transpose(0, 3, 1, 2)), "x.npy")
    np.testing.assert_array_equal(first.read(None, ALL).x, colour)
    flat = ingest(
        npy(colour.reshape(20, -1)), "x.npy", modality="image", image={"height": 4, "width": 5, "channels": 3}
    )
    np.testing.assert_array_equal(flat.read(None, ALL).x, colour)
    table = ingest(npy(grey), "x.npy", modality="table")
    assert table.spec.row_shape == (20,)
    binary = ingest(npy(grey > 127), "x.npy")
    assert binary.spec.image is not None
    assert binary.spec.image.levels == 2


@pytest.mark.parametrize(
    ("array", "overrides", "told"),
    [
        (pictures(9).astype(int) - 1, {}, r"must lie in 0\.\.255"),
        (pictures(9).astype(int) + 100, {}, r"must lie in 0\.\.255"),
        (pictures(9) / 255, {}, "row 1 has a pixel that is no whole number"),
        (np.where(np.arange(180).reshape(9, 4, 5) == 70, np.nan, 1.0), {}, "row 4 has a pixel"),
        (pictures(9), {"image": {"levels": 17}}, "over the 17 levels"),
        (pictures(9, (4, 5, 2)), {}, "need the shape"),
        (pictures(9, (20,)), {"modality": "image"}, "become images by overrides"),
        (pictures(9, (20,)), {"modality": "image", "image": {"height": 4, "width": 4}}, "20 values"),
        (np.zeros((3, 5000, 1), np.uint8), {}, "at most 4096 a side"),
        (pictures(9), {"image": {"height": 0}}, r"overrides\.image\.height"),
    ],
)
def test_bad_arrays_of_images(ingest: Ingest, clean: Any, array: Any, overrides: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(npy(array), "x.npy", **overrides)
    clean()


def test_resizing(ingest: Ingest) -> None:
    reader = ingest(
        npz(images=pictures(20, (8, 8)), y=np.arange(20) % 2), "x.npz", image={"height": 4, "width": 6, "channels": 3}
    )
    assert reader.spec.row_shape == (4, 6, 3)
    x = reader.read(None, ALL).x
    np.testing.assert_array_equal(x[..., 0], x[..., 2])
    grey = ingest(npy(pictures(20, (8, 8, 3))), "x.npy", image={"channels": 1})
    assert grey.spec.row_shape == (8, 8, 1)
    few = ingest(npy(pictures(20, (8, 8)) % 5), "x.npy", image={"height": 5, "width": 5, "levels": 5})
    assert few.read(None, ALL).x.max() == 4


def test_constant_pictures_stay_constant(ingest: Ingest) -> None:
    levels = np.arange(0, 200, 10, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None], (20, 9, 7))
    reader = ingest(npy(images), "x.npy", image={"height": 4, "width": 4})
    np.testing.assert_array_equal(reader.read(None, ALL).x, np.broadcast_to(levels[:, None, None, None], (20, 4, 4, 1)))


def members(n: int = 12, form: str = "{i:02}.png", seed: int = 0) -> dict[str, bytes]:
    return {form.format(i=i, c="ab"[i % 2]): png(each) for i, each in enumerate(pictures(n, seed=seed))}


@pytest.mark.parametrize("pack", [zipped, tarred, lambda content: gzipped(tarred(content))])
def test_archives_of_pictures(ingest: Ingest, pack: Any) -> None:
    reader = ingest(pack(members()), "pictures.bin")
    np.testing.assert_array_equal(reader.read(None, ALL).x[..., 0], pictures(12))
    assert reader.spec.columns == ()


def test_pictures_without_an_archive(ingest: Ingest) -> None:
    np.testing.assert_array_equal(ingest(members()).read(None, ALL).x[..., 0], pictures(12))


def test_folders_are_labels_and_parts(ingest: Ingest) -> None:
    reader = ingest(
        zipped({**members(12, "root/{c}/{i}.png"), "root/.DS_Store": b"x", "__MACOSX/a.png": b"x"}), "a.zip"
    )
    assert reader.spec.label is not None
    assert reader.spec.label.categories == ("a", "b")
    np.testing.assert_array_equal(reader.read(None, ALL).y, np.arange(12) % 2)
    parts = ingest(zipped({**members(12, "train/{c}/{i}.png"), **members(6, "test/{c}/{i}.png", seed=1)}), "a.zip")
    assert parts.spec.split.by == "given"
    np.testing.assert_array_equal(parts.read(Part.TEST, ALL).x[..., 0], pictures(6, seed=1))
    np.testing.assert_array_equal(parts.read(Part.TEST, ALL).y, np.arange(6) % 2)


def test_a_file_of_labels_and_captions(ingest: Ingest) -> None:
    rows = [f"{i:02}.png,caption {i},{'uv'[i % 2]},{'train' if i < 9 else 'test'}" for i in range(12)]
    text = "\n".join(["file,caption,label,split", *reversed(rows)])
    reader = ingest(zipped({"metadata.csv": text.encode(), **members()}), "a.zip")
    assert {column.name: column.role for column in reader.spec.columns} == {
        "caption": Role.CAPTION, "label": Role.LABEL, "split": Role.SPLIT
    }  # fmt: skip
    loaded = reader.read(None, np.array([0, 11]))
    assert loaded.captions == ["caption 0", "caption 11"]
    np.testing.assert_array_equal(loaded.y, [0, 1])
    assert reader.count(Part.TEST) == 3
    lines = "\n".join(json.dumps({"file_name": f"{i:02}.png", "text": f"said {i}"}) for i in range(12))
    described = ingest(
        tarred({**{f"x/{name}": data for name, data in members().items()}, "x/c.jsonl": lines.encode()}), "a.tar"
    )
    assert described.read(None, slice(1, 2)).captions == ["said 1"]
    bare = "\n".join(f"{i:02}.png,{'uv'[i % 2]}" for i in range(12))
    labelled = ingest(zipped({"labels.csv": bare.encode(), **members()}), "a.zip")
    np.testing.assert_array_equal(labelled.read(None, ALL).y, np.arange(12) % 2)
    told = "\n".join(f"{i:02}.png\ta cat, a dog, or {i}" for i in range(12))
    captioned = ingest(zipped({"captions.txt": told.encode(), "LICENCE.txt": b"free", **members()}), "a.zip")
    assert captioned.read(None, slice(3, 4)).captions == ["a cat, a dog, or 3"]
    renamed = ingest(zipped({"metadata.csv": text.encode(), **members()}), "a.zip", label="caption")
    assert renamed.spec.label is not None
    assert renamed.spec.label.name == "caption"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "file,label\n00.png,u\n", r"says nothing of the picture '01\.png'"),
        ("a.csv", "file,label\n00.png,u\n00.png,v\n", "twice"),
        ("a.csv", "file,label\n00.png\n", "row 1 of a.csv has 1 cells"),
        ("a.csv", "", "empty"),
        ("a.csv", b"\xff\xff", "UTF-8"),
        ("a.csv", "file,label\n,u\n", "without a file name"),
        ("a.jsonl", "{", "line 1 is no JSON"),
        ("a.jsonl", '{"file": "00.png", "x": [1]}', "list in 'x'"),
        ("a.jsonl", "\n", "empty"),
    ],
)
def test_bad_files_of_labels(ingest: Ingest, clean: Any, name: str, text: str | bytes, told: str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InvalidInput, match=told):
        ingest(zipped({name: content, **members()}), "a.zip")
    clean()


def test_modes_of_pictures(ingest: Ingest) -> None:
    grey = pictures(1, (6, 6))[0]
    rgba = np.zeros((6, 6, 4), np.uint8)
    rgba[..., 0], rgba[:3, :, 3] = 200, 255
    buffer = io.BytesIO()
    Image.fromarray(grey).convert("P").save(buffer, "PNG")
    files = {
        "0.png": png(rgba),
        "1.png": png(grey),
        "2.png": buffer.getvalue(),
        "3.jpg": png(np.full((6, 6, 3), 7, np.uint8), "JPEG", quality=100),
    }
    x = ingest(zipped(files), "a.zip", split={"valid": 0, "test": 0}).read(None, ALL).x
    assert x.shape == (4, 6, 6, 3)
    np.testing.assert_array_equal(x[0, 0, 0], [200, 0, 0])
    np.testing.assert_array_equal(x[0, 5, 5], [255, 255, 255])  # transparent is white
    np.testing.assert_array_equal(x[1, ..., 1], grey)
    np.testing.assert_array_equal(x[2, ..., 1], grey)
    assert abs(x[3].astype(int) - 7).max() <= 1


def test_deep_and_two_valued_pictures(ingest: Ingest) -> None:
    deep = {f"{i}.png": png((pictures(1, seed=i)[0].astype(np.uint16) << 8) + 77) for i in range(12)}
    np.testing.assert_array_equal(ingest(zipped(deep), "a.zip").read(None, slice(0, 1)).x[0, ..., 0], pictures(1)[0])
    bits = {f"{i}.png": png(pictures(1, seed=i)[0] > 127) for i in range(12)}
    two = ingest(zipped(bits), "a.zip", image={"levels": 2}).read(None, slice(0, 1)).x[0, ..., 0]
    np.testing.assert_array_equal(two, pictures(1)[0] > 127)
    with pytest.raises(InvalidInput, match="over the 2 levels"):
        ingest(zipped(members()), "a.zip", image={"levels": 2})


def test_pictures_are_turned_upright(ingest: Ingest) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    turned = {f"{i}.jpg": png(pictures(1, (8, 4), seed=i)[0], "JPEG", exif=exif.tobytes()) for i in range(12)}
    assert ingest(zipped(turned), "a.zip").spec.row_shape == (4, 8, 1)


def test_sizes_must_agree_unless_resized(ingest: Ingest, clean: Any) -> None:
    mixed = zipped({**members(), "z.png": png(pictures(1, (9, 9))[0])})
    with pytest.raises(InvalidInput, match=r"00\.png has 4×5 pixels .* z\.png 9×9; .* overrides: image"):
        ingest(mixed, "a.zip")
    clean()
    assert ingest(mixed, "a.zip", image={"height": 6, "width": 6}).spec.row_shape == (6, 6, 1)


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_paths_that_lead_out_are_refused(ingest: Ingest, clean: Any, name: str, pack: Any) -> None:
    with pytest.raises(BadRequest, match="leads out"):
        ingest(pack({**members(), name: png(pictures(1)[0])}), "a.bin")
    clean()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_in_a_tar_are_refused(ingest: Ingest, clean: Any, kind: bytes) -> None:
    buffer = io.BytesIO(tarred(members()))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        entry = tarfile.TarInfo("link.png")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(BadRequest, match="link or device"):
        ingest(buffer.getvalue(), "a.tar")
    clean()


def test_links_and_passwords_in_a_zip_are_refused(ingest: Ingest, clean: Any) -> None:
    buffer = io.BytesIO(zipped(members()))
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = zipfile.ZipInfo("link.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(BadRequest, match="link or device"):
        ingest(buffer.getvalue(), "a.zip")
    locked = bytearray(zipped({"a.png": b"x"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + offset] |= 1
    with pytest.raises(InvalidInput, match="encrypted"):
        ingest(bytes(locked), "a.zip")
    clean()


def refused(home: Any, content: bytes, name: str, **limits: Any) -> LatentserveError:
    """The error of an ingest under other limits, nothing being left behind."""
    path = home / "upload"
    home.mkdir(exist_ok=True)
    path.write_bytes(content)
    with Store.open(StoreSettings(home=home / "store", **limits), migrate=True) as store:
        with pytest.raises(LatentserveError) as caught:
            store.datasets.ingest("d", [UploadedFile(name, path)], {})
        assert store.catalogue.list_datasets() == []
        assert store.blobs.list("") == []
        assert list(store.settings.scratch.iterdir()) == []
    return caught.value


ZEROS = bytes(3 << 20)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzipped(ZEROS), "a.csv.gz"),
        (gzipped(b"1,2\n" * (1 << 20)), "a.csv.gz"),
        (gzipped(tarred({"a.png": ZEROS})), "a.tar.gz"),
        (zipped({"a.png": ZEROS}), "a.zip"),
        (npz(x=np.zeros((1 << 18, 2))), "a.npz"),
    ],
)
def test_bombs_are_stopped(tmp_path: Any, content: bytes, name: str) -> None:
    error = refused(tmp_path, content, name)
    assert isinstance(error, TooLarge)
    assert "expands" in error.detail


def test_absolute_limits(tmp_path: Any) -> None:
    noise = npy(np.random.default_rng(0).normal(size=(1000, 10)))
    assert isinstance(refused(tmp_path, gzipped(noise), "x.npy.gz", max_expanded_bytes=50_000), TooLarge)
    assert isinstance(refused(tmp_path, zipped(members()), "a.zip", max_archive_members=5), TooLarge)
    assert isinstance(refused(tmp_path, tarred(members()), "a.tar", max_archive_members=5), TooLarge)
    wide = zipped({"a.png": png(np.zeros((100, 101), np.uint8))})
    error = refused(tmp_path, wide, "a.zip", max_image_pixels=10_000)
    assert isinstance(error, TooLarge)
    assert "101×100 pixels" in error.detail
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": np.zeros(200_000)}), buffer)
    assert isinstance(refused(tmp_path, buffer.getvalue(), "a.parquet", max_expanded_bytes=1_000_000), TooLarge)


def test_a_png_that_lies_about_its_size_is_refused(tmp_path: Any) -> None:
    """A picture of 40,000 × 40,000 pixels in some bytes is refused by its header, before memory is taken."""
    honest = bytearray(png(np.zeros((8, 8), np.uint8)))
    honest[16:24] = (40_000).to_bytes(4, "big") * 2
    error = refused(tmp_path, zipped({"a.png": bytes(honest)}), "a.zip")
    assert error.status in (413, 422)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_cut_short(ingest: Ingest, clean: Any, pack: Any) -> None:
    whole = pack(members(3))
    for length in (len(whole) // 4, 600, 3 * 1024) if pack is tarred else (len(whole) // 4, len(whole) - 1):
        with pytest.raises((InvalidInput, UnsupportedMedia)):
            ingest(whole[:length], "a.zip" if pack is zipped else "a.tar")
    clean()


def test_damaged_members(ingest: Ingest, clean: Any) -> None:
    content = bytearray(zipped(members()))
    content[45] ^= 0xFF
    with pytest.raises(InvalidInput, match="damaged or cut short"):
        ingest(bytes(content), "a.zip")
    for bad in (b"", b"\x89PNG\r\n\x1a\n", png(pictures(1)[0])[:50], b"GIF89a"):
        with pytest.raises(InvalidInput, match=r"bad\.png is no whole PNG or JPEG"):
            ingest(zipped({**members(), "bad.png": bad}), "a.zip")
    clean()


def test_archives_without_pictures(ingest: Ingest, clean: Any) -> None:
    for content in (zipped({"readme.txt": b"x"}), zipped({}), tarred({"a.txt": b"x"})):
        with pytest.raises(UnsupportedMedia, match="no PNG or JPEG"):
            ingest(content, "a.zip")
    clean()


def test_a_zip_of_arrays_is_an_npz(ingest: Ingest) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(ingest(npz(x=x), "a.zip").read(None, ALL).x, x)


def test_pictures_in_a_parquet(ingest: Ingest) -> None:
    encoded = [png(each) for each in pictures(12)]
    rows = {"text": [f"said {i}" for i in range(12)], "label": ["u", "v"] * 6, "keywords": [["a"]] * 12}
    for column in (encoded, [{"bytes": data, "path": "x"} for data in encoded]):
        buffer = io.BytesIO()
        pq.write_table(pa.table({"image": column, **rows}), buffer)
        reader = ingest(buffer.getvalue(), "a.parquet", image={"height": 4, "width": 5})
        loaded = reader.read(None, ALL)
        np.testing.assert_array_equal(loaded.x[..., 0], pictures(12))
        assert loaded.captions == rows["text"]
        np.testing.assert_array_equal(loaded.y, np.arange(12) % 2)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [*encoded, None]}), buffer)
    with pytest.raises(InvalidInput, match="row 13 has no picture"):
        ingest(buffer.getvalue(), "a.parquet")


def test_columns_beside_images(ingest: Ingest) -> None:
    content = npz(images=pictures(12), group=np.arange(12) % 2, y=np.arange(12) % 3)
    with pytest.raises(InvalidInput, match="stands beside images"):
        ingest(content, "a.npz", columns=[{"name": "group", "role": "feature"}])
    with pytest.raises(InvalidInput, match="two columns have the role"):
        ingest(content, "a.npz", columns=[{"name": "group", "role": "label"}, {"name": "y", "role": "label"}])
    reader = ingest(content, "a.npz", label="group")
    assert [column.name for column in reader.spec.columns] == ["group"]
    assert ingest(content, "a.npz", drop=["y"]).spec.columns == ()
