from __future__ import annotations

import os
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidInput
from contracts.jobs import Progress
from workers.messages import Inbox, Sender


def sent() -> bytes:
    reader, writer = os.pipe()
    sender = Sender(writer)
    sender.progress(Progress(stage="train", step=1, terms={"rate": 0.5}))
    sender.event("resumed", {"step": 4})
    sender.progress(Progress(stage="train", step=2))
    sender.failed(InvalidInput("no such column"), final=True)
    sender.done({"digest": "d"})
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read()


@given(cuts=st.lists(st.integers(0, 700), max_size=8))
def test_lines_arrive_whole_however_they_are_cut(cuts: list[int]) -> None:
    data, inbox = sent(), Inbox()
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    for start, stop in pairwise(places):
        inbox.feed(data[start:stop])
    assert inbox.take_progress() == Progress(stage="train", step=2)
    assert inbox.take_progress() is None
    assert inbox.take_events() == [("resumed", {"step": 4})]
    assert inbox.take_events() == []
    assert inbox.problem is not None
    assert inbox.problem.detail == "no such column"
    assert inbox.final
    assert inbox.done == {"digest": "d"}


def test_a_line_cut_off_by_death_is_dropped() -> None:
    inbox = Inbox()
    inbox.feed(b'{"done": {"digest": "')
    assert inbox.done is None


def test_a_sender_without_a_pipe_is_silent() -> None:
    Sender(None).done({})
