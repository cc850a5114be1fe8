"""Arrays as bytes: base64 tensors (little-endian), NPY files and Arrow streams.

NPY is read without pickle and without trusting the shape in its header (NumPy Enhancement
Proposal 1): the shape must account for exactly the bytes that came.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadRequest, FieldProblem, InvalidInput

Array = NDArray[np.generic]

MOST_HEADER_BYTES = 16 << 10

DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    )
}


def wrong(location: str, message: str) -> InvalidInput:
    """An error that names the place in the request."""
    return InvalidInput(f"{location}: {message}", errors=[FieldProblem(location=location, message=message)])


def from_base64(text: object, location: str) -> bytes:
    """Decode standard base64 (padding needed, no other characters); InvalidInput otherwise."""
    if not isinstance(text, str):
        raise wrong(location, "must be a base64 string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(location, f"is not base64 ({error})") from None


def read_tensor(tensor: Mapping[str, Any], location: str) -> Array:
    """Read ``{"dtype", "shape", "base64"}`` into an array without a copy of the decoded bytes."""
    unknown = sorted(set(tensor) - {"dtype", "shape", "base64"})
    missing = sorted({"dtype", "shape", "base64"} - set(tensor))
    if unknown or missing:
        what = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(map(str, unknown))}"
        raise wrong(location, f"a tensor is {{dtype, shape, base64}}; this one {what}")
    dtype, shape = tensor["dtype"], tensor["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise wrong(f"{location}.dtype", f"must be one of {', '.join(DTYPES)}")
    sizes = [size for size in shape if type(size) is int and 0 <= size < 2**48] if isinstance(shape, list) else []
    if not isinstance(shape, list) or len(sizes) != len(shape) or len(sizes) > 8:
        raise wrong(f"{location}.shape", "must be a list of at most 8 sizes of at least 0")
    data = from_base64(tensor["base64"], f"{location}.base64")
    expected = math.prod(sizes) * DTYPES[dtype].itemsize
    if len(data) != expected:
        raise wrong(
            f"{location}.base64", f"holds {len(data)} bytes, but shape {sizes} of {dtype} takes {expected} bytes"
        )
    return np.frombuffer(data, dtype=DTYPES[dtype]).reshape(sizes)


def write_tensor(array: Array) -> dict[str, object]:
    """Write an array as ``{"dtype", "shape", "base64"}``, little-endian, C order."""
    flat = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return {
        "dtype": flat.dtype.name,
        "shape": list(array.shape),
        "base64": base64.b64encode(flat.tobytes()).decode("ascii"),
    }


@functools.lru_cache(maxsize=256)
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and dtype, and where the numbers start. Clients repeat themselves, and parsing costs more than
    the rest of a small request."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} is not read here")
    shape, fortran, dtype = readers[version](stream)
    return shape, fortran, dtype, stream.tell()


def read_npy(data: bytes) -> Array:
    """Read an NPY file of numbers or booleans; BadRequest where it is not one."""
    try:
        length = int.from_bytes(data[8:10], "little") + 10 if data[6:7] == b"\x01" else MOST_HEADER_BYTES
        shape, fortran, dtype, start = _npy_header(data[: min(length, MOST_HEADER_BYTES)])
    except Exception as error:  # the header is parsed as a Python literal, which fails in many ways
        raise BadRequest(f"the body is not an NPY file: {error}") from None
    if dtype.hasobject or dtype.names or dtype.kind not in "biuf" or dtype.name not in DTYPES:
        raise wrong("body", f"the NPY file holds {dtype}; send numbers or booleans")
    body = memoryview(data)[start:]
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(body):
        raise BadRequest(f"the NPY file says shape {shape} of {dtype}, but {len(body)} bytes follow its header")
    flat = np.frombuffer(body, dtype=dtype)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def write_npy(array: Array) -> bytes:
    """Write an NPY file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    return stream.getvalue()


def read_arrow(data: bytes) -> tuple[list[str], dict[str, Array | list[Any]], int]:
    """Read an Arrow IPC stream: names, columns (numeric ones as arrays, NaN where null) and the row count."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(io.BytesIO(data)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadRequest(f"the body is not an Arrow stream: {error}") from None
    columns: dict[str, Array | list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in columns:
            raise wrong("body", f"the Arrow stream has two columns called {name!r}")
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            columns[name] = column.to_numpy()
        elif pa.types.is_fixed_size_list(kind) and column.null_count == 0:
            values = column.combine_chunks().flatten()
            columns[name] = values.to_numpy(zero_copy_only=False).reshape(table.num_rows, kind.list_size)
        else:
            columns[name] = column.to_pylist()
    return list(table.column_names), columns, table.num_rows


def write_arrow(columns: Mapping[str, Array | list[Any]], metadata: Mapping[str, str]) -> bytes:
    """Write columns as an Arrow IPC stream; an array of more than one dimension becomes fixed-size lists.

    ``metadata`` goes into the schema. Rows of every column must be equal in number.
    """
    import pyarrow as pa

    arrays = []
    for values in columns.values():
        if isinstance(values, np.ndarray) and values.ndim > 1:
            width = math.prod(values.shape[1:])
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width))
        else:
            arrays.append(pa.array(values))
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in zip(columns, arrays, strict=True)], metadata=dict(metadata)
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table(arrays, schema=schema))
    return sink.getvalue()
