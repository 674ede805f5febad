"""Fault-around: the pages that the kernel mapped beside the one of a fault, without faults of their own.

filemap:mm_filemap_map_pages tells the range that it went through, of which it maps what is in the page cache
and not mapped yet (mm/filemap.c:filemap_map_pages). So it is known here which pages are present: those that
somebody had a fault on. A page that was only written with write(2) is not known to be: tmpfs fires no
filemap:mm_filemap_add_to_page_cache, and where FUSE does, the daemon may have dropped the page since.

The range belongs to the last fault of its thread, if that is of the same file. mmap(2) with MAP_POPULATE,
mlock(2) and the like map ranges of other files, without faults.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmfs.tracefile.format import FAULT, SOURCES, Faults
from shmfs.tracing import ranges
from shmfs.tracing.decode import WRITE, Samples

_BLOCK = np.uint64(6)
"""Pages are noted in blocks of 64: few bytes for a small segment, few blocks for a large one."""
_WITHIN = np.uint64((1 << 6) - 1)
_PAGE = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_NEVER = np.uint64((1 << 64) - 1)

Keys = NDArray[np.uint64]


class _Numbers:
    """Numbers things by 64-bit keys, from 0 in the order in which they come. _NEVER is no key."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        # What came lately, by a hash of the key: two gathers, where sorting takes ten times as long.
        self._keys, self._values = np.full(1 << 14, _NEVER), np.zeros(1 << 14, np.intp)

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, keys: Keys) -> NDArray[np.intp]:
        answer = np.empty(len(keys), np.intp)
        slots = keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - 14)
        rest = np.arange(len(keys))
        while len(rest):
            where = slots[rest]
            answer[rest] = self._values[where]
            rest = rest[self._keys[where] != keys[rest]]
            self._learn(keys, slots, rest)
        return answer

    def _learn(self, keys: Keys, slots: Keys, which: NDArray[np.intp]) -> None:
        """Put one key of those that belong to each slot there."""
        self._values[slots[which]] = which
        one = which[self._values[slots[which]] == which]
        new = [self._numbers.setdefault(key, len(self._numbers)) for key in keys[one].tolist()]
        self._keys[slots[one]], self._values[slots[one]] = keys[one], new


class _Pages:
    """A set of keys: a number above, and the lower 32 bits of a page's index below. A byte a page."""

    def __init__(self) -> None:
        self._blocks = _Numbers()
        self._bytes = np.zeros(1 << 16, bool)

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        places = self._places(keys)  # before the bytes, which may be others then
        return self._bytes[places]

    def put(self, keys: Keys) -> None:
        places = self._places(keys)
        self._bytes[places] = True

    def _places(self, keys: Keys) -> NDArray[np.intp]:
        places = self._blocks.of(keys >> _BLOCK) << int(_BLOCK) | (keys & _WITHIN).astype(np.intp)
        if len(self._blocks) << int(_BLOCK) > len(self._bytes):
            larger = np.zeros(len(self._blocks) << int(_BLOCK) + 1, bool)
            larger[: len(self._bytes)] = self._bytes
            self._bytes = larger
        return places


class _Files:
    """Knows which segment an inode of the page cache is."""

    def __init__(self, inode_of: Callable[[int], int] | None) -> None:
        self._inode_of = inode_of
        self._inodes = np.zeros(0, np.uint64)
        """By segment."""
        self._together: dict[tuple[int, int], int] = {}
        """How often a segment and an inode came together, where that is all that is known."""
        self._most_of_segment: dict[int, tuple[int, int]] = {}
        self._most_of_inode: dict[int, tuple[int, int]] = {}
        """How often that was, with the inode or the segment of most often; on a tie the first."""

    def match(self, segments: NDArray[Any], inodes: Keys) -> NDArray[np.bool_]:
        """Return which segments have the inode beside it."""
        if self._inode_of is None:
            return self._count(segments, inodes)
        top = int(segments.max()) + 1
        more = [self._inode_of(segment) for segment in range(len(self._inodes), top)]
        self._inodes = np.concatenate([self._inodes, np.array(more, np.uint64)])
        same: NDArray[np.bool_] = self._inodes[segments] == inodes
        return same

    def _count(self, segments: NDArray[Any], inodes: Keys) -> NDArray[np.bool_]:
        """Return where neither has come together with another one more often."""
        pairs = np.stack([segments.astype(np.uint64), inodes], axis=1)
        distinct, which, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        listed: list[tuple[int, int]] = [(int(segment), int(inode)) for segment, inode in distinct]
        for (segment, inode), more in zip(listed, counts.tolist(), strict=True):
            count = self._together[segment, inode] = self._together.get((segment, inode), 0) + more
            if count > self._most_of_segment.get(segment, (0, 0))[0]:
                self._most_of_segment[segment] = count, inode
            if count > self._most_of_inode.get(inode, (0, 0))[0]:
                self._most_of_inode[inode] = count, segment
        good = [
            self._most_of_segment[segment][1] == inode and self._most_of_inode[inode][1] == segment
            for segment, inode in listed
        ]
        return np.array(good, bool)[which.reshape(-1)]


