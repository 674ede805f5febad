"""Touches by page, time and process, binned to what a screen can show."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.analysis.tally import FAILED, KINDS
from shmfs.report.html.model import Heat

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
OTHERS = -1


class Axis(NamedTuple):
    """Time, from `start` on in `bins` parts of `width` nanoseconds; what is outside counts at the ends."""

    start: int
    width: float
    bins: int

    @classmethod
    def of(cls, start: int, end: int, bins: int) -> "Axis":
        """Divide the time from `start` to `end`."""
        return cls(start, max(1, end - start) / bins, bins)

    def parts(self, times: U64) -> I64:
        """Return the part in which each time is."""
        since = times.astype(np.int64) - self.start
        return np.clip((since / self.width).astype(np.int64), 0, self.bins - 1)


class Plan(NamedTuple):
    """How the touches of a segment are binned."""

    segment: int
    """Id in the trace."""
    pages: int
    rows: int
    people: list[int]
    """Ids of processes; all others are counted together."""
    axis: Axis

    @property
    def per_row(self) -> int:
        """Pages of a row."""
        return max(1, -(-self.pages // self.rows))

    @property
    def height(self) -> int:
        """Rows that have pages."""
        return max(1, -(-self.pages // self.per_row))


class _Map:
    """The counts of one segment."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.width = len(plan.people) + 1  # the last column is everybody else
        self.counts = np.zeros((plan.height * plan.axis.bins, self.width), np.uint32)
        self._order = np.argsort(np.array(plan.people, np.int64))
        self._sorted = np.array(plan.people, np.int64)[self._order]
        self.first = First()

    def column(self, processes: NDArray[Any]) -> I64:
        """Return the column of each process."""
        found = np.searchsorted(self._sorted, processes)
        near = np.minimum(found, len(self._sorted) - 1)
        known = self._sorted[near] == processes
        return np.where(known, self._order[near], self.width - 1)

    def add(self, processes: NDArray[Any], pages: U64, times: U64) -> None:
        plan, column = self.plan, self.column(processes)
        row = (pages // np.uint64(plan.per_row)).astype(np.int64)
        cell = np.minimum(row, plan.height - 1) * plan.axis.bins + plan.axis.parts(times)
        np.add.at(self.counts.reshape(-1), cell * self.width + column, 1)
        self.first.add(pages, times, column)


class First:
    """The first touch of each page."""

    LEAST = 1 << 18

    def __init__(self) -> None:
        self._waiting: list[tuple[U64, U64, I64]] = []
        self._count = self._merged = 0

    def add(self, pages: U64, times: U64, columns: I64) -> None:
        """Take over some touches."""
        self._waiting.append((pages, times, columns))
        self._count += len(pages)
        if self._count > max(self.LEAST, 2 * self._merged):
            self.result()

    def result(self) -> tuple[U64, U64, I64]:
        """Return all pages, ascending, with the time and the column of their first touch."""
        if len(self._waiting) != 1 or self._count > self._merged:
            empty = (np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64))
            pages, times, columns = (
                np.concatenate(parts) for parts in zip(empty, *self._waiting, strict=True)
            )
            order = np.lexsort((times, pages))
            pages, times, columns = pages[order], times[order], columns[order]
            first = np.ones(len(pages), bool)
            np.not_equal(pages[1:], pages[:-1], out=first[1:])
            self._waiting = [(pages[first], times[first], columns[first])]
            self._count = self._merged = len(self._waiting[0][0])
        return self._waiting[0]


