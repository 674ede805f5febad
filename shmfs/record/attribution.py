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

from shmfs.record.tasks import Tasks
from shmfs.tracing.changes import Change, Exec, Exit, Failure, Fork, Mapped, Mmap, Mremap, Unfollow
from shmfs.tracing.decode import Samples, grouped

PAGE_SHIFT = 12
ELSEWHERE, UNMAPPED = -1, -2
"""The segment of what is mapped but is none, and of addresses where nothing is known to be mapped."""


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

    def segments(self) -> list[Area]:
        """Return the areas that are of segments."""
        return [area for area in self.areas if area.segment != ELSEWHERE]

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
        *,
        written: Callable[[int], bool] = lambda pid: True,
        tasks: Tasks | None = None,
    ) -> None:
        """Ask and tell by these.

        `segment` gives the id of what was mapped or ELSEWHERE, `look` reads /proc/PID/maps (None: gone);
        it is not needed where mremap(2) is seen.

        `process` gives the id of the process that has a pid as of the last change that was told.

        `tell` is called with each change of a process, and what it has mapped of segments after it; with a
        Failure while `spaces` has what was mapped then; with an Exit only when the process has ended, which
        `tasks` finds out of those whose pid is `written` down.
        """
        self._segment = segment
        self._look = look
        self._process = process
        self._tell = tell
        self.spaces: dict[int, Space] = {}
        self._moving: dict[int, Mremap] = {}
        self._written = written
        self.tasks = tasks or Tasks()
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
            if isinstance(change, Failure):
                self._tell(change, [])
                continue
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
        self.add(pid, areas or ())
        return areas is not None

    def _apply(self, change: Mapped, segment: int) -> None:
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
                self.tasks.found(change.pid, change.time)
        elif isinstance(change, Fork):
            self._fork(change)
        elif isinstance(change, Exec):
            self.spaces[change.pid] = Space()
            self.tasks.executed(change.pid)
            self._tell(change, [])
            self._drop_unwritten(change.pid)
        elif isinstance(change, Unfollow):
            self.tasks.unfollowed(change)
            self._tell(change, [])
        elif isinstance(change, Exit):
            if space is None and not self._written(change.pid):
                return
            self.tasks.ended(change)
            if change.tid == change.pid and not self._written(change.pid):
                self._end(change)  # it has mapped no segment: nobody misses it
        elif change.result is None:
            self._moving[change.tid] = change
        else:
            self._moved(space, self._moving.pop(change.tid, None), change.result)
            if space:
                self._tell(change, space.segments())

    def _fork(self, change: Fork) -> None:
        if change.tid != change.pid:
            self.tasks.thread(change.pid, change.tid)
            return
        if self.tasks.is_known(change.pid, change.time):
            return
        before = self.tasks.began(change.pid)
        if self._written(change.pid):  # the pid is another's now, and nothing has shown that it had ended
            self._end(before or Exit(change.time, change.pid, change.pid))
            self.tasks.began(change.pid)
        parent = self.spaces.get(change.parent)
        self.spaces[change.pid] = space = parent.copy() if parent else Space()
        self._tell(change, space.segments())
        self._drop_unwritten(change.pid)

    def _drop_unwritten(self, pid: int) -> None:
        if not self._written(pid):
            self.tasks.forget(pid)

    def end(self, now: int, *, everything: bool = False) -> None:
        """End the processes that have ended until `now`, by CLOCK_MONOTONIC; call it after `feed`.

        `everything` says that all records until now were fed.
        """
        for change in self.tasks.over(now, everything=everything):
            self._end(change)

    def add(self, pid: int, areas: Iterable[Area]) -> list[Area]:
        """Take what /proc has of a process where nothing is known to be mapped; return the segments."""
        space = self.spaces.setdefault(pid, Space())
        new = [area for area in areas if not space.overlaps(area.start, area.end)]
        for area in new:
            space.put(area)
        return [area for area in new if area.segment != ELSEWHERE]

    def _end(self, change: Exit) -> None:
        space = self.spaces.get(change.pid)
        self._tell(change, space.segments() if space else [])
        self.spaces.pop(change.pid, None)
        self.tasks.forget(change.pid)

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
