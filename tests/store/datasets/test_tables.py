from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.data import ColumnType, Part, Role
from contracts.errors import InvalidInput, UnsupportedMedia
from store.datasets.formats.parquet import ParquetSource
from store.datasets.uploads import Expansion, Format, Piece
from store.settings import StoreSettings
from tests.store.datasets.conftest import Ingest, lines, npy, npz

REAL, INTEGER, BOOLEAN = ColumnType.REAL, ColumnType.INTEGER, ColumnType.BOOLEAN
CATEGORICAL, DATE, TEXT = ColumnType.CATEGORICAL, ColumnType.DATE, ColumnType.TEXT


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def described(reader: Any) -> dict[str, tuple[ColumnType, Role]]:
    return {column.name: (column.type, column.role) for column in reader.spec.columns}


def test_csv_types(ingest: Ingest) -> None:
    reader = ingest(
        lines(
            30,
            lambda i: f"{i},{i / 4},{['true', 'False'][i % 2]},{['red', 'blue'][i % 2]},2024-01-{i % 28 + 1:02},n{i}",
            "count,weight,fresh,colour,day,note",
        )
    )
    feature = Role.FEATURE
    assert described(reader) == {
        "count": (INTEGER, feature), "weight": (REAL, feature), "fresh": (BOOLEAN, feature),
        "colour": (CATEGORICAL, feature), "day": (DATE, feature), "note": (TEXT, Role.ID),
    }  # fmt: skip
    by_name = {column.name: column for column in reader.spec.columns}
    assert (by_name["count"].minimum, by_name["count"].maximum) == (0, 29)
    assert by_name["colour"].categories == ("blue", "red")
    assert (by_name["day"].minimum, by_name["day"].maximum) == (19723, 19750)
    rows = reader.read(None, np.array([1, 2]))
    np.testing.assert_array_equal(rows.x, [[1, 0.25, 0, 0, 19724], [2, 0.5, 1, 1, 19725]])
    assert rows.ids == ["n1", "n2"]


def test_a_csv_without_a_header(ingest: Ingest) -> None:
    reader = ingest(lines(20, lambda i: f"{i},{i}.5"))
    assert [column.name for column in reader.spec.columns] == ["x0", "x1"]
    assert reader.count() == 20
    assert ingest(lines(20, lambda i: f"a{i % 9};b{i % 5}"), header=False).count() == 20
    assert ingest(lines(20, lambda i: f"{i};{-i - 1}"), header=True).count() == 19


