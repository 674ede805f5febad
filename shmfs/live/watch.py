"""Looks at a file system, its processes and their faults.

It reads maps and pagemap, which wait for the processes' mmap_lock, and never touches a mount of shmfs.
`look` and `matrix` are called by one thread at a time: `shmfs-top`, or the main thread of `top --once`.
"""

import time
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from shmfs.errors import ShmfsError
from shmfs.events.amounts import duration
from shmfs.events.names import printable
from shmfs.live import faults, files
from shmfs.live.model import ProcessRow, Rates, SegmentRow, Share, Snapshot, SourceRow
from shmfs.system import maps, pagemap
from shmfs.system.maps import Vma
from shmfs.system.pagemap import PAGE, Pages
from shmfs.system.processes import Processes

NONE = Rates()
BEHIND = "the machine is busy, so that faults are told late"


class Watched(Protocol):
    """What a display shows; a test puts something else in place of `Watch`."""

    def look(self) -> Snapshot:
        """What there is now; raises nothing, see `Snapshot.trouble`."""

    def matrix(self, inode: int) -> pagemap.Matrix:
        """Who has which page of a segment now."""

    def close(self) -> None:
        """Give everything back."""


class Watch:
    """One file system."""

    def __init__(self, target: str | None) -> None:
        """Find what `target` is on; raises ShmfsError."""
        self._files = files.find(target)
        self._meter, note = faults.meter(self._files.device, self._files.mount)
        self._notes = [note] if note else []
        self._processes = Processes()
        self._last: Snapshot | None = None
        self._page_ins: dict[int, int] | None = None
        self._looked = self._cpu = 0.0
        self._hidden = 0

    def look(self) -> Snapshot:
        """Look once."""
        try:
            snapshot = self._look()
        except (ShmfsError, OSError) as failure:
            snapshot = self._failed(str(failure))
        self._last = snapshot
        return snapshot

    def matrix(self, inode: int) -> pagemap.Matrix:
        """Who has which page of a segment now."""
        known = [share.pid for share in self._last.shares if share.inode == inode] if self._last else None
        return pagemap.matrix(self._files.device, inode, known)

    def close(self) -> None:
        """Stop counting faults."""
        self._meter.close()

    def _failed(self, why: str) -> Snapshot:
        """What was seen last, and why there is nothing newer; a new mount in the same place is taken over."""
        last = self._last or Snapshot(time.time(), self._files.mount, self._files.device, self._files.store)
        self._looked, self._page_ins = 0.0, None  # rates begin anew
        try:
            found = self._files.again()
        except (ShmfsError, OSError) as failure:
            why = str(failure)  # says more: dead, or only silent
        else:
            if found.device != self._files.device:
                self._meter.close()
                self._files = found
                self._meter, note = faults.meter(found.device, found.mount)
                self._notes = [note] if note else []
        unknown = {"seconds": 0.0, "cost": 0.0, "faults": None, "page_ins": None, "hidden": 0, "lost": 0}
        return replace(last, **unknown, time=time.time(), trouble=why, notes=[])

    def _look(self) -> Snapshot:
        listed = self._files.list()
        pids = self._meter.mapping()
        if why := self._meter.failure:
            self._count_coarsely(why)
            pids = self._meter.mapping()
        found = maps.processes_mapping(self._files.device, pids)
        if pids is None:
            self._hidden = found.hidden
        now, cpu = time.monotonic(), time.process_time()
        seconds = now - self._looked if self._looked else 0.0
        rates = self._meter.rates(seconds or 1.0, found.mappings)
        if not seconds:
            rates = {}
        shares, shared, unread = _shares(found.mappings)
        segments = listed.segments
        _add_unlisted(segments, found.mappings)
        by_segment = self._meter.by_segment and bool(seconds)
        _fill(segments, shares, shared, rates if by_segment else None)
        page_ins = self._fill_page_ins(listed, seconds)
        snapshot = Snapshot(
            time=time.time(),
            mount=self._files.mount,
            device=self._files.device,
            store=self._files.store,
            seconds=seconds,
            cost=cpu - self._cpu if self._cpu else 0.0,
            limits=listed.limits,
            faults=sum(rates.values(), NONE) if seconds else None,
            page_ins=page_ins,
            segments=list(segments.values()),
            processes=self._group(shares, rates if seconds else None),
            shares=shares,
            sources=self._sources(seconds),
            hidden=self._hidden + unread,
            lost=self._meter.lost,
            notes=self._notes + list(listed.notes) + ([BEHIND] if self._meter.behind else []),
        )
        if why := self._meter.too_much():
            self._count_coarsely(why)
        self._looked, self._cpu = now, cpu
        self._page_ins = listed.page_ins
        return snapshot

    def _count_coarsely(self, why: str) -> None:
        self._meter.close()
        self._meter, self._notes = faults.StatMeter(), [faults.coarse(why)]

    def _sources(self, seconds: float) -> list[SourceRow]:
        every = f"pagemap, every {duration(seconds)}" if seconds else "pagemap, once"
        told = SourceRow("mapped, present, shared, PSS, USS", every, exact=False)
        if self._meter.by_segment:
            lost = self._meter.lost  # of any memory, so perhaps of this one
            counted = SourceRow("faults", f"perf, {lost} lost" if lost else "perf", exact=not lost)
        else:
            counted = SourceRow("faults of the process, all memory", "/proc/PID/stat", exact=True)
        return [*self._files.sources, told, counted]

    def _fill_page_ins(self, listed: files.Listed, seconds: float) -> float | None:
        if listed.page_ins is None or self._page_ins is None or not seconds:
            return None
        total = 0.0
        for inode, count in listed.page_ins.items():
            rate = (count - self._page_ins.get(inode, 0)) / seconds
            listed.segments[inode].page_ins = rate
            total += rate
        return total

    def _group(self, shares: list[Share], rates: faults.Found | None) -> list[ProcessRow]:
        processes: dict[int, ProcessRow] = {}
        for share in shares:
            one = processes.get(share.pid)
            if one is None:
                known = self._processes.get(share.pid)
                one = processes[share.pid] = ProcessRow(share.pid, known.command if known else "")
            one.segments += 1
            one.mapped += share.mapped
            one.pages += share.pages
            one.pss += share.pss
            one.uss += share.uss
        if rates is not None:
            for one in processes.values():
                one.faults = NONE
            for (pid, _), rate in rates.items():
                if pid in processes:
                    processes[pid].faults = (processes[pid].faults or NONE) + rate
        return list(processes.values())


