import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ArtifactCorrupt, NotReady, Overloaded, TooLarge
from engine.call import call
from engine.model import Model
from engine.options import SessionOptions
from engine.pool import ModelPool

ROW = np.zeros((1, 4))
OPTIONS = SessionOptions(threads=1)


class Folders:
    """Artifacts by digest, in local folders; counts fetches and can hold them."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.fetched: Counter[str] = Counter()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, digest: str) -> Path:
        self.fetched[digest] += 1
        self.entered.set()
        assert self.gate.wait(20)
        if digest not in self.folders:
            raise ArtifactCorrupt(f"{digest}: forward.onnx differs from its digest")
        return self.folders[digest]


@pytest.fixture
def artifacts(affine):
    return Folders({name: affine.folder for name in "abcd"})


@pytest.fixture
def size(affine):
    return Model.load(affine.folder, OPTIONS).resident_bytes


def pool_of(artifacts, budget):
    return ModelPool(artifacts, memory_budget_bytes=budget, options=OPTIONS)


def digests(pool):
    return {model.digest for model in pool.loaded()}


def test_a_model_is_loaded_once_for_all_who_ask(artifacts, size):
    pool = pool_of(artifacts, 10 * size)
    programs = []
    artifacts.gate.clear()

    def ask(_):
        with pool.use("a") as program:
            programs.append(program)
            return program.log_prob(ROW).values

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(ask, i) for i in range(8)]
        assert artifacts.entered.wait(20)
        artifacts.gate.set()
        for future in futures:
            future.result(20)
    assert artifacts.fetched["a"] == 1
    assert len({id(program) for program in programs}) == 1
    (loaded,) = pool.loaded()
    assert (loaded.digest, loaded.family, loaded.resident_bytes, loaded.in_use) == ("a", "test", size, 0)
    assert pool.resident_bytes() == size


def test_the_least_recently_used_leaves_first(artifacts, size):
    pool = pool_of(artifacts, 2 * size)
    for name in ("a", "b", "a", "c"):
        with pool.use(name):
            pass
    assert digests(pool) == {"a", "c"}
    with pool.use("b"):
        pass
    assert digests(pool) == {"b", "c"}
    assert artifacts.fetched == {"a": 1, "b": 2, "c": 1}
    assert pool.resident_bytes() <= 2 * size


def test_a_model_in_use_stays(artifacts, size):
    pool = pool_of(artifacts, 2 * size)
    with pool.use("a") as program:
        for name in ("b", "c", "d"):
            with pool.use(name):
                assert pool.resident_bytes() <= 2 * size
        assert "a" in digests(pool)
        assert np.isfinite(program.log_prob(ROW).values).all()


def test_when_all_is_in_use_a_load_waits_for_room(artifacts, size):
    pool = pool_of(artifacts, size)
    with ThreadPoolExecutor(1) as threads:

        def other():
            with pool.use("b") as program:
                return program.log_prob(ROW).values

        with pool.use("a"):
            future = threads.submit(other)
            time.sleep(0.05)
            assert not future.done()
        assert np.isfinite(future.result(20)).all()


def test_no_room_in_time_is_overload(artifacts, size):
    pool = pool_of(artifacts, size)
    with pool.use("a"), call(deadline_seconds=0.05), pytest.raises(Overloaded, match="memory budget"), pool.use("b"):
        pass
    with pool.use("b"):
        pass


def test_a_model_over_the_whole_budget_says_so(artifacts, size):
    pool = pool_of(artifacts, size - 1)
    with pytest.raises(TooLarge, match="memory_budget_bytes"), pool.use("a"):
        pass
    assert pool.loaded() == []


def test_a_corrupt_version_fails_each_time_and_others_go_on(artifacts, size):
    pool = pool_of(artifacts, 4 * size)
    for _ in range(2):
        with pytest.raises(ArtifactCorrupt, match=r"forward\.onnx"), pool.use("damaged"):
            pass
    with pool.use("a") as program:
        assert np.isfinite(program.log_prob(ROW).values).all()
    assert artifacts.fetched["damaged"] == 2
    assert digests(pool) == {"a"}


def test_all_who_wait_for_a_failed_load_hear_why(artifacts, size):
    pool = pool_of(artifacts, size)
    artifacts.gate.clear()

    def ask(_):
        with pytest.raises(ArtifactCorrupt), pool.use("damaged"):
            pass

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(ask, i) for i in range(4)]
        assert artifacts.entered.wait(20)
        artifacts.gate.set()
        for future in futures:
            future.result(20)


def test_who_cannot_wait_for_a_load_is_told(artifacts, size):
    pool = pool_of(artifacts, size)
    artifacts.gate.clear()

    def load():
        with pool.use("a"):
            pass

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(load)
        assert artifacts.entered.wait(20)
        with call(deadline_seconds=0.02), pytest.raises(NotReady, match="being loaded"), pool.use("a"):
            pass
        artifacts.gate.set()
        loading.result(20)
    assert pool.loaded()[0].in_use == 0


def test_counters_outlive_the_model(artifacts, size):
    pool = pool_of(artifacts, size)
    for _ in range(2):
        with pool.use("a") as program:
            program.log_prob(ROW)
        pool.evict("a")
    assert pool.loaded() == []
    assert pool.counters()["a"]["forward"].requests == 2
    pool.evict("never seen")


def test_an_evicted_model_serves_its_callers_to_the_end(artifacts, size):
    pool = pool_of(artifacts, size)
    with pool.use("a") as program:
        pool.evict("a")
        assert pool.loaded() == []
        assert np.isfinite(program.log_prob(ROW).values).all()


def test_a_closed_pool_says_so(artifacts, size):
    pool = pool_of(artifacts, size)
    with pool.use("a"):
        pass
    pool.close()
    assert pool.loaded() == []
    with pytest.raises(NotReady, match="going down"), pool.use("a"):
        pass


def test_many_threads_over_a_small_budget(artifacts, size):
    pool = pool_of(artifacts, 2 * size)

    def ask(i):
        with pool.use("abcd"[i % 4]) as program:
            assert pool.resident_bytes() <= 2 * size
            return program.log_prob(ROW).values[0]

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, range(60)))
    assert len(set(answers)) == 1
    assert all(model.in_use == 0 for model in pool.loaded())
