"""Which segment and page a fault is of: the mappings of every process as the kernel told of them.

Mappings come with their times, and so do faults; a fault is looked up in what was mapped when it happened.
perf tells of every mmap(2), fork and exec. It tells of no munmap, which needs nothing: where a fault finds a
page something is mapped, and that was told. What mremap(2) moved where that cannot be seen is looked for in
/proc when a fault has an unknown address.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.trace.decode import Change, Exec, Exit, Fork, Mmap, Mremap, Samples, grouped
from shmfs.trace.perf import Event

PAGE_SHIFT = 12
ELSEWHERE, UNMAPPED = -1, -2
"""The segment of what is mapped but is none, and of addresses where nothing is known to be mapped."""

UNKNOWN, MINOR, MAJOR, FAILED = range(4)
PENDING = 255


class Area(NamedTuple):
    """A range of addresses and what is mapped there."""

    start: int
    end: int
    page: int
    """Of the file, at `start`."""
    segment: int
    protection: int = 0
    shared: bool = True


@dataclass
class Space:
    """The mappings of one process, apart from each other, by address."""

    areas: list[Area] = field(default_factory=list)
    mapped: bool = False
    """Whether a segment ever was among them."""
    looked: int = 0
    """When /proc was last asked, in nanoseconds."""
    _arrays: tuple[NDArray[np.uint64], ...] | None = None

    def copy(self) -> "Space":
        """For a child."""
        return Space(list(self.areas), self.mapped)

    def put(self, area: Area) -> None:
        """Map something, in place of what was there."""
        self.take(area.start, area.end)
        self.areas.insert(bisect_left(self.areas, area), area)
        self.mapped = self.mapped or area.segment != ELSEWHERE

    def overlaps(self, start: int, end: int) -> bool:
        """Whether something is mapped in a range."""
        first, last = self._about(start, end)
        return any(area.end > start for area in self.areas[first:last])

    def _about(self, start: int, end: int) -> tuple[int, int]:
        """Where areas in a range are; the first may end before it."""
        first = max(0, bisect_right(self.areas, start, key=lambda area: area.start) - 1)
        return first, bisect_left(self.areas, end, key=lambda area: area.start)

    def take(self, start: int, end: int) -> list[Area]:
        """Unmap a range; returns the pieces that were there."""
        self._arrays = None
        first, last = self._about(start, end)
        taken, kept = [], []
        for area in self.areas[first:last]:
            if area.end <= start:
                kept.append(area)
                continue
            if area.start < start:
                kept.append(area._replace(end=start))
            low, high = max(area.start, start), min(area.end, end)
            taken.append(area._replace(start=low, end=high, page=_page(area, low)))
            if area.end > end:
                kept.append(area._replace(start=end, page=_page(area, end)))
        self.areas[first:last] = kept
        return taken

    def move(self, old: int, old_length: int, new: int, new_length: int) -> None:
        """Follow mremap(2)."""
        pieces = self.take(old, old + max(old_length, 1))
        self.take(new, new + new_length)
        for piece in pieces:
            start = new + piece.start - old
            end = min(start + piece.end - piece.start, new + new_length)
            self.put(piece._replace(start=start, end=new + new_length if piece is pieces[-1] else end))

    def find(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Segment (or ELSEWHERE or UNMAPPED) and page of each address."""
        if not self.areas:
            return np.full(len(addresses), UNMAPPED), np.zeros(len(addresses), np.uint64)
        if self._arrays is None and len(addresses) < _FEW:
            return self._find_few(addresses.tolist())
        if self._arrays is None:
            columns = zip(*(area[:4] for area in self.areas), strict=True)
            starts, ends, pages, segments = (np.array(column) for column in columns)
            self._arrays = (
                starts.astype(np.uint64), ends.astype(np.uint64), pages.astype(np.uint64), segments
            )  # fmt: skip
        starts, ends, pages, segments = self._arrays
        at = np.searchsorted(starts, addresses, "right").astype(np.int64) - 1
        inside = (at >= 0) & (addresses < ends[at])
        page = pages[at] + ((addresses - starts[at]) >> np.uint64(PAGE_SHIFT))
        return np.where(inside, segments[at], UNMAPPED), page

    def _find_few(self, addresses: list[int]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """As above, without arrays of the areas."""
        segments = np.full(len(addresses), UNMAPPED)
        pages = np.zeros(len(addresses), np.uint64)
        for row, address in enumerate(addresses):
            at = bisect_right(self.areas, address, key=lambda area: area.start) - 1
            if at >= 0 and address < self.areas[at].end:
                segments[row], pages[row] = self.areas[at].segment, _page(self.areas[at], address)
        return segments, pages


_FEW = 16
"""Addresses that are found faster one by one than by arrays that have to be made first."""


def _page(area: Area, address: int) -> int:
    return area.page + ((address - area.start) >> PAGE_SHIFT)


class Found:
    """Where samples are: a segment (negative: none), a page of it, and the id of a process each."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.segment = np.full(samples.rows, ELSEWHERE, np.int64)
        self.page = np.zeros(samples.rows, np.uint64)
        self.process = np.zeros(samples.rows, np.uint32)


class Attribution:
    """Follows the mappings of all processes, and finds the segments of their faults."""

    def __init__(
        self,
        segment: Callable[[Mmap], int],
        look: Callable[[int], Iterable[Area] | None] | None,
        process: Callable[[int], int],
        tell: Callable[[Change, list[Area]], None],
    ) -> None:
        """Ask and tell by these.

        `segment` gives the id of what was mapped or ELSEWHERE, `look` reads /proc/PID/maps (None: gone);
        it is not needed where mremap(2) is seen.

        `process` gives the id of the process that has a pid as of the last change that was told.

        `tell` is called with each change of a process, and what it has mapped of segments after it.
        """
        self._segment = segment
        self._look = look
        self._process = process
        self._tell = tell
        self.spaces: dict[int, Space] = {}
        self._moving: dict[int, Mremap] = {}
        self._threads: dict[int, int] = {}
        self._pending: dict[int, tuple[NDArray[np.intp], NDArray[np.uint64]]] = {}
        """Indexes and times of the samples of each process that are not found yet."""

    def feed(self, samples: Samples, changes: list[Change]) -> Found:
        """Find the segments and pages of samples.

        Both in order of time. All that happened before the last of both must have been fed.
        """
        found = Found(samples)
        order, firsts = grouped(samples.pid)
        which, times = np.split(order, firsts[1:]), np.split(samples.time[order], firsts[1:])
        pids = samples.pid[order[firsts]].tolist()
        self._pending = dict(zip(pids, zip(which, times, strict=True), strict=True)) if pids else {}
        for change in changes:
            segment = self._segment(change) if isinstance(change, Mmap) else ELSEWHERE
            if isinstance(change, Mmap) and segment == ELSEWHERE and not self._matters(change):
                continue
            self._before(change.pid, change.time, found)
            self._apply(change, segment)
        for pid in list(self._pending):
            self._before(pid, None, found)
        return found

    def _matters(self, change: Mmap) -> bool:
        """Whether a mapping of something else can change what is found: most of all mappings cannot."""
        space = self.spaces.get(change.pid)
        if space is None or not space.mapped:
            return False  # what else such a process maps is looked for when it matters
        return self._look is not None or space.overlaps(change.address, change.address + change.length)

    def _before(self, pid: int, time: int | None, found: Found) -> None:
        """Resolve the samples of a process up to a time."""
        pending = self._pending.get(pid)
        if pending is None:
            return
        which, times = pending
        # Of the same type, or numpy makes floating-point numbers of all.
        count = len(which) if time is None else int(np.searchsorted(times, np.uint64(time)))
        if count:
            self._resolve(pid, which[:count], found)
        if count == len(which):
            del self._pending[pid]
        else:
            self._pending[pid] = which[count:], times[count:]

    def _resolve(self, pid: int, which: NDArray[np.intp], found: Found) -> None:
        space = self.spaces.get(pid)
        if space is None or not space.mapped:
            return
        addresses = found.samples.address[which]
        segments, pages = space.find(addresses)
        unknown = self._look is not None and bool((segments == UNMAPPED).any())
        if unknown and self._look_again(pid, space, int(found.samples.time[which[-1]])):
            segments, pages = space.find(addresses)
        if (segments >= 0).any():
            found.segment[which], found.page[which] = segments, pages
            found.process[which] = self._process(pid)

    def _look_again(self, pid: int, space: Space, time: int) -> bool:
        """Add what /proc says is mapped where nothing was known; not more than some times a second."""
        if time - space.looked < LOOK_INTERVAL and space.looked:
            return False
        space.looked = time
        areas = self._look(pid) if self._look else None
        for area in areas or ():
            known = [piece for piece in space.areas if piece.start < area.end and piece.end > area.start]
            if not known:
                space.put(area)
        return areas is not None

    def _apply(self, change: Change, segment: int) -> None:
        space = self.spaces.get(change.pid)
        if isinstance(change, Mmap):
            if space is None:
                space = self.spaces[change.pid] = Space()
            start, end = change.address, change.address + change.length
            area = Area(
                *(start, end, change.offset >> PAGE_SHIFT, segment, change.protection),
                bool(change.flags & 1),
            )
            space.put(area)
            if segment != ELSEWHERE:
                self._tell(change, [area])
            return
        if isinstance(change, Fork):
            self._threads[change.pid] = self._threads.get(change.pid, 1) + (change.tid != change.pid)
            if change.tid != change.pid:
                return
            parent = self.spaces.get(change.parent)
            self.spaces[change.pid] = space = parent.copy() if parent else Space()
        elif isinstance(change, Exec):
            self.spaces[change.pid] = space = Space()
        elif isinstance(change, Exit):
            left = self._threads[change.pid] = self._threads.get(change.pid, 1) - 1
            if left > 0:
                return
        elif change.result is None:
            self._moving[change.tid] = change
            return
        else:
            self._moved(space, self._moving.pop(change.tid, None), change.result)
            return
        self._tell(change, [area for area in space.areas if area.segment != ELSEWHERE] if space else [])
        if isinstance(change, Exit):
            self.spaces.pop(change.pid, None)
            self._threads.pop(change.pid, None)

    @staticmethod
    def _moved(space: Space | None, asked: Mremap | None, result: int) -> None:
        if space is None or asked is None or result > _MAX_ADDRESS:
            return
        old, old_length, new_length = asked.arguments[:3]
        if result != old:
            space.move(old, old_length, result, new_length)
        elif new_length > old_length:
            grown = space.take(old, old + max(old_length, 1))
            for piece in grown[:-1]:
                space.put(piece)
            for piece in grown[-1:]:
                space.put(piece._replace(end=old + new_length))


LOOK_INTERVAL = 50_000_000
_MAX_ADDRESS = 1 << 63


class Outcomes:
    """What became of each fault: the next event of its thread tells.

    With `ends_told` each fault that found its page has an end of its own (the software events); without,
    only a major one has, and one that ended in SIGBUS.
    """

    def __init__(self, *, ends_told: bool) -> None:
        self.default = FAILED if ends_told else MINOR
        """What became of a fault after which its thread was never heard of again."""

    def of(self, samples: Samples) -> tuple[NDArray[np.uint8], dict[int, int]]:
        """MINOR, MAJOR or FAILED for each fault, PENDING where that is not known yet.

        And by thread what became of the one that was pending. What is no fault has a value without meaning.
        """
        order, firsts = grouped(samples.tid)
        if not len(order):
            return np.zeros(0, np.uint8), {}
        ended = _OUTCOME[samples.event[order]]
        ended[ended == UNKNOWN] = self.default
        outcome = np.empty_like(ended)
        ends = np.empty_like(ended)
        ends[:-1] = ended[1:]
        ends[firsts - 1] = PENDING  # the one behind is another thread's first
        outcome[order] = ends
        return outcome, dict(zip(samples.tid[order[firsts]].tolist(), ended[firsts].tolist(), strict=True))


_OUTCOME = np.zeros(len(Event), np.uint8)
_OUTCOME[[Event.MINOR, Event.MAJOR, Event.SIGBUS]] = MINOR, MAJOR, FAILED
