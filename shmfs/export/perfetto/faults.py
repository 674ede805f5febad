"""Faults as events of Perfetto: each by itself, or summed up where there are too many to look at."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.analysis.tally import FAILED, MAJOR, batches
from shmfs.export.perfetto.packets import BATCH, BEGIN, INSTANT, Message
from shmfs.export.perfetto.tracks import Tracks
from shmfs.export.tables import describe_fault
from shmfs.tracefile.format import FAULT, Event, Faults
from shmfs.tracefile.stream import Known, split

FEW = 1_000_000
"""Faults that are written one by one. Perfetto's page needs some hundred bytes of memory for each."""

KEPT = 100_000
"""Where there are more: those that are still written one by one."""

CELLS = 500_000
"""Slices, and values of a counter, that faults are summed up in at most."""

Index = NDArray[np.int64]


class Survey:
    """What must be known of all faults before the first is written."""

    def __init__(self) -> None:
        self.known = Known()
        """The names of all ids, as they were at the end."""
        self.count = self.rare = 0
        """All faults; and those that were major or failed."""
        self.first, self.last, self.last_event = -1, 0, 0
        """Times; of faults, and of events."""
        self.threads = 0
        self._threads: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._pairs: NDArray[np.uint64] = np.empty(0, np.uint64)

    def read(self, parts: Iterable[Faults | list[Event]]) -> None:
        """Look at a whole trace."""
        for faults in batches(split(parts, self._learn)):
            self._add(faults)

    def _learn(self, event: Event) -> None:
        self.known.learn(event)
        time = event.get("time")
        if isinstance(time, int):
            self.last_event = max(self.last_event, time)

    def _add(self, faults: Faults) -> None:
        if not len(faults):
            return
        self.count += len(faults)
        self.rare += int((faults["kind"] >= MAJOR).sum())
        first, last = int(faults["time"].min()), int(faults["time"].max())
        self.first = first if self.first < 0 else min(self.first, first)
        self.last = max(self.last, last)
        self._threads = np.union1d(self._threads, _joined(faults["process"], faults["tid"]))
        self._pairs = np.union1d(self._pairs, _joined(faults["segment"], faults["process"]))
        self.threads = len(self._threads)

    @property
    def summed_up(self) -> bool:
        """Say whether there are too many to write each."""
        return self.count > FEW

    @property
    def most(self) -> tuple[int, int]:
        """How many processes had faults, and how many segments."""
        low = np.unique(self._pairs & np.uint64(0xFFFFFFFF))
        return len(low), len(np.unique(self._pairs >> np.uint64(32)))

    @property
    def pairs(self) -> int:
        """How many processes on how many segments."""
        return len(self._pairs)


def _joined(high: NDArray[Any], low: NDArray[Any]) -> NDArray[np.uint64]:
    return np.unique(high.astype(np.uint64) << np.uint64(32) | low)


