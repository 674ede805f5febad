"""Operations on descriptors."""

import fcntl
import os
import stat
from typing import Any

from tests.differential.actor import (
    Actor,
    Missing,
    call,
    data,
    digest,
    loses_bits,
    operation,
    readable,
    writable,
)
from tests.differential.names import check_chown, chmod_bits, described, nanoseconds

MOST = 1 << 18
"""Bytes that a read asks for at most."""


def open_flags(actor: Actor, flags: int) -> int:
    """The flags to open a file with, which never waits for the other end of a fifo."""
    if "fallocate" in actor.names and actor.masks("failed direct write"):
        flags &= ~os.O_DIRECT
    return flags | os.O_NONBLOCK | os.O_CLOEXEC


@operation
def open_(actor: Actor, slot: int, path: str, flags: int, mode: int) -> str:
    """open(2)."""
    actor.keep(slot, os.open(path, open_flags(actor, flags), mode))
    return "opened"


@operation
def reopen(actor: Actor, slot: int, other: int, flags: int) -> str:
    """Another open of the same inode, which may have lost its name."""
    actor.keep(slot, os.open(f"/proc/self/fd/{actor.fd(other)}", open_flags(actor, flags)))
    return "opened"


@operation
def close(actor: Actor, slot: int) -> None:
    """close(2)."""
    fd = actor.fd(slot)
    del actor.files[slot]
    os.close(fd)


@operation
def dup(actor: Actor, slot: int, other: int) -> None:
    """dup(2)."""
    actor.keep(slot, os.dup(actor.fd(other)))


@operation
def read(actor: Actor, slot: int, size: int) -> Any:
    """read(2)."""
    fd = actor.fd(slot)
    return digest(os.read(fd, readable(actor, fd, None, min(size, MOST))))


@operation
def pread(actor: Actor, slot: int, offset: int, size: int) -> Any:
    """pread(2)."""
    fd = actor.fd(slot)
    return digest(os.pread(fd, readable(actor, fd, offset, min(size, MOST)), offset))


@operation
def preadv(actor: Actor, slot: int, offset: int, sizes: tuple[int, ...]) -> Any:
    """preadv2(2) into as many buffers; -1 is the position of the descriptor."""
    fd = actor.fd(slot)
    room = readable(actor, fd, None if offset == -1 else offset, sum(sizes))
    buffers = []
    for size in sizes:
        buffers.append(bytearray(min(size, room)))
        room -= len(buffers[-1])
    return os.preadv(fd, buffers, offset), digest(b"".join(buffers))


@operation
def write(actor: Actor, slot: int, tag: int, size: int) -> int:
    """write(2)."""
    fd = actor.fd(slot)
    return os.write(fd, data(tag, writable(actor, fd, None, size)))


@operation
def pwrite(actor: Actor, slot: int, offset: int, tag: int, size: int) -> int:
    """pwrite(2)."""
    fd = actor.fd(slot)
    return os.pwrite(fd, data(tag, writable(actor, fd, offset, size)), offset)


@operation
def pwritev(actor: Actor, slot: int, offset: int, tag: int, sizes: tuple[int, ...]) -> int:
    """pwritev(2) from as many buffers."""
    fd = actor.fd(slot)
    room = writable(actor, fd, None if offset == -1 else offset, sum(sizes))
    buffers = []
    for number, size in enumerate(sizes):
        buffers.append(data(tag + number, min(size, room)))
        room -= len(buffers[-1])
    return os.pwritev(fd, buffers, offset)


@operation
def lseek(actor: Actor, slot: int, offset: int, whence: int) -> int:
    """lseek(2)."""
    fd = actor.fd(slot)
    if whence > os.SEEK_CUR and actor.masks("seek in a directory") and stat.S_ISDIR(os.fstat(fd).st_mode):
        raise Missing
    return os.lseek(fd, offset, whence)


@operation
def ftruncate(actor: Actor, slot: int, size: int) -> None:
    """ftruncate(2)."""
    os.ftruncate(actor.fd(slot), size)


