"""Everything that is seen of a mount, into one stream: faults and mappings from perf, and what others tell.

It runs in a thread of the process that supervises or records, never in the daemon: a page fault must not
wait for the one who writes down that it happened.
"""

import contextlib
import logging
import os
import select
import threading
import time
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmfs.analysis.deaths import Deaths, Touched
from shmfs.events.names import printable
from shmfs.events.records import Stale
from shmfs.record.around import Around
from shmfs.record.attribution import ELSEWHERE, Area, Attribution, Found
from shmfs.record.gaps import Gaps, may_be_unfollowed
from shmfs.record.input import Input, proofs, refusals
from shmfs.record.outcomes import FAILED, PENDING, UNFINISHED, Outcomes
from shmfs.record.pending import Pending
from shmfs.record.proofs import Proofs
from shmfs.record.registry import FIGURES, Registry, Sink
from shmfs.record.signals import Failures
from shmfs.record.tasks import Tasks, life
from shmfs.system import proc
from shmfs.tracefile.format import FAULT, KINDS, Faults
from shmfs.tracefile.writer import AGE
from shmfs.tracing.changes import Change, Exec, Exit, Failure, Fork, Unfollow
from shmfs.tracing.decode import Decoded, Samples, decode, faults_of, in_order
from shmfs.tracing.exits import Execs, Exits, Statuses
from shmfs.tracing.last_faults import LastFaults
from shmfs.tracing.perf import Event, Perf

log = logging.getLogger(__name__)

_ROUND = 0.1
"""Seconds between two looks at the rings, at most."""
_DIED_OF_SIGBUS = 128 + 7
_STOP = b"x"


