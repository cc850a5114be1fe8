import contextvars
import threading

import pytest

from contracts.errors import DeadlineExceeded
from engine.call import call, current_call


def test_without_a_call_nothing_is_limited():
    assert current_call().remaining_seconds is None
    current_call().check()


def test_a_call_is_seen_by_what_runs_within_and_ends():
    with call(deadline_seconds=60) as opened:
        assert current_call() is opened
        assert 0 < opened.remaining_seconds <= 60
        with call() as inner:
            assert current_call() is inner
        assert current_call() is opened
    assert current_call() is not opened


def test_a_copied_context_carries_the_call_to_another_thread():
    seen = []
    with call() as opened:
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(lambda: seen.append(current_call())))
        thread.start()
        thread.join()
    assert seen == [opened]


def test_lateness_and_leaving_are_told_apart():
    gone = threading.Event()
    with call(deadline_seconds=0) as late, pytest.raises(DeadlineExceeded, match="deadline"):
        late.check()
    with call(cancelled=gone) as left:
        left.check()
        gone.set()
        with pytest.raises(DeadlineExceeded, match="left"):
            left.check()
