"""Which process has which page of a file present: /proc/PID/pagemap.

Everything here waits for the mmap_lock of other processes, so it must never run in the daemon that serves
them (a fault on the mount may hold that lock). Processes that vanish meanwhile are left out, those that may
not be looked at are counted. See Documentation/admin-guide/mm/pagemap.rst.
"""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shmfs.events.names import printable
from shmfs.events.records import MappingProcess, PageHolder, PageHolders, Sharing
from shmfs.system import maps
from shmfs.system.maps import Vma
from shmfs.system.processes import Processes

PAGE = mmap.PAGESIZE

PRESENT = np.uint64(1 << 63)
FILE = np.uint64(1 << 61)  # clear: anonymous, which in a mapped file is a private copy
FRAME = np.uint64(maps.FRAME)

# _IOWR('f', 16, struct pm_scan_arg), since Linux 6.7: reports only what is there, whatever the holes' size.
PAGEMAP_SCAN = 3 << 30 | 96 << 16 | ord("f") << 8 | 16
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3

REGIONS = 4096
"""Regions a PAGEMAP_SCAN returns at once."""

CHUNK = 1 << 17
"""Entries of pagemap read at once: 1 MiB."""

GAP = 1 << 10
"""Absent pages that are cheaper to read through than to skip."""

Pages = NDArray[np.int64]
Frames = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ProcessPages:
    """The pages of one file that one process has present; page indexes ascend and are distinct."""

    pid: int
    command: str
    mapped: int
    """Bytes mapped, each mapping counted."""
    pages: Pages
    frames: Frames
    """The frame of each of `pages`; zeros where the kernel hides it."""
    copies: Pages
    """Pages of which the process has its own copy (MAP_PRIVATE after a store)."""
    copy_frames: Frames


@dataclass(frozen=True, slots=True)
class Matrix:
    """The matrix of pages and processes of one file, sparse."""

    device: str
    inode: int
    path: str
    """As the mapping processes see it, without " (deleted)"; "" when nobody maps it."""
    processes: list[ProcessPages]
    frames_visible: bool
    hidden: int

    def shared(self) -> Pages:
        """Return the pages of the file that two or more processes have present; private copies are not."""
        return shared_pages([process.pages for process in self.processes])

    def sharing(self, path: str | None = None, size: int = 0) -> Sharing:
        """Return the record; the caller knows the path he asked for and the size of the file in bytes."""
        holders: dict[int, list[PageHolder]] = {}
        for process in self.processes:
            for pages, frames, private in (
                (process.pages, process.frames, False),
                (process.copies, process.copy_frames, True),
            ):
                for page, frame in zip(pages.tolist(), frames.tolist(), strict=True):
                    holder = PageHolder(process.pid, frame or None, private)
                    holders.setdefault(page, []).append(holder)
        return Sharing(
            path=printable(self.path if path is None else path),
            device=self.device,
            inode=self.inode,
            size=size,
            page_size=PAGE,
            source="pagemap",
            exact=True,
            frames_visible=self.frames_visible,
            shared=len(self.shared()),
            hidden=self.hidden,
            processes=[
                MappingProcess(one.pid, one.command, len(one.pages), len(one.copies), one.mapped)
                for one in self.processes
            ],
            pages=[PageHolders(page, holders[page]) for page in sorted(holders)],
        )


def matrix(device: str, inode: int, pids: Iterable[int] | None = None) -> Matrix:
    """Return which of `pids` (all processes if None) have which pages of the file present."""
    found = maps.processes_mapping(device, pids, inode)
    names = Processes()
    processes = []
    path = ""
    hidden = found.hidden
    for pid, vmas in found.mappings.items():
        path = path or vmas[0].path
        process = names.get(pid)
        try:
            processes.append(process_pages(pid, process.command if process else "", vmas))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            hidden += 1
    if any(len(one.pages) or len(one.copies) for one in processes):
        visible = any(one.frames.any() or one.copy_frames.any() for one in processes)
    else:
        visible = maps.frames_visible()
    return Matrix(device, inode, path, processes, visible, hidden)


