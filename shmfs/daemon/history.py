"""The history of each segment: what the daemon remembers of every regular file of its mount.

An instrument; it learns everything by hooks, so it is exact from the moment it is installed. It expects
`create` before the first `open` of a new file, also when one request does both, and `allocate` and `free` for
every page that is charged and given back.

Statistics are made from it, so it is installed to be kept: where one of its hooks fails, the event is missing
in the figures of that hook (`FIGURES`), which are reported as stale from then on. Later events still count.

All of it runs in the thread that serves the mount.
"""

import heapq
import stat
import time
from collections import deque
from collections.abc import Iterable

from msgspec import Struct, field

from shmfs.events.amounts import option_size, plural
from shmfs.events.names import Names, printable
from shmfs.events.records import PAGE, Holder, Process, Segment
from shmfs.system.processes import Processes

MAX_ENDED = 10_000
"""Ended segments that are kept."""

HOLDERS = 20
"""Files that are named where a limit refused something."""


MAX_OPENERS = 1000
"""Processes that are kept in `Segment.opened_by`."""


_NAMED = ("posix", None, None)
"""Kind, key and id of a file that was made by its name."""


FIGURES: dict[str, tuple[str, ...]] = {
    "page_in": ("page_ins",),
    "allocate": ("resident", "peak_resident"),
    "free": ("resident", "peak_resident"),
    "usage": ("size", "resident", "peak_resident"),
    "refuse": ("refused",),
    "door": ("kind", "nlink"),
    "open": ("opened_by", "open_handles"),
    "release": ("open_handles",),
    "link": ("nlink", "path"),
    "unlink": ("nlink", "path"),
    "rename": ("path",),
    "resize": ("size",),
    "evict": ("segments", "evicted"),
}
"""The figures of `records.Segment` and `records.Statistics` that each hook brings up to date."""
FIGURES["create"] = (
    "segments",
    "created_by",
    *sorted({one for many in FIGURES.values() for one in many} - {"segments"}),
)


class _Live:
    """A segment as long as it lives: small, for there may be 100,000 empty ones."""

    __slots__ = (
        "created",
        "created_by",
        "door",
        "grown",
        "nlink",
        "open_handles",
        "openers",
        "opens_dropped",
        "page_ins",
        "peak",
        "refused",
        "resident",
        "shrunk",
        "size",
    )

    def __init__(self, created_by: Process | None, nlink: int) -> None:
        self.created = time.time_ns()
        self.created_by = created_by
        self.nlink = nlink
        self.size = self.resident = self.peak = self.page_ins = self.refused = self.shrunk = self.grown = 0
        self.open_handles = self.opens_dropped = 0
        self.door: tuple[str, int | None, int | None] = _NAMED
        self.openers: Process | dict[Process, None] | None = None  # mostly one: a dict would cost 200 bytes

    def opened(self, process: Process) -> None:
        openers = self.openers
        if openers is None or openers == process:
            self.openers = process
        elif isinstance(openers, Process):
            self.openers = {openers: None, process: None}
        elif process not in openers:
            if len(openers) < MAX_OPENERS:
                openers[process] = None
            else:
                self.opens_dropped += 1

    def opened_by(self) -> list[Process]:
        """One entry a process, with the newest command of those that exec."""
        openers = self.openers
        if openers is None:
            return []
        several: Iterable[Process] = (openers,) if isinstance(openers, Process) else openers
        return list({(process.pid, process.start_time): process for process in several}.values())

    def was_refused_whole(self) -> bool:
        """Whether it is a shared anonymous mapping for which mmap(2) failed, so that nobody ever had it."""
        return self.door[0] == "anon" and self.refused > 0 and self.size == self.peak == 0

    def segment(self, inode: int, path: str, evicted: bool) -> Segment:
        return Segment(
            inode=inode,
            path=printable(path),
            size=self.size,
            resident=0 if evicted else self.resident,
            peak_resident=self.peak,
            page_ins=self.page_ins,
            created_by=self.created_by,
            opened_by=self.opened_by(),
            created=self.created,
            nlink=0 if evicted else self.nlink,
            open_handles=0 if evicted else self.open_handles,
            evicted=evicted,
            refused=self.refused,
            opens_dropped=self.opens_dropped,
            shrunk=self.shrunk,
            grown=self.grown,
            kind=self.door[0],
            key=self.door[1],
            id=self.door[2],
        )


