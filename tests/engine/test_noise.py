import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.noise import cast, normal, philox, row_digests, uniform

WORDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known-answer vectors that the authors publish with Random123 (philox4x32, 10 rounds)
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = np.array(counter, dtype=np.uint64)[:, None]
    assert tuple(int(word) for word in philox(words, key)[:, 0]) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=9), st.tuples(WORDS, WORDS))
def test_philox_maps_each_counter_by_itself(counters, key):
    together = philox(np.array(counters, dtype=np.uint64).T, key)
    alone = [philox(np.array(c, dtype=np.uint64)[:, None], key)[:, 0] for c in counters]
    np.testing.assert_array_equal(together.T, alone)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40),
    size=st.integers(0, 23),
    data=st.data(),
)
@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_rows_noise_does_not_depend_on_its_batch(draw, seed, keys, size, data):
    keys = np.array(keys, dtype=np.uint64)
    draws = np.array(data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(keys), max_size=len(keys))))
    together = draw(seed, keys, "eps", (size,), draws)
    chosen = np.array(data.draw(st.permutations(range(len(keys)))))[: data.draw(st.integers(1, len(keys)))]
    np.testing.assert_array_equal(draw(seed, keys[chosen], "eps", (size,), draws[chosen]), together[chosen])


def test_large_batches_agree_with_single_rows_across_chunks():
    keys = np.arange(700, dtype=np.uint64)
    together = normal(3, keys, "z", (7, 7), 5)
    assert together.shape == (700, 7, 7)
    for row in (0, 1, 333, 699):
        np.testing.assert_array_equal(normal(3, keys[[row]], "z", (7, 7), 5)[0], together[row])


@pytest.mark.parametrize("change", ["seed", "key", "name", "draw"])
def test_every_part_of_the_name_matters(change):
    base = {"seed": 1, "key": 2, "name": "u", "draw": 3}
    other = base | {change: "v" if change == "name" else base[change] + 1}

    def numbers(seed, key, name, draw):
        return uniform(seed, np.array([key], dtype=np.uint64), name, (50,), draw)

    assert not np.isin(numbers(**base), numbers(**other)).any()


def test_scalar_noise_has_no_trailing_dimension():
    assert uniform(0, np.arange(5, dtype=np.uint64), "u", ()).shape == (5,)


def test_uniforms_are_uniform_and_below_one():
    u = uniform(0, np.arange(400, dtype=np.uint64), "u", (500,)).ravel()
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 5 * math.sqrt(2 * 99)
    assert (np.modf(u * 2.0**53)[0] == 0).all()


def test_normals_are_normal_and_independent():
    z = normal(0, np.arange(1000, dtype=np.uint64), "eps", (200,))
    n = z.size
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs((z[:, ::2] * z[:, 1::2]).mean()) < 5 / math.sqrt(n / 2)


def test_narrowing_keeps_uniforms_below_one():
    largest = np.array([1 - 2.0**-53, 0.0, 0.5])
    narrow = cast(largest, "float32")
    assert narrow.dtype == np.float32
    assert narrow.max() < 1
    assert narrow[1:].tolist() == [0.0, 0.5]
    assert cast(largest, "float64").tolist() == largest.tolist()


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 255), min_size=11, max_size=11), min_size=1, max_size=20),
    data=st.data(),
)
def test_digests_follow_the_row_alone(rows, data):
    x = np.array(rows, dtype=np.uint8)
    mask = np.array([[value % 2 == 0 for value in row] for row in rows])
    digests = row_digests(x, mask)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    np.testing.assert_array_equal(row_digests(x[order], mask[order]), digests[order])
    distinct = len({row.tobytes() for row in x})
    assert len(set(digests.tolist())) == distinct


def test_digests_see_every_byte_and_the_order_of_words():
    x = np.zeros((1, 40))
    seen = {int(row_digests(x)[0]), int(row_digests(x, np.zeros((1, 1)))[0])}
    for cell in range(40):
        changed = x.copy()
        changed[0, cell] = 1.0
        seen.add(int(row_digests(changed)[0]))
    assert len(seen) == 42


def test_equal_floats_have_equal_digests_whatever_their_bits():
    other_nan = np.frombuffer(np.uint64(0x7FF8000000000123).tobytes(), dtype=np.float64)[0]
    a, b = np.array([[0.0, np.nan]]), np.array([[-0.0, other_nan]])
    assert row_digests(a) == row_digests(b)


def test_no_rows_give_no_keys():
    assert row_digests(np.zeros((0, 3))).shape == (0,)
    assert normal(0, np.zeros(0, dtype=np.uint64), "z", (3,)).shape == (0, 3)