def process_pages(pid: int, command: str, vmas: list[Vma]) -> ProcessPages:
    """Return the pages of one file, with frames, that the process has present in these mappings of it."""
    entries: list[Frames] = []
    pages: list[Pages] = []
    with _Pagemap(pid) as pagemap:
        for vma in vmas:
            for first, values in pagemap.entries(vma.start // PAGE, vma.end // PAGE):
                present = np.flatnonzero(values & PRESENT)
                pages.append(present + (first - vma.start // PAGE + vma.offset // PAGE))
                entries.append(values[present])
    index = np.concatenate([*pages, np.empty(0, np.int64)])
    value = np.concatenate([*entries, np.empty(0, np.uint64)])
    of_file = (value & FILE) != 0
    shared, first_shared = np.unique(index[of_file], return_index=True)
    copies, first_copy = np.unique(index[~of_file], return_index=True)
    return ProcessPages(
        pid=pid,
        command=command,
        mapped=sum(vma.end - vma.start for vma in vmas),
        pages=shared,
        frames=value[of_file][first_shared] & FRAME,
        copies=copies,
        copy_frames=value[~of_file][first_copy] & FRAME,
    )


def present_pages(pid: int, vmas: dict[int, list[Vma]]) -> dict[int, Pages]:
    """Return the pages of each file that the process has present, private copies left out, without frames.

    `vmas` are its mappings by inode. As cheap as the kernel allows: the sampler calls it all the time.
    """
    found = {}
    with _Pagemap(pid) as pagemap:
        for inode, several in vmas.items():
            pages = [
                run + (vma.offset - vma.start) // PAGE
                for vma in several
                for run in pagemap.file_pages(vma.start // PAGE, vma.end // PAGE)
            ]
            run = np.concatenate([*pages, np.empty(0, np.int64)])
            found[inode] = run if len(several) == 1 else np.unique(run)
    return found


def shared_pages(pages: list[Pages]) -> Pages:
    """Return the pages that are in two or more of the arrays, each of which has a page at most once."""
    pages = [run for run in pages if len(run)]
    if len(pages) < 2:
        return np.empty(0, np.int64)
    end = max(int(run.max()) for run in pages) + 1
    if end < 16 * sum(map(len, pages)):  # dense: counting is faster than sorting
        counts = np.zeros(end, np.uint32)
        for run in pages:
            counts[run] += 1
        return np.flatnonzero(counts > 1)
    index, count = np.unique(np.concatenate(pages), return_counts=True)
    shared: Pages = index[count > 1]
    return shared


class _Pagemap:
    """An open /proc/PID/pagemap; addresses are in pages."""

    scan = True
    """Whether the kernel is thought to have PAGEMAP_SCAN."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._regions = np.empty((REGIONS, 3), np.uint64)

    def __enter__(self) -> "_Pagemap":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    def read(self, first: int, count: int) -> Frames:
        """Return the entries of up to `count` pages; fewer when the process is gone."""
        return np.frombuffer(os.pread(self._fd, count * 8, first * 8), np.uint64)

    def entries(self, first: int, end: int) -> Iterator[tuple[int, Frames]]:
        """Yield runs of entries that contain every present page; big holes are skipped where possible."""
        for regions in self._scan(first, end):
            if regions is None:
                yield from self._read_range(first, end)
            elif len(regions):
                starts, ends = regions[:, 0], regions[:, 1]
                gaps = np.flatnonzero(starts[1:] - ends[:-1] > GAP)
                for start, stop in zip([0, *(gaps + 1).tolist()], [*gaps.tolist(), -1], strict=True):
                    yield from self._read_range(int(starts[start]), int(ends[stop]))

    def file_pages(self, first: int, end: int) -> Iterator[Pages]:
        """Yield the addresses, in pages, at which a page of the file itself is present."""
        for regions in self._scan(first, end):
            if regions is None:
                wanted = PRESENT | FILE
                for start, values in self._read_range(first, end):
                    yield np.flatnonzero((values & wanted) == wanted) + start
            else:
                yield _expand(regions[(regions[:, 2] & PAGE_IS_FILE) != 0])

    def _read_range(self, first: int, end: int) -> Iterator[tuple[int, Frames]]:
        while first < end:
            values = self.read(first, min(CHUNK, end - first))
            if not len(values):
                return
            yield first, values
            first += len(values)

    def _scan(self, first: int, end: int) -> Iterator[NDArray[np.int64] | None]:
        """Yield arrays of present regions (start, end, categories); None, alone, if the kernel cannot."""
        if not _Pagemap.scan:
            yield None
            return
        start = first
        while start < end:
            argument = bytearray(
                struct.pack(
                    "12Q", 96, 0, start * PAGE, end * PAGE, 0,
                    self._regions.ctypes.data, REGIONS, 0,
                    0, PAGE_IS_PRESENT, 0, PAGE_IS_PRESENT | PAGE_IS_FILE,
                )
            )  # fmt: skip
            try:
                count = fcntl.ioctl(self._fd, PAGEMAP_SCAN, argument)
            except OSError as error:
                if error.errno == errno.ESRCH or start > first:
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
                _Pagemap.scan = False
                yield None
                return
            regions = self._regions[:count].astype(np.int64)
            regions[:, :2] //= PAGE
            yield regions
            start = struct.unpack_from("Q", argument, 32)[0] // PAGE  # walk_end


def _expand(regions: NDArray[np.int64]) -> Pages:
    """Return every page of the regions, in order."""
    lengths = regions[:, 1] - regions[:, 0]
    before = np.cumsum(lengths) - lengths
    pages: Pages = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(regions[:, 0] - before, lengths)
    return pages