class Recorder:
    """Hands what happens to `writer` until it is stopped."""

    def __init__(
        self,
        writer: Sink,
        perf: Perf | None,
        device: tuple[int, int],
        root: str,
        *,
        everybody: bool,
        running: int = -1,
        events: int | None = None,
        exits: Exits | None = None,
        execs: Execs | None = None,
        last_faults: LastFaults | None = None,
        clock_offset: int | None = None,
    ) -> None:
        """Follow the files of `device` (major, minor), whose mount processes see at the path `root`.

        Without `perf` there are no faults. With `everybody` processes are only written down when they map a
        segment. `running` is a process to follow from now on, without waiting for an exec. `events` is a
        descriptor to read the daemon's own events from, as JSON lines; `exits` knows how processes ended,
        `execs` which have executed a program, so that those which perf follows no longer are found at once,
        and `last_faults` which pages were touched last, where faults are not recorded. `clock_offset` leads
        from CLOCK_MONOTONIC to the times of the trace, in nanoseconds; without it both clocks are read.
        """
        self.failure = ""
        """Why the recorder gave up, a sentence."""
        self.stale: Stale | None = None
        """What is missing since it gave up."""
        self.faults = 0
        self.kinds = np.zeros(len(KINDS), np.int64)
        """How many faults of each of KINDS."""
        self.lost = 0
        self._writer = writer
        self._perf = perf
        self._everybody = everybody
        self._running = running
        self._input = Input(events) if events is not None else None
        self._offset = time.time_ns() - time.monotonic_ns() if clock_offset is None else clock_offset
        self._known = Registry(writer, device, root.rstrip("/"), self._offset)
        self._statuses = Statuses(exits)
        self._last_faults = last_faults
        self._execs = execs
        tracepoints = perf is not None and perf.tracepoints  # they report mremap(2) and each SIGBUS
        self._attribution = Attribution(
            self._known.segment,
            None if tracepoints else self._look,
            lambda pid: self._known.process(pid, self._offset + self._horizon),
            self._tell,
            written=self._known.is_written,
            tasks=Tasks(life, self._statuses.end_of),
        )
        inode_of = self._known.inode if perf and perf.device == device else None
        self._around = Around(inode_of) if perf and perf.filemap else None
        self._outcomes = Outcomes(ends=bool(perf and perf.ends), returns=bool(perf and perf.returns))
        self._proofs = Proofs(device, root.rstrip("/"))
        self._pending = Pending(
            self._proofs, self._statuses.of, self._write_one, lambda: tracepoints and not self.lost
        )
        recorded = perf is not None and perf.faults  # each with its SIGBUS, see `_round`
        self._failures = Failures(
            *(device, self._known, self._attribution, self._offset),
            recorded=recorded,
            served=events is not None,
        )
        self._samples: list[Samples] = []
        self._changes: list[Change] = []
        self._horizon = 0
        known = self._attribution, self._known, self._look_at
        self.gaps = Gaps(perf, last_faults, *known, everybody=everybody)
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._ends: SimpleQueue[tuple[int, int]] = SimpleQueue()
        """Pids and exit statuses of processes that somebody else has waited for."""
        self._refused = False
        """Whether the daemon has told of a failure that was not looked into yet."""
        self._wake_read, self._wake_write = os.pipe()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shmfs-recorder", daemon=True)

    @property
    def deaths(self) -> Deaths | None:
        """What explains deaths and refusals."""
        return self._failures.deaths

    @deaths.setter
    def deaths(self, deaths: Deaths) -> None:
        self._failures.deaths = deaths

    def start(self) -> None:
        """Begin; for a command, before it executes."""
        if self._perf and (self._everybody or self._running >= 0):
            self._perf.enable()
            for pid in proc.pids() if self._everybody else [self._running]:
                self._known.meet(pid)
                self._look_at(pid)
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> None:
        """Write what has happened until now, if `start` was called, and end; the writer stays open."""
        if self._thread.ident is not None:
            os.write(self._wake_write, _STOP)
            self._thread.join(timeout)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._statuses.close()

    def cpu(self) -> float:
        """CPU seconds that its thread has taken; 0 where it has ended."""
        if self._thread.ident is None or not self._thread.is_alive():
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def catch_up(self, timeout: float = 5.0) -> bool:
        """Return when all is written that happened before; false after `timeout` seconds or a failure."""
        self._caught_up.clear()
        os.write(self._wake_write, b"c")
        return not self.failure and self._caught_up.wait(timeout) and not self.failure

    def event(self, **fields: Any) -> None:
        """Write down something that somebody else has seen, by `inode` and `pid`; from any thread."""
        fields.setdefault("time", time.time_ns())
        self._told.put(fields)

    def ended(self, pid: int, status: int) -> None:
        """Report how a process ended that somebody has waited for, before `catch_up`; from any thread."""
        self._ends.put((pid, status))

    # ---- the thread

    def _run(self) -> None:
        poll = select.poll()
        rings = self._perf.fileno() if self._perf else -1
        for source in (self._perf, self._execs):
            if source:
                poll.register(source, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        if self._input is not None:
            poll.register(self._input.fd, select.POLLIN)
        stopping = False
        due = 0.0
        try:
            while not stopping:
                rest = max(0.0, due - time.monotonic())
                ready = {fd for fd, _ in poll.poll(rest * 1000 + 1)}
                asked = os.read(self._wake_read, 8) if self._wake_read in ready else b""
                stopping = _STOP in asked
                if self._input is not None and self._input.fd in ready and not self._take_events():
                    poll.unregister(self._input.fd)
                    self._input = None
                unfollowed = self._execs is not None and may_be_unfollowed(self._execs.read())
                now = time.monotonic()
                if asked or unfollowed or rings in ready or self._refused or now >= due:
                    self._refused = False
                    self._round(everything=bool(asked), last=stopping)
                    due = now + _ROUND
                if asked:
                    self._caught_up.set()
        except Exception as failure:
            self.failure = f"recording failed: {type(failure).__name__}: {failure}"
            self.stale = Stale("recorder", FIGURES, time.time_ns(), self.failure)
            log.exception("recording failed and was given up")
            self._caught_up.set()
            with contextlib.suppress(Exception):  # the writer may be what failed
                self._writer.event(source="shmfs", **self.stale.event())
                self._writer.flush()

    def _round(self, *, everything: bool, last: bool) -> None:
        """Read the rings, and work on what cannot be followed by anything earlier any more.

        What another processor has not finished to write is not older than the last time all were read.
        """
        before = time.monotonic_ns()
        new = Decoded()
        for number, ring in enumerate(self._perf.rings if self._perf else ()):
            data = ring.read()
            if data and self._perf:
                decoded = decode(data, self._perf.events, number)
                self._samples += decoded.samples
                new.signals += decoded.signals
                new.failed_calls += decoded.failed_calls
                new.changes += decoded.changes
                if decoded.lost:
                    self.lost += decoded.lost
                    self.gaps.lost(before)
                    self.event(event="lost", source="perf", of="perf", count=decoded.lost)
        self._statuses.follow_forked(() if self._everybody else new.changes)
        self._changes += self.gaps.find(new.changes)
        self._changes += self._failures.take(new.signals, new.failed_calls)
        if self._perf and not self._perf.tracepoints:  # which have them among the samples
            self._samples += faults_of(new.signals)
        self._statuses.read()
        horizon, self._horizon = self._horizon, before
        samples, changes = self._until(None if everything else horizon)
        if samples.rows or changes:
            self._work(samples, changes)
        self._attribution.end(time.monotonic_ns(), everything=everything)
        self._changes += self.gaps.check(horizon)
        if last and self._input is not None:
            self._take_events()
        while everything and not self._ends.empty():  # else some faults of the process may wait still
            pid, status = self._ends.get()
            self._pending.over(pid, status)
            self._explain_end(pid, status, self._now())
        self._settle(last=last)
        if self.deaths is not None:
            self.deaths.settle(last=last)
        while not self._told.empty():
            self._hand_on(self._told.get())
        self._writer.flush(AGE)

    def _hand_on(self, event: dict[str, Any]) -> None:
        """Write what others have seen, with the ids of this trace for their inodes and pids, if known."""
        known: dict[str, int | None] = {}
        if "inode" in event:
            known["segment"] = self._known.find_segment(event.pop("inode"))
        if "pid" in event and "process" not in event:
            known["process"] = self._known.find(event.pop("pid"))
        if None not in known.values():
            self._writer.event(**(event | known))

    def _until(self, horizon: int | None) -> tuple[Samples, list[Change]]:
        """Take the samples and changes before `horizon`, by time."""
        samples = in_order(self._samples)
        changes = sorted(self._changes, key=lambda change: change.time)
        if horizon is None:
            self._samples, self._changes = [], []
            return samples, changes
        early = int(np.searchsorted(samples.time, np.uint64(horizon)))  # of one type: see attribution.py
        self._samples = [samples.take(slice(early, None))] if early < samples.rows else []
        self._changes = [change for change in changes if change.time >= horizon]
        return samples.take(slice(early)), [change for change in changes if change.time < horizon]

    def _work(self, samples: Samples, changes: list[Change]) -> None:
        around = samples.take(mapped) if (mapped := samples.event == Event.AROUND).any() else None
        if around:
            samples = samples.take(~mapped)
        outcomes, settled = self._outcomes.of(samples)
        if not (begun := samples.event == Event.FAULT).all():
            samples, outcomes = samples.take(begun), outcomes[begun]
        now = time.monotonic()
        self._pending.settle(settled, now)
        found = self._attribution.feed(samples, changes)
        rows, pids = self._rows(found, outcomes, np.flatnonzero(found.segment >= 0))
        done = rows["kind"] < UNFINISHED
        for at in np.flatnonzero((rows["kind"] == PENDING) | (rows["kind"] == UNFINISHED)).tolist():
            key = int(rows["tid"][at]), int(rows["time"][at]) - self._offset
            file = self._known.file(int(rows["segment"][at]))
            self._pending.add(key, rows[at : at + 1].copy(), int(pids[at]), *file, now)
        self._pending.repeat(rows, pids)
        self._write(*((rows, pids) if done.all() else (rows[done], pids[done])))
        self._end_threads(changes, now)
        if self._around and len(brought := self._around.feed(rows, around, self._offset)):
            self._writer.faults(brought)

    def _rows(
        self, found: Found, outcomes: NDArray[np.uint8], which: NDArray[np.intp]
    ) -> tuple[Faults, NDArray[np.uint32]]:
        """Some faults as they are written, and their pids."""
        samples = found.samples.take(which)
        rows = np.zeros(len(which), FAULT)
        for name in ("ip", "tid", "access", "cpu"):
            rows[name] = getattr(samples, name)
        rows["time"] = samples.time + np.uint64(self._offset)
        rows["page"], rows["kind"] = found.page[which], outcomes[which]
        rows["segment"], rows["process"] = found.segment[which], found.process[which]
        return rows, samples.pid

    def _end_threads(self, changes: list[Change], now: float) -> None:
        """Settle the last faults of threads that have ended, or whose process executes another program."""
        for change in changes:
            if isinstance(change, Exit | Exec):
                tids = [change.tid] if isinstance(change, Exit) else []
                tids += self._pending.threads(change.pid, change.time) if isinstance(change, Exec) else []
                for tid in tids:
                    self._pending.died(tid, change.time, self._outcomes.ended(tid, change.time), now)

    def _settle(self, *, last: bool) -> None:
        """Decide what became of faults whose outcome is not known; at the `last` of all of them."""
        now = time.monotonic()
        if self._outcomes.default == UNFINISHED:
            self._pending.review(now, last=last)
        elif last:
            self._pending.settle_all(self._outcomes.default, now)

    def _write_one(self, row: Faults, pid: int) -> None:
        self._write(row, np.array([pid]))

    def _write(self, faults: Faults, pids: NDArray[Any]) -> None:
        if not len(faults):
            return
        self._writer.faults(faults)
        self.faults += len(faults)
        self.kinds += np.bincount(faults["kind"], minlength=len(KINDS))
        if self.deaths is not None and (failed := faults["kind"] == FAILED).any():
            for fault, pid in zip(faults[failed], pids[failed].tolist(), strict=True):
                self.deaths.failed(self._touched(fault, pid))

    def _touched(self, fault: np.void, pid: int) -> Touched:
        names = "process", "tid", "segment", "page", "time"
        process, tid, segment, page, when = (int(fault[name]) for name in names)
        inode, path = self._known.file(segment)
        command = self._known.command(process)
        return Touched(process, pid, tid, command, segment, inode, path, page, when)

    def _take_events(self) -> bool:
        """Hand the daemon's events on; says whether more may come."""
        assert self._input is not None  # noqa: S101
        for lines in self._input.read():
            self._writer.events(lines)
            for event in refusals(lines):
                self._refused = True
                if self.deaths is not None:
                    self.deaths.told(event)
            for event in proofs(lines):
                self._proofs.take(event)
        return self._input.open

    # ---- processes

    def _tell(self, change: Change, areas: list[Area]) -> None:
        """Write down what became of a process."""
        if isinstance(change, Failure):
            self._failures.explain(change)
            return
        when = change.time + self._offset
        pid = change.pid
        if isinstance(change, Fork):
            self._known.inherit(pid, change.parent, when)
            if areas or not self._everybody:
                mine = change.parent == os.getpid()
                parent = None if mine else self._known.process(change.parent, when)
                if parent is not None:
                    self._attribution.tasks.found(change.parent, change.time)
                command = "" if parent is None else self._known.command(parent)
                self._known.begin(pid, when, command=command, parent=parent, started=when)
        elif isinstance(change, Exec):
            command = printable(os.fsdecode(change.command))
            if self._known.is_written(pid):
                self._known.execute(pid, when, command)
            elif not self._everybody:
                self._known.begin(pid, when, command=command, started=when)
            else:
                self._known.note(pid, command)
        elif isinstance(change, Exit):
            self._end(pid, when)
            return
        elif isinstance(change, Unfollow):
            self.gaps.take(change, self._offset)
            self.lost += 1
            return
        if not self._known.is_written(pid) and not areas:
            return
        self._known.map(self._known.process(pid, when), areas, when)
        if not self._statuses.follows(pid):
            self._statuses.follow(pid)

    def _end(self, pid: int, when: int) -> None:
        status = self._statuses.of(pid)
        if status is None:
            self._statuses.read()  # the kernel reports it a moment after it shows the zombie
            status = self._statuses.of(pid)
        self._pending.over(pid, status)
        if status == _DIED_OF_SIGBUS and self._last_faults:
            self._failures.died(pid, self._last_faults.of(pid))
        if self._known.is_written(pid) or not self._everybody:
            self._explain_end(pid, status, when)
        self._statuses.forget(pid)
        self._known.end(pid, when, status)

    def _explain_end(self, pid: int, status: int | None, when: int) -> None:
        """Have the end of a process explained, if it was a SIGBUS."""
        process = self._known.find(pid)
        command = "" if process is None else self._known.command(process)
        if self.deaths is not None:
            number = -1 if process is None else process
            self.deaths.ended(Touched(number, pid, pid, command, -1, 0, "", None, when), status)

    def _look(self, pid: int) -> list[Area] | None:
        """What /proc says the process has mapped; None if it is gone or may not be looked at."""
        return self._known.look(pid, self._now())

    def _look_at(self, pid: int) -> None:
        """Learn what a process has mapped already."""
        areas = self._look(pid) or []
        if not any(area.segment != ELSEWHERE for area in areas):
            return
        if ours := self._attribution.add(pid, areas):
            now = self._now()
            self._known.map(self._known.process(pid, now), ours, now)
            self._attribution.tasks.found(pid, now - self._offset)
            self._statuses.follow(pid)

    def _now(self) -> int:
        """Nanoseconds since the epoch, by the clock of the records."""
        return time.monotonic_ns() + self._offset
