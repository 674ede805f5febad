"""Content of regular files: read, write, resize, allocate, seek. Compare mm/shmem.c."""

import errno
import os
from collections.abc import Callable
from functools import partial

from shmfs.fs import flags as file_flags
from shmfs.fs.deferred import Deferred, Outcome, failing
from shmfs.fs.directory import Directory
from shmfs.fs.inode import Inode, RegularFile, is_fixed
from shmfs.fs.native import NativeFile
from shmfs.fs.superblock import Superblock, error
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE, Intent
from shmfs.mm.native import BIG
from shmfs.system import syscalls

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
MAX_SIZE = (1 << 63) - 1
"""MAX_LFS_FILESIZE."""


def regular(inode: Inode) -> RegularFile:
    """The inode as a regular file; raises EISDIR or EINVAL."""
    if isinstance(inode, RegularFile):
        return inode
    raise error(errno.EISDIR if isinstance(inode, Directory) else errno.EINVAL)


def _pages_up_to(size: int) -> int:
    return (size + PAGE_SIZE - 1) >> PAGE_SHIFT


def open_file(inode: RegularFile, flags: int) -> bool:
    """Count an open; returns whether the kernel may keep the pages that it has.

    It may not where it holds zero pages for holes that were never charged and the file is now opened for
    writing: a store into such a page could not be refused any more.
    """
    inode.opens += 1
    if flags & os.O_ACCMODE == os.O_RDONLY:
        return True
    inode.writers += 1
    keep, inode.holes_cached = not inode.holes_cached, False
    return keep


def release(inode: RegularFile, flags: int) -> None:
    """Count the end of an open: the last descriptor and the last mapping of it are gone."""
    inode.opens -= 1
    if flags & os.O_ACCMODE != os.O_RDONLY:
        inode.writers -= 1


def read(sb: Superblock, inode: RegularFile, offset: int, size: int) -> bytes:
    """Bytes up to the end of the file, for the kernel's page cache. Raises ENOSPC.

    Where somebody may store into the file the kernel's pages may turn dirty without a word, so holes are
    charged now: a full file system then refuses the fault, and never loses a store at writeback. In
    a file that nobody has open for writing they stay holes, and `open_file` tells when to drop them.
    """
    size = max(0, min(size, inode.size - offset))
    if not size:
        return b""
    first, end = offset >> PAGE_SHIFT, _pages_up_to(offset + size)
    if inode.writers:
        data = inode.pages.read(offset, size, Intent.CACHE)
    else:
        inode.holes_cached = inode.holes_cached or any(inode.pages.holes(first, end))
        data = inode.pages.read(offset, size, Intent.READ)
    if "page_in" in sb.instruments:
        sb.instruments.call("page_in", inode.ino, first, end - first)
    return data


def charges(inode: RegularFile, offset: int, size: int) -> int:
    """How many pages `read` would charge for the kernel's page cache."""
    size = max(0, min(size, inode.size - offset))
    if not size or not inode.writers:
        return 0
    holes = inode.pages.holes(offset >> PAGE_SHIFT, _pages_up_to(offset + size))
    return sum(end - first for first, end in holes)


def write(sb: Superblock, inode: RegularFile, offset: int, data: bytes | memoryview) -> Outcome[int]:
    """Store; returns the bytes stored, fewer at the limit.

    Raises ENOSPC for none, EFBIG past the end, EPERM past that of a file of fixed size.
    """
    if not data:
        return 0
    if offset + len(data) > MAX_SIZE:
        raise error(errno.EFBIG)
    if is_fixed(inode) and offset + len(data) > inode.size:
        raise error(errno.EPERM)
    inode.touch(sb.clock())  # also where there is no room (file_update_time comes first)
    reserved: Outcome[None] = None
    if offset > inode.size and sb.options.reserve != "lazy":
        reserved = _reserve(
            sb, inode, offset + 1
        )  # with the first page of the write, which can then not fail
    try:
        stored = inode.pages.write(offset, data)
    except OSError as failure:
        if reserved is None:
            raise
        return Deferred(reserved.work, failing(failure), reserved.rollback)
    inode.refresh()  # a native file has grown by itself, and setting its size would free what lies behind it
    inode.size = max(inode.size, offset + stored)
    if reserved is None:
        return stored
    return Deferred(reserved.work, partial(int, stored), reserved.rollback)


def held(inode: RegularFile, first: int, end: int) -> list[tuple[int, bytes]]:
    """What there is of the pages from `first` to `end`, without holes, up to the size: offsets and data."""
    runs = [(run.first << PAGE_SHIFT, run.length << PAGE_SHIFT) for run in inode.pages.runs(first, end)]
    return [(offset, inode.pages.read(offset, min(length, inode.size - offset))) for offset, length in runs]


def resize(sb: Superblock, inode: RegularFile, size: int, *, times: bool = False) -> Outcome[None]:
    """Set the size in bytes; `times` asks for new times even where it stays the same (ftruncate).

    Compare shmem_setattr. Raises EFBIG, and with reserve=strict or prefault ENOSPC; then nothing changed.
    """
    if not 0 <= size <= MAX_SIZE:
        raise error(errno.EFBIG if size > 0 else errno.EINVAL)
    old = inode.size
    # shmem_truncate_range changes the times as soon as there are pages, whatever it has to free.
    times = times or size != old or inode.allocated > 0
    changed: Outcome[None] = None
    if not times:
        return changed
    if size > old:
        if sb.options.reserve != "lazy":
            changed = _reserve(sb, inode, size)
    elif isinstance(inode, NativeFile) and old - size >= BIG * PAGE_SIZE:
        changed = Deferred(inode.truncate_later(size), inode.look)
    else:
        inode.pages.truncate(size)
    inode.size = size
    inode.touch(sb.clock())
    return changed


