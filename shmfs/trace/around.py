"""Fault-around: the pages that the kernel mapped beside the one of a fault, without faults of their own.

filemap:mm_filemap_map_pages tells the range that it went through, of which it maps what is in the page cache
and not mapped yet (mm/filemap.c:filemap_map_pages). So it is known here which pages are present: those that
somebody had a fault on. A page that was only written with write(2) is not known to be: tmpfs fires no
filemap:mm_filemap_add_to_page_cache, and where FUSE does, the daemon may have dropped the page since.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmfs.trace.decode import Samples, grouped
from shmfs.trace.format import FAULT, SOURCES, Faults

_BLOCK = 15
_PAGE = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_NEVER = np.uint64((1 << 64) - 1)

Keys = NDArray[np.uint64]


class _Pages:
    """A set of keys: a number above, and the lower 32 bits of a page's index below. A byte a page."""

    def __init__(self) -> None:
        self._blocks: dict[int, NDArray[np.bool_]] = {}

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        found = np.zeros(len(keys), bool)
        high = keys >> np.uint64(_BLOCK)
        for block in np.unique(high).tolist():
            bits = self._blocks.get(block)
            if bits is not None:
                rows = high == block
                found[rows] = bits[keys[rows] & np.uint64((1 << _BLOCK) - 1)]
        return found

    def put(self, keys: Keys) -> None:
        high = keys >> np.uint64(_BLOCK)
        for block in np.unique(high).tolist():
            bits = self._blocks.setdefault(block, np.zeros(1 << _BLOCK, bool))
            bits[keys[high == block] & np.uint64((1 << _BLOCK) - 1)] = True


class Around:
    """Finds them, each page once for each process."""

    def __init__(self) -> None:
        self._present, self._mapped = _Pages(), _Pages()
        self._numbers: dict[int, int] = {}
        """Numbers for pairs of a segment and a process."""
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
        known = np.concatenate([self._latest, faults])
        order, firsts = grouped(known["tid"])  # it was in order of time, and stays so in each thread
        known = known[order]
        self._latest = known[firsts - 1]
        if around is None or not len(known):
            return known[:0]
        began = around.time + np.uint64(offset)
        tids = np.concatenate([known["tid"], around.tid])
        times = np.concatenate([known["time"], began])
        second = np.arange(len(tids)) >= len(known)
        order = np.lexsort((second, times, tids))
        before = np.maximum.accumulate(np.where(second[order], -1, order))
        at = np.flatnonzero(second[order])
        fault, told = known[np.maximum(before[at], 0)], order[at] - len(known)
        start, last = around.address[told], around.ip[told]
        fits = (before[at] >= 0) & (fault["tid"] == around.tid[told])
        fits &= (start <= fault["page"]) & (fault["page"] <= last)
        fits &= (last <= _LOW) & (last - start < np.uint64(1 << 16))
        fault, start, last, began = fault[fits], start[fits], last[fits], began[told][fits]
        return _spread(fault, start, last, began)

    def _of_processes(self, rows: Faults) -> Keys:
        joined = rows["segment"].astype(np.uint64) << _PAGE | rows["process"]
        found, which = np.unique(joined, return_inverse=True)
        numbers = [self._numbers.setdefault(pair, len(self._numbers)) for pair in found.tolist()]
        return _keys(np.array(numbers, np.uint64)[which], rows["page"])


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
    """Return the first time of each wanted key among `keys`, or _NEVER."""
    order = np.lexsort((times, keys))
    found, first = np.unique(keys[order], return_index=True)
    if not len(found):
        return np.full(len(wanted), _NEVER)
    at = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[at] == wanted, times[order][first[at]], _NEVER)
