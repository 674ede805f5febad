"""Which processes live, and by how many threads: PERF_RECORD_FORK and _EXIT, checked against /proc.

A record may be lost, or be older than the recorder, so a process never ends by counting alone. See proc(5).
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from shmfs.system import proc
from shmfs.tracing.changes import Exit, Unfollow

_MOMENT = 200_000_000
"""Nanoseconds for which /proc may still show threads whose EXIT was recorded."""


class Life(NamedTuple):
    """A process with threads that live."""

    started: int
    """Nanoseconds of CLOCK_MONOTONIC, rounded down to a clock tick."""
    threads: frozenset[int]


def life(pid: int) -> Life | None:
    """Return what /proc has of a process; None if no thread of it lives, also where nobody has waited for it.

    A leader that has ended stays as a zombie while other threads live.
    """
    try:
        stat = proc.stat(pid)
        threads = set(proc.threads(pid))
    except OSError:
        return None
    if stat.is_dead:
        threads.discard(pid)
    return Life(monotonic(stat.start_time), frozenset(threads)) if threads else None


def monotonic(ticks: int) -> int:
    """Return a start time in clock ticks since boot as nanoseconds of CLOCK_MONOTONIC."""
    slept = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") - slept


class Tasks:
    """The threads of the processes that are followed. Called by the recorder's thread alone."""

    def __init__(
        self, look: Callable[[int], Life | None] = life, end: Callable[[int], int | None] = lambda pid: None
    ) -> None:
        """Check with `look`; `end` returns when a process ended (ns of CLOCK_MONOTONIC), if that is known."""
        self._look = look
        self._end = end
        self._threads: dict[int, set[int]] = {}
        self._found: dict[int, int] = {}
        """When a process was seen to live, of those whose fork was not."""
        self._ending: dict[int, Exit] = {}
        """The last EXIT of processes of which no thread is known any more."""
        self._unfollowed: dict[int, Unfollow] = {}
        """Processes whose end may have no record."""
        self._missed: dict[int, int] = {}
        """Those among them that are gone, and when that was seen (ns of CLOCK_MONOTONIC)."""

    def is_known(self, pid: int, time: int) -> bool:
        """Whether the process that was forked at `time` is the one that was found alive after that."""
        return self._found.get(pid, 0) > time

    def began(self, pid: int) -> Exit | None:
        """A process was forked; returns the end of the one that had its pid, if that was not known."""
        before = self._ending.get(pid)
        self.forget(pid)
        self._threads[pid] = {pid}
        return before

    def found(self, pid: int, time: int) -> None:
        """A process is followed that has been there before: its threads are those of /proc."""
        if pid not in self._threads:
            alive = self._look(pid)
            self._threads[pid] = set(alive.threads) if alive else {pid}
            self._found[pid] = time

    def thread(self, pid: int, tid: int) -> None:
        """A thread began."""
        if pid in self._threads:
            self._threads[pid].add(tid)

    def executed(self, pid: int) -> None:
        """Of a process that executes a program one thread is left, which has the pid for its id now."""
        self._threads[pid] = {pid}
        self._ending.pop(pid, None)

    def ended(self, change: Exit) -> None:
        """A thread ended; whether the process did is what `over` finds out."""
        threads = self._threads.get(change.pid)
        if threads is None:
            return
        threads.discard(change.tid)
        if not threads or change.tid == change.pid or change.pid in self._ending:
            self._ending[change.pid] = change

    def over(self, now: int, *, everything: bool = False) -> list[Exit]:
        """Return the processes that have ended until `now`, by their last EXIT.

        After `everything` that was recorded has been fed, no EXIT can follow.
        """
        ended = [change for pid, change in list(self._ending.items()) if self._is_over(pid, change, now)]
        for pid, since in list(self._unfollowed.items()):
            alive = self._look(pid) if pid not in self._ending else None
            if pid in self._ending or (alive is not None and alive.started <= since.time):
                continue
            if (
                everything or now - self._missed.setdefault(pid, now) >= _MOMENT
            ):  # a record of the end may be on its way
                end = self._end(pid)
                self.forget(pid)
                ended.append(Exit(max(since.time, now if end is None else end), pid, pid))
        return ended

    def unfollowed(self, change: Unfollow) -> None:
        """The records of a process have a gap from now on, or no end."""
        self._unfollowed[change.pid] = change

    def _is_over(self, pid: int, change: Exit, now: int) -> bool:
        alive = self._look(pid)
        if alive is None or alive.started > change.time:  # or the pid is another's already
            self.forget(pid)
            return True
        self._threads[pid] = threads = set(alive.threads) - {change.tid}
        if threads and now - change.time > _MOMENT:
            del self._ending[pid]
        return False

    def recheck(self, now: int) -> list[Exit]:
        """Read the threads of all again, after records were lost; returns an EXIT for who has none left."""
        lives = {pid: self._look(pid) for pid in self._threads}
        self._threads.update({pid: set(alive.threads) for pid, alive in lives.items() if alive})
        return [Exit(now, pid, pid) for pid, alive in lives.items() if not alive and pid not in self._ending]

    def has_gap(self, pid: int) -> bool:
        """Whether some records of a process are missing."""
        return pid in self._unfollowed

    def forget(self, pid: int) -> None:
        """Follow a process no longer."""
        for known in (self._threads, self._found, self._ending, self._unfollowed, self._missed):
            known.pop(pid, None)

    @property
    def followed(self) -> set[int]:
        """The pids."""
        return set(self._threads)
