"""The processes and segments of a trace: their ids, and the events that introduce them."""

import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from shmfs.events.names import printable
from shmfs.record.attribution import ELSEWHERE, Area
from shmfs.record.tasks import monotonic
from shmfs.system import maps
from shmfs.system.processes import Processes
from shmfs.tracefile.format import Faults
from shmfs.tracing.changes import Mmap

_NOTED = 1 << 16
"""Processes that are remembered at most; the one that forked or executed longest ago is forgotten first."""
_TICK = 10_000_000
"""Nanoseconds: the unit of start times in /proc."""

_PROTECTION = (1, "r"), (2, "w"), (4, "x")

FIGURES = ["fault", "map", "process", "events", "sample", "deaths", "refusals"]
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


class _Noted(NamedTuple):
    """What is known of a process that is not in the trace."""

    command: str = ""
    """What it executes; "" is not known."""
    forked: int = 0
    """In ns since the epoch; 0: before the recording."""


class Registry:
    """Numbers them as they are found, and writes that down. Called by the recorder's thread alone.

    Times are nanoseconds since the epoch.
    """

    def __init__(self, writer: Sink, device: tuple[int, int], root: str, offset: int) -> None:
        """Number the files of `device`, whose paths begin with `root`; see `Recorder`.

        `offset` are the nanoseconds from CLOCK_MONOTONIC to the epoch.
        """
        self._writer = writer
        self._device = device
        self._root = root
        self._offset = offset
        self._segments: dict[int, int] = {}
        self._paths: list[tuple[int, str]] = []
        """Inode and path of each segment, by its id."""
        self._processes: dict[int, int] = {}
        self._began: list[int] = []
        """When each process began, by its id, or where that is not known when it was first seen."""
        self._commands: list[str] = []
        self._known = Processes()
        self._noted: OrderedDict[int, _Noted] = OrderedDict()
        """By pid, for /proc has nothing of a process that has ended."""

    # ---- segments

    def segment(self, mapped: Mmap) -> int:
        """Return the id of what was mapped, or ELSEWHERE."""
        if mapped.device != self._device:
            return ELSEWHERE
        return self.segment_of(mapped.inode, os.fsdecode(mapped.path), mapped.time + self._offset)

    def segment_of(self, inode: int, path: str, time: int) -> int:
        """Return the id of an inode; the first time, it is written down."""
        number = self._segments.get(inode)
        if number is None:
            number = self._segments[inode] = len(self._segments)
            name = self.path_of(path)
            self._paths.append((inode, name))
            self._writer.event(
                event="segment",
                time=time,
                source="perf",
                segment=number,
                device=f"{self._device[0]}:{self._device[1]}",
                inode=inode,
                path=name,
            )
        return number

    def path_of(self, path: str) -> str:
        """Return the path of a file from the root of the mount, of a path as /proc shows it."""
        name = printable(path).removesuffix(" (deleted)")
        if not name.startswith(self._root + "/"):
            return name
        inside = name[len(self._root) :]
        return "" if inside == "//" else inside  # O_TMPFILE through FUSE has the empty name in its directory

    def find_segment(self, inode: int) -> int | None:
        """Return the id of an inode that somebody has mapped."""
        return self._segments.get(inode)

    def inode(self, segment: int) -> int:
        """Return the inode of a segment."""
        return self._paths[segment][0]

    def file(self, segment: int) -> tuple[int, str]:
        """Return inode and path of a segment."""
        return self._paths[segment]

    def look(self, pid: int, time: int) -> list[Area] | None:
        """Return what /proc says a process has mapped; None if it is gone or may not be looked at."""
        try:
            vmas = maps.mappings(pid)
        except OSError:
            return None
        device = "{}:{}".format(*self._device)
        areas = []
        for vma in vmas:
            is_ours = vma.device == device
            segment = self.segment_of(vma.inode, vma.path, time) if is_ours else ELSEWHERE
            protection = sum(bit for bit, letter in _PROTECTION if letter in vma.permissions)
            areas.append(Area(vma.start, vma.end, vma.offset >> 12, segment, protection, vma.is_shared))
        return areas

    # ---- processes

    def is_written(self, pid: int) -> bool:
        """Whether the process that has the pid now is in the trace."""
        return pid in self._processes

    def find(self, pid: int) -> int | None:
        """Return the id of the process that has the pid now, if it is in the trace."""
        return self._processes.get(pid)

    def process(self, pid: int, time: int) -> int:
        """Return the id of the process that has the pid now; if it is new, it is written down, as of `time`.

        Its start is that of /proc, which may be another's that has the pid by now: never later than `time`.
        """
        number = self._processes.get(pid)
        if number is not None:
            return number
        known, noted = self._known.get(pid), self._noted.get(pid, _Noted())
        started = monotonic(known.start_time) + self._offset if known and known.start_time else None
        if noted.forked and (started is None or abs(started - noted.forked) <= 2 * _TICK):
            started = noted.forked  # else the record of a fork was lost
        return self.begin(
            *(pid, time),
            command=noted.command or (known.command if known else ""),  # /proc may have a later one
            started=started and min(started, time),
        )

    def note(self, pid: int, command: str) -> None:
        """Remember what a process executes that is not in the trace (yet)."""
        self._note(pid, self._noted.get(pid, _Noted())._replace(command=command))

    def _note(self, pid: int, noted: "_Noted") -> None:
        self._noted[pid] = noted
        self._noted.move_to_end(pid)
        if len(self._noted) > _NOTED:
            self._noted.popitem(last=False)

    def meet(self, pid: int) -> None:
        """Remember what a process executes that was there before the recording."""
        process = self._known.get(pid)
        if process and process.command:
            self.note(pid, process.command)

    def inherit(self, pid: int, parent: int, time: int) -> None:
        """A process was forked: it has the command of its parent, not of an earlier one with its pid."""
        self._note(pid, _Noted(self.name(parent), time))

    def begin(
        self, pid: int, time: int, *, command: str, parent: int | None = None, started: int | None = None
    ) -> int:
        """Write down a process that has a pid from now on; returns its id."""
        number = self._processes[pid] = len(self._began)
        self._began.append(time if started is None else started)
        self._commands.append(command)
        self._writer.event(
            event="process",
            time=time,
            source="perf",
            process=number,
            pid=pid,
            parent=parent,
            command=command,
            start_time=started,
        )
        return number

    def execute(self, pid: int, time: int, command: str) -> None:
        """Write down that a process executes another program."""
        number = self._processes[pid]
        self._commands[number] = command
        self._writer.event(event="exec", time=time, source="perf", process=number, command=command)

    def miss(self, process: int, time: int, until: int | None, reason: str) -> None:
        """Write down that a process was not followed until then; None: not again, for that reason."""
        about = {"process": process, "until": until, "reason": reason}
        self._writer.event(event="lost", time=time, source="perf", of="perf", count=1, **about)

    def end(self, pid: int, time: int, status: int | None) -> None:
        """Write down that a process ended, not before it began; nothing if it is not in the trace."""
        number = self._processes.pop(pid, None)
        if number is not None:
            time = max(time, self._began[number])
            self._writer.event(event="exit", time=time, source="perf", process=number, status=status)

    def command(self, process: int) -> str:
        """Return what a process executes or has executed at last, by its id."""
        return self._commands[process]

    def name(self, pid: int) -> str:
        """Return what the process that has the pid now executes; "" where that is not known."""
        number = self._processes.get(pid)
        return self._commands[number] if number is not None else self._noted.get(pid, _Noted()).command

    def map(self, process: int, areas: Iterable[Area], time: int) -> None:
        """Write down what a process has mapped."""
        for area in areas:
            self._writer.event(
                event="map",
                time=time,
                source="perf",
                process=process,
                segment=area.segment,
                address=area.start,
                length=area.end - area.start,
                page=area.page,
                protection="".join(letter if area.protection & bit else "-" for bit, letter in _PROTECTION),
                shared=area.shared,
            )
