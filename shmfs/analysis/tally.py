"""Counts of page faults by segment and process, made from a trace's arrays of faults.

Nothing is kept of a fault but what it changes in the counts. Distinct pages cost 8 bytes for each page of
each process.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.analysis.findings import FaultCount, TimeLine, Use

Faults = NDArray[Any]
"""An array of `stream.FAULT`."""
U64 = NDArray[np.uint64]

BATCH = 1 << 16
"""Faults that are counted together at least; chunks of a quiet trace hold few."""

BUCKETS = 64
"""Most buckets of a time line."""

LINES = 10_000
"""Segments that get a time line of their own; a line takes half a KiB."""

LOW = np.uint64(32)
MASK = np.uint64(0xFFFFFFFF)
"""A key has the lower 32 bits of a page's index below, and above a number for what it is a page of."""
HIGH = 1 << 31
"""Numbers from here on stand for a pair and the upper bits of an index."""
UNSET = (1 << 64) - 1

KINDS = 4
ACCESSES = 4
MINOR, MAJOR, FAILED = 1, 2, 3
READ, WRITE, EXECUTE = 1, 2, 3


class SegmentTally(NamedTuple):
    """The faults on one segment, see `findings.Segment`."""

    faults: FaultCount
    pages: int
    sharing: dict[int, int]
    uses: list[Use]
    timeline: list[int] | None


def _counts(counts: "NDArray[np.int64]", around: "NDArray[np.int64]") -> list[FaultCount]:
    """Make them of rows of counts by kind and access."""
    table = counts.reshape(-1, KINDS, ACCESSES)
    return [
        FaultCount(sum(kinds), minor, major, failed, kinds[0], reads, writes, executes, mapped)
        for kinds, (_, reads, writes, executes), mapped in zip(
            table.sum(axis=2).tolist(), table.sum(axis=1).tolist(), around.tolist(), strict=True
        )
        for _, minor, major, failed in [kinds]
    ]


class _Distinct:
    """Distinct keys, as a sorted array and what waits to be merged with it."""

    LEAST = 1 << 20

    def __init__(self) -> None:
        self._sorted: U64 = np.empty(0, np.uint64)
        self._waiting: list[U64] = []
        self._count = 0

    def add(self, keys: U64) -> None:
        if len(keys):
            self._waiting.append(keys)
            self._count += len(keys)
            if self._count > max(self.LEAST, len(self._sorted) // 2):
                self.keys()

    def keys(self) -> U64:
        """Return all keys in order."""
        if self._waiting:
            self._waiting.append(self._sorted)
            keys = np.concatenate(self._waiting)
            self._waiting, self._count, self._sorted = [], 0, keys[:0]
            keys.sort()
            self._sorted = keys[_firsts(keys)]
        return self._sorted


def _firsts(ordered: U64) -> "NDArray[np.bool_]":
    """Say which elements differ from the one before."""
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first


class _Numbers:
    """Keys → 0, 1, 2… in the order in which they came."""

    def __init__(self) -> None:
        self.keys: U64 = np.empty(0, np.uint64)
        """By number."""
        self._sorted: U64 = self.keys
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)  # of the sorted ones

    def of(self, keys: U64) -> "NDArray[np.int64]":
        """Return the number of each of `keys`."""
        distinct, inverse = np.unique(keys, return_inverse=True)
        new = distinct[~np.isin(distinct, self._sorted, assume_unique=True)]
        if len(new):
            self.keys = np.concatenate([self.keys, new])
            self._numbers = np.argsort(self.keys)
            self._sorted = self.keys[self._numbers]
        found: NDArray[np.int64] = self._numbers[np.searchsorted(self._sorted, distinct)]
        return found[inverse]


def batches(arrays: Iterable[Faults]) -> Iterator[Faults]:
    """Yield the same faults in arrays that are worth the cost of a call of numpy."""
    waiting: list[Faults] = []
    for array in arrays:
        waiting.append(array)
        if sum(map(len, waiting)) >= BATCH:
            yield np.concatenate(waiting) if len(waiting) > 1 else array
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _grown(array: NDArray[Any], length: int, fill: int = 0) -> NDArray[Any]:
    """Return an array of at least `length` rows that begins with `array`."""
    if len(array) >= length:
        return array
    grown = np.full((max(length, 2 * len(array)), *array.shape[1:]), fill, array.dtype)
    grown[: len(array)] = array
    return grown


