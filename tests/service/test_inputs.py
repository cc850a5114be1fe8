"""Rows of every transport end in the same bits, and nothing that comes in is a 500."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from contracts.errors import BadRequest, InvalidInput, LatentserveError, TooLarge, UnsupportedMedia
from service.inputs import ARROW, NPY, PNG, ParsedRows, RawBody, RowLimits, parse_rows, parse_vectors
from service.pictures import read_picture, write_grid
from service.tensors import DTYPES, read_arrow, read_npy, read_tensor, write_arrow, write_npy, write_tensor

LIMITS = RowLimits(max_rows=100, max_pixels=10_000)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    finite: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if "float" in dtype else {}
    return hnp.arrays(np.dtype(dtype), shape, elements=hnp.from_dtype(np.dtype(dtype), **finite))


def arrow(columns: dict[str, Any]) -> bytes:
    table = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def same(first: ParsedRows, *others: ParsedRows) -> None:
    for other in others:
        assert other.x.dtype == first.x.dtype
        assert other.x.tobytes() == first.x.tobytes()
        assert (other.hidden is None) == (first.hidden is None)
        if first.hidden is not None:
            np.testing.assert_array_equal(first.hidden, other.hidden)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(data=st.data())
@QUICK
def test_json_base64_npy_and_arrow_decode_bit_identically(kit: Any, dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype, (data.draw(st.integers(1, 5)), 3)))
    as_json = orjson.loads(orjson.dumps(array.astype(np.float64).tolist() if dtype == "float16" else array.tolist()))
    read = [
        parse_rows(as_json, kit.reals, LIMITS),
        parse_rows(orjson.loads(orjson.dumps(write_tensor(array))), kit.reals, LIMITS),
        parse_rows(RawBody(NPY, kit.npy(array)), kit.reals, LIMITS),
        parse_rows(RawBody(NPY, kit.npy(np.asfortranarray(array))), kit.reals, LIMITS),
        parse_rows(RawBody(NPY, kit.npy(array.astype(array.dtype.newbyteorder(">")))), kit.reals, LIMITS),
    ]
    same(*read)
    if dtype not in ("bool", "float16"):
        columns = {name: array[:, index] for index, name in enumerate("abc")}
        same(read[0], parse_rows(RawBody(ARROW, arrow(columns)), kit.reals, LIMITS))
    assert read[0].x.dtype == np.float64


@given(x=arrays("uint8", (2, 4, 5)))
@QUICK
def test_pictures_decode_bit_identically(kit: Any, x: np.ndarray) -> None:
    x %= 17
    objects = [
        {"image": base64.b64encode(write_grid(picture[None, ..., None], kit.pictures.image)).decode()} for picture in x
    ]
    lists = [np.array(x.tolist()).reshape(2, *shape).tolist() for shape in ((4, 5), (4, 5, 1), (20,))]
    flat = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 20)}
    same(
        *(parse_rows(each, kit.pictures, LIMITS) for each in lists),
        parse_rows(objects, kit.pictures, LIMITS),
        parse_rows([{"image": f"data:image/png;base64,{each['image']}"} for each in objects], kit.pictures, LIMITS),
        parse_rows(write_tensor(x), kit.pictures, LIMITS),
        parse_rows(RawBody(NPY, kit.npy(x.astype(np.float32))), kit.pictures, LIMITS),
        parse_rows(RawBody(ARROW, arrow(flat)), kit.pictures, LIMITS),
    )


def test_colours_keep_their_channels(kit: Any) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 2, 3)).astype(np.uint8)
    png = write_grid(x, kit.coloured.image)
    same(parse_rows(x.tolist(), kit.coloured, LIMITS), parse_rows(RawBody(PNG, png), kit.coloured, LIMITS))


def test_null_and_mask_hide_cells_alike(kit: Any) -> None:
    nulls = parse_rows([[1.0, None, 3.0]], kit.reals, LIMITS, hideable=True)
    mask = [[False, True, False]]
    same(
        nulls,
        parse_rows([[1.0, 7.0, 3.0]], kit.reals, LIMITS, mask=mask, hideable=True),
        parse_rows([[1.0, 7.0, 3.0]], kit.reals, LIMITS, mask=write_tensor(np.array(mask)), hideable=True),
        parse_rows([{"a": 1.0, "b": None, "c": 3.0}], kit.reals, LIMITS, hideable=True),
        parse_rows(RawBody(NPY, kit.npy([[1.0, np.nan, 3.0]])), kit.reals, LIMITS, mask=mask, hideable=True),
        parse_rows(
            RawBody(ARROW, arrow({"b": pa.array([None], pa.float64()), "a": [1.0], "c": [3.0]})),
            kit.reals, LIMITS, hideable=True,
        ),
    )  # fmt: skip
    assert nulls.hidden is not None
    assert nulls.hidden.tolist() == mask
    both = parse_rows([[1.0, None, 3.0]], kit.reals, LIMITS, mask=[[True, False, False]], hideable=True)
    assert both.hidden is not None
    assert both.hidden.tolist() == [[True, True, False]]
    eye = np.eye(4, 5, dtype=bool)[None].tolist()
    pictures = parse_rows(np.zeros((1, 4, 5), int).tolist(), kit.pictures, LIMITS, mask=eye, hideable=True)
    assert pictures.hidden is not None
    assert pictures.hidden.shape == (1, 4, 5, 1)
    shown = parse_rows([[1.0, 2.0, 3.0]], kit.reals, LIMITS, mask=[[0, 0, 0]], hideable=True)
    assert shown.hidden is None


def test_words_in_arrow_columns_are_categories_dates_and_truths(kit: Any) -> None:
    objects = [{"height": 1.5, "count": 3, "colour": "green", "open": True, "day": "1970-01-11"}]
    columns = {name: [value] for name, value in objects[0].items()}
    same(parse_rows(objects, kit.mixed, LIMITS), parse_rows(RawBody(ARROW, arrow(columns)), kit.mixed, LIMITS))
    with pytest.raises(InvalidInput, match="columns are"):
        parse_rows(RawBody(ARROW, arrow({**columns, "size": [1]})), kit.mixed, LIMITS)
    with pytest.raises(InvalidInput, match="fixed-size-list"):
        parse_rows(RawBody(ARROW, arrow({"a": ["x"]})), kit.pictures, LIMITS)
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([1.0])], names=["a", "a"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, twice.schema) as writer:
        writer.write_table(twice)
    with pytest.raises(InvalidInput, match="two columns"):
        read_arrow(sink.getvalue())


def test_limits_of_rows_and_pixels(kit: Any) -> None:
    rows = [[1.0, 2.0, 3.0]] * 101
    raw = RawBody(NPY, kit.npy(rows)), RawBody(ARROW, arrow({"a": [1] * 101}))
    for each in (rows, write_tensor(np.array(rows)), *raw):
        with pytest.raises(TooLarge, match="101"):
            parse_rows(each, kit.reals, LIMITS)
    large = io.BytesIO()
    Image.new("L", (200, 200)).save(large, "PNG")
    with pytest.raises(TooLarge, match="200x200"):
        read_picture(large.getvalue(), kit.pictures.image, "body", max_pixels=10_000)
    with pytest.raises(InvalidInput, match="resize"):
        read_picture(large.getvalue(), kit.pictures.image, "body", max_pixels=100_000)
    with pytest.raises(UnsupportedMedia):
        parse_rows(RawBody(PNG, large.getvalue()), kit.reals, LIMITS)


def test_texts_are_strings(kit: Any) -> None:
    spec = kit.reals.model_copy(update={"modality": "text", "columns": ()})
    rows = parse_rows(["a text", ""], spec, LIMITS)
    assert rows.x.tolist() == ["a text", ""]
    assert rows.x.dtype == object
    assert rows.hidden is None
    for wrong in ([1.0], [["a"]], "a", [], {"text": "a"}):
        with pytest.raises(InvalidInput, match="inputs"):
            parse_rows(wrong, spec, LIMITS)


@given(x=arrays("float64", (3, 2)))
@QUICK
def test_vectors_decode_bit_identically(kit: Any, x: np.ndarray) -> None:
    same(
        parse_vectors(orjson.loads(orjson.dumps(x.tolist())), 2, LIMITS),
        parse_vectors(write_tensor(x), 2, LIMITS),
        parse_vectors(RawBody(NPY, kit.npy(x)), 2, LIMITS),
    )


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(data=st.data())
@QUICK
def test_what_is_written_is_read_again(dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype, data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))))
    for again in (read_tensor(write_tensor(array), "x"), read_npy(write_npy(array))):
        assert again.shape == array.shape
        assert again.tobytes() == array.tobytes()


def test_arrow_answers_are_read_by_arrow() -> None:
    columns = {"v": np.arange(6.0).reshape(3, 2), "w": np.array([1, 2, 3]), "name": ["a", "b", "c"]}
    table = pa.ipc.open_stream(write_arrow(columns, {"model": "m@1"})).read_all()
    assert table.column("v").to_pylist() == [[0, 1], [2, 3], [4, 5]]
    assert table.column("name").to_pylist() == ["a", "b", "c"]
    assert table.schema.metadata[b"model"] == b"m@1"
    names, read, rows = read_arrow(write_arrow(columns, {}))
    assert (names, rows) == (["v", "w", "name"], 3)
    np.testing.assert_array_equal(read["v"], columns["v"])


NAMES = st.sampled_from(["a", "b", "c", "image", "dtype", "shape", "base64", "label"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(inputs=JSON, mask=JSON)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_rows_or_an_error_of_ours(kit: Any, inputs: Any, mask: Any) -> None:
    for spec in (kit.reals, kit.mixed, kit.pictures):
        rows = attempt(lambda spec=spec: parse_rows(inputs, spec, LIMITS, mask=mask, hideable=True))
        assert rows is None or (rows.x.shape[1:], rows.x.dtype) == (spec.row_shape, spec.dtype)
    attempt(lambda: parse_vectors(inputs, 2, LIMITS))


def attempt(read: Callable[[], ParsedRows]) -> ParsedRows | None:
    """What was read, or None where it was refused as the client's mistake; any other error fails the test."""
    with contextlib.suppress(BadRequest, InvalidInput, TooLarge, UnsupportedMedia):
        return read()
    return None


