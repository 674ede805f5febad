"""The pages of one file. Compare mm/shmem.c and the kernel's struct address_space."""

import enum
import errno
import os
from collections.abc import Iterator

from shmfs.mm.arena import PAGE_SHIFT, PAGE_SIZE
from shmfs.mm.runs import Run, RunMap
from shmfs.mm.store import ManagedStore

_ZERO_PAGE = bytes(PAGE_SIZE)


class Intent(enum.Enum):
    """Why a page is wanted. Compare enum sgp_type of mm/shmem.c."""

    READ = enum.auto()
    """A hole reads as the zero page and stays a hole (SGP_READ)."""
    NOALLOC = enum.auto()
    """A hole is reported as one (SGP_NOALLOC)."""
    CACHE = enum.auto()
    """The kernel's page cache will hold the page and may store into it: a hole is charged (SGP_CACHE)."""
    WRITE = enum.auto()
    """The page is about to be written (SGP_WRITE)."""
    FALLOC = enum.auto()
    """The page is reserved and stays unwritten (SGP_FALLOC)."""


class AddressSpace:
    """Maps page indexes of inode `ino` to frames of a store.

    Invariant (compare shmem_recalc_inode): `allocated`, the pages in the map, is what this file has charged
    to the store. The kernel swaps the arena's frames by itself, so no page of it is ever a swap entry.
    Offsets and sizes are bytes, indexes and counts pages; `end` is exclusive.
    """

    __slots__ = ("_map", "_store", "ino")

    def __init__(self, store: ManagedStore, ino: int) -> None:
        self._store = store
        self._map: RunMap | None = None  # most inodes of a tree are never written
        self.ino = ino

    @property
    def allocated(self) -> int:
        """Pages that have a frame."""
        return self._map.pages if self._map else 0

    def runs(self, first: int = 0, end: int = 1 << 63) -> Iterator[Run]:
        """The allocated runs of a range of pages, in order."""
        return self._map.runs(first, end) if self._map else iter(())

    def get_page(self, index: int, intent: Intent) -> bytes | None:
        """The content of one page; None is a hole with NOALLOC. Raises ENOSPC if it had to be charged.

        Compare shmem_get_folio_gfp: read, fault, write and fallocate all come this way or by `get_pages`,
        its form for runs.
        """
        self.get_pages(index, index + 1, intent)
        run = self._map.find(index) if self._map else None
        if run:
            return self._store.arena.read(run.frame + index - run.first, 0, PAGE_SIZE)
        return None if intent is Intent.NOALLOC else _ZERO_PAGE

    def get_pages(self, first: int, end: int, intent: Intent) -> int:
        """Make the pages from `first` up to `end` what `intent` asks for; returns how many were allocated.

        All or nothing: raises ENOSPC with no page charged, as shmem_fallocate rolls back. With CACHE the
        caller reports the refusal: the kernel repeats a READ that failed.
        """
        if intent is Intent.READ or intent is Intent.NOALLOC:
            return 0
        holes = list(self.holes(first, end))
        missing = sum(stop - start for start, stop in holes)
        if missing:
            try:
                if intent is Intent.CACHE:
                    self._store.blocks.charge(missing)
                else:
                    self._store.charge(self.ino, first, missing)
            except OSError:
                if self._map and intent is Intent.FALLOC:
                    self._map.set_written(first, self._end_of_room(holes))
                raise
        if self._map:  # with FALLOC too: what is allocated for the second time is initialised
            self._map.set_written(first, end)
        if missing:
            try:
                for start, stop in holes:
                    self._fill(start, stop, unwritten=intent is Intent.FALLOC)
            except BaseException:
                self._unfill(holes)
                self._store.blocks.uncharge(missing)
                raise
            if "allocate" in self._store.instruments:
                for start, stop in holes:
                    self._store.instruments.call("allocate", self.ino, start, stop - start)
        return missing

    def _end_of_room(self, holes: list[tuple[int, int]]) -> int:
        """The page for which there is no room any more when these holes are filled.

        A shmem_fallocate that fails there has initialised what was allocated before it, and keeps that so.
        """
        room = self._store.blocks.available(sum(stop - start for start, stop in holes))
        for start, stop in holes:
            if room < stop - start:
                return start + room
            room -= stop - start
        return holes[-1][1]

    def holes(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The page ranges without a frame within the range, in order."""
        for run in self.runs(first, end):
            if run.first > first:
                yield first, run.first
            first = run.first + run.length
        if first < end:
            yield first, end

    def _fill(self, first: int, end: int, *, unwritten: bool) -> None:
        """Give frames to a hole that was charged."""
        if self._map is None:
            self._map = RunMap()
        while first < end:
            frame, count = self._store.arena.allocate(end - first)
            self._map.insert(Run(first, frame, count, unwritten))
            first += count

    def _unfill(self, holes: list[tuple[int, int]]) -> None:
        """Take frames back from what were holes, where the arena could not give them all."""
        if self._map is None:
            return
        for start, stop in holes:
            for firsts, counts in self._map.remove(start, stop).chunks:
                self._store.arena.free(firsts, counts)
        if not self._map.pages:
            self._map = None

    def read(self, offset: int, size: int, intent: Intent = Intent.READ) -> bytes:
        """`size` bytes, holes as zeros; with CACHE the holes are charged first (ENOSPC)."""
        first, end = offset >> PAGE_SHIFT, (offset + size + PAGE_SIZE - 1) >> PAGE_SHIFT
        self.get_pages(first, end, intent)
        parts = []
        position, stop = offset, offset + size
        for run in self.runs(first, end):
            start = max(position, run.first << PAGE_SHIFT)
            if start > position:
                parts.append(bytes(start - position))
            position = min(stop, (run.first + run.length) << PAGE_SHIFT)
            parts.append(
                self._store.arena.read(run.frame, start - (run.first << PAGE_SHIFT), position - start)
            )
        if position < stop:
            parts.append(bytes(stop - position))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Store `data`; returns the bytes stored, fewer where the limit was hit, or raises ENOSPC for none.

        Compare shmem_file_write_iter. Pages that could be charged before the limit are written.
        """
        if not data:
            return 0
        first, end = offset >> PAGE_SHIFT, (offset + len(data) + PAGE_SIZE - 1) >> PAGE_SHIFT
        end = self._allocate_for_write(first, end)
        stored = min(len(data), (end << PAGE_SHIFT) - offset)
        view = memoryview(data)
        done = 0
        for run in self.runs(first, end):
            start = max(0, offset - (run.first << PAGE_SHIFT))
            size = min(stored - done, (run.length << PAGE_SHIFT) - start)
            self._store.arena.write(run.frame, start, view[done : done + size])
            done += size
        return stored

    def _allocate_for_write(self, first: int, end: int) -> int:
        """Allocate the pages of a write; returns where it must end for lack of space (ENOSPC for none)."""
        holes = list(self.holes(first, end))
        room = missing = sum(stop - start for start, stop in holes)
        if missing:
            room = self._store.blocks.available(missing)
        if room < missing:
            refused = missing - room
            for start, stop in holes:
                if room < stop - start:
                    end = start + room
                    break
                room -= stop - start
            self._store.refused(self.ino, end, refused)
            if end == first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.get_pages(first, end, Intent.WRITE)
        return end

    def truncate(self, size: int) -> int:
        """Free the pages behind `size` and zero the tail of its last page; returns the pages freed.

        Compare shmem_truncate_range. Work that grows with what is freed is left to `Arena.reclaim`.
        """
        self._zero(size, -size % PAGE_SIZE)
        return self._remove((size + PAGE_SIZE - 1) >> PAGE_SHIFT, 1 << 63)

    def punch(self, offset: int, length: int) -> int:
        """Make a hole: whole pages are freed, parts of pages zeroed; returns the pages freed.

        Compare FALLOC_FL_PUNCH_HOLE in shmem_fallocate.
        """
        end = offset + length
        first, last = (offset + PAGE_SIZE - 1) >> PAGE_SHIFT, end >> PAGE_SHIFT
        if first > last:
            self._zero(offset, length)
            return 0
        self._zero(offset, (first << PAGE_SHIFT) - offset)
        self._zero(last << PAGE_SHIFT, end - (last << PAGE_SHIFT))
        return self._remove(first, last)

    def _zero(self, offset: int, size: int) -> None:
        """Zero bytes within one page, if it has a frame."""
        run = self._map.find(offset >> PAGE_SHIFT) if size and self._map else None
        if run:
            self._store.arena.write(run.frame, offset - (run.first << PAGE_SHIFT), bytes(size))

    def _remove(self, first: int, end: int) -> int:
        if self._map is None or first >= end:
            return 0
        frames = self._map.remove(first, end)
        if frames.pages:
            if "free" in self._store.instruments:
                self._store.instruments.call("free", self.ino, first, frames.pages)
            self._store.free(frames)
        if not self._map.pages:
            self._map = None
        return frames.pages

    def seek(self, offset: int, *, data: bool, size: int) -> int:
        """SEEK_DATA or SEEK_HOLE in a file of `size` bytes; raises ENXIO.

        Compare mapping_seek_hole_data: a page that was allocated but never written counts as a hole.
        """
        if offset < 0 or offset >= size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        position = offset
        for run in self.runs(offset >> PAGE_SHIFT, (size + PAGE_SIZE - 1) >> PAGE_SHIFT):
            if run.unwritten:
                continue
            start = run.first << PAGE_SHIFT
            if data:
                return max(offset, start)
            if start > position:
                return position
            position = (run.first + run.length) << PAGE_SHIFT
        if data:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return min(position, size)