def _holder(path: str, size: int, maker: Process | None) -> Holder:
    return Holder(printable(path), size, maker.pid if maker else 0, maker.command if maker else "")


class Full(Struct):
    """What a mount held when a limit refused something; bytes."""

    limit: int = 0
    holders: list[Holder] = field(default_factory=list)
    """The largest first."""
    wanted: int = 0
    """What all files would take in full."""
    more: int = 0
    """Further holders, which `holders` has no room for."""

    @property
    def enough(self) -> str | None:
        """The size= that would hold every file in full, if the limit did not: "37m"."""
        return option_size(self.wanted) if self.limit and self.wanted > self.limit else None


class History:
    """The segments of one mount, live and ended. Install it before the first file is made."""

    name = "history"
    figures = FIGURES

    def __init__(self, processes: Processes | None = None) -> None:
        self.segments_dropped = 0
        """Ended segments that were forgotten to make room."""
        self.refused = 0
        """Charges that a limit refused, those of inodes too."""
        self._forgotten_page_ins = 0
        self._processes = processes or Processes()
        self._names = Names()
        self._live: dict[int, _Live] = {}
        self._ended: deque[tuple[int, str, _Live]] = deque(maxlen=MAX_ENDED)

    def segments(self) -> list[Segment]:
        """Return every segment: the live ones, then the ended ones from the oldest to the newest."""
        live = [live.segment(inode, self._names.get(inode), False) for inode, live in self._live.items()]
        return live + [one.segment(inode, path, True) for inode, path, one in self._ended]

    def process_of(self, tid: int) -> int:
        """Return the pid of the process that a thread belongs to; 0 if it is not known."""
        process = self._processes.get(tid)
        return process.pid if process else 0

    def process(self, tid: int) -> Process | None:
        """Return the process that a thread belongs to; None if it is not known."""
        return self._processes.get(tid)

    def path(self, inode: int) -> str:
        """Return the newest name of an inode; "" is unknown."""
        return printable(self._names.get(inode))

    def kind(self, inode: int) -> str:
        """Return by which way a live segment was made: posix, sysv or anon; "" if it is none."""
        live = self._live.get(inode)
        return live.door[0] if live else ""

    def extent(self, inode: int) -> int:
        """Return the bytes that a segment takes in full, whether charged or not."""
        live = self._live.get(inode)
        return max(live.resident * PAGE, live.size) if live else 0

    def page_ins(self) -> int:
        """Return the page-ins of all segments, also of those that were forgotten."""
        known = sum(live.page_ins for live in self._live.values())
        return known + sum(ended.page_ins for _, _, ended in self._ended) + self._forgotten_page_ins

    def holders(self, limit: int) -> Full:
        """Who holds how much now, where `limit` bytes may be held; exact but for the native store."""
        largest = heapq.nlargest(HOLDERS, self._live.items(), key=lambda item: item[1].resident)
        holders = [
            _holder(self._names.get(inode), live.resident * PAGE, live.created_by)
            for inode, live in largest
            if live.resident
        ]
        wanted = sum(max(live.resident, -(-live.size // PAGE)) for live in self._live.values())
        count = sum(live.resident > 0 for live in self._live.values())
        return Full(limit, holders, wanted * PAGE, count - len(holders))

    def owners(self, kind: str, word: str) -> Full:
        """Who created how many of the live segments of a kind ("" is any), and their sizes; most first.

        `word` names one: "3 segments". What is being refused, which has no id yet, is left out. `wanted` is
        what all of them take in full.
        """
        counts: dict[Process | None, list[int]] = {}
        for live in self._live.values():
            if kind in ("", live.door[0]) and live.door[2] != -1:
                entry = counts.setdefault(live.created_by, [0, 0])
                entry[0] += 1
                entry[1] += -(-live.size // PAGE) * PAGE
        most = heapq.nlargest(HOLDERS, counts.items(), key=lambda item: item[1][0])
        holders = [_holder(plural(number, word), size, process) for process, (number, size) in most]
        wanted = sum(size for _, size in counts.values())
        return Full(holders=holders, wanted=wanted, more=len(counts) - len(holders))

    # The hooks.

    def page_in(self, inode: int, page: int, pages: int) -> None:
        """Count what went to the kernel's cache."""
        live = self._live.get(inode)
        if live is not None:
            live.page_ins += pages

    def allocate(self, inode: int, page: int, pages: int) -> None:
        """Count what is charged."""
        live = self._live.get(inode)
        if live is not None:
            live.resident = resident = live.resident + pages
            if resident > live.peak:
                live.peak = resident

    def free(self, inode: int, page: int, pages: int) -> None:
        """Count what was given back."""
        live = self._live.get(inode)
        if live is not None:
            live.resident -= pages

    def usage(self, inode: int, size: int, pages: int) -> None:
        """Take over what is charged, where it was not told page by page."""
        live = self._live.get(inode)
        if live is not None:
            if size > live.size:
                live.grown = time.time_ns()
            live.size = size
            live.resident = pages
            live.peak = max(live.peak, pages)

    def refuse(self, inode: int, page: int, pages: int, limit: str) -> None:
        """Count a refused charge."""
        self.refused += 1
        live = self._live.get(inode)
        if live is not None:
            live.refused += 1

    def create(self, inode: int, path: str, mode: int, pid: int) -> None:
        """Begin a segment; without a path it is an O_TMPFILE, which has no name yet."""
        if stat.S_ISREG(mode):
            if inode in self._live:
                self.evict(inode)  # the end of an earlier inode was missed
            self._live[inode] = _Live(self._processes.get(pid), 1 if path else 0)
            self._names.create(inode, path, mode)
        elif stat.S_ISDIR(mode):
            self._names.create(inode, path, mode)

    def door(self, inode: int, kind: str, key: int, identifier: int) -> None:
        """Learn that it is System V shared memory, or a shared anonymous mapping, which never has a name."""
        live = self._live.get(inode)
        if live is not None:
            live.door = (kind, key, identifier) if kind == "sysv" else (kind, None, None)
            live.nlink = 1 if kind == "sysv" else 0

    def open(self, inode: int, flags: int, pid: int) -> None:
        """Remember who opened it."""
        live = self._live.get(inode)
        if live is not None:
            live.open_handles += 1
            process = self._processes.get(pid)
            if process is not None:
                live.opened(process)

    def release(self, inode: int, flags: int) -> None:
        """Count the open that ended."""
        live = self._live.get(inode)
        if live is not None:
            live.open_handles -= 1

    def link(self, inode: int, path: str, pid: int) -> None:
        """Add a name."""
        live = self._live.get(inode)
        if live is not None:
            live.nlink += 1
            self._names.link(inode, path)

    def unlink(self, inode: int, path: str, nlink: int, pid: int) -> None:
        """Remove a name."""
        live = self._live.get(inode)
        if live is not None:
            live.nlink = nlink
            self._names.unlink(inode, path, nlink)

    def rename(self, inode: int, old_path: str, path: str, pid: int) -> None:
        """Follow the name, and the names below a directory."""
        self._names.rename(inode, old_path, path)

    def resize(self, inode: int, old_size: int, size: int, pid: int) -> None:
        """Follow the size."""
        live = self._live.get(inode)
        if live is not None:
            live.size = size
            if size < old_size:
                live.shrunk = time.time_ns()
            else:
                live.grown = time.time_ns()

    def evict(self, inode: int) -> None:
        """End the segment. An anonymous mapping that was refused never was one; its refusal is kept."""
        live = self._live.pop(inode, None)
        if live is not None and not live.was_refused_whole():
            if len(self._ended) == MAX_ENDED:
                self.segments_dropped += 1
                self._forgotten_page_ins += self._ended[0][2].page_ins
            self._ended.append((inode, self._names.get(inode), live))
        self._names.evict(inode)