@given(body=st.binary(max_size=200), media=st.sampled_from([NPY, ARROW, PNG]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_bytes_are_an_error_of_ours(kit: Any, body: bytes, media: str) -> None:
    prefix = {NPY: b"\x93NUMPY\x01\x00", ARROW: b"\xff\xff\xff\xff", PNG: b"\x89PNG\r\n\x1a\n"}[media]
    for data in (body, prefix + body):
        with pytest.raises(LatentserveError) as caught:
            parse_rows(RawBody(media, data), kit.pictures, LIMITS)
        assert caught.value.status < 500


VERBS = ("/encode", "/decode", "/sample", "/log_prob", "/predict", "/similarity")
FIELDS = ["inputs", "vectors", "mask", "n", "seed", "samples", "draws", "given", "format", "a", "b", "query", "against"]
FIELDS += ["top_k", "metric", "space", "temperature", "score_inputs"]
MODELS = ["reals", "mixed", "pictures", "flow", "labelled", "", "@", "reals@", "reals@2@3", "é"]


@given(
    path=st.sampled_from(VERBS),
    model=st.sampled_from(MODELS) | st.text(max_size=6),
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_json_never_gives_a_500(client: TestClient, path: str, model: str, fields: dict[str, Any]) -> None:
    response = client.post(
        path, content=orjson.dumps({"model": model, **clipped(fields)}), headers={"Content-Type": "application/json"}
    )
    assert response.status_code < 500, response.text


def clipped(value: Any) -> Any:
    """JSON's integers have 64 bits where orjson writes them."""
    if isinstance(value, dict):
        return {name: clipped(each) for name, each in value.items()}
    if isinstance(value, list):
        return [clipped(each) for each in value]
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value
