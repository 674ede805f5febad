"""A sorted map from page indexes to frames, in runs: what `i_pages` (an XArray) is in the kernel.

A run is pages that are adjacent in the file and in the arena. It takes 12 bytes (index, frame, count with
flag), so with the slack of its arrays the map stays below 16 bytes a page however the pages lie, and takes
next to nothing for a file written in order. Runs are kept in leaves of bounded size, so that a change
moves few bytes however many runs there are.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

UNWRITTEN = 1 << 31
"""Flag in a run's count: allocated (fallocate) but never written, so SEEK_HOLE reports a hole."""
MAX_COUNT = UNWRITTEN - 1
_LEAF = 512
"""Runs in a leaf at most; a fuller one is split."""


class Run(NamedTuple):
    """`length` pages from page `first` on, in frames from `frame` on."""

    first: int
    frame: int
    length: int
    unwritten: bool = False


class _Leaf:
    """Parallel arrays of index, frame, and count with flag."""

    __slots__ = ("counts", "frames", "indexes")

    def __init__(self) -> None:
        self.indexes = array("I")  # "Q" once a page lies beyond 16 TiB
        self.frames = array("I")
        self.counts = array("I")

    def cut(self, start: int) -> "_Leaf":
        """Move the runs from slot `start` on into a new leaf."""
        other = _Leaf()
        other.indexes, self.indexes = self.indexes[start:], self.indexes[:start]
        other.frames, self.frames = self.frames[start:], self.frames[:start]
        other.counts, self.counts = self.counts[start:], self.counts[:start]
        return other

    def splice(self, start: int, stop: int, runs: list[Run]) -> None:
        """Replace the slots from `start` up to `stop`."""
        indexes = [run.first for run in runs]
        if indexes and indexes[-1] > 0xFFFF_FFFF and self.indexes.typecode == "I":
            self.indexes = array("Q", self.indexes)
        self.indexes[start:stop] = array(self.indexes.typecode, indexes)
        self.frames[start:stop] = array("I", [run.frame for run in runs])
        self.counts[start:stop] = array("I", [run.length | UNWRITTEN * run.unwritten for run in runs])

    def run(self, slot: int) -> Run:
        count = self.counts[slot]
        return Run(self.indexes[slot], self.frames[slot], count & MAX_COUNT, count > MAX_COUNT)

    def end(self, slot: int) -> int:
        return self.indexes[slot] + (self.counts[slot] & MAX_COUNT)


class Frames(NamedTuple):
    """Frames taken out of a map, as parallel arrays of first frame and count, a pair for each leaf."""

    chunks: list[tuple["array[int]", "array[int]"]]
    pages: int


