from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput, LatentserveError, TooLarge, UnsupportedMedia
from tests.store.datasets.conftest import Ingest, gzipped, idx, lines, npy, npz, pictures, png, tarred, zipped

NAMES = ["a.csv", "a.npy", "a.npz", "a.parquet", "a.idx", "a.zip", "a.tar", "a.txt", "a.jsonl", "a.png", "", "a.csv.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_empty_files(ingest: Ingest, clean: Any, name: str) -> None:
    for content in (b"", gzipped(b"")):
        with pytest.raises(InvalidInput, match="is empty"):
            ingest({name: content})
    clean()


@pytest.mark.parametrize("name", ["a.pdf", "a.json", "a.xlsx", "a.html", "a.docx"])
def test_unknown_formats(ingest: Ingest, clean: Any, name: str) -> None:
    for content in (b"%PDF-1.7 something", b"[1, 2]"):
        with pytest.raises(UnsupportedMedia, match="CSV, Parquet, NPY"):
            ingest({name: content})
    clean()


@pytest.mark.parametrize("content", [b"\0\1\2\3" * 100, b"\xff\xfe\xfd" * 100, b"abc\0def", b"a" + b"\x80" * 50])
def test_bytes_without_a_name(ingest: Ingest, clean: Any, content: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        ingest({"": content})
    clean()


def test_names_that_lie(ingest: Ingest, clean: Any) -> None:
    for name in ("a.npy", "a.npz", "a.parquet", "a.idx", "a.png"):
        with pytest.raises(InvalidInput, match="does not begin like one"):
            ingest({name: b"1,2\n3,4\n"})
    clean()


@pytest.mark.parametrize(
    ("content", "modality"),
    [
        (lines(20, lambda i: f"{i},{i}", "a,b"), "table"),
        (lines(20, lambda i: f"{i};{i}", "a;b"), "table"),
        (lines(20, lambda i: f'{{"a": {i}}}'), "table"),
        (lines(20, lambda i: f"some line, number {i}, {',' * (i % 3)}"), "text"),
        (npy(np.arange(40).reshape(20, 2)), "table"),
        (zipped({f"{i}.png": png(each) for i, each in enumerate(pictures(9))}), "image"),
        (gzipped(npy(np.arange(40).reshape(20, 2))), "table"),
    ],
)
def test_formats_without_a_name(ingest: Ingest, content: str | bytes, modality: str) -> None:
    assert ingest(content, "").spec.modality == modality


def test_several_files(ingest: Ingest, clean: Any) -> None:
    with pytest.raises(InvalidInput, match="2 csv files"):
        ingest({"a.csv": b"a\n1\n", "b.csv": b"a\n2\n"})
    with pytest.raises(InvalidInput, match="into one archive"):
        ingest({"a.zip": zipped({"a.png": b""}), "captions.csv": b"file,caption\na.png,b\n"})
    clean()


def test_an_image_size_for_a_table_is_refused(ingest: Ingest, clean: Any) -> None:
    with pytest.raises(InvalidInput, match="no images"):
        ingest(lines(20, str, "a"), image={"height": 8, "width": 8})
    clean()


def test_a_name_cannot_lead_elsewhere(ingest: Ingest) -> None:
    assert ingest({"../../etc/a.csv": lines(20, str, "a").encode()}).count() == 20
    assert ingest({"..\\a.csv": lines(20, lambda i: f"{i}", "b").encode()}).count() == 20


def test_small_files_may_expand_by_any_ratio(ingest: Ingest) -> None:
    content = gzipped(b"a,b\n" + b"1.5,2.5\n" * 50_000 + b"1,2\n3,4\n")
    assert ingest(content, "a.csv.gz").count() == 50_002
    with pytest.raises(TooLarge):
        ingest(gzipped(b"a,b\n" + b"1.5,2.5\n" * 500_000), "b.csv.gz")


def table() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(20)), "b": ["u", "v"] * 10}), buffer)
    return buffer.getvalue()


SEEDS = {
    "a.csv": lines(20, lambda i: f"{i},{i / 2},u", "a,b,c").encode(),
    "a.csv.gz": gzipped(lines(20, lambda i: f"{i},{i / 2},u", "a,b,c").encode()),
    "a.npy": npy(np.arange(40.0).reshape(20, 2)),
    "a.npz": npz(x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2),
    "a.parquet": table(),
    "a.idx": idx(pictures(12)),
    "a.zip": zipped({f"{i}.png": png(each) for i, each in enumerate(pictures(5))}),
    "a.tar": tarred({f"{i}.png": png(each) for i, each in enumerate(pictures(5))}),
    "a.tar.gz": gzipped(tarred({f"{i}.png": png(each) for i, each in enumerate(pictures(5))})),
    "a.png": png(pictures(1)[0]),
    "a.jsonl": lines(20, lambda i: f'{{"a": {i}, "b": "u"}}').encode(),
    "a.txt": lines(20, lambda i: f"line {i}").encode(),
}


def try_to_ingest(ingest: Ingest, name: str, content: bytes, **overrides: Any) -> None:
    """Whatever comes in: a dataset, or an error of ours with a 4xx status."""
    status, detail = 200, "a dataset"
    try:
        reader = ingest({name: content}, **overrides)
    except LatentserveError as error:
        status, detail = error.status, error.detail
    else:
        assert len(reader.read(None, slice(0, 3))) == 3
    assert detail
    assert status < 500, detail


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.sampled_from(NAMES), st.binary(max_size=300))
@example("a.npy", b"\x93NUMPY\x01\x00\x04\x00{1:2")
@example("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }\n")
@example("a.npy", b"\x93NUMPY\x09\x00v\x00")
@example("a.idx", b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
@example("a.idx", b"\0\0\x08\x04\0\0\0\x01")
@example("a.zip", b"PK\x05\x06" + bytes(18))
@example("a.parquet", b"PAR1PAR1")
@example("a.csv", b'"\n"')
@example("a.csv", b"\r\n,\r\n")
@example("a.csv", b"\x1a\r1\r2\r3\r4")
@example("", b'"a')
def test_arbitrary_bytes(ingest: Ingest, name: str, content: bytes) -> None:
    try_to_ingest(ingest, name, content)


@settings(fuzz, max_examples=250)
@given(
    st.sampled_from(sorted(SEEDS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.floats(0, 1),
)
@example("a.zip", [(0.99609375, 1)], None)  # the directory's place lies before the file
def test_damaged_files(ingest: Ingest, name: str, changes: list[tuple[float, int]], cut: float | None) -> None:
    content = bytearray(SEEDS[name])
    for place, value in changes:
        content[int(place * len(content))] = value
    if cut is not None:
        content = content[: int(cut * len(content))]
    try_to_ingest(ingest, name, bytes(content))


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["1", "2.5", "", "NaN", "true", "2024-01-01", "inf", "-0", "1e400", "0x1", "1_000", "９"]
)


@fuzz
@given(st.lists(st.lists(cells, min_size=2, max_size=3), min_size=1, max_size=8))
def test_arbitrary_cells(ingest: Ingest, rows: list[list[str]]) -> None:
    try_to_ingest(ingest, "a.csv", "\n".join(",".join(row) for row in rows).encode())


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["modality", "columns", "image", "split", "label", "drop", "header", "x"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=2)
        | st.dictionaries(st.sampled_from(["name", "height", "by", "valid"]), st.integers() | st.text(max_size=2)),
        max_size=3,
    )
)  # fmt: skip
def test_arbitrary_overrides(ingest: Ingest, overrides: dict[str, Any]) -> None:
    try_to_ingest(ingest, "a.csv", SEEDS["a.csv"], **overrides)