class Around:
    """Finds them, each page once for each process."""

    def __init__(self, inode_of: Callable[[int], int] | None = None) -> None:
        """Compare inodes by `inode_of`, which returns that of a segment.

        Without it inodes of the page cache are others, as those of the native store. A segment then has the
        inode that most ranges near its faults have.
        """
        self._files = _Files(inode_of)
        self._present, self._mapped = _Pages(), _Pages()
        self._pairs, self._threads = _Numbers(), _Numbers()
        """Of a segment and a process; of tids."""
        self._latest: Faults = np.zeros(0, FAULT)
        """The last fault of each thread."""

    def feed(self, faults: Faults, samples: Samples | None, offset: int) -> Faults:
        """Return rows for the pages that the faults brought with them.

        `samples` are those of AROUND, whose times lack `offset`. Both must be whole up to some time.
        """
        touched, own = _keys(faults["segment"], faults["page"]), self._of_processes(faults)
        rows = self._ranges(faults, samples, offset)
        if len(rows):
            pages, pairs = _keys(rows["segment"], rows["page"]), self._of_processes(rows)
            since = _first(touched, faults["time"], pages)
            had = _first(own, faults["time"], pairs)
            new = self._present.has(pages) | (since < rows["time"])
            new &= ~self._mapped.has(pairs) & (had > rows["time"])
            rows, pairs = rows[new], pairs[new]
            _, first = np.unique(pairs, return_index=True)
            rows, pairs = rows[np.sort(first)], pairs[first]
            self._mapped.put(pairs)
        self._present.put(touched)
        self._mapped.put(own)
        return rows

    def _ranges(self, faults: Faults, around: Samples | None, offset: int) -> Faults:
        """Return a row for each page of each range but that of the fault, in the order of time."""
        known = faults if around is None else np.concatenate([self._latest, faults])
        self._remember(faults)
        if around is None or not len(known):
            return faults[:0]
        began = around.time + np.uint64(offset)
        tids = np.concatenate([known["tid"], around.tid]).astype(np.uint64)
        times = np.concatenate([known["time"], began]).astype(np.int64)
        times -= int(min([*began[:1], *faults["time"][:1]]))
        # By thread, and in it by time: of what is older than this batch, the last fault alone is here.
        keys = self._threads.of(tids).astype(np.uint64) << np.uint64(44)
        order = np.argsort(keys | np.clip(times, 0, (1 << 44) - 1).astype(np.uint64), kind="stable")
        second = order >= len(known)
        before = np.maximum.accumulate(np.where(second, -1, np.arange(len(order))))
        at = np.flatnonzero(second & (before >= 0))
        fault, reported = known[order[before[at]]], order[at] - len(known)
        start, last = ranges.unpacked(around.address[reported])
        fits = fault["tid"] == around.tid[reported]
        fits &= (start <= fault["page"]) & (fault["page"] <= last)
        fits &= fault["access"] != WRITE  # mm/memory.c:do_read_fault alone maps around
        fits &= last - start < np.uint64(1 << 16)
        fault, start, last, began, inodes = (
            column[fits] for column in (fault, start, last, began[reported], around.ip[reported])
        )
        if len(fault) and not (same := self._files.match(fault["segment"], inodes)).all():
            fault, start, last, began = fault[same], start[same], last[same], began[same]
        return _spread(fault, start, last, began)

    def _remember(self, faults: Faults) -> None:
        threads = self._threads.of(faults["tid"].astype(np.uint64))
        last = np.full(len(self._threads), -1)
        last[threads] = np.arange(len(faults))
        self._latest = np.concatenate([self._latest, np.zeros(len(last) - len(self._latest), FAULT)])
        self._latest[last >= 0] = faults[last[last >= 0]]

    def _of_processes(self, rows: Faults) -> Keys:
        joined = rows["segment"].astype(np.uint64) << _PAGE | rows["process"]
        return _keys(self._pairs.of(joined), rows["page"])


def _spread(faults: Faults, start: Keys, last: Keys, times: Keys) -> Faults:
    """Return a row for each page from `start` to `last` but the fault's own, in the order of time."""
    lengths = (last - start + np.uint64(1)).astype(np.int64)
    rows = np.repeat(faults, lengths)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    middle = rows["page"].copy()
    rows["page"] = np.repeat(start, lengths) + step.astype(np.uint64)
    rows["time"] = np.repeat(times, lengths)
    rows["ip"] = rows["kind"] = rows["access"] = 0
    rows["source"] = SOURCES.index("filemap")
    rows = rows[rows["page"] != middle]
    ordered: Faults = rows[np.argsort(rows["time"], kind="stable")]
    return ordered


def _keys(numbers: NDArray[Any], pages: Keys) -> Keys:
    return numbers.astype(np.uint64) << _PAGE | pages & _LOW


def _first(keys: Keys, times: Keys, wanted: Keys) -> Keys:
    """Return the first time of each wanted key among `keys`, which are in the order of time, or _NEVER."""
    found, first = np.unique(keys, return_index=True)
    if not len(found):
        return np.full(len(wanted), _NEVER)
    at = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[at] == wanted, times[first[at]], _NEVER)