class Writer:
    """Writes single faults, with arrows from who touched first to who shares."""

    def __init__(self, tracks: Tracks) -> None:
        self._tracks = tracks
        self._packets = tracks.packets
        self._page = self._packets.argument_name("page")
        self._ip = self._packets.argument_name("ip")
        self._hows: dict[tuple[int, int, int], tuple[Message, list[Message]]] = {}
        self._segments: dict[int, list[Message]] = {}

    def write(self, faults: Faults, origins: Index, sharers: Index) -> None:
        """Write the rows; there is an arrow from each of `origins` to the one of `sharers` beside it."""
        by_origin = np.argsort(origins, kind="stable")
        origins, followed = origins[by_origin], sharers[by_origin]
        follows = np.zeros(len(faults), bool)
        follows[sharers] = True
        for start in range(0, len(faults), BATCH):
            rows = slice(start, start + BATCH)
            arrows = slice(*np.searchsorted(origins, (rows.start, rows.stop)).tolist())
            out: dict[int, list[int]] = {}
            for origin, sharer in zip(origins[arrows].tolist(), followed[arrows].tolist(), strict=True):
                out.setdefault(origin, []).append(sharer + 1)
            for at, (row, into) in enumerate(zip(faults[rows].tolist(), follows[rows].tolist(), strict=True)):
                self._write(row, out.get(start + at), [start + at + 1] if into else None)

    def _write(self, row: tuple[int, ...], out: list[int] | None, into: list[int] | None) -> None:
        time, page, ip, segment, process, tid, kind, access, source, _ = row
        event, how = self._how(kind, access, source)
        told: Message = event | {"track_uuid": self._tracks.of_thread(process, tid)}
        pointer = [{"name_iid": self._ip, "pointer_value": ip}] if ip else ()
        page_of = {"name_iid": self._page, "uint_value": page}
        told["debug_annotations"] = [page_of, *self._segment(segment), *how, *pointer]
        if out:
            told["flow_ids"] = out
        if into:
            told["terminating_flow_ids"] = into
        self._packets.add(time, told)

    def _how(self, kind: int, access: int, source: int) -> tuple[Message, list[Message]]:
        key = kind, access, source
        if key not in self._hows:
            how = describe_fault(*key)
            name = "mapped around a fault" if source == 1 else f"{how['kind'] or 'page'} fault"
            if kind == FAILED:
                name = "fault that failed (SIGBUS)"
            event: Message = {"type": INSTANT, "name_iid": self._packets.name(name)}
            event["category_iids"] = [self._packets.category("fault")]
            self._hows[key] = event, list(self._packets.arguments(how))
        return self._hows[key]

    def _segment(self, number: int) -> list[Message]:
        if number not in self._segments:
            path = self._tracks.known.segment(number).get("path")
            self._segments[number] = [] if path is None else [self._packets.argument("segment", path)]
        return self._segments[number]


def shares(faults: Faults, *, pages: bool = True) -> tuple[Index, Index]:
    """Return the rows that touched a page first, and for each those by which another process followed.

    A row comes as often as others followed it; only the first touch of each process counts. Without `pages`
    it is about whole segments. Faults that failed, and pages that were mapped around others, touch nothing.
    """
    rows = np.flatnonzero((faults["kind"] != FAILED) & (faults["source"] == 0))
    time, process = faults["time"][rows], faults["process"][rows]
    segment = faults["segment"][rows]
    page = faults["page"][rows] if pages else np.zeros(len(rows), np.uint64)
    order = np.lexsort((time, process, page, segment))
    first = _changes(segment[order], page[order], process[order])
    order = order[first]  # the first touch of each page by each process
    order = order[np.lexsort((time[order], page[order], segment[order]))]
    begins = _changes(segment[order], page[order])
    origin = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    return rows[origin[~begins]], rows[order[~begins]]


def _changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which rows differ from the one before in any of the columns."""
    first = np.ones(len(columns[0]), bool)
    if len(first):
        first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return first


class Rates:
    """Faults a second of each process, or of each segment, as counters."""

    def __init__(self, start: int, end: int, most: int) -> None:
        """Count faults from `start` to `end`, of about `most` processes or segments."""
        self._start = start
        self._width = round_up(max(1_000_000, (end - start) // max(20, min(1000, CELLS // max(1, most)))))
        self._keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._counts: Index = np.empty(0, np.int64)

    def add(self, numbers: NDArray[Any], times: NDArray[np.uint64]) -> None:
        """Count some."""
        bucket = (times - np.uint64(self._start)) // np.uint64(self._width)
        keys, counts = np.unique(numbers.astype(np.uint64) << np.uint64(32) | bucket, return_counts=True)
        merged, where = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        sums = np.zeros(len(merged), np.int64)
        np.add.at(sums, where, np.concatenate([self._counts, counts]))
        self._keys, self._counts = merged, sums

    def values(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, time and faults a second from then on, in the order of number and time."""
        before = None
        for key, count in zip(self._keys.tolist(), self._counts.tolist(), strict=True):
            number, bucket = key >> 32, key & 0xFFFFFFFF
            if before is not None and before != (number, bucket - 1):
                yield before[0], self._start + (before[1] + 1) * self._width, 0
            yield number, self._start + bucket * self._width, round(count * 1e9 / self._width)
            before = number, bucket
        if before is not None:
            yield before[0], self._start + (before[1] + 1) * self._width, 0


