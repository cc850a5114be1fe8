import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.packing import pack, unpack


@settings(deadline=None)
@given(data=st.data(), rows=st.integers(1, 5), fields=st.integers(1, 4))
def test_rows_come_back_bit_for_bit_in_any_order(data, rows, fields):
    arrays = []
    for _ in range(fields):
        dtype = np.dtype(data.draw(st.sampled_from(["<f4", "<f8", "<i8", "|u1", "|b1"])))
        shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
        arrays.append(data.draw(hnp.arrays(dtype, (rows, *shape))))
    order = data.draw(st.permutations(range(rows)))
    packed = pack(tuple(arrays))
    for array, back in zip(arrays, unpack([packed[i] for i in order]), strict=True):
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tobytes() == np.ascontiguousarray(array[list(order)]).tobytes()


@pytest.mark.parametrize(
    "values",
    [[b""], [b"<f8:"], [b"<f8:\n1234"], [b"<f7:\n1234567"], [b"|O:\n12345678"], [b"<f8:\n12345678", b"<f4:\n1234"]],
)
def test_damaged_rows_are_refused(values):
    with pytest.raises(ValueError):
        unpack(values)
