"""The memory of the managed store: frames in one growing memfd.

A frame is a 4 KiB page of the memfd, named by its number. Frames are read and written with pread and
pwrite rather than through a mapping: that copies once more on a read, but takes no faults in the daemon,
needs no address space as large as the limit, and lets the file grow in place.
"""

import errno
import os
from array import array
from collections import deque

from shmfs.system import syscalls

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

_PUNCH = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
_FREE, _USED, _DIRTY = b"\0", b"\1", b"\2"
_GROWTH = 4096
"""Frames that the memfd grows by at least (16 MiB; a hole costs nothing until it is written)."""
_PIECE = 1 << 24
"""Frames handed out at once at most (64 GiB), which bounds the work of a search."""
MAX_FRAMES = 1 << 32
"""Frames that an arena can name (16 TiB)."""
_RECLAIM_PER_ALLOCATION = 4096
"""Frames that one allocation gives back at most, so that it cannot stall for a gigabyte that was freed."""


class Arena:
    """Frames of one memfd and which of them are in use.

    A frame is free (a hole of the memfd, so it reads as zeros), used, or dirty: freed by its file, but its
    memory not yet given back to the kernel. Dirty frames are not used again before `reclaim` punched
    them out, so every frame handed out is zero. The state takes one byte a frame and is searched at the
    speed of memmem.
    """

    def __init__(self, name: str = "shmfs") -> None:
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC)
        self._state = bytearray()
        self._cursor = 0
        self._dirty: deque[tuple[array[int], array[int]]] = deque()
        self.used = 0
        self.dirty = 0
        """Frames whose memory waits for `reclaim`."""

    def close(self) -> None:
        """Give all memory back."""
        os.close(self._fd)

    def fileno(self) -> int:
        """The memfd's descriptor."""
        return self._fd

    def allocate(self, count: int) -> tuple[int, int]:
        """Take up to `count` adjacent zero frames; returns the first and how many (at least one).

        Raises OSError only where the arena cannot grow: EFBIG (by RLIMIT_FSIZE), ENOSPC for more than
        MAX_FRAMES.
        """
        if self.used + self.dirty + count > MAX_FRAMES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(count, _PIECE)
        if self.dirty:
            self.reclaim(min(count, _RECLAIM_PER_ALLOCATION))
        first, taken = self._find(count)
        self._state[first : first + taken] = _USED * taken
        self._cursor = first + taken
        self.used += taken
        return first, taken

    def _find(self, count: int) -> tuple[int, int]:
        """Next fit. Adjacent frames are worth growing for as long as half of the arena is in use."""
        state = self._state
        first = state.find(_FREE * count, self._cursor)
        if first >= 0:
            return first, count
        free = len(state) - self.used - self.dirty
        if free >= count:
            first = state.find(_FREE * count)
            if first >= 0:
                return first, count
        if free > len(state) // 2 and free > _GROWTH:
            while count > 1:
                count //= 2
                first = state.find(_FREE * count)
                if first >= 0:
                    return first, count
        first = len(state.rstrip(_FREE)) if free else len(state)
        grown = max(first + count, len(state) + _GROWTH)
        os.ftruncate(self._fd, grown << PAGE_SHIFT)
        state.extend(_FREE * (grown - len(state)))
        return first, count

    def free(self, firsts: "array[int]", counts: "array[int]") -> None:
        """Take back runs of used frames, given as parallel arrays; the caller gives the arrays away.

        Constant time: the frames are marked and given back to the kernel by `reclaim`.
        """
        pages = sum(counts)
        self.used -= pages
        self.dirty += pages
        self._dirty.append((firsts, counts))

    def reclaim(self, frames: int) -> bool:
        """Give the memory of about `frames` freed frames back to the kernel; true while more wait."""
        while self._dirty and frames > 0:
            firsts, counts = self._dirty[0]
            first, count = firsts[-1], counts[-1]
            slice_ = min(count, frames)
            start = first + count - slice_
            syscalls.fallocate(self._fd, _PUNCH, start << PAGE_SHIFT, slice_ << PAGE_SHIFT)
            self._state[start : start + slice_] = _FREE * slice_
            self.dirty -= slice_
            # A system call on one frame costs as much as punching a few more.
            frames -= slice_ + 8
            if slice_ < count:
                counts[-1] = count - slice_
            else:
                firsts.pop()
                counts.pop()
                if not firsts:
                    self._dirty.popleft()
        if not self.used and not self.dirty and self._state:
            os.ftruncate(self._fd, 0)
            self._state = bytearray()
            self._cursor = 0
        return bool(self._dirty)

    def populate(self, first: int, count: int) -> None:
        """Back frames with memory now, with the GIL released; raises ENOSPC or ENOMEM."""
        syscalls.fallocate(self._fd, 0, first << PAGE_SHIFT, count << PAGE_SHIFT)

    def read(self, first: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` bytes behind the start of frame `first`."""
        return os.pread(self._fd, size, (first << PAGE_SHIFT) + offset)

    def write(self, first: int, offset: int, data: bytes | memoryview) -> None:
        """Store `data` at `offset` bytes behind the start of frame `first`; raises ENOSPC, ENOMEM."""
        position = (first << PAGE_SHIFT) + offset
        written = os.pwrite(self._fd, data, position)
        while written < len(data):
            data = memoryview(data)[written:]
            position += written
            written = os.pwrite(self._fd, data, position)