class Touches:
    """Takes faults batch by batch, of any segments; those of `plans` become heat maps."""

    def __init__(self, plans: list[Plan], axis: Axis) -> None:
        self._maps = sorted((_Map(plan) for plan in plans), key=lambda one: one.plan.segment)
        self._ids = np.array([one.plan.segment for one in self._maps], np.uint32)
        self._axis = axis
        self._kinds = np.zeros(KINDS * axis.bins, np.int64)

    def add(self, faults: NDArray[Any]) -> None:
        """Count some faults."""
        kind = np.where(faults["kind"] < KINDS, faults["kind"], 0).astype(np.int64)
        perf = faults["source"] == 0
        bins = self._axis.parts(faults["time"][perf])
        self._kinds += np.bincount(kind[perf] * self._axis.bins + bins, minlength=len(self._kinds))
        if not self._maps:
            return
        at = np.minimum(np.searchsorted(self._ids, faults["segment"]), len(self._ids) - 1)
        wanted = np.flatnonzero((self._ids[at] == faults["segment"]) & ((kind != FAILED) | ~perf))
        wanted = wanted[np.argsort(at[wanted], kind="stable")]
        ends = np.cumsum(np.bincount(at[wanted], minlength=len(self._maps)))
        columns = [faults[name][wanted] for name in ("process", "page", "time")]
        for one, start, end in zip(self._maps, [0, *ends], ends, strict=False):
            if start < end:
                one.add(*(column[start:end] for column in columns))

    def kinds(self) -> list[list[int]]:
        """Return the faults over time: minor, major, failed, unknown."""
        unknown, *others = self._kinds.reshape(KINDS, -1).tolist()
        return [*others, unknown]

    def touched(self, segment: int) -> list[int]:
        """Return how many distinct pages had been touched, by part of the time."""
        found = self._of(segment)
        times = found.first.result()[1]
        new = np.bincount(self._axis.parts(times), minlength=self._axis.bins)
        touched: list[int] = np.cumsum(new).tolist()
        return touched

    def heat(self, segment: int, pages: dict[int, list[U64]]) -> Heat:
        """Return the heat map of a segment; `pages` are the distinct ones by process."""
        found = self._of(segment)
        plan, counts = found.plan, found.counts
        total = counts.sum(axis=1)
        cells = np.flatnonzero(total)
        filled = counts[cells]
        strips = np.zeros((found.width, plan.height), np.int64)
        for process, parts in pages.items():
            column = int(found.column(np.array([process], np.int64))[0])
            for part in parts:
                rows = (part // np.uint64(plan.per_row)).astype(np.int64)
                strips[column] += np.bincount(rows, minlength=plan.height)[: plan.height]
        used = found.width if strips[-1].any() or counts[:, -1].any() else found.width - 1
        return Heat(
            pages=plan.pages,
            rows=plan.height,
            per_row=plan.per_row,
            columns=plan.axis.bins,
            start=(plan.axis.start - self._axis.start) / 1e9,
            seconds=plan.axis.width * plan.axis.bins / 1e9,
            people=[*plan.people, OTHERS][:used],
            steps=np.diff(cells, prepend=0).tolist(),
            counts=total[cells].tolist(),
            who=filled.argmax(axis=1).tolist() if len(cells) else [],
            several=(filled > 0).sum(axis=1).tolist(),
            strips=strips[:used].tolist(),
            first=_first_by_row(found),
        )

    def _of(self, segment: int) -> _Map:
        return self._maps[int(np.searchsorted(self._ids, segment))]


def _first_by_row(found: _Map) -> list[int]:
    """Return who touched most pages first, by row."""
    pages, _, columns = found.first.result()
    rows = np.minimum((pages // np.uint64(found.plan.per_row)).astype(np.int64), found.plan.height - 1)
    counts = np.bincount(rows * found.width + columns, minlength=found.plan.height * found.width)
    table = counts.reshape(-1, found.width)
    first: list[int] = np.where(table.any(axis=1), table.argmax(axis=1), OTHERS).tolist()
    return first


def matrix(pages: dict[int, dict[int, list[U64]]], people: list[int]) -> I64:
    """Return how many pages both of two of `people` touched; `pages` are by segment and process."""
    place = {process: i for i, process in enumerate(people)}
    both = np.zeros((len(people), len(people)), np.int64)
    for users in pages.values():
        known = {
            place[process]: np.concatenate(parts) for process, parts in users.items() if process in place
        }
        if known:
            columns = list(known)
            both[np.ix_(columns, columns)] += _together(list(known.values()))
    return both


BLOCK = 1 << 17
"""Pages that are compared together; sums of so many ones are exact in float32."""


def _together(sets: list[U64]) -> I64:
    """Return the size of the intersection of each two of several sets."""
    every = np.unique(np.concatenate(sets))
    both = np.zeros((len(sets), len(sets)), np.int64)
    for at in range(0, len(every), BLOCK):
        block = every[at : at + BLOCK]
        marks = np.zeros((len(sets), len(block)), np.float32)
        for mark, one in zip(marks, sets, strict=True):
            low = np.searchsorted(one, block[0])
            high = np.searchsorted(one, block[-1], side="right")
            mark[np.searchsorted(block, one[low:high])] = 1
        both += (marks @ marks.T).astype(np.int64)
    return both
