"""The native store: pages that the kernel serves by itself, in a tmpfs that nobody else sees.

Each regular file of the mount has a file of its own in a detached tmpfs, named by its inode number.
The kernel hands reads, writes and faults to it (FUSE passthrough), so limits, SIGBUS, swap, huge pages
and st_blocks are the kernel's own. Descriptors are opened on demand and pooled: there may be more inodes
than a process may have descriptors.

The thread that serves requests calls everything here but what `NativePages.later` returns and the work of
`NativeStore.free`, which run in other threads on a descriptor of their own and do not touch the pool. Only
a charge that would fail otherwise calls `settle`, which waits for the threads that free.
"""

import contextlib
import errno
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from shmfs.mm.address_space import Intent
from shmfs.mm.arena import PAGE_SHIFT, PAGE_SIZE
from shmfs.mm.runs import Run
from shmfs.system import mounting, syscalls

_POOL = 1024
"""Descriptors kept open at most, and no more than half of those that the process may have."""
UNLIMITED = (1 << 50) - 1
"""Pages; for tmpfs 0 means unlimited, but then it does not tell what is used."""
BIG = 4096
"""Pages (16 MiB) from which on allocating and freeing takes so long that others would notice."""


class NativeStore:
    """A detached tmpfs and the descriptors that are open in it."""

    def __init__(
        self, blocks: int, options: dict[str, str | None] | None = None, *, atime: str = "relatime"
    ) -> None:
        """`blocks` is the limit in pages, 0 for none; raises EPERM without CAP_SYS_ADMIN."""
        attributes = {
            "noatime": mounting.MOUNT_ATTR_NOATIME,
            "strictatime": mounting.MOUNT_ATTR_STRICTATIME,
            "norelatime": mounting.MOUNT_ATTR_STRICTATIME,
        }.get(atime, 0)
        limits = {"nr_blocks": str(blocks or UNLIMITED), "nr_inodes": "0", "mode": "0700"}
        self._mount = mounting.detached("tmpfs", {**limits, **(options or {})}, attributes)
        self._pool: OrderedDict[int, int] = OrderedDict()
        self._freeing: list[threading.Thread] = []
        self._room = min(_POOL, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    def close(self) -> None:
        """Give everything back."""
        while self._pool:
            os.close(self._pool.popitem()[1])
        os.close(self._mount)

    @property
    def device(self) -> str:
        """Its device as in mountinfo ("0:57"), by which the kernel's tracepoints name it."""
        number = os.fstat(self._mount).st_dev
        return f"{os.major(number)}:{os.minor(number)}"

    def resize(self, blocks: int) -> None:
        """Set the limit in pages; raises EINVAL below what is used."""
        mounting.reconfigure(self._mount, {"nr_blocks": str(blocks or UNLIMITED)})

    def used(self) -> int:
        """Pages in use."""
        figures = os.fstatvfs(self._mount)
        return figures.f_blocks - figures.f_bfree

    def free(self, work: Callable[[], None]) -> None:
        """Free much in a thread."""
        self._freeing = [thread for thread in self._freeing if thread.is_alive()]
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._freeing.append(thread)

    def settle(self) -> bool:
        """Wait until what is being freed can be had again; False if there was nothing."""
        freeing, self._freeing = self._freeing, []
        for thread in freeing:
            thread.join()
        return bool(freeing)

    def descriptor(self, ino: int, *, create: bool = False) -> int:
        """A descriptor of the inode's file, which stays the store's; valid until the next call."""
        fd = self._pool.get(ino)
        if fd is not None:
            self._pool.move_to_end(ino)
            return fd
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        fd = self._new_descriptor(lambda: os.open(str(ino), flags, 0o600, dir_fd=self._mount))
        self._pool[ino] = fd
        self._shrink(self._room)
        return fd

    def duplicate(self, ino: int) -> int:
        """Another descriptor of the inode's file, the caller's to close."""
        return self._new_descriptor(lambda: os.dup(self.descriptor(ino)))

    def _new_descriptor(self, make: Callable[[], int]) -> int:
        try:
            return make()
        except OSError as failure:
            if failure.errno not in (errno.EMFILE, errno.ENFILE) or not self.spare():
                raise
            return make()

    def spare(self) -> bool:
        """Close descriptors that can be opened again; False if there are none."""
        had = len(self._pool)
        self._shrink(had // 2)
        return had > 0

    def _shrink(self, size: int) -> None:
        while len(self._pool) > size:
            os.close(self._pool.popitem(last=False)[1])

    def forget(self, ino: int) -> int | None:
        """Unlink the inode's file; returns a descriptor that still holds its pages, to be closed, if any."""
        fd = self._pool.pop(ino, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(str(ino), dir_fd=self._mount)
        return fd


class NativePages:
    """The pages of one file, in the form of `AddressSpace`. Offsets and sizes are bytes, indexes pages."""

    __slots__ = ("_created", "_store", "ino")

    def __init__(self, store: NativeStore, ino: int) -> None:
        self._store = store
        self._created = False
        self.ino = ino

    @property
    def exists(self) -> bool:
        """Whether the file was ever opened or sized; until then it has no file in the store."""
        return self._created

    def fileno(self) -> int:
        """A descriptor, valid until another file's is asked for."""
        fd = self._store.descriptor(self.ino, create=not self._created)
        self._created = True
        return fd

    def status(self) -> os.stat_result:
        """Size, blocks and times as the kernel has them."""
        return os.fstat(self.fileno())

    @property
    def allocated(self) -> int:
        """Pages charged."""
        return self.status().st_blocks * 512 // PAGE_SIZE if self._created else 0

    def runs(self, first: int = 0, end: int = 1 << 63) -> Iterator[Run]:
        """Nothing: the kernel's cache is the store itself, so nothing needs to be cached again."""
        return iter(())

    def holes(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Nothing: the kernel's cache is the store itself, so no hole can be cached uncharged."""
        return iter(())

    def get_pages(self, first: int, end: int, intent: Intent) -> int:
        """Allocate with FALLOC; other intents leave it to the read or write itself. Raises ENOSPC."""
        if intent is Intent.FALLOC and end > first:
            self.allocate(self.fileno(), first, end)
        return 0

    @staticmethod
    def allocate(fd: int, first: int, end: int) -> None:
        """Charge pages and give them memory, all or, with ENOSPC, none."""
        length = (end - first) << PAGE_SHIFT
        syscalls.fallocate(fd, syscalls.FALLOC_FL_KEEP_SIZE, first << PAGE_SHIFT, length)

    def read(self, offset: int, size: int, intent: Intent = Intent.READ) -> bytes:
        """Up to `size` bytes."""
        return os.pread(self.fileno(), size, offset)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Store; returns the bytes stored, raises ENOSPC for none."""
        return os.pwrite(self.fileno(), data, offset)

    def truncate(self, size: int) -> int:
        """Set the size and free what lies behind it, without new times: those are the inode's to say."""
        if not self._created and not size:
            return 0
        fd = self.fileno()
        before = os.fstat(fd)
        os.ftruncate(fd, size)
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        return 0

    def punch(self, offset: int, length: int) -> int:
        """Make a hole."""
        mode = syscalls.FALLOC_FL_KEEP_SIZE | syscalls.FALLOC_FL_PUNCH_HOLE
        syscalls.fallocate(self.fileno(), mode, offset, length)
        return 0

    def seek(self, offset: int, *, data: bool, size: int) -> int:
        """SEEK_DATA or SEEK_HOLE; raises ENXIO."""
        if data or offset >= size:
            return os.lseek(self.fileno(), offset, os.SEEK_DATA if data else os.SEEK_HOLE)
        try:
            found = os.lseek(self.fileno(), offset, os.SEEK_HOLE)
        except (OSError, SystemError):  # which Python may make of a negative answer
            return size
        return found if found >= 0 else size  # mapping_seek_hole_data overflows behind the last page of all

    def later(self, work: Callable[[int], None]) -> Callable[[], None]:
        """Work on a descriptor of its own, which may run in a thread."""
        self.fileno()
        fd = self._store.duplicate(self.ino)

        def run() -> None:
            try:
                work(fd)
            finally:
                os.close(fd)

        return run

    def drop(self, *, much: bool = False) -> None:
        """Give the file up, in a thread if it has many pages, for it takes the kernel long."""
        fd = self._store.forget(self.ino) if self._created else None
        if fd is not None and much:
            self._store.free(lambda: os.close(fd))
        elif fd is not None:
            os.close(fd)

    def settle(self) -> bool:
        """Wait for what other files give back; False if that is nothing."""
        return self._store.settle()
