"""Content of regular files: read, write, resize, allocate, seek. Compare mm/shmem.c."""

import errno
import os
from functools import partial

from shmfs.fs import flags as file_flags
from shmfs.fs.deferred import Deferred, Outcome, failing
from shmfs.fs.directory import Directory
from shmfs.fs.inode import Inode, RegularFile, is_fixed, pages_up_to
from shmfs.fs.superblock import Superblock, error
from shmfs.mm import PAGE_SHIFT, Intent
from shmfs.system.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

MAX_SIZE = (1 << 63) - 1
"""MAX_LFS_FILESIZE."""


def regular(inode: Inode) -> RegularFile:
    """The inode as a regular file; raises EISDIR or EINVAL."""
    if isinstance(inode, RegularFile):
        return inode
    raise error(errno.EISDIR if isinstance(inode, Directory) else errno.EINVAL)


def read(sb: Superblock, inode: RegularFile, offset: int, size: int) -> bytes:
    """Bytes up to the end of the file, for the kernel's page cache. Raises ENOSPC.

    Where somebody may store into the file the kernel's pages may turn dirty without a word, so holes are
    charged now: a full file system then refuses the fault, and never loses a store at writeback. In
    a file that nobody has open for writing they stay holes, and `open_file` tells when to drop them.
    """
    size = max(0, min(size, inode.size - offset))
    if not size:
        return b""
    first, end = offset >> PAGE_SHIFT, pages_up_to(offset + size)
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
    holes = inode.pages.holes(offset >> PAGE_SHIFT, pages_up_to(offset + size))
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
        # With the first page of the write, which can then not fail.
        reserved = _reserve(sb, inode, offset + 1)
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
    else:
        changed = inode.shrink(size)
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
    first, end = old >> PAGE_SHIFT, pages_up_to(size)
    sb.check_machine(end - first)

    def rollback() -> None:
        inode.pages.truncate(old)
        inode.size = old

    return inode.reserve(sb, first, end, rollback)


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
    return inode.fallocate(sb, mode, offset, length)


def seek(inode: RegularFile, offset: int, whence: int) -> int:
    """SEEK_DATA and SEEK_HOLE; raises ENXIO, or EINVAL for another `whence`."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise error(errno.EINVAL)
    if offset < 0:
        raise error(errno.ENXIO)
    return inode.pages.seek(offset, data=whence == os.SEEK_DATA, size=inode.size)