def round_up(number: int) -> int:
    """Return the next of 1, 2, 5, 10, 20, 50 and so on."""
    power = int(10 ** (len(str(number)) - 1))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= number)


class _Cell(NamedTuple):
    first: int
    last: int
    kinds: Index
    accesses: Index
    around: int


class Sums:
    """Faults of each thread, summed up in slices of time."""

    def __init__(self, survey: Survey) -> None:
        slices = max(20, min(2000, CELLS // max(1, survey.threads)))
        self.width = round_up(max(1, (survey.last - survey.first) // slices))
        """Nanoseconds."""
        self._start = survey.first
        self._cells: dict[tuple[int, int, int], _Cell] = {}

    def add(self, faults: Faults) -> None:
        """Count some."""
        bucket = (faults["time"] - np.uint64(self._start)) // np.uint64(self.width)
        columns = (bucket, faults["process"], faults["tid"])
        order = np.lexsort((faults["time"], *reversed(columns)))
        starts = np.flatnonzero(_changes(*(column[order] for column in columns)))
        ends = [*starts[1:].tolist(), len(order)]
        for start, end in zip(starts.tolist(), ends, strict=True):
            rows = faults[order[start:end]]
            one = order[start]
            self._put((int(bucket[one]), int(faults["process"][one]), int(faults["tid"][one])), rows)

    def _put(self, key: tuple[int, int, int], rows: Faults) -> None:
        own = rows["source"] == 0
        cell = _Cell(
            int(rows["time"][0]),
            int(rows["time"][-1]),
            np.bincount(np.minimum(rows["kind"][own], 3), minlength=4),
            np.bincount(np.minimum(rows["access"][own], 3), minlength=4),
            int((~own).sum()),
        )
        had = self._cells.get(key)
        if had is not None:
            cell = _Cell(min(cell.first, had.first), max(cell.last, had.last), cell.kinds + had.kinds,
                         cell.accesses + had.accesses, cell.around + had.around)  # fmt: skip
        self._cells[key] = cell

    def write(self, tracks: Tracks) -> None:
        """Write a slice for each thread and piece of time in which it had faults."""
        for (_, process, tid), cell in self._cells.items():
            unknown, minor, major, failed = cell.kinds.tolist()
            _, reads, writes, executes = cell.accesses.tolist()
            track = tracks.of_thread(process, tid)
            counts = {"faults": int(cell.kinds.sum()), "minor": minor, "major": major, "failed": failed}
            counts |= {"of unknown kind": unknown, "reads": reads, "writes": writes, "executes": executes}
            tracks.packets.event(
                *(BEGIN, cell.first, track, "faults", "faults, summed up"),
                counts | {"pages mapped around": cell.around},
            )
            tracks.packets.end(cell.last, track)


class Kept:
    """What is written one by one: all faults, or of very many the failed, the major and first touches."""

    def __init__(self, survey: Survey) -> None:
        self.all = not survey.summed_up
        self.rare = survey.rare <= KEPT
        self.firsts = survey.pairs <= KEPT
        self._rows: list[Faults] = []
        self._seen: NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, faults: Faults) -> None:
        """Pick some."""
        wanted = np.full(len(faults), self.all)
        if self.rare:
            wanted |= faults["kind"] >= MAJOR
        if self.firsts and not self.all:
            order = np.argsort(faults["time"], kind="stable")
            good = order[(faults["kind"][order] != FAILED) & (faults["source"][order] == 0)]
            key = faults["segment"][good].astype(np.uint64) << np.uint64(32) | faults["process"][good]
            keys, first = np.unique(key, return_index=True)
            new = ~np.isin(keys, self._seen, assume_unique=True)
            wanted[good[first[new]]] = True
            self._seen = np.union1d(self._seen, keys[new])
        if wanted.any():
            self._rows.append(faults[wanted])

    def faults(self) -> Faults:
        """Return them."""
        return np.concatenate([np.empty(0, FAULT), *self._rows])
