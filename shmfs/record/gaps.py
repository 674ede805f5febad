"""What has no records, and what /proc has of it: lost records, and processes that perf follows no longer.

Where a program starts with other rights than its user has, the kernel removes the events of the process, and
those of root, too: fs/exec.c:begin_new_exec calls perf_event_exit_task where the memory is not dumpable. That
holds for programs with set-user-ID, set-group-ID or file capabilities, and for what a process executes whose
real and effective ids differ. perf reports an end of the process then, and nothing that it does afterwards.

All methods are called in the recorder's thread.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from shmfs.record.attribution import Area, Attribution
from shmfs.record.registry import Registry
from shmfs.system import proc
from shmfs.tracing.changes import Change, Exec, Exit, Fork, Mmap, Unfollow
from shmfs.tracing.last_faults import LastFaults
from shmfs.tracing.perf import Perf

_MOST_NAMES = 1000
_RECHECK = 1_000_000_000
"""Nanoseconds between two looks for the effects of lost records, at least."""


class Gap(NamedTuple):
    """A process was not followed from its exec on."""

    until: int | None
    """When it was followed again (ns of CLOCK_MONOTONIC); None: never."""
    reason: str
    """Why it was not followed again."""
    areas: list[Area]
    """What it had mapped then."""


class Gaps:
    """Finds them."""

    def __init__(
        self,
        perf: Perf | None,
        last_faults: LastFaults | None,
        attribution: Attribution,
        known: Registry,
        look_at: Callable[[int], None],
        *,
        everybody: bool,
    ) -> None:
        """`look_at` adds what /proc says that a process has mapped.

        Events of `everybody` are those of processors, which the kernel does not remove.
        """
        self._perf = perf
        self._attribution = attribution
        self._known = known
        self._look_at = look_at
        self._everybody = everybody
        self._last_faults = last_faults
        self.processes: list[str] = []
        """The first of those that were not followed for some time, as "COMMAND (pid N)"."""
        self._executed: set[int] = set()
        """Processes that have mapped nothing since their exec: the program itself is mapped first."""
        self._again: dict[tuple[int, int], Gap] = {}
        """By time and pid of an Unfollow, until it is its turn."""
        self._late: dict[int, int] = {}
        """Threads that began while others were followed again, and when they were seen (CLOCK_MONOTONIC)."""
        self._lost_at = self._looked = 0
        """When records were lost whose effects were not looked for yet (0: none), and when that was done."""
        self._strangers: set[int] = set()
        """Processes that were found in /proc after that, and may have no record of their beginning."""

    # ---- processes that perf follows no longer

    def find(self, changes: list[Change]) -> list[Change]:
        """Return new changes, with an Unfollow for each Exit of a process that lives on; follow it again."""
        if self._perf:
            self._perf.tidy()
        found: list[Change] = []
        for change in sorted(changes, key=lambda one: one.time):
            if isinstance(change, Exec):
                self._executed.add(change.pid)
            elif isinstance(change, Mmap):
                self._executed.discard(change.pid)
            elif isinstance(change, Fork):
                self._late.pop(change.tid, None)
            elif isinstance(change, Exit) and change.tid == change.pid and change.pid in self._executed:
                self._executed.discard(change.pid)
                if self._everybody:
                    continue
                self._again[change.time, change.pid] = self._follow(change.pid)
                found.append(Unfollow(change.time, change.pid))
                continue
            found.append(change)
        return found

    def _follow(self, pid: int) -> Gap:
        reason, until = "", None
        tids = tids_of(pid)
        if self._last_faults:
            self._last_faults.follow(tids)
        try:
            if self._perf:
                self._perf.follow(tids)
            until = time.monotonic_ns()
            self._late |= dict.fromkeys(set(tids_of(pid)).difference(tids), until)
        except OSError as failure:
            reason = failure.strerror or str(failure)
        return Gap(until, reason, self._known.look(pid, time.time_ns()) or [])

    def _follow_late(self, horizon: int) -> None:
        """Follow those that have no record of their beginning, once all records of that time were read."""
        late = [tid for tid, seen in self._late.items() if seen < horizon]
        for tid in late:
            del self._late[tid]
        with contextlib.suppress(OSError):  # they have ended
            if late and self._perf:
                self._perf.follow(late)
        for tid in late:
            self._look_at(tid)

    def take(self, change: Unfollow, offset: int) -> None:
        """Write the gap down, and what the process maps after it; `offset` leads to the epoch (ns)."""
        gap = self._again.pop((change.time, change.pid))
        when = change.time + offset
        process = self._known.process(change.pid, when)
        until = None if gap.until is None else gap.until + offset
        self._known.miss(process, when, until, gap.reason)
        if len(self.processes) < _MOST_NAMES:
            self.processes.append(f"{self._known.command(process)} (pid {change.pid})")
        areas = self._attribution.add(change.pid, gap.areas)
        self._known.map(process, areas, when if until is None else until)
        self._look_at(change.pid)

    # ---- lost records

    def lost(self, when: int) -> None:
        """Take in that records were lost before `when` (ns of CLOCK_MONOTONIC)."""
        self._lost_at = when

    def check(self, horizon: int) -> list[Change]:
        """Find out from /proc what lost records were about, once those before them are worked on.

        Returns the ends that are found. Processes that have begun since may have a record, so they wait for
        the next time.
        """
        self._follow_late(horizon)
        now = time.monotonic_ns()
        ended: list[Change] = []
        if self._lost_at and self._lost_at < horizon and now - self._looked > _RECHECK:
            self._lost_at, self._looked = 0, now
            followed = self._attribution.tasks.followed
            ended += self._attribution.tasks.recheck(now)
            for pid in followed:
                self._look_at(pid)
            born = proc.pids() if self._everybody else proc.descendants(followed, proc.parents(zombies=True))
            self._strangers = set(born) - followed
        elif self._strangers and self._looked < horizon:
            for pid in self._strangers - self._attribution.tasks.followed:
                self._look_at(pid)
            self._strangers = set()
        return ended


def tids_of(pid: int) -> list[int]:
    """Return the threads of a process and of all that descend from it; [] if it is gone."""
    tids: list[int] = []
    pids = [pid]
    for one in pids:
        with contextlib.suppress(OSError):  # it ended, or the kernel has no CONFIG_PROC_CHILDREN
            threads = proc.threads(one)
            tids += threads
            for tid in threads:
                pids += map(int, proc.read(one, f"task/{tid}/children").split())
    return tids


def may_be_unfollowed(pids: Iterable[int]) -> bool:
    """Whether the kernel may have ended the monitoring of one of these processes, which have executed.

    /proc belongs to root where memory is not dumpable, see fs/proc/base.c:task_dump_owner.
    """
    for pid in pids:
        try:
            owner = os.stat(f"/proc/{pid}/status").st_uid
            status = proc.read(pid, "status")
        except OSError:
            continue
        for name in (b"Uid:", b"Gid:"):
            real, effective = (int(one) for one in proc.line_of(status, name)[:2])
            if real != effective or (name == b"Uid:" and owner != effective):
                return True
    return False