@operation
def fallocate(actor: Actor, slot: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2)."""
    fd = actor.fd(slot)
    if actor.masks("failed fallocate of a set-id file") and loses_bits(os.fstat(fd)):
        raise Missing
    return call("fallocate", fd, mode, offset, length)


@operation
def copy_file_range(
    actor: Actor, source: int, target: int, size: int, from_: int | None, to: int | None
) -> int:
    """copy_file_range(2)."""
    return os.copy_file_range(actor.fd(source), actor.fd(target), size, from_, to)


def not_from_the_end(actor: Actor, fd: int, offset: int | None) -> None:
    """Leave out what would read a directory, or a file from its end on, without read(2)."""
    status = os.fstat(fd)
    if actor.masks("empty read") and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        place = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
        if stat.S_ISDIR(status.st_mode) or place >= status.st_size:
            raise Missing


@operation
def sendfile(actor: Actor, target: int, source: int, offset: int | None, size: int) -> int:
    """sendfile(2) from file to file."""
    fd, to = actor.fd(source), actor.fd(target)
    size = readable(actor, fd, offset, size)
    not_from_the_end(actor, fd, offset)
    return os.sendfile(to, fd, offset, writable(actor, to, None, size))


@operation
def splice_out(actor: Actor, slot: int, offset: int, size: int) -> Any:
    """splice(2) from a file into a pipe."""
    fd = actor.fd(slot)
    reader, writer = actor.pipe
    size = readable(actor, fd, offset, min(size, 1 << 15))
    not_from_the_end(actor, fd, offset)
    moved = os.splice(fd, writer, size, offset_src=offset)
    return digest(os.read(reader, moved)) if moved else b""


@operation
def splice_in(actor: Actor, slot: int, offset: int, tag: int, size: int) -> int:
    """splice(2) from a pipe into a file."""
    fd = actor.fd(slot)
    reader, writer = actor.pipe
    size = writable(actor, fd, offset, min(size, 1 << 15))
    if not size:
        return 0
    os.write(writer, data(tag, size))
    left = size
    try:
        moved = os.splice(reader, fd, size, offset_dst=offset)
        left -= moved
        return moved
    finally:
        if left:
            os.read(reader, left)


@operation
def fsync(actor: Actor, slot: int) -> None:
    """fsync(2)."""
    os.fsync(actor.fd(slot))


@operation
def fadvise(actor: Actor, slot: int, offset: int, length: int) -> None:
    """posix_fadvise(2) with POSIX_FADV_DONTNEED, which makes the kernel drop cached pages."""
    os.posix_fadvise(actor.fd(slot), offset, length, os.POSIX_FADV_DONTNEED)


@operation
def fstat(actor: Actor, slot: int) -> Any:
    """fstat(2)."""
    return described(actor, os.fstat(actor.fd(slot)))


@operation
def fchmod(actor: Actor, slot: int, mode: int) -> None:
    """fchmod(2)."""
    os.fchmod(actor.fd(slot), chmod_bits(actor, mode))


@operation
def fchown(actor: Actor, slot: int, uid: int, gid: int) -> None:
    """fchown(2)."""
    fd = actor.fd(slot)
    check_chown(actor, os.fstat(fd), uid, gid)
    os.fchown(fd, uid, gid)


@operation
def futimens(actor: Actor, slot: int, atime: int, mtime: int) -> None:
    """futimens(3)."""
    os.utime(actor.fd(slot), ns=nanoseconds(atime, mtime))


@operation
def flink(actor: Actor, slot: int, path: str) -> None:
    """linkat(2) of what a descriptor refers to, such as a file made with O_TMPFILE."""
    os.link(f"/proc/self/fd/{actor.fd(slot)}", path, follow_symlinks=True)


@operation
def flock(actor: Actor, slot: int, how: int) -> None:
    """flock(2), without waiting."""
    fcntl.flock(actor.fd(slot), how | fcntl.LOCK_NB)


@operation
def lockf(actor: Actor, slot: int, how: int, start: int, length: int) -> None:
    """A POSIX lock, F_SETLK."""
    fcntl.lockf(actor.fd(slot), how if how == fcntl.LOCK_UN else how | fcntl.LOCK_NB, length, start)


@operation
def setfl(actor: Actor, slot: int, flags: int) -> int:
    """fcntl(2) F_SETFL; the flags that are set then."""
    fd = actor.fd(slot)
    if actor.masks("append flag of an open file"):
        flags = flags & ~os.O_APPEND | fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
    fcntl.fcntl(fd, fcntl.F_SETFL, open_flags(actor, flags))
    return fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_DIRECT | os.O_ACCMODE)


@operation
def fgetxattr(actor: Actor, slot: int, name: str) -> Any:
    """fgetxattr(2)."""
    return digest(os.getxattr(actor.fd(slot), name))


@operation
def fsetxattr(actor: Actor, slot: int, name: str, tag: int, size: int, flags: int) -> None:
    """fsetxattr(2)."""
    os.setxattr(actor.fd(slot), name, data(tag, size), flags)
