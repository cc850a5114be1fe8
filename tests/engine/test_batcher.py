"""The batcher under many callers: whatever the interleaving, each gets the answer to its own rows."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import DeadlineExceeded, InvalidInput, Overloaded, TooLarge
from engine.batcher import Batcher
from engine.call import call


class Session:
    """A session that doubles its rows, fails on rows below zero, and can be held."""

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        self.batches: list[list[float]] = []
        self.overlapped = False
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._inside = threading.Lock()

    def __call__(self, feeds):
        if not self._inside.acquire(blocking=False):
            self.overlapped = True
        try:
            self.entered.set()
            assert self.gate.wait(20)
            time.sleep(self.delay_seconds)
            self.batches.append(feeds["x"][:, 0].tolist())
            if (feeds["x"] < 0).any():
                raise RuntimeError("negative row")
            return {"y": 2 * feeds["x"]}
        finally:
            self._inside.release()


def batcher(session, budget=1000, queue_rows=1000):
    return Batcher(session, row_elements=1, element_budget=budget, queue_rows=queue_rows)


def column(*values):
    return {"x": np.array(values, dtype=np.float64)[:, None]}


class Held:
    """A batcher whose session is busy with a first caller until `release`."""

    def __init__(self, **options):
        self.session = Session()
        self.session.gate.clear()
        self.batcher = batcher(self.session, **options)
        self.pool = ThreadPoolExecutor(32)
        self.first = self.pool.submit(self.batcher.submit, column(1.0))
        assert self.session.entered.wait(20)

    def queue(self, *values, **limits):
        def ask():
            with call(**limits):
                return self.batcher.submit(column(*values))

        waiting = self.batcher.counters.waiting_rows
        future = self.pool.submit(ask)
        until = time.monotonic() + 20
        while self.batcher.counters.waiting_rows == waiting and not future.done() and time.monotonic() < until:
            time.sleep(0.001)
        return future

    def release(self):
        self.session.gate.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()
        self.pool.shutdown()


def test_an_idle_session_runs_at_once():
    session = Session()
    each = batcher(session)
    assert each.submit(column(1, 2))["y"][:, 0].tolist() == [2, 4]
    assert dict(each.counters.released) == {"idle": 1}


def test_all_that_waits_goes_together():
    with Held() as held:
        futures = [held.queue(float(value)) for value in (2, 3, 4)]
        held.release()
        assert [future.result(20)["y"][0, 0] for future in futures] == [4, 6, 8]
        assert held.session.batches == [[1.0], [2.0, 3.0, 4.0]]
        counters = held.batcher.counters
        assert dict(counters.released) == {"idle": 1, "drained": 1}
        assert (counters.runs, counters.requests, counters.rows) == (2, 4, 4)
        assert dict(counters.batch_rows) == {1: 1, 4: 1}
        assert counters.queue_seconds > 0


def test_a_batch_ends_at_the_budget():
    with Held(budget=4) as held:
        futures = [held.queue(*values) for values in ([2, 3], [4, 5], [6.0])]
        held.release()
        for future in futures:
            future.result(20)
        assert held.session.batches == [[1.0], [2, 3, 4, 5], [6]]
        assert held.batcher.counters.released["budget"] == 1


def test_an_item_over_the_budget_is_refused_at_admission():
    session = Session()
    with pytest.raises(TooLarge, match="element_budget"):
        batcher(session, budget=2).submit(column(1, 2, 3))
    assert not session.batches


def test_a_bad_row_fails_alone():
    with Held() as held:
        futures = [held.queue(*values) for values in ([2.0], [3, -1, 4], [5.0], [6, 7])]
        held.release()
        with pytest.raises(InvalidInput, match=r"inputs\[1\].*negative row"):
            futures[1].result(20)
        assert [futures[i].result(20)["y"][0, 0] for i in (0, 2, 3)] == [4, 10, 12]


def test_rows_that_only_fail_together_are_answered():
    def at_most_two(feeds):
        if len(feeds["x"]) > 2:
            raise MemoryError("batch too big for this machine")
        return {"y": feeds["x"] + 1}

    answer = batcher(at_most_two).submit(column(1, 2, 3, 4, 5))
    assert answer["y"][:, 0].tolist() == [2, 3, 4, 5, 6]


def test_a_full_queue_refuses_early():
    with Held(queue_rows=3) as held:
        accepted = held.queue(2, 3)
        refused = held.queue(4, 5)
        with pytest.raises(Overloaded, match="wait") as raised:
            refused.result(20)
        assert raised.value.retry_after_seconds > 0
        assert held.batcher.counters.rejected["queue"] == 1
        held.release()
        accepted.result(20)


def test_a_turn_after_the_deadline_is_refused_early():
    session = Session(delay_seconds=0.2)
    each = batcher(session)
    each.submit(column(1))  # it learns what a row costs
    session.entered.clear()
    session.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(each.submit, column(*range(50)))
        assert session.entered.wait(20)
        with call(deadline_seconds=0.5), pytest.raises(Overloaded, match="after its deadline"):
            each.submit(column(1))
        session.gate.set()
        first.result(20)


def test_a_deadline_that_passes_in_the_queue():
    with Held() as held:
        late = held.queue(2.0, deadline_seconds=0.05)
        with pytest.raises(DeadlineExceeded):
            late.result(20)
        other = held.queue(3.0)
        held.release()
        assert other.result(20)["y"][0, 0] == 6
        assert held.session.batches == [[1.0], [3.0]]
        assert held.batcher.counters.rejected["deadline"] == 1


def test_a_caller_who_left_is_dropped_and_the_others_are_served():
    with Held() as held:
        gone = threading.Event()
        leaver, stayer = held.queue(2.0, cancelled=gone), held.queue(3.0)
        gone.set()
        held.release()
        with pytest.raises(DeadlineExceeded, match="left"):
            leaver.result(20)
        assert stayer.result(20)["y"][0, 0] == 6
        assert held.session.batches == [[1.0], [3.0]]
        assert held.batcher.counters.rejected["cancelled"] == 1


def test_a_queue_of_nothing_but_leavers_frees_the_session():
    with Held() as held:
        gone = threading.Event()
        leavers = [held.queue(2.0, cancelled=gone) for _ in range(3)]
        gone.set()
        held.release()
        for leaver in leavers:
            with pytest.raises(DeadlineExceeded):
                leaver.result(20)
        assert held.batcher.submit(column(9))["y"][0, 0] == 18


def test_callers_who_come_too_late_are_not_run():
    session = Session()
    with call(deadline_seconds=0), pytest.raises(DeadlineExceeded):
        batcher(session).submit(column(1))
    assert not session.batches


def test_the_call_learns_what_it_spent():
    with call() as spent:
        batcher(Session(delay_seconds=0.01)).submit(column(1))
    assert spent.run_seconds >= 0.01
    assert spent.queue_seconds >= 0


def test_requests_with_other_inputs_do_not_share_a_batch():
    def copy(feeds):
        return dict(feeds)

    session = Session()
    session.gate.clear()

    def run(feeds):
        session.entered.set()
        assert session.gate.wait(20)
        return copy(feeds)

    each = batcher(run)
    with ThreadPoolExecutor(3) as pool:
        pool.submit(each.submit, column(0))
        assert session.entered.wait(20)
        futures = [pool.submit(each.submit, {name: np.ones((1, 1))}) for name in ("x", "w")]
        while each.counters.waiting_rows < 2:
            time.sleep(0.001)
        session.gate.set()
        assert {next(iter(future.result(20))) for future in futures} == {"x", "w"}


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(-1, 50), min_size=1, max_size=6), min_size=1, max_size=12),
    budget=st.integers(6, 20),
    delay=st.sampled_from([0.0, 0.0005]),
    leavers=st.sets(st.integers(0, 11)),
)
def test_each_caller_gets_its_own_answer(requests, budget, delay, leavers):
    session = Session(delay)
    each = batcher(session, budget=budget)

    def ask(index):
        values = requests[index]
        gone = threading.Event()
        if index in leavers:
            gone.set()
        with call(cancelled=gone):
            try:
                return each.submit(column(*values))["y"][:, 0].tolist()
            except (InvalidInput, DeadlineExceeded) as error:
                return type(error)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(len(requests))))
    for index, (values, answer) in enumerate(zip(requests, answers, strict=True)):
        if index in leavers:
            assert answer is DeadlineExceeded
        elif min(values) < 0:
            assert answer is InvalidInput
        else:
            assert answer == [2 * value for value in values]
    assert not session.overlapped
    assert max(map(len, session.batches), default=0) <= budget
    assert each.counters.waiting_rows == 0
    assert each.submit(column(3))["y"][0, 0] == 6