class _Time:
    """Faults over time, in at most BUCKETS buckets of 2^shift ns that begin at multiples of it.

    The range is not known beforehand: where it outgrows the buckets their width is doubled.
    """

    def __init__(self) -> None:
        self._shift = 10
        self._base = -1
        self._total: NDArray[np.int64] = np.zeros((1, BUCKETS), np.int64)
        self._lines: NDArray[np.int64] = np.zeros((8, BUCKETS), np.int64)

    def add(self, time: U64, line: "NDArray[np.int64]") -> None:
        if not len(time):
            return
        self._reach(int(time.min()), int(time.max()))
        bucket = (time >> np.uint64(self._shift)).astype(np.int64) - self._base
        self._total[0] += np.bincount(bucket, minlength=BUCKETS)
        self._lines = _grown(self._lines, min(int(line.max()) + 1, LINES))
        has_line = line < LINES
        np.add.at(self._lines.reshape(-1), line[has_line] * BUCKETS + bucket[has_line], 1)

    def _reach(self, first: int, last: int) -> None:
        """Make the buckets hold the times from `first` to `last`, too."""
        if self._base < 0:
            self._base = first >> self._shift
        used = self._used()
        first = min(first, (self._base + used[0]) << self._shift) if used else first
        last = max(last, (self._base + used[-1]) << self._shift) if used else last
        shift = self._shift
        while (last >> shift) - (first >> shift) >= BUCKETS:
            shift += 1
        base = first >> shift
        if (shift, base) != (self._shift, self._base):
            for counts in (self._total, self._lines):
                moved = np.zeros_like(counts)
                for column in used:
                    moved[:, ((self._base + column) >> (shift - self._shift)) - base] += counts[:, column]
                counts[:] = moved
            self._shift, self._base = shift, base

    def _used(self) -> list[int]:
        return np.flatnonzero(self._total[0]).tolist()

    def total(self) -> TimeLine:
        counts = np.trim_zeros(self._total[0], "b").tolist()
        return TimeLine(self._base << self._shift if counts else 0, 1 << self._shift, counts)

    def line(self, number: int, length: int) -> list[int] | None:
        return self._lines[number, :length].tolist() if number < LINES else None


