import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cache import AnswerCache, CacheCounts, row_keys
from engine.tiers import RedisTier


class Encoder:
    """Computes (2x, Σx) of rows and remembers how many it was asked for."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x, *extra):
        self.rows += len(x)
        total = x.sum(axis=1) + sum(array.sum(axis=1) for array in extra)
        return 2 * x, total


def ask(cache, x, compute, parameters=None, verb="encode", space="s", **options):
    (double, total), counts = cache.through(space, verb, parameters or {}, x, compute, **options)
    extra = sum(array.sum(axis=1) for array in options.get("extra", ()))
    np.testing.assert_array_equal(double, 2 * x)
    np.testing.assert_array_equal(total, x.sum(axis=1) + extra)
    assert counts.hit + counts.miss + counts.bypass == len(x)
    return counts


def always(cache):
    """Keep both gates open, for tests of what is behind them."""
    for gate in (cache._local_gate, cache._redis_gate):
        gate.open = lambda key: True
    return cache


@pytest.fixture
def local():
    return always(AnswerCache(local_bytes=1 << 20, redis_url=None))


@pytest.fixture
def shared(redis_server):
    redis_server.client().flushall()
    return f"redis://{redis_server.host}:{redis_server.port}/0"


def numbers(*values):
    return np.array(values, dtype=np.float64)[:, None] * np.ones((1, 3))


def test_what_was_answered_is_not_computed_again(local):
    compute = Encoder()
    assert ask(local, numbers(1, 2), compute) == CacheCounts(miss=2)
    assert ask(local, numbers(2, 3, 1), compute) == CacheCounts(hit=2, miss=1)
    assert compute.rows == 3
    assert local.totals == CacheCounts(hit=2, miss=3)


@pytest.mark.parametrize("change", [{"verb": "log_prob"}, {"space": "t"}, {"parameters": {"seed": 1}}])
def test_every_part_of_the_question_matters(local, change):
    compute = Encoder()
    ask(local, numbers(1), compute)
    assert ask(local, numbers(1), compute, **change) == CacheCounts(miss=1)
    assert ask(local, numbers(1), compute, **change) == CacheCounts(hit=1)


def test_row_aligned_arrays_are_part_of_the_question(local):
    compute = Encoder()
    masks = np.array([[True, False, False], [False, False, False]])
    assert ask(local, numbers(1, 1), compute, extra=(masks,)) == CacheCounts(miss=2)
    assert ask(local, numbers(1, 1), compute, extra=(masks[::-1],)) == CacheCounts(hit=2)
    assert ask(local, numbers(1), compute) == CacheCounts(miss=1)


def test_rows_of_another_dtype_or_shape_are_other_rows():
    x = np.zeros((1, 8), dtype=np.uint8)
    keys = [row_keys("s", "v", {}, array)[0] for array in (x, x.view(np.float64), x.reshape(1, 2, 4))]
    assert len(set(keys)) == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=8))
def test_answers_are_right_whatever_was_asked_before(requests):
    cache = always(AnswerCache(local_bytes=900, redis_url=None))
    for values in requests:
        ask(cache, numbers(*values), Encoder())
    assert cache._local.bytes_held <= 900


def test_the_local_tier_forgets_the_least_recently_used():
    cache = always(AnswerCache(local_bytes=1000, redis_url=None))
    compute = Encoder()
    for value in range(50):
        ask(cache, numbers(value), compute)
        ask(cache, numbers(0), compute)
    assert cache._local.bytes_held <= 1000
    assert compute.rows == 50
    assert ask(cache, numbers(1), compute).miss == 1


def test_an_answer_larger_than_the_tier_is_not_kept():
    cache = always(AnswerCache(local_bytes=100, redis_url=None))
    ask(cache, numbers(1), Encoder())
    assert cache._local.bytes_held == 0


def test_no_tier_is_a_bypass():
    assert ask(AnswerCache(local_bytes=0, redis_url=None), numbers(1, 2), Encoder()) == CacheCounts(bypass=2)


def test_rows_of_objects_are_a_bypass(local):
    x = np.array([["a"], ["b"]], dtype=object)
    answers, counts = local.through("s", "v", {}, x, lambda rows: (np.zeros(len(rows)),))
    assert counts == CacheCounts(bypass=2)
    assert answers[0].shape == (2,)


def test_gateways_share_answers_through_redis(shared):
    compute = Encoder()
    first, second = (always(AnswerCache(local_bytes=1 << 20, redis_url=shared)) for _ in range(2))
    assert ask(first, numbers(*range(600)), compute) == CacheCounts(miss=600)
    assert ask(second, numbers(*range(602)), compute) == CacheCounts(hit=600, miss=2)
    assert compute.rows == 602
    # What came from Redis is kept in process too.
    second._redis.get = lambda keys: pytest.fail("asked again")
    assert ask(second, numbers(*range(600)), compute) == CacheCounts(hit=600)
    for cache in (first, second):
        assert cache.ping()
        cache.close()


def test_redis_alone_serves_too(shared):
    compute = Encoder()
    cache = always(AnswerCache(local_bytes=0, redis_url=shared))
    assert ask(cache, numbers(1), compute) == CacheCounts(miss=1)
    assert ask(cache, numbers(1), compute) == CacheCounts(hit=1)
    cache.close()


def test_damaged_entries_are_computed_again(shared, redis_server):
    compute = Encoder()
    cache = always(AnswerCache(local_bytes=0, redis_url=shared))
    ask(cache, numbers(1, 2), compute)
    client = redis_server.client()
    key, *_ = client.keys(RedisTier.prefix + b"*")
    for damage in (b"", b"nonsense", b"<f8:3\nshort", b"<f7:1\n12345678", b"|O:1\n12345678"):
        client.set(key, damage)
        assert ask(cache, numbers(1, 2), compute) == CacheCounts(miss=2)
        assert ask(cache, numbers(1, 2), compute) == CacheCounts(hit=2)
    cache.close()


def test_an_answer_of_a_new_layout_replaces_the_old(local):
    x = numbers(1, 2)
    local.through("s", "v", {}, x[:1], lambda rows: (np.zeros((len(rows), 2), dtype=np.float32),))
    answers, _ = local.through("s", "v", {}, x, lambda rows: (np.ones((len(rows), 4)),))
    np.testing.assert_array_equal(answers[0], np.ones((2, 4)))
    answers, counts = local.through("s", "v", {}, x, lambda rows: pytest.fail("computed again"))
    np.testing.assert_array_equal(answers[0], np.ones((2, 4)))
    assert counts == CacheCounts(hit=2)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_redis_away_is_a_bypass_and_is_left_alone_for_a_while():
    cache = always(AnswerCache(local_bytes=1 << 20, redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    compute = Encoder()
    assert ask(cache, numbers(1), compute) == CacheCounts(bypass=1)
    assert cache._redis.failures == 1
    for value in range(2, 10):
        assert ask(cache, numbers(value), compute) == CacheCounts(bypass=1)
    assert cache._redis.failures == 1
    # The tier in process still answers.
    assert ask(cache, numbers(1), compute) == CacheCounts(hit=1)
    assert not cache.ping()


def test_redis_that_comes_back_is_used_again(shared):
    cache = always(AnswerCache(local_bytes=0, redis_url=shared))
    compute = Encoder()
    cache._redis._failed(OSError("cut"))
    assert ask(cache, numbers(1), compute) == CacheCounts(bypass=1)
    cache._redis._closed_until = 0.0  # the pause is over
    assert ask(cache, numbers(1), compute) == CacheCounts(miss=1)
    assert ask(cache, numbers(1), compute) == CacheCounts(hit=1)
    cache.close()


def test_after_a_pause_one_caller_tries_and_pauses_grow(shared):
    tier = RedisTier(shared)
    for _ in range(8):
        tier._failed(OSError("cut"))
    assert tier._pause_seconds == tier.longest_pause_seconds
    assert not tier.available
    tier._closed_until = 0.0
    assert [tier.available, tier.available] == [True, False]
    tier.put({b"k": b"v"})
    assert tier.get([b"k", b"x"]) == [b"v", None]
    assert tier.available
    tier.close()


def test_a_failed_write_opens_the_breaker():
    tier = RedisTier(f"redis://127.0.0.1:{free_port()}/0")
    tier.put({b"k": b"v"})
    assert not tier.available


def test_a_dear_lookup_steps_aside(shared):
    cache = AnswerCache(local_bytes=1 << 20, redis_url=shared)
    kind = ("s", "encode")
    for _ in range(50):
        for gate in (cache._local_gate, cache._redis_gate):
            gate.computed((*kind, 1), 1e-6, 1)
            gate.looked_up((*kind, 1), 1e-3, 1, 1)
    compute = Encoder()
    assert ask(cache, numbers(1), compute) == CacheCounts(bypass=1)
    assert ask(cache, numbers(1), compute) == CacheCounts(bypass=1)
    assert compute.rows == 2
    cache.close()


def test_many_threads_get_their_own_answers(shared):
    cache = always(AnswerCache(local_bytes=4000, redis_url=shared))
    rng = np.random.default_rng(0)
    requests = [rng.integers(0, 30, size=rng.integers(1, 10)) for _ in range(120)]
    with ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(lambda values: ask(cache, numbers(*values), Encoder()), requests))
    assert cache.totals == sum(counts, CacheCounts())
    assert cache.totals.hit > 0
    cache.close()
