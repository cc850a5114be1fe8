"""Threads of the gateway: order, limits, deadlines, and when work runs on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from contracts.errors import DeadlineExceeded, InvalidInput, Overloaded
from engine.call import current_call
from service.execution import KINDS_REMEMBERED, RUNS_BEFORE_INLINE, Execution, Outcome


def execution(threads: int = 2, max_waiting: int = 1, deadline_seconds: float = 10.0) -> Execution:
    return Execution(threads=threads, max_waiting=max_waiting, deadline_seconds=deadline_seconds)


def test_work_runs_in_a_thread_and_its_errors_come_back() -> None:
    async def scenario() -> None:
        runs = execution()
        outcome = await runs.run(threading.current_thread)
        assert outcome.value is not threading.current_thread()
        assert not outcome.inline

        def fail() -> None:
            raise InvalidInput("wrong")

        with pytest.raises(InvalidInput, match="wrong"):
            await runs.run(fail)
        assert runs.waiting == 0

    asyncio.run(scenario())


def test_cheap_work_moves_onto_the_loop_and_dear_work_stays_off() -> None:
    async def scenario() -> None:
        runs = execution()
        runs._hop_seconds = 1.0  # as on a machine where a hop costs more than this work does
        inline = [(await runs.run(lambda: 1, kind="cheap")).inline for _ in range(RUNS_BEFORE_INLINE + 2)]
        assert inline == [False] * RUNS_BEFORE_INLINE + [True] * 2
        runs._hop_seconds = 0.0
        assert not (await runs.run(lambda: 1, kind="cheap")).inline
        assert not runs.inlines(None)

    asyncio.run(scenario())


def test_nothing_runs_inline_while_a_thread_is_busy() -> None:
    async def scenario() -> None:
        runs = execution()
        runs._hop_seconds = 1.0
        for _ in range(RUNS_BEFORE_INLINE):
            await runs.run(lambda: 1, kind="cheap")
        assert runs.inlines("cheap")
        free = threading.Event()
        busy = asyncio.create_task(runs.run(lambda: free.wait(10)))
        await asyncio.sleep(0)
        assert not runs.inlines("cheap")
        free.set()
        await busy
        assert runs.inlines("cheap")

    asyncio.run(scenario())


def test_what_would_wait_behind_too_many_is_refused() -> None:
    async def scenario() -> None:
        runs = execution(threads=1, max_waiting=1)
        free = threading.Event()
        tasks = [asyncio.create_task(runs.run(lambda: free.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        assert runs.waiting == 1
        with pytest.raises(Overloaded) as caught:
            await runs.run(lambda: 1)
        assert caught.value.retry_after_seconds
        free.set()
        await asyncio.gather(*tasks)
        assert (await runs.run(lambda: 1)).value == 1

    asyncio.run(scenario())


def test_work_over_the_deadline_is_told_and_counts_until_it_ends(until: Callable[..., None]) -> None:
    async def scenario() -> None:
        runs = execution(threads=1, max_waiting=0, deadline_seconds=0.05)
        free, told = threading.Event(), threading.Event()

        def work() -> None:
            call = current_call()
            call.cancelled.wait(10)
            told.set()
            free.wait(10)

        with pytest.raises(DeadlineExceeded):
            await runs.run(work)
        assert told.wait(10)
        with pytest.raises(Overloaded):
            await runs.run(lambda: 1)
        free.set()
        await asyncio.to_thread(until, lambda: runs._admitted == 0, 10, "the late thread gives its place back")

    asyncio.run(scenario())


def test_work_that_never_started_gives_its_place_back() -> None:
    async def scenario() -> None:
        runs = execution(threads=1, max_waiting=1)
        free = threading.Event()
        busy = asyncio.create_task(runs.run(lambda: free.wait(10)))
        waiting = asyncio.create_task(runs.run(lambda: 1))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert runs._admitted == 1
        free.set()
        await busy
        assert runs._admitted == 0

    asyncio.run(scenario())


def test_averages_are_bounded_and_hops_are_learnt() -> None:
    runs = execution()
    for number in range(KINDS_REMEMBERED + 10):
        runs._learn(number, 1.0)
    assert len(runs._costs) == KINDS_REMEMBERED
    before = runs._hop_seconds
    runs._learn_hop(before * 2, Outcome(None, 0.0, 0.0, False))
    assert runs._hop_seconds > before
    learnt = runs._hop_seconds
    runs._learn_hop(5.0, Outcome(None, 0.0, 0.0, False))
    assert runs._hop_seconds == learnt, "a hop that waited for a thread says nothing of hops"