def set_initial_size(sb: Superblock, inode: RegularFile, size: int, *, reserve: bool) -> Outcome[None]:
    """Give a new file its size; `reserve` charges all of it, as reserve=strict does. Raises ENOSPC."""
    charged = _reserve(sb, inode, size) if reserve else None
    inode.size = size
    return charged


def _reserve(sb: Superblock, inode: RegularFile, size: int) -> Outcome[None]:
    """Charge all that lies between the end of the file and `size`, so that no touch of it can fail."""
    old = inode.size
    first, end = old >> PAGE_SHIFT, _pages_up_to(size)
    _check_machine(sb, end - first)

    def rollback() -> None:
        inode.pages.truncate(old)
        inode.size = old

    if isinstance(inode, NativeFile):
        pages = inode.pages
        return _allocate_native(
            sb, inode, first, end - first, lambda fd: pages.allocate(fd, first, end), rollback
        )
    inode.pages.get_pages(first, end, Intent.FALLOC)
    if sb.options.reserve == "prefault":
        return Deferred(inode.pages.populate(first, end), lambda: None, rollback)
    return None


def _check_machine(sb: Superblock, count: int) -> None:
    """Without a limit refuse (ENOSPC) what the machine can never hold. Compare __vm_enough_memory.

    Native pages would be allocated until the OOM killer comes; managed ones take a byte each before that.
    """
    if not sb.blocks.limit and count > os.sysconf("SC_PHYS_PAGES"):
        raise error(errno.ENOSPC)


def fallocate(sb: Superblock, inode: RegularFile, mode: int, offset: int, length: int) -> Outcome[None]:
    """Allocate or punch. Compare shmem_fallocate: it rolls back wholly on failure.

    Raises EINVAL, EFBIG, EOPNOTSUPP for modes that tmpfs does not have, ENOSPC, EPERM past a fixed size.
    """
    if offset < 0 or length <= 0:
        raise error(errno.EINVAL)
    if mode not in (0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
        raise error(errno.EOPNOTSUPP)
    end = offset + length
    if end > MAX_SIZE:
        raise error(errno.EFBIG)
    file_flags.refuse(inode, file_flags.FS_IMMUTABLE_FL)
    if is_fixed(inode) and not mode & FALLOC_FL_PUNCH_HOLE and end > inode.size:
        raise error(errno.EPERM)
    if mode & ~FALLOC_FL_KEEP_SIZE:
        file_flags.refuse(inode, file_flags.FS_APPEND_FL)
    if isinstance(inode, NativeFile):
        return _fallocate_native(sb, inode, mode, offset, length)
    if mode & FALLOC_FL_PUNCH_HOLE:
        inode.pages.punch(offset, length)
        if sb.options.reserve != "lazy":  # what was promised stays promised
            stop = min(_pages_up_to(end), _pages_up_to(inode.size))
            inode.pages.get_pages(offset >> PAGE_SHIFT, stop, Intent.FALLOC)
    else:
        first, stop = offset >> PAGE_SHIFT, _pages_up_to(end)
        if sb.options.reserve != "lazy" and not mode & FALLOC_FL_KEEP_SIZE and end > inode.size:
            first = min(first, inode.size >> PAGE_SHIFT)
        if sb.blocks.limit and stop - first > sb.blocks.limit:
            sb.store.refused(inode.ino, first, stop - first)
            raise error(errno.ENOSPC)
        _check_machine(sb, stop - first)
        inode.pages.get_pages(first, stop, Intent.FALLOC)
        if not mode & FALLOC_FL_KEEP_SIZE:
            inode.size = max(inode.size, end)
    inode.touch(sb.clock())
    return None


def _fallocate_native(
    sb: Superblock, inode: NativeFile, mode: int, offset: int, length: int
) -> Outcome[None]:
    promised = min(offset + length, inode.size) if sb.options.reserve != "lazy" else 0

    def work(fd: int) -> None:
        syscalls.fallocate(fd, mode, offset, length)
        if mode & FALLOC_FL_PUNCH_HOLE and promised > offset:  # what was promised stays promised
            syscalls.fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, promised - offset)

    first = offset >> PAGE_SHIFT
    return _allocate_native(sb, inode, first, _pages_up_to(offset + length) - first, work, lambda: None)


def _allocate_native(
    sb: Superblock,
    inode: NativeFile,
    first: int,
    count: int,
    work: Callable[[int], None],
    rollback: Callable[[], None],
) -> Outcome[None]:
    """Have the kernel charge `count` pages from `first` on, a great many later; emits `refuse` for ENOSPC."""
    refused = False

    def watched(fd: int) -> None:
        nonlocal refused
        try:
            try:
                work(fd)
            except OSError as failure:
                if failure.errno != errno.ENOSPC or not inode.pages.settle():
                    raise
                work(fd)  # which another file's pages stood in the way of that were just removed
        except OSError as failure:
            refused = failure.errno == errno.ENOSPC
            raise

    def fail() -> None:
        if refused:
            sb.store.refused(inode.ino, first, count)
        rollback()

    if count >= BIG:
        return Deferred(inode.pages.later(watched), inode.look, fail)
    try:
        watched(inode.pages.fileno())
    except OSError:
        fail()
        raise
    return None


def seek(inode: RegularFile, offset: int, whence: int) -> int:
    """SEEK_DATA and SEEK_HOLE; raises ENXIO, or EINVAL for another `whence`."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise error(errno.EINVAL)
    if offset < 0:
        raise error(errno.ENXIO)
    return inode.pages.seek(offset, data=whence == os.SEEK_DATA, size=inode.size)