class Tally:
    """Counts faults; `add` them batch by batch, then `segments`."""

    def __init__(self) -> None:
        self.threads: dict[int, int] = {}
        """tid → process, the last one seen."""
        self._segments = _Numbers()
        self._pairs = _Numbers()  # (number of the segment, process)
        self._high = _Numbers()  # (pair, high bits of the page), where there are any
        self._segment: NDArray[np.int64] = np.zeros(64, np.int64)  # of a pair, as the next ones
        self._counts: NDArray[np.int64] = np.zeros((64, KINDS * ACCESSES), np.int64)
        self._around: NDArray[np.int64] = np.zeros(64, np.int64)
        self._first: U64 = np.full(64, UNSET, np.uint64)
        self._last: U64 = np.zeros(64, np.uint64)
        self._faulted = _Distinct()
        self._surrounding = _Distinct()
        self._time = _Time()

    def add(self, faults: Faults) -> None:
        """Count some faults."""
        if not len(faults):
            return
        self._see_threads(faults)
        pair = self._pair(faults)
        perf = faults["source"] == 0
        if not perf.all():
            np.add.at(self._around, pair[~perf], 1)
            self._surrounding.add(self._keys(pair[~perf], faults["page"][~perf]))
            faults, pair = faults[perf], pair[perf]
        kind = np.where(faults["kind"] < KINDS, faults["kind"], 0).astype(np.int64)
        access = np.where(faults["access"] < ACCESSES, faults["access"], 0)
        np.add.at(self._counts.reshape(-1), pair * (KINDS * ACCESSES) + kind * ACCESSES + access, 1)
        self._time.add(faults["time"], self._segment[pair])
        good = kind != FAILED
        if not good.all():
            faults, pair = faults[good], pair[good]
        np.minimum.at(self._first, pair, faults["time"])
        np.maximum.at(self._last, pair, faults["time"])
        self._faulted.add(self._keys(pair, faults["page"]))

    def _see_threads(self, faults: Faults) -> None:
        joined = faults["process"].astype(np.uint64) << LOW | faults["tid"]
        joined = joined[_firsts(joined)]  # a thread's faults mostly come in runs
        self.threads.update(zip((joined & MASK).tolist(), (joined >> LOW).tolist(), strict=True))

    def _pair(self, faults: Faults) -> "NDArray[np.int64]":
        """Return the number of each fault's pair of segment and process; there is room for all."""
        before = len(self._pairs.keys)
        pair = self._pairs.of(faults["segment"].astype(np.uint64) << LOW | faults["process"])
        count = len(self._pairs.keys)
        self._segment = _grown(self._segment, count)
        self._segment[before:count] = self._segments.of(self._pairs.keys[before:] >> LOW)
        self._counts, self._around = _grown(self._counts, count), _grown(self._around, count)
        self._first, self._last = _grown(self._first, count, UNSET), _grown(self._last, count)
        return pair

    def _keys(self, pair: "NDArray[np.int64]", page: U64) -> U64:
        """Return a key for each page of each pair: the pair, or a number from HIGH on, and 32 bits."""
        upper = pair.astype(np.uint64)
        high = page >> LOW
        if high.any():  # over 16 TiB: sparse, and rare
            sparse = high > 0
            upper[sparse] = self._high.of(upper[sparse] << LOW | high[sparse]) + HIGH
        return upper << LOW | page & MASK

    # The results.

    def touches(self, wanted: Iterable[int]) -> Iterator[tuple[int, int, U64]]:
        """Yield segment, process and the pages that it touched or had mapped around a fault, ascending.

        Only segments that are `wanted`. What has pages beyond 16 TiB comes in several parts.
        """
        both = _Distinct()
        both.add(self._faulted.keys())
        both.add(self._surrounding.keys())
        keys = both.keys()
        parts, counts = _parts(keys)
        pairs, high = self._pair_of(parts)
        ends = np.cumsum(counts)
        segments = self._segments.keys[self._segment[pairs]]
        for i in np.flatnonzero(np.isin(segments, np.fromiter(wanted, np.uint64))).tolist():
            process = int(self._pairs.keys[pairs[i]] & MASK)
            yield int(segments[i]), process, high[i] << LOW | keys[ends[i] - counts[i] : ends[i]] & MASK

    def timeline(self) -> TimeLine:
        """Return all faults over time."""
        return self._time.total()

    def segments(self) -> dict[int, SegmentTally]:
        """Return what was counted, by segment."""
        number = len(self._segments.keys)
        pairs = slice(len(self._pairs.keys))
        counts = np.zeros((number, KINDS * ACCESSES), np.int64)
        around = np.zeros(number, np.int64)
        np.add.at(counts, self._segment[pairs], self._counts[pairs])
        np.add.at(around, self._segment[pairs], self._around[pairs])
        faults, uses = _counts(counts, around), self._uses()
        pages, sharing = self._pages_of_segments()
        length = len(self.timeline().counts)
        return {
            segment: SegmentTally(faults[i], int(pages[i]), sharing[i], uses[i], self._time.line(i, length))
            for i, segment in enumerate(self._segments.keys.tolist())
        }

    def _uses(self) -> list[list[Use]]:
        """Return what each process did, by the number of the segment."""
        uses: list[list[Use]] = [[] for _ in self._segments.keys]
        number = len(self._pairs.keys)
        columns = zip(
            self._segment[:number].tolist(),
            (self._pairs.keys & MASK).tolist(),
            _counts(self._counts[:number], self._around[:number]),
            self._pages_of_pairs().tolist(),
            self._first.tolist(),
            self._last.tolist(),
            strict=False,  # of the last ones there may be room for more
        )
        for segment, process, faults, pages, first, last in columns:
            use = Use(process, faults=faults, pages=pages)
            if pages:
                use.first, use.last = first, last
            uses[segment].append(use)
        return uses

    def _pair_of(self, part: "NDArray[np.int64]") -> "tuple[NDArray[np.int64], U64]":
        """Return the pairs and the high bits of the pages that the upper halves of keys stand for."""
        pair, high = part.copy(), np.zeros(len(part), np.uint64)
        sparse = part >= HIGH
        joined = self._high.keys[part[sparse] - HIGH]
        pair[sparse], high[sparse] = joined >> LOW, joined & MASK
        return pair, high

    def _pages_of_pairs(self) -> "NDArray[np.int64]":
        pages = np.zeros(len(self._pairs.keys), np.int64)
        parts, counts = _parts(self._faulted.keys())
        np.add.at(pages, self._pair_of(parts)[0], counts)
        return pages

    def _pages_of_segments(self) -> "tuple[NDArray[np.int64], list[dict[int, int]]]":
        """Return for each segment its distinct pages, and how many were touched by 1, 2 … processes."""
        keys = self._faulted.keys()
        segment, processes = self._processes_of_pages(keys)
        pages = np.bincount(segment, minlength=len(self._segments.keys))
        around = self._surrounding.keys()
        if len(around):
            both = _Distinct()
            both.add(keys)
            both.add(around)
            segment, processes = self._processes_of_pages(both.keys())
        most = int(processes.max(initial=0)) + 1
        seen, counts = np.unique(segment * most + processes, return_counts=True)
        sharing: list[dict[int, int]] = [{} for _ in self._segments.keys]
        for one, count in zip(seen.tolist(), counts.tolist(), strict=True):
            sharing[one // most][one % most] = count
        return pages, sharing

    def _processes_of_pages(self, keys: U64) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        """Return for each distinct page its segment, and how many processes have a key for it."""
        parts, counts = _parts(keys)
        pair, high = self._pair_of(parts)
        files = _Numbers()
        file = files.of(self._segment[pair].astype(np.uint64) << LOW | high)
        pages = np.repeat(file.astype(np.uint64), counts) << LOW
        pages |= keys & MASK
        pages.sort()
        starts = np.flatnonzero(_firsts(pages))
        segment = (files.keys >> LOW).astype(np.int64)[(pages[starts] >> LOW).astype(np.int64)]
        return segment, np.diff(starts, append=len(pages))


def _parts(keys: U64) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Return the distinct upper halves of ordered keys, and how many keys have each."""
    starts = np.flatnonzero(_firsts(keys >> LOW))
    return (keys[starts] >> LOW).astype(np.int64), np.diff(starts, append=len(keys))
