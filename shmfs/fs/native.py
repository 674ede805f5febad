"""Regular files of the native store: the kernel reads, writes and maps them without asking.

So size, blocks and times are the store's; `refresh` takes them over before they are told to anybody.
"""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from shmfs.events.hooks import Instruments
from shmfs.fs.deferred import Deferred, Outcome
from shmfs.fs.inode import RegularFile, is_fixed, pages_up_to
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE
from shmfs.mm.native import BIG, NativePages, NativeStore
from shmfs.mm.reservation import Reservation
from shmfs.system import syscalls

if TYPE_CHECKING:
    from shmfs.fs.superblock import Superblock

_TICK = 10_000_000
"""Nanoseconds by which the kernel's stamps may lag behind our clock: a later change has no earlier time."""


class NativeBlocks(Reservation):
    """The limit of a native store: what its tmpfs uses, and what shmfs charges beside it (long symlinks)."""

    __slots__ = ("_aside", "_limit", "_store")

    def __init__(self, store: NativeStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._aside = 0
        self.peak = 0

    @property
    def limit(self) -> int:
        """Pages; 0 is unlimited."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._store.resize(limit and limit - self._aside)
        self._limit = limit

    def sample_peak(self) -> None:
        """Note what is used now if it is the most so far."""
        self.peak = max(self.peak, self._store.used() + self._aside)

    @property
    def used(self) -> int:
        """Pages in use now. The peak is the most that was seen by looking."""
        self.sample_peak()
        return self._store.used() + self._aside

    def available(self, wanted: int) -> int:
        """How much of `wanted` could be charged now."""
        return min(wanted, self._limit - self.used) if self._limit else wanted

    def charge(self, amount: int) -> None:
        """Take pages from the store's limit, or raise ENOSPC."""
        if amount and self._limit:
            if self.used + amount > self._limit and not (
                self._store.settle() and self.used + amount <= self._limit
            ):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._store.resize(self._limit - self._aside - amount)
        self._aside += amount

    def uncharge(self, amount: int) -> None:
        """Give pages back to the store's limit."""
        self._aside -= amount
        if amount and self._limit:
            self._store.resize(self._limit - self._aside)


class NativeFile(RegularFile):
    """A file whose pages, size and times the kernel changes by itself."""

    __slots__ = ("_allocated", "_atime", "_mtime", "_seen_ctime", "was_written")

    pages: NativePages

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now: int, pages: NativePages) -> None:
        self.pages = pages
        self._atime = self._mtime = now
        self._allocated = self._seen_ctime = 0
        self.was_written = False
        """Opened once for writing, or with holes, which a fault fills: a mapping of it may still be there
        when every descriptor is closed."""
        super().__init__(ino, mode, uid, gid, now, pages)

    def descriptor(self) -> int:
        """A descriptor of its file in the store, which is made when it is first needed."""
        if self.pages.exists:
            return self.pages.fileno()
        fd = self.pages.fileno()
        self._set_times(fd)
        return fd

    def _set_times(self, fd: int) -> None:
        """Tell the store's file the times; that changes its ctime, which is then not news."""
        os.utime(fd, ns=(self._atime, self._mtime))
        self._seen_ctime = os.fstat(fd).st_ctime_ns

    def is_stale(self) -> bool:
        """Whether it is open, or may be mapped for writing; an empty file that is closed cannot change."""
        return self.pages.exists and (self.opens > 0 or (self.was_written and self._size > 0))

    def has_holes(self) -> bool:
        """Whether there are fewer pages than the size has room for."""
        return self._allocated * PAGE_SIZE < self._size

    def refresh(self) -> None:
        """Take over what the kernel changed."""
        if self.is_stale():
            self.sync_from_backing()

    def sync_from_backing(self) -> None:
        """Take over what the kernel has."""
        status = self.pages.status()
        self._size = status.st_size
        self._allocated = status.st_blocks // 8
        self._atime = status.st_atime_ns
        if 0 < self._mtime - status.st_mtime_ns < _TICK:
            self.mtime = self._mtime
        else:
            self._mtime = status.st_mtime_ns
        if status.st_ctime_ns > self._seen_ctime:
            self._seen_ctime = status.st_ctime_ns
            self.ctime = max(self.ctime, status.st_ctime_ns)

    def can_cache_attributes(self) -> bool:
        """Not once it was open for writing: a mapping may still be there, and its stores are not seen.

        Of an empty file that is only MADV_REMOVE of what was allocated behind its end.
        """
        self.refresh()
        return is_fixed(self) or not (self.was_written and (self._size or self._allocated))

    @property
    def size(self) -> int:
        """i_size in bytes, as of the last `refresh`."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        if size == self._size:
            return
        if size > self._size and self.pages.exists:
            self.was_written = True  # it has holes now, which a mapping made before may fill
        self.descriptor()
        self.pages.truncate(size)
        self.sync_from_backing()

    @property
    def allocated(self) -> int:
        """Pages charged, as of the last `refresh`."""
        return self._allocated

    @property
    def atime(self) -> int:
        """Nanoseconds; a change is told to the store's file."""
        return self._atime

    @atime.setter
    def atime(self, value: int) -> None:
        self._atime = value
        if self.pages.exists:
            self._set_times(self.pages.fileno())

    @property
    def mtime(self) -> int:
        """Nanoseconds; a change is told to the store's file."""
        return self._mtime

    @mtime.setter
    def mtime(self, value: int) -> None:
        self._mtime = value
        if self.pages.exists:
            self._set_times(self.pages.fileno())

    def open(self, flags: int) -> bool:
        """Count an open; the file in the store is there from then on."""
        self.descriptor()
        keep = super().open(flags)
        self.was_written = self.was_written or self.writers > 0 or self.has_holes()
        return keep

    def may_be_mapped(self) -> bool:
        """Whether a process may have it mapped: a mapping keeps the file in the store open, not this one."""
        return True

    def emit_usage(self, instruments: Instruments) -> None:
        """Emit what the kernel changed."""
        self.refresh()
        if "usage" in instruments:
            instruments.call("usage", self.ino, self.size, self.allocated)

    def uncharge(self, sb: "Superblock") -> None:
        """Emit the last usage; the pages go with `drop`."""
        self.emit_usage(sb.instruments)
        if self._allocated:
            sb.blocks.sample_peak()

    def drop(self) -> None:
        """Free the pages."""
        self.pages.drop(much=self._allocated >= BIG)

    def shrink(self, size: int) -> Outcome[None]:
        """Free the pages behind `size`, many of them later; the new size shows at once."""
        if self._size - size < BIG * PAGE_SIZE:
            return super().shrink(size)
        self._size = size
        return Deferred(self.pages.later(lambda fd: os.ftruncate(fd, size)), self.sync_from_backing)

    def reserve(self, sb: "Superblock", first: int, end: int, rollback: Callable[[], None]) -> Outcome[None]:
        """Charge the pages from `first` up to `end`, many of them later; raises ENOSPC."""
        return self._allocate(
            sb, first, end - first, lambda fd: self.pages.allocate(fd, first, end), rollback
        )

    def fallocate(self, sb: "Superblock", mode: int, offset: int, length: int) -> Outcome[None]:
        """Allocate or punch, much of it later, with arguments that were checked; raises ENOSPC."""
        promised = min(offset + length, self.size) if sb.options.reserve != "lazy" else 0

        def work(fd: int) -> None:
            syscalls.fallocate(fd, mode, offset, length)
            if mode & syscalls.FALLOC_FL_PUNCH_HOLE and promised > offset:  # what was promised stays promised
                syscalls.fallocate(fd, syscalls.FALLOC_FL_KEEP_SIZE, offset, promised - offset)

        first = offset >> PAGE_SHIFT
        return self._allocate(sb, first, pages_up_to(offset + length) - first, work, lambda: None)

    def _allocate(
        self,
        sb: "Superblock",
        first: int,
        count: int,
        work: Callable[[int], None],
        rollback: Callable[[], None],
    ) -> Outcome[None]:
        """Have the kernel charge `count` pages from `first` on; emits `refuse` for ENOSPC."""
        refused = False

        def watched(fd: int) -> None:
            nonlocal refused
            try:
                try:
                    work(fd)
                except OSError as failure:
                    if failure.errno != errno.ENOSPC or not self.pages.settle():
                        raise
                    work(fd)  # which another file's pages stood in the way of that were just removed
            except OSError as failure:
                refused = failure.errno == errno.ENOSPC
                raise

        def fail() -> None:
            if refused:
                sb.store.refused(self.ino, first, count)
            rollback()

        if count >= BIG:
            return Deferred(self.pages.later(watched), self.sync_from_backing, fail)
        try:
            watched(self.pages.fileno())
        except OSError:
            fail()
            raise
        return None