def _shares(mappings: dict[int, list[Vma]]) -> tuple[list[Share], dict[int, int], int]:
    """Who has how much of what; by inode the pages that two or more have; who may not be looked at."""
    shares: list[Share] = []
    by_inode: dict[int, list[tuple[Share, Pages]]] = {}
    unread = 0
    for pid, vmas in mappings.items():
        several: dict[int, list[Vma]] = {}
        for vma in vmas:
            several.setdefault(vma.inode, []).append(vma)
        try:
            present = pagemap.present_pages(pid, several)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            unread += 1
            present = {inode: np.empty(0, np.int64) for inode in several}
        for inode, ones in several.items():
            mapped = sum(vma.end - vma.start for vma in ones)
            share = Share(pid, inode, mapped, len(present[inode]), 0, 0)
            shares.append(share)
            by_inode.setdefault(inode, []).append((share, present[inode]))
    return shares, {inode: _divide(ones) for inode, ones in by_inode.items()}, unread


def _divide(ones: list[tuple[Share, Pages]]) -> int:
    """Fill in the shares that processes have of one segment; returns the pages that two or more have."""
    if len(ones) == 1:
        ((alone, _),) = ones
        alone.pss = alone.uss = PAGE * alone.pages
        return 0
    end = max((int(pages[-1]) for _, pages in ones if len(pages)), default=-1) + 1
    total = sum(len(pages) for _, pages in ones)
    if end > 16 * total:  # sparse
        distinct, holders = np.unique(np.concatenate([pages for _, pages in ones]), return_counts=True)
    else:
        distinct, holders = None, np.zeros(end, np.int64)
        for _, pages in ones:
            holders[pages] += 1
    for share, pages in ones:
        counts = holders[pages if distinct is None else np.searchsorted(distinct, pages)]
        share.pss = round(PAGE * float((1 / counts).sum()))
        share.uss = PAGE * int((counts == 1).sum())
    return int((holders > 1).sum())


def _add_unlisted(segments: dict[int, SegmentRow], mappings: dict[int, list[Vma]]) -> None:
    """Add what somebody maps and nobody listed: files without a name, or made a moment ago."""
    for vmas in mappings.values():
        for vma in vmas:
            one = segments.get(vma.inode)
            if one is None:
                name = "/" + printable(vma.path).rpartition("/")[2]
                one = segments[vma.inode] = SegmentRow(vma.inode, name, 0, None, vma.deleted)
            if one.resident is None:
                one.size = max(one.size, vma.offset + vma.end - vma.start)


def _fill(
    segments: dict[int, SegmentRow], shares: list[Share], shared: dict[int, int], rates: faults.Found | None
) -> None:
    """Tell the segments what was seen of them; `rates` are by segment, or None."""
    for share in shares:
        segments[share.inode].processes += 1
    for inode, pages in shared.items():
        segments[inode].shared = pages
    if rates is None:
        return
    for share in shares:
        share.faults = rates.get((share.pid, share.inode), NONE)
    for one in segments.values():
        one.faults = NONE
    for (_, inode), rate in rates.items():
        if inode in segments:
            segments[inode].faults = (segments[inode].faults or NONE) + rate
