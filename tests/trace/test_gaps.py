"""A program that starts with other rights than its user has: the kernel ends perf's monitoring, not the process."""

import errno
import os
import time
from typing import Any

from shmfs.trace import stream
from shmfs.trace.analysis import analyse
from shmfs.trace.decode import Exec, Exit, Fork, Mmap
from shmfs.trace.outcomes import UNKNOWN
from shmfs.trace.tasks import Life
from tests.trace.test_recorder import DEVICE, FAULT, GONE, Session, session

__all__ = ["session"]

CUT = (Fork(1, GONE, os.getpid(), GONE), Exec(2, GONE, b"program"), Exit(3, GONE, GONE))
PROGRAM = Mmap(4, GONE, 1 << 40, 4096, 0, (8, 1), 1, 5, 2, b"/bin/program")
MAPPED = Mmap(5, GONE, 0, 1 << 30, 0, DEVICE, 1, 3, 1, b"/nowhere/a")


def lost(one: Session) -> list[dict[str, Any]]:
    return [event for event in stream.Trace(one.path).events() if event["event"] == "lost"]


def test_it_is_followed_again(session: Any) -> None:
    """Its faults are written and it ends when it ends; what is missing between is marked."""
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.round(*CUT, MAPPED)
    fault = [(time.monotonic_ns() - one.start, GONE, FAULT, 7, 9)]
    one.round(faults=fault)
    one.statuses[GONE] = 5
    del one.lives[GONE]
    ended = time.monotonic_ns() - one.start
    one.round(Exit(ended, GONE, GONE))
    assert one.kinds() == {7: [UNKNOWN]}
    assert len(one.perf.followed) == 1
    (process,) = stream.Trace(one.path).processes
    assert (process["command"], process["status"]) == ("program", 5)
    assert process["exit"] == ended + one.start + one.recorder._offset
    (gap,) = lost(one)
    assert (gap["of"], gap["process"], gap["count"], gap["reason"]) == ("perf", 0, 1, "")
    assert gap["until"] > gap["time"]
    assert one.recorder.lost == 1


def test_it_is_named_where_it_cannot_be_followed_again(session: Any) -> None:
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.perf.refusal = PermissionError(errno.EACCES, "Permission denied")
    one.round(*CUT)
    one.end()
    (gap,) = lost(one)
    assert (gap["until"], gap["reason"]) == (None, "Permission denied")
    assert stream.Trace(one.path).processes[0].get("exit") is None
    analysis = analyse(stream.Trace(one.path))
    assert analysis.losses.unfollowed == [f"program (pid {GONE})"]


def test_the_end_of_one_that_is_not_followed_is_found_in_proc(session: Any) -> None:
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.perf.refusal = PermissionError(errno.EACCES, "Permission denied")
    one.round(*CUT)
    alive = time.time_ns()
    one.statuses[GONE] = 5
    del one.lives[GONE]
    one.round()
    one.end()
    (process,) = stream.Trace(one.path).processes
    assert process["status"] == 5
    assert process["exit"] >= alive


def test_events_of_everybody_are_not_removed(session: Any) -> None:
    one = session(everybody=True)
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.round(*CUT, PROGRAM, MAPPED)
    one.round(faults=[(time.monotonic_ns() - one.start, GONE, FAULT, 7, 9)])
    assert one.kinds() == {7: [UNKNOWN]}
    assert not one.perf.followed
    assert not lost(one)
    assert stream.Trace(one.path).processes[0].get("exit") is None


def test_a_program_that_ran_has_ended(session: Any) -> None:
    one = session()
    one.round(*CUT[:2], PROGRAM, Exit(6, GONE, GONE))
    one.end()
    assert not one.perf.followed
    assert not lost(one)
    assert stream.Trace(one.path).processes[0]["exit"] == 6 + one.start + one.recorder._offset