class RunMap:
    """The map. Page ranges are half open: `first` up to, not including, `end`."""

    __slots__ = ("_firsts", "_leaves", "pages")

    def __init__(self) -> None:
        self._leaves = [_Leaf()]
        self._firsts = array("Q", [0])  # the lowest index a leaf may hold; all before it ends there
        self.pages = 0
        """Pages that have a frame."""

    def _position(self, index: int) -> tuple[int, int]:
        """Leaf and slot of the first run that ends behind `index`; the slot may be one past its last."""
        number = bisect_right(self._firsts, index) - 1
        leaf = self._leaves[number]
        slot = bisect_right(leaf.indexes, index)
        if slot and leaf.end(slot - 1) > index:
            return number, slot - 1
        return number, slot

    def find(self, index: int) -> Run | None:
        """The run that holds page `index`, whole."""
        number, slot = self._position(index)
        leaf = self._leaves[number]
        if slot < len(leaf.indexes) and leaf.indexes[slot] <= index:
            return leaf.run(slot)
        return None

    def runs(self, first: int = 0, end: int = 1 << 63) -> Iterator[Run]:
        """The runs within the range, cut to it, in order. The map must not change meanwhile."""
        if first >= end:
            return
        number, slot = self._position(first)
        for leaf in self._leaves[number:]:
            for position in range(slot, len(leaf.indexes)):
                index, frame, count, unwritten = leaf.run(position)
                if index >= end:
                    return
                if index < first:
                    frame, count, index = frame + first - index, count - (first - index), first
                yield Run(index, frame, min(count, end - index), unwritten)
            slot = 0

    def insert(self, run: Run) -> None:
        """Add a run where nothing is mapped."""
        self.pages += run.length
        self._replace(run.first, run.first + run.length, run)

    def set_written(self, first: int, end: int) -> None:
        """Clear the unwritten flag of the mapped pages in the range."""
        for run in [run for run in self.runs(first, end) if run.unwritten]:
            self._replace(run.first, run.first + run.length, run._replace(unwritten=False))

    def remove(self, first: int, end: int = 1 << 63) -> Frames:
        """Take every page of the range out. The leaves wholly inside go as they are, not run by run."""
        number, slot = self._position(first)
        if slot < len(self._leaves[number].indexes) and self._leaves[number].indexes[slot] < first:
            self._split(number, slot, first)
        number, slot = self._position(first)
        last, stop = self._position(end)
        if stop < len(self._leaves[last].indexes) and self._leaves[last].indexes[stop] < end:
            self._split(last, stop, end)
            last, stop = self._position(end)
            number, slot = self._position(first)
        chunks = []
        if number == last:
            chunks.append(self._take(self._leaves[number], slot, stop))
        else:
            chunks.append(self._take(self._leaves[number], slot, None))
            chunks += [self._take(leaf, 0, None) for leaf in self._leaves[number + 1 : last]]
            chunks.append(self._take(self._leaves[last], 0, stop))
            del self._leaves[number + 1 : last], self._firsts[number + 1 : last]
        for empty in (number + 1, number):
            self._drop_if_empty(empty)
        pages = sum(sum(counts) for _, counts in chunks)
        self.pages -= pages
        return Frames([chunk for chunk in chunks if chunk[0]], pages)

    def _take(self, leaf: _Leaf, start: int, stop: int | None) -> tuple["array[int]", "array[int]"]:
        counts = leaf.counts[start:stop]
        if counts and max(counts) > MAX_COUNT:
            counts = array("I", [count & MAX_COUNT for count in counts])
        frames = leaf.frames[start:stop]
        del leaf.indexes[start:stop], leaf.frames[start:stop], leaf.counts[start:stop]
        return frames, counts

    def _drop_if_empty(self, number: int) -> None:
        """Leaf 0 stays: it bounds every index from below."""
        if 0 < number < len(self._leaves) and not self._leaves[number].indexes:
            del self._leaves[number], self._firsts[number]

    def _split(self, number: int, slot: int, index: int) -> None:
        """Cut the run in `slot` in two before page `index`."""
        run = self._leaves[number].run(slot)
        size = index - run.first
        left = run._replace(length=size)
        right = Run(index, run.frame + size, run.length - size, run.unwritten)
        self._leaves[number].splice(slot, slot + 1, [left, right])
        self._balance(number)

    def _replace(self, first: int, end: int, run: Run) -> None:
        """Put `run` for a range that is a hole or lies within one run, joined with its neighbours."""
        number, slot = self._position(first)
        leaf = self._leaves[number]
        parts = [run]
        start = stop = slot
        if slot < len(leaf.indexes) and leaf.indexes[slot] < end:
            old = leaf.run(slot)
            stop += 1
            head, tail = first - old.first, old.first + old.length - end
            if head > 0:
                parts.insert(0, old._replace(length=head))
            if tail > 0:
                parts.append(Run(end, old.frame + old.length - tail, tail, old.unwritten))
        if start > 0:
            start -= 1
            parts.insert(0, leaf.run(start))
        if stop < len(leaf.indexes):
            parts.append(leaf.run(stop))
            stop += 1
        leaf.splice(start, stop, _joined(parts))
        if number + 1 < len(self._firsts):  # a long run may reach into what the next leaf could hold
            self._firsts[number + 1] = max(self._firsts[number + 1], leaf.end(-1))
        self._balance(number)

    def _balance(self, number: int) -> None:
        leaf = self._leaves[number]
        if len(leaf.indexes) > _LEAF:
            # A file written in order fills its last leaf: cutting near the end keeps the leaves full.
            last = number == len(self._leaves) - 1
            other = leaf.cut(_LEAF - 8 if last else _LEAF // 2)
            self._leaves.insert(number + 1, other)
            self._firsts.insert(number + 1, other.indexes[0])


def _joined(runs: list[Run]) -> list[Run]:
    joined = runs[:1]
    for run in runs[1:]:
        before = joined[-1]
        if (
            before.first + before.length == run.first
            and before.frame + before.length == run.frame
            and before.unwritten == run.unwritten
            and before.length + run.length <= MAX_COUNT
        ):
            joined[-1] = before._replace(length=before.length + run.length)
        else:
            joined.append(run)
    return joined