def test_headers_that_libraries_write(ingest: Ingest) -> None:
    counted = ingest("0,1,2\n" + lines(20, lambda i: f"{i}.5,1.5,{i}"))
    assert [column.name for column in counted.spec.columns] == ["0", "1", "2"]
    unnamed = ingest(lines(20, lambda i: f"{i},{i}.5", ",a"))
    assert [column.name for column in unnamed.spec.columns] == ["x0", "a"]
    with pytest.raises(InvalidInput, match="two columns are named 'a'"):
        ingest(lines(20, lambda i: f"{i},{i}", "a,a"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_quotes_blanks_and_bom(ingest: Ingest, delimiter: str) -> None:
    text = f"\ufeffa{delimiter} b\r\n" + "".join(f'{i}{delimiter} "x{delimiter} y{i % 2}"\r\n' for i in range(20))
    text = text.replace(f'{delimiter} "', f'{delimiter}"')
    reader = ingest(text)
    assert [column.name for column in reader.spec.columns] == ["a", "b"]
    assert reader.spec.columns[1].categories == (f"x{delimiter} y0", f"x{delimiter} y1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n3\n4,5\n", "line 3 has 1 cells, but the first line has 2"),
        ("a,b\n1,2\n\n3,4,5\n", "line 4 has 3 cells"),
        ("a,b\n" + "1,2\n" * 500_000 + "1\n", "line 500002 has 1 cells"),
        ('a,b\n1,"x\ny"\n2,3,4\n', "line 4 has 3 cells"),
        ("a,b\n1,2.5\n3,inf\n4,5\n", r"row 2, column 'b' is infinite"),
        ("a,b\n1,\n3,\n4,\n", "column 'b' has no values"),
        ("a,b\n", "no rows"),
        ("\n\n  \n", "is empty"),
        ("a,b\n1,1e200\n2,2.5\n3,4\n", r"column 'b' holds numbers beyond"),
        ("a,b\n1,99999999999999999\n2,3\n3,4\n", r"beyond ±2\*\*53"),
    ],
)
def test_bad_csv(ingest: Ingest, clean: Any, text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(text)
    clean()


@pytest.mark.parametrize("content", [b"a,b\n\xff\xfe,1\n" * 5, b"a,b\n" + b"1,2\n" * 400_000 + b"\xff,3\n"])
def test_bad_encoding(ingest: Ingest, clean: Any, content: bytes) -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        ingest(content)
    clean()


def test_the_place_of_a_bad_cell_is_given(ingest: Ingest) -> None:
    with pytest.raises(InvalidInput) as caught:
        ingest("a,b\n" + "1,2\n" * 20_000 + "1,\n", columns=[{"name": "b", "missing": False}])
    assert caught.value.errors[0].location == "rows[20000].b"


@pytest.mark.parametrize("said", [[], [{"name": "a", "missing": True}, {"name": "b", "missing": True}]])
def test_features_may_have_empty_cells(ingest: Ingest, said: list[dict[str, Any]]) -> None:
    text = lines(40, lambda i: f"{'NaN' if i == 3 else i},{'?' if i == 5 else 'uv'[i % 2]},{i}", "a,b,c")
    reader = ingest(text, columns=said)
    x = reader.read(None, slice(None)).x
    assert np.argwhere(np.isnan(x)).tolist() == [[3, 0], [5, 1]]
    assert [column.missing for column in reader.spec.columns] == [True, True, False]
    assert np.isfinite(reader.profile().mean).all()


@pytest.mark.parametrize("empty", ["", "NaN"])
def test_empty_cells_may_be_refused(ingest: Ingest, clean: Any, empty: str) -> None:
    with pytest.raises(InvalidInput, match="row 2, column 'b' is empty; fill it, or allow empty cells"):
        ingest(f"a,b\n1,2\n3,{empty}\n4,5\n", columns=[{"name": "b", "missing": False}])
    clean()


def test_empty_cells_of_every_type(ingest: Ingest) -> None:
    rows = [f"{i % 2 == 0},2024-01-{1 + i % 28:02},{i}.5,{'uv'[i % 2]},{i}" for i in range(40)]
    for index in range(5):
        cells = rows[index].split(",")
        cells[index] = ""
        rows[index] = ",".join(cells)
    reader = ingest("flag,day,real,word,count\n" + "\n".join(rows))
    kinds = [BOOLEAN, ColumnType.DATE, REAL, ColumnType.CATEGORICAL, INTEGER]
    assert [column.type for column in reader.spec.columns] == kinds
    assert all(column.missing for column in reader.spec.columns)
    assert np.argwhere(np.isnan(reader.read(None, slice(None)).x)).tolist() == [[i, i] for i in range(5)]


def test_reals_have_a_range_where_one_is_given(ingest: Ingest) -> None:
    text = lines(30, lambda i: f"{i}.5,{i}.25", "price,other")
    reader = ingest(text, columns=[{"name": "price", "minimum": 0}])
    price, other = reader.spec.columns
    assert (price.minimum, price.maximum) == (0, None)
    assert (other.minimum, other.maximum) == (None, None)
    with pytest.raises(InvalidInput, match=r"'price' holds values 0.5..29.5, outside the given 1..inf"):
        ingest(text, columns=[{"name": "price", "minimum": 1}])


def test_overrides_of_columns(ingest: Ingest) -> None:
    text = lines(30, lambda i: f"{i % 3},{i % 2},{i},{i % 5}", "a,b,c,d")
    reader = ingest(
        text,
        columns=[
            {"name": "a", "type": "categorical", "categories": ["2", "1", "0"]},
            {"name": "b", "type": "boolean"},
            {"name": "c", "type": "real"},
            {"name": "d", "minimum": -5, "maximum": 9},
        ],
    )
    assert [column.type for column in reader.spec.columns] == [CATEGORICAL, BOOLEAN, REAL, INTEGER]
    assert (reader.spec.columns[3].minimum, reader.spec.columns[3].maximum) == (-5, 9)
    np.testing.assert_array_equal(reader.read(None, slice(0, 2)).x, [[2, 0, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"drop": ["z"]}, r"there is no column 'z'; columns are: a, b, c"),
        ({"label": "z"}, "no column 'z'"),
        ({"columns": [{"name": "z"}]}, "no column 'z'"),
        ({"columns": [{"name": "a", "type": "number"}]}, r"overrides\.columns\.0\.type"),
        ({"columns": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"colums": []}, r"overrides\.colums"),
        ({"modality": "sound"}, r"overrides\.modality"),
        ({"modality": "image"}, "holds no images"),
        ({"modality": "text"}, "no column holds text"),
        ({"split": {"valid": 0.7}}, r"overrides\.split\.valid"),
        ({"split": {"by": "column"}}, "no column has the role `split`"),
        ({"split": {"by": "given"}}, "the files give no parts"),
        ({"drop": ["a", "b", "c"]}, "every column is dropped"),
        ({"drop": ["a"], "label": "a"}, "leaves out a column that is described"),
        ({"label": "a", "columns": [{"name": "a", "role": "id"}]}, "different roles"),
        ({"columns": [{"name": "b", "type": "real"}]}, "no numbers"),
        ({"columns": [{"name": "b", "type": "date"}]}, "date"),
        ({"columns": [{"name": "b", "type": "boolean"}]}, "boolean"),
        ({"columns": [{"name": "c", "type": "integer"}]}, "not whole"),
        ({"columns": [{"name": "a", "maximum": 3}]}, "outside the given"),
        ({"columns": [{"name": "b", "categories": ["u"]}]}, "is 'v', which is none of its categories"),
        ({"columns": [{"name": "a", "role": "label"}, {"name": "b", "role": "label"}]}, "at most one column"),
        ({"columns": [{"name": each, "role": "id"} for each in "abc"]}, "at least one feature"),
    ],
)
def test_bad_overrides(ingest: Ingest, clean: Any, overrides: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(lines(30, lambda i: f"{i},{'uv'[i % 2]},{i}.5", "a,b,c"), **overrides)
    clean()


def test_labels(ingest: Ingest) -> None:
    text = lines(30, lambda i: f"{i},{10 - i % 3},{i % 2}.0", "a,label,b")
    reader = ingest(text)
    assert reader.spec.label is not None
    assert reader.spec.label.categories == ("8", "9", "10")
    rows = reader.read(None, slice(0, 4))
    np.testing.assert_array_equal(rows.y, [2, 1, 0, 2])
    assert rows.x.shape == (4, 2)
    other = ingest(text, label="b")
    assert other.spec.label is not None
    assert (other.spec.label.name, other.spec.label.categories) == ("b", ("0", "1"))
    assert [column.name for column in other.spec.features] == ["a", "label"]
    with pytest.raises(InvalidInput, match="more than 10,000 different values"):
        ingest(lines(10_001, lambda i: f"{i},{i}", "a,c"), label="c")


def test_a_missing_label_is_refused_or_minus_one(ingest: Ingest) -> None:
    text = lines(30, lambda i: f"{i},{'' if i == 2 else i % 2}", "a,label")
    with pytest.raises(InvalidInput, match="row 3, column 'label' is empty"):
        ingest(text)
    reader = ingest(text, columns=[{"name": "label", "missing": True}])
    np.testing.assert_array_equal(reader.read(None, slice(0, 4)).y, [0, 1, -1, 1])


TEXT_OF_PARTS = lines(9, lambda i: f"{i},{['test', 'b'][i % 2]}", "a,where")


def test_a_split_column(ingest: Ingest) -> None:
    parts = ["train", "Train", "val", "test"]
    reader = ingest(lines(40, lambda i: f"{i},{parts[i % 4]}", "a,split"))
    assert reader.spec.split.by == "column"
    assert reader.read(Part.TEST, slice(None)).x[:, 0].tolist() == list(range(3, 40, 4))
    assert reader.read(Part.VALID, slice(None)).x[:, 0].tolist() == list(range(2, 40, 4))
    halves = ingest(lines(200, lambda i: f"{i},{['train', 'test'][i % 2]}", "a,split"))
    assert halves.count(Part.TEST) == 100
    assert 0 < halves.count(Part.VALID) < 40
    with pytest.raises(InvalidInput, match="row 2, column 'where' is 'b'; use train, valid or test"):
        ingest(
            lines(9, lambda i: f"{i},{['test', 'b'][i % 2]}", "a,where"), columns=[{"name": "where", "role": "split"}]
        )


def test_text_columns_of_a_table(ingest: Ingest) -> None:
    reader = ingest(lines(20, lambda i: f"{i},name {i},said {i},x", "a,who,caption,b"))
    assert described(reader)["who"] == (TEXT, Role.ID)
    assert described(reader)["caption"] == (TEXT, Role.CAPTION)
    assert reader.read(None, slice(3, 4)).captions == ["said 3"]
    with pytest.raises(InvalidInput, match="free text"):
        ingest(lines(20, lambda i: f"{i},name {i},said {i},more {i}", "a,who,what,why"))


def test_a_csv_of_texts(ingest: Ingest) -> None:
    reader = ingest(lines(20, lambda i: f"document {i},{i % 2}", "text,label"))
    assert reader.spec.modality == "text"
    rows = reader.read(None, np.array([4, 1]))
    assert rows.x == ["document 4", "document 1"]
    np.testing.assert_array_equal(rows.y, [0, 1])
    profile = reader.profile()
    assert profile.rows == reader.count(Part.TRAIN)
    assert profile.mean.shape == (0,)


def test_parquet(ingest: Ingest) -> None:
    content = parquet(
        a=list(range(20)),
        b=pa.array([i / 2 for i in range(20)], pa.float32()),
        c=pa.array(["u", "v"] * 10).dictionary_encode(),
        d=[True, False] * 10,
        e=pa.array(range(20), pa.date32()),
        f=pa.array(range(20), pa.timestamp("s")),
        label=["x", "y"] * 10,
    )
    reader = ingest(content, "t.parquet")
    assert [column.type for column in reader.spec.features] == [INTEGER, REAL, CATEGORICAL, BOOLEAN, DATE, DATE]
    np.testing.assert_array_equal(reader.read(None, slice(3, 4)).x, [[3, 1.5, 1, 0, 3, 0]])
    np.testing.assert_array_equal(reader.read(None, slice(3, 4)).y, [1])


def test_bad_parquet(ingest: Ingest, clean: Any) -> None:
    good = parquet(a=list(range(100)), b=[[1]] * 100)
    with pytest.raises(InvalidInput, match=r"column 'b' holds list.* drop it"):
        ingest(good, "t.parquet")
    assert ingest(good, "t.parquet", drop=["b"]).count() == 100
    for length in (4, 50, len(good) - 1):
        with pytest.raises(InvalidInput, match="damaged or cut short"):
            ingest(good[:length], "t.parquet")
    with pytest.raises(InvalidInput, match="no rows"):
        ingest(parquet(a=pa.array([], pa.int64())), "t.parquet")
    with pytest.raises(InvalidInput, match="row 2, column 'a' is empty"):
        ingest(parquet(a=[1, None, 3]), "t.parquet", columns=[{"name": "a", "missing": False}])
    with pytest.raises(InvalidInput, match="row 2, column 'a' is empty"):
        ingest(parquet(a=[1.0, float("nan"), 3.0]), "t.parquet", columns=[{"name": "a", "missing": False}])
    with pytest.raises(InvalidInput, match="no column holds PNG"):
        ingest(good, "t.parquet", modality="image")


def test_npy(ingest: Ingest) -> None:
    reader = ingest(npy(np.arange(40, dtype=">i2").reshape(20, 2)), "x.npy")
    assert [(c.name, c.type, c.minimum, c.maximum) for c in reader.spec.columns] == [
        ("x0", INTEGER, 0, 38), ("x1", INTEGER, 1, 39)
    ]  # fmt: skip
    fortran = np.asfortranarray(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    np.testing.assert_array_equal(ingest(npy(fortran), "x.npy").read(None, slice(None)).x, fortran)
    assert ingest(npy(np.arange(20.0)), "x.npy").spec.row_shape == (1,)
    assert ingest(npy(np.eye(20) > 0), "x.npy").spec.columns[0].type is BOOLEAN
    words = ingest(npy(np.array([["u", "1"], ["v", "2"]] * 10)), "x.npy", split={"valid": 0, "test": 0})
    assert [column.categories for column in words.spec.columns] == [("u", "v"), ("1", "2")]


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (npy(np.array([{}, 1], dtype=object)), UnsupportedMedia, "pickle"),
        (npy(np.zeros(5, dtype=[("a", "f8")])), UnsupportedMedia, "numbers"),
        (npy(np.zeros(5, dtype=complex)), UnsupportedMedia, "numbers"),
        (npy(np.zeros((20, 3)))[:-1], InvalidInput, "cut short"),
        (npy(np.zeros((20, 3)))[:60], InvalidInput, "no whole NPY"),
        (npy(np.zeros((0, 3))), InvalidInput, "no rows"),
        (npy(np.float64(3)), InvalidInput, "no rows"),
        (npy(np.full((20, 3), np.nan)), InvalidInput, "no values"),
        (npy(np.where(np.arange(60).reshape(20, 3) == 7, np.inf, 1.5)), InvalidInput, "row 3, column 'x1' is infinite"),
        (npy(np.zeros((20, 30_000), np.uint8)), InvalidInput, "at most 20000"),
        (npy(np.full((20, 1), 2**60)), InvalidInput, r"2\*\*53"),
        (npy(np.full((20, 1), 2**64 - 1, np.uint64)), InvalidInput, r"2\*\*53"),
    ],
)
def test_bad_npy(ingest: Ingest, clean: Any, content: bytes, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        ingest(content, "x.npy")
    clean()


def test_npz(ingest: Ingest) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    reader = ingest(
        npz(X=x, y=np.arange(20) % 2.0, id=np.array([f"r{i}" for i in range(20)]), other=np.zeros(3)), "a.npz"
    )
    assert described(reader)["y"] == (CATEGORICAL, Role.LABEL)
    rows = reader.read(None, slice(0, 2))
    np.testing.assert_array_equal(rows.y, [0, 1])
    assert rows.ids == ["r0", "r1"]
    np.testing.assert_array_equal(ingest(npz(anything=x), "a.npz").read(None, slice(None)).x, x)
    named = ingest(npz(x=x, group=np.array([b"u", b"v"] * 10)), "a.npz", label="group")
    assert named.spec.label is not None
    assert named.spec.label.categories == ("u", "v")


def test_npz_with_parts(ingest: Ingest) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    reader = ingest(
        npz(x_train=x[:40], y_train=np.arange(40) % 2, x_test=x[40:], y_test=np.arange(20) % 2), "mnist.npz"
    )
    assert reader.spec.split.by == "given"
    np.testing.assert_array_equal(reader.read(Part.TEST, slice(None)).x, x[40:])
    assert reader.count(Part.VALID) + reader.count(Part.TRAIN) == 40
    three = ingest(npz(train=x[:40], valid=x[40:50], test=x[50:]), "b.npz")
    assert three.dataset.parts == {Part.TRAIN: 40, Part.VALID: 10, Part.TEST: 10}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (npz(a=np.zeros((9, 2)), b=np.zeros(9)), "none of the arrays a, b is named"),
        (npz(x=np.zeros((9, 2)), y=np.zeros(8)), "one value for each of the 9 rows"),
        (npz(x=np.zeros((9, 2)), X=np.zeros((9, 2))), "several arrays"),
        (npz(x=np.zeros((9, 2)))[:-30], "damaged or cut short"),
        (npz(train=np.zeros((9, 2)), test=np.zeros((9, 3))), "different names or shapes"),
        (npz(x=np.array([["u"]] * 9)[:, :, None]), "images must be numbers"),
    ],
)
def test_bad_npz(ingest: Ingest, clean: Any, content: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        ingest(content, "a.npz")
    clean()


def test_pickles_in_an_npz_are_refused(ingest: Ingest, clean: Any) -> None:
    with pytest.raises(UnsupportedMedia, match="pickle"):
        ingest(npz(x=np.array([{}], dtype=object)), "a.npz")
    clean()


tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-1e100, 1e100), min_size=width, max_size=width),
        min_size=6,
        max_size=20,
    )
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables)
def test_floats_survive_a_csv(ingest: Ingest, table: list[list[float]]) -> None:
    header = ",".join(f"column {index}" for index in range(len(table[0])))
    text = lines(len(table), lambda i: ",".join(map(repr, table[i])), header)
    columns = [{"name": name, "type": "real"} for name in header.split(",")]
    reader = ingest(text, columns=columns, split={"valid": 0, "test": 0})
    np.testing.assert_array_equal(reader.read(None, slice(None)).x, np.array(table))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", "b c", 'd"e', "f,g", "h\ni", "Ä"]), min_size=6, max_size=30))
def test_categories_survive_a_csv(ingest: Ingest, words: list[str]) -> None:
    quoted = ['"' + word.replace('"', '""') + '"' for word in words]
    text = lines(len(words), lambda i: f"{i},{quoted[i]}", "n,word")
    reader = ingest(text, columns=[{"name": "word", "type": "categorical"}], split={"valid": 0, "test": 0})
    categories = reader.spec.columns[1].categories
    assert categories is not None
    assert [categories[int(code)] for code in reader.read(None, slice(None)).x[:, 1]] == words


def test_a_large_row_group_is_read_by_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    x = np.random.default_rng(0).normal(size=(2, 1_000_000))
    path.write_bytes(parquet(**{f"c{i}": column for i, column in enumerate(x)}))
    size = path.stat().st_size
    limits = StoreSettings(home=tmp_path)
    source = ParquetSource(Piece("a.parquet", path, Format.PARQUET, Expansion(limits, size)), limits)
    before = pa.total_allocated_bytes()
    assert max(pa.total_allocated_bytes() - before for _ in source.batches()) < size / 2
