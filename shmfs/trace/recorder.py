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
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shmfs.trace import attribution
from shmfs.trace.around import Around
from shmfs.trace.attribution import ELSEWHERE, PENDING, Area, Attribution, Found, Outcomes
from shmfs.trace.deaths import Deaths, Touched
from shmfs.trace.decode import Change, Exec, Exit, Fork, Mmap, Samples, decode, in_order
from shmfs.trace.exits import Exits
from shmfs.trace.format import FAULT, KINDS, Faults
from shmfs.trace.input import Input, refusals
from shmfs.trace.names import printable
from shmfs.trace.perf import Event, Perf
from shmfs.trace.processes import Processes, epoch, everybody, read_file
from shmfs.trace.writer import AGE

log = logging.getLogger(__name__)

_ROUND = 0.1
"""Seconds between two looks at the rings, at most."""
_STOP = b"x"
FIGURES = ["fault", "map", "process", "events", "sample"]
"""What is missing in a trace whose recorder has failed: everything, for all goes through it."""


class Sink(Protocol):
    """Where it all goes, see `writer.Writer`."""

    def faults(self, faults: Faults) -> None:
        """Take rows of FAULT."""

    def event(self, event: str, source: str, **fields: Any) -> None:
        """Take one event."""

    def events(self, lines: bytes) -> None:
        """Take whole events as lines of JSON."""

    def flush(self, age: float = 0.0) -> None:
        """Let go of what waits for more, if the last time was `age` seconds ago."""


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
    ) -> None:
        """Follow the files of `device` (major, minor), whose mount processes see at the path `root`.

        Without `perf` there are no faults. With `everybody` processes are only written down when they map a
        segment. `running` is a process to follow from now on, without waiting for an exec. `events` is a
        descriptor to read the daemon's own events from, as JSON lines; `exits` knows how processes ended.
        """
        self.deaths: Deaths | None = None
        """Who explains what failed."""
        self.failure = ""
        """Why the recorder gave up, a sentence."""
        self.faults = 0
        self.kinds = np.zeros(len(KINDS), np.int64)
        """How many faults of each of KINDS."""
        self.lost = 0
        self._writer = writer
        self._perf = perf
        self._device = device
        self._root = root.rstrip("/")
        self._everybody = everybody
        self._running = running
        self._input = Input(events) if events is not None else None
        self._exits = exits
        self._offset = time.time_ns() - time.monotonic_ns()
        moves_seen = perf is not None and perf.tracepoints
        self._attribution = Attribution(
            self._segment, None if moves_seen else self._look, self._process, self._tell
        )
        self._around = Around() if perf and perf.filemap else None
        self._outcomes = Outcomes(ends_told=perf is not None and not perf.tracepoints)
        self._waiting: dict[int, tuple[Faults, int]] = {}
        """By thread the fault, one row, whose outcome is not known yet, and its pid."""
        self._samples: list[Samples] = []
        self._changes: list[Change] = []
        self._horizon = 0
        self._segments: dict[int, int] = {}
        self._paths: list[tuple[int, str]] = []
        """Inode and path of each segment, by its id."""
        self._processes: dict[int, int] = {}
        self._commands: dict[int, str] = {}
        self._count = 0
        self._known = Processes()
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._ends: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._refused = False
        """Whether the daemon has told of a failure that was not looked into yet."""
        self._wake_read, self._wake_write = os.pipe()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shmfs-recorder", daemon=True)

    def start(self) -> None:
        """Begin; for a command, before it executes."""
        if self._perf and (self._everybody or self._running >= 0):
            self._perf.enable()
            for pid in everybody() if self._everybody else [self._running]:
                with contextlib.suppress(OSError):
                    self._look_at(pid)
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> None:
        """Write what has happened until now, and end. The writer stays open, for its owner to close.

        Call it once, also where `start` was not called or failed; then nothing is written.
        """
        if self._thread.ident is not None:
            os.write(self._wake_write, _STOP)
            self._thread.join(timeout)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def cpu(self) -> float:
        """CPU seconds that its thread has taken; 0 where it has ended."""
        if self._thread.ident is None or not self._thread.is_alive():
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def catch_up(self, timeout: float = 5.0) -> bool:
        """Return when all is written that happened before; false if `timeout` seconds are too short.

        False at once where recording has failed, or fails meanwhile.
        """
        self._caught_up.clear()
        os.write(self._wake_write, b"c")
        return not self.failure and self._caught_up.wait(timeout) and not self.failure

    def event(self, **fields: Any) -> None:
        """Write down something that somebody else has seen, by `inode` and `pid`; from any thread."""
        fields.setdefault("time", time.time_ns())
        self._told.put(fields)

    def ended(self, pid: int, status: int) -> None:
        """Report how a process ended that somebody has waited for; from any thread."""
        self._ends.put((pid, status))

    # ---- the thread

    def _run(self) -> None:
        poll = select.poll()
        rings = self._perf.fileno() if self._perf else -1
        if self._perf:
            poll.register(rings, select.POLLIN)
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
                now = time.monotonic()
                if asked or rings in ready or self._refused or now >= due:
                    self._refused = False
                    self._round(everything=bool(asked), last=stopping)
                    due = now + _ROUND
                if asked:
                    self._caught_up.set()
        except Exception as failure:
            self.failure = f"recording failed: {type(failure).__name__}: {failure}"
            log.exception("recording failed and was given up")
            self._caught_up.set()
            with contextlib.suppress(Exception):  # the writer may be what failed
                self._writer.event(
                    event="stale",
                    source="shmfs",
                    time=time.time_ns(),
                    observer="recorder",
                    figures=FIGURES,
                    reason=self.failure,
                )
                self._writer.flush()

    def _round(self, *, everything: bool, last: bool) -> None:
        """Read the rings, and work on what cannot be followed by anything earlier any more.

        What another processor has not finished to write is not older than the last time all were read.
        """
        before = time.monotonic_ns()
        for number, ring in enumerate(self._perf.rings if self._perf else ()):
            data = ring.read()
            if data and self._perf:
                decoded = decode(data, self._perf.events, number)
                self._samples += decoded.samples
                self._changes += decoded.changes
                if decoded.lost:
                    self.lost += decoded.lost
                    self.event(event="lost", source="perf", of="perf", count=decoded.lost)
        if self._exits:
            self._exits.read()
        horizon, self._horizon = self._horizon, before
        samples, changes = self._until(None if everything else horizon)
        if samples.rows or changes:
            self._work(samples, changes)
        if last:
            self._settle()
            if self._input is not None:
                self._take_events()
        if self.deaths is not None:
            while not self._ends.empty():
                pid, status = self._ends.get()
                end = self._processes.get(pid, -1), pid, pid, self._commands.get(pid, "")
                self.deaths.ended(Touched(*end, -1, 0, "", None, time.time_ns()), status)
            self.deaths.settle(last=last)
        while not self._told.empty():
            self._hand_on(self._told.get())
        self._writer.flush(AGE)

    def _hand_on(self, event: dict[str, Any]) -> None:
        """Write down what others have seen, with the ids of this trace for their inodes and pids."""
        if "inode" in event:
            event["segment"] = self._segments.get(event.pop("inode"))
        if "pid" in event:
            event["process"] = self._processes.get(event.pop("pid"))
        if None not in (event.get("segment", 0), event.get("process", 0)):
            self._writer.event(**event)

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
        outcomes, ended = self._outcomes.of(samples)
        if not (begun := samples.event == Event.FAULT).all():
            samples, outcomes = samples.take(begun), outcomes[begun]
        found = self._attribution.feed(samples, changes)
        ours = found.segment >= 0
        self._close(ended)
        rows, pids = self._rows(found, outcomes, np.flatnonzero(ours))
        done = rows["kind"] != PENDING
        for at in np.flatnonzero(~done).tolist():
            self._waiting[int(rows["tid"][at])] = rows[at : at + 1].copy(), int(pids[at])
        self._write(*((rows, pids) if done.all() else (rows[done], pids[done])))
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

    def _close(self, ended: dict[int, int]) -> None:
        """Write the faults whose outcome is known now."""
        for tid in [tid for tid in self._waiting if tid in ended]:
            row, pid = self._waiting.pop(tid)
            row["kind"] = ended[tid]
            self._write(row, np.array([pid]))

    def _settle(self) -> None:
        """Nothing more comes: what was pending stays as it is."""
        self._close(dict.fromkeys(self._waiting, self._outcomes.default))

    def _write(self, faults: Faults, pids: NDArray[Any]) -> None:
        if not len(faults):
            return
        self._writer.faults(faults)
        self.faults += len(faults)
        self.kinds += np.bincount(faults["kind"], minlength=len(KINDS))
        if self.deaths is not None and (failed := faults["kind"] == attribution.FAILED).any():
            for fault, pid in zip(faults[failed], pids[failed].tolist(), strict=True):
                self.deaths.failed(self._touched(fault, pid))

    def _touched(self, fault: np.void, pid: int) -> Touched:
        names = "process", "tid", "segment", "page", "time"
        process, tid, segment, page, when = (int(fault[name]) for name in names)
        inode, path = self._paths[segment]
        command = self._commands.get(pid, "")
        return Touched(process, pid, tid, command, segment, inode, path, page, when)

    def _take_events(self) -> bool:
        """Hand the daemon's events on; says whether more may come."""
        assert self._input is not None  # noqa: S101
        for lines in self._input.read():
            self._writer.events(lines)
            if self.deaths is not None:
                for event in refusals(lines):
                    self._refused = True
                    self.deaths.told(event)
        return self._input.open

    # ---- who and what

    def _segment(self, mapped: Mmap) -> int:
        if mapped.device != self._device:
            return ELSEWHERE
        return self._segment_of(mapped.inode, mapped.path, mapped.time + self._offset)

    def _segment_of(self, inode: int, path: bytes, time: int) -> int:
        number = self._segments.get(inode)
        if number is None:
            number = self._segments[inode] = len(self._segments)
            name = printable(os.fsdecode(path)).removesuffix(" (deleted)")
            if name.startswith(self._root + "/"):
                name = name[len(self._root) :]
            device = f"{self._device[0]}:{self._device[1]}"
            self._paths.append((inode, name))
            self._writer.event(
                event="segment",
                time=time,
                source="perf",
                segment=number,
                device=device,
                inode=inode,
                path=name,
            )
        return number

    def _process(self, pid: int, time: int = 0, parent: int | None = None, command: str | None = None) -> int:
        """The id of the process that has the pid now; the first time, it is written down."""
        number = self._processes.get(pid)
        if number is not None:
            return number
        number = self._processes[pid] = self._count
        self._count += 1
        started: int | None = time
        if command is None:
            known = self._known.get(pid)
            command = known.command if known else ""
            started = epoch(known.start_time) if known and known.start_time else None
        self._commands[pid] = command
        self._writer.event(
            event="process",
            time=time or self._offset + self._horizon,
            source="perf",
            process=number,
            pid=pid,
            parent=parent,
            command=command,
            start_time=started,
        )
        return number

    def _tell(self, change: Change, areas: list[Area]) -> None:
        """Write down what became of a process."""
        when = change.time + self._offset
        pid = change.pid
        if isinstance(change, Fork):
            self._processes.pop(pid, None)
            command = self._commands.get(change.parent)
            self._commands.pop(pid, None)
            if areas or not self._everybody:
                parent = self._process(change.parent) if change.parent != os.getpid() else None
                self._process(pid, when, parent, command or "")
        elif isinstance(change, Exec):
            command = printable(os.fsdecode(change.command))
            if pid not in self._processes and not self._everybody:
                self._process(pid, when, None, command)
            elif pid in self._processes:
                self._commands[pid] = command
                number = self._processes[pid]
                self._writer.event(event="exec", time=when, source="perf", process=number, command=command)
        elif isinstance(change, Exit):
            status = self._exits.status(pid) if self._exits else None
            if self.deaths is not None and (pid in self._processes or not self._everybody):
                end = self._processes.get(pid, -1), pid, pid, self._commands.get(pid, "")
                self.deaths.ended(Touched(*end, -1, 0, "", None, when), status)
            if pid in self._processes:
                ended = self._processes.pop(pid)
                self._writer.event(event="exit", time=when, source="perf", process=ended, status=status)
            self._commands.pop(pid, None)
            return
        if pid in self._processes or areas:
            self._tell_areas(self._process(pid), areas, when)

    def _tell_areas(self, process: int, areas: Iterable[Area], when: int) -> None:
        for area in areas:
            self._writer.event(
                event="map",
                time=when,
                source="perf",
                process=process,
                segment=area.segment,
                address=area.start,
                length=area.end - area.start,
                page=area.page,
                protection="".join(
                    letter if area.protection & bit else "-" for bit, letter in ((1, "r"), (2, "w"), (4, "x"))
                ),
                shared=area.shared,
            )

    def _look(self, pid: int) -> list[Area] | None:
        """What /proc says the process has mapped; None if it is gone or may not be looked at."""
        try:
            lines = read_file(f"/proc/{pid}/maps").splitlines()
        except OSError:
            return None
        device = b"%02x:%02x" % self._device
        areas = []
        for line in lines:
            fields = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in fields[0].split(b"-"))
            segment = ELSEWHERE
            if fields[3] == device:
                path = fields[5] if len(fields) > 5 else b""
                segment = self._segment_of(int(fields[4]), path, time.time_ns())
            protection = sum(bit for bit, letter in ((1, b"r"), (2, b"w"), (4, b"x")) if letter in fields[1])
            areas.append(Area(start, end, int(fields[2], 16) >> 12, segment, protection, b"s" in fields[1]))
        return areas

    def _look_at(self, pid: int) -> None:
        """Learn what a process has mapped already."""
        if b"%02x:%02x" % self._device not in read_file(f"/proc/{pid}/maps"):
            return
        space = self._attribution.spaces[pid] = attribution.Space()
        for area in self._look(pid) or ():
            space.put(area)
        ours = [area for area in space.areas if area.segment != ELSEWHERE]
        if ours:
            self._tell_areas(self._process(pid), ours, time.time_ns())
