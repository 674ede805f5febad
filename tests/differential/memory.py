"""Operations on mappings.

Memory is loaded from and stored into by write(2) to a pipe and read(2) from it: the kernel then takes the
fault that the process would have taken, and where that would end in a signal answers EFAULT. Which signal
it would be is told by a child that tries.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from tests.differential.actor import (
    PAGE,
    Actor,
    Missing,
    call,
    data,
    data_end,
    digest,
    is_written,
    loses_bits,
    operation,
    readable,
    writable,
)

SHARED, PRIVATE, POPULATE = 1, 2, 0x8000
READ, WRITE = 1, 2
MREMAP_MAYMOVE = 1
RANDOM, WILLNEED, REMOVE = 1, 3, 9


class Mapping:
    """Memory of a file, and a duplicate of the descriptor, which lives as long as the mapping does anyway."""

    def __init__(self, fd: int, offset: int, length: int, protection: int, flags: int, hint: int) -> None:
        self.address = call("mmap", hint, length, protection, flags, fd, offset)
        self.offset, self.length = offset, -(-length // PAGE) * PAGE
        self.shared = bool(flags & SHARED)
        self.split = False
        """Whether parts of it were treated differently once."""
        self.readable = bool(protection & READ)
        self.writable = bool(protection & WRITE)
        """Whether all of it may be loaded from and stored into, as far as protections go."""
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def unmap(self) -> None:
        """munmap(2)."""
        call("munmap", self.address, self.length)
        os.close(self.fd)


def _place(actor: Actor, slot: int, offset: int, size: int) -> tuple[Mapping, int]:
    """The mapping and the address of a range in it; raises Missing where there is no such range."""
    mapping = actor.mappings.get(slot)
    if mapping is None or not 0 <= offset <= offset + size <= mapping.length:
        raise Missing
    return mapping, mapping.address + offset


def _check_holes(actor: Actor, mapping: Mapping, offset: int, size: int) -> None:
    """Raise Missing for a page that must not be touched ("fault on a hole without a writer")."""
    if not actor.masks("fault on a hole without a writer") or is_written(mapping.fd, unknown=False):
        return
    start = (mapping.offset + offset) // PAGE * PAGE
    end = min(mapping.offset + offset + size, os.fstat(mapping.fd).st_size)
    while start < end:
        if data_end(mapping.fd, start) == start:
            raise Missing
        start += PAGE


def _check_end(actor: Actor, mapping: Mapping, offset: int, size: int) -> None:
    """Raise Missing for a store into the page of the end of the file, behind it ("store behind the end")."""
    if not mapping.shared or not actor.masks("store behind the end"):
        return
    end = os.fstat(mapping.fd).st_size
    if mapping.offset + offset < -(-end // PAGE) * PAGE and mapping.offset + offset + size > end:
        raise Missing


def _in_child(function: Callable[[], Any]) -> str:
    """The signal that ends a child that does this, or "" for none."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):
            function()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ""


def _copy(address: int, content: bytes) -> None:
    """Store it page by page: memmove alone may begin at either end, as the two addresses lie."""
    done = 0
    while done < len(content):
        size = min(len(content) - done, PAGE - (address + done) % PAGE)
        ctypes.memmove(address + done, content[done : done + size], size)
        done += size


def _load(actor: Actor, address: int, size: int) -> Any:
    reader, writer = actor.pipe
    try:
        count = call("write", writer, address, size)
    except OSError as failure:
        if failure.errno != errno.EFAULT:
            raise
        return _in_child(lambda: ctypes.string_at(address, size))
    return digest(os.read(reader, count)) if count else b""


def _is_loadable(actor: Actor, address: int, size: int) -> bool:
    reader, writer = actor.pipe
    try:
        count = call("write", writer, address, size) if size else 0
    except OSError:
        return False
    return not count or len(os.read(reader, count)) == size


def _store(actor: Actor, address: int, content: bytes) -> Any:
    reader, writer = actor.pipe
    left = os.write(writer, content) if content else 0
    try:
        count = call("read", reader, address, left) if left else 0
        left -= count
        return count
    except OSError as failure:
        if failure.errno != errno.EFAULT:
            raise
        return _in_child(lambda: _copy(address, content))
    finally:
        if left:
            os.read(reader, left)


@operation
def mmap(actor: Actor, slot: int, fd_slot: int, offset: int, length: int, protection: int, flags: int) -> str:
    """mmap(2)."""
    fd = actor.fd(fd_slot)
    if flags & POPULATE and actor.masks("populate a full file system"):
        flags = flags if is_written(fd, unknown=False) else flags & ~POPULATE
    hint = next(actor.apart) if actor.masks("time of a merged mapping") else 0
    made = Mapping(fd, offset, length, protection, flags, hint)
    if flags & POPULATE and actor.masks("populate a full file system"):
        os.fstat(fd)
    old = actor.mappings.pop(slot, None)
    actor.mappings[slot] = made
    if old:  # not before: FUSE tells of the space that this frees later, and to populate may take it
        old.unmap()
    return "mapped"


@operation
def munmap(actor: Actor, slot: int) -> None:
    """munmap(2) of all of it."""
    if slot not in actor.mappings:
        raise Missing
    actor.mappings.pop(slot).unmap()


@operation
def load(actor: Actor, slot: int, offset: int, size: int) -> Any:
    """Load from memory: what is there, or the signal that this ends with."""
    mapping, address = _place(actor, slot, offset, size)
    _check_holes(actor, mapping, offset, size)
    return _load(actor, address, size)


@operation
def store(actor: Actor, slot: int, offset: int, tag: int, size: int) -> Any:
    """Store into memory: how much was stored, or the signal."""
    mapping, address = _place(actor, slot, offset, size)
    _check_holes(actor, mapping, offset, size)
    _check_end(actor, mapping, offset, size)
    return _store(actor, address, data(tag, size))


@operation
def touch(actor: Actor, slot: int, first: int, count: int) -> Any:
    """Load a byte of each of some pages."""
    seen = []
    for page in range(first, first + count):
        mapping, address = _place(actor, slot, page * PAGE, 1)
        _check_holes(actor, mapping, page * PAGE, 1)
        seen.append(_load(actor, address, 1))
    return seen


@operation
def fork_store(actor: Actor, slot: int, offset: int, tag: int, size: int) -> str:
    """Store from a child that has inherited the mapping, and ends."""
    mapping, address = _place(actor, slot, offset, size)
    _check_holes(actor, mapping, offset, size)
    _check_end(actor, mapping, offset, size)
    content = data(tag, size)
    return _in_child(lambda: _copy(address, content))


@operation
def pread_into(actor: Actor, fd_slot: int, place: int, slot: int, offset: int, size: int) -> int:
    """pread(2) into memory that may be of the same file."""
    fd = actor.fd(fd_slot)
    mapping, address = _place(actor, slot, offset, size)
    _check_holes(actor, mapping, offset, size)
    _check_end(actor, mapping, offset, size)
    if actor.masks("read into bad memory"):
        copied = not mapping.shared and place + size > os.fstat(fd).st_size
        if copied or not (mapping.writable and _is_loadable(actor, address, size)):
            raise Missing
    return call("pread", fd, address, readable(actor, fd, place, size), place)


@operation
def pwrite_from(actor: Actor, fd_slot: int, place: int, slot: int, offset: int, size: int) -> int:
    """pwrite(2) from memory that may be of the same file."""
    mapping, address = _place(actor, slot, offset, size)
    _check_holes(actor, mapping, offset, size)
    if actor.masks("write from bad memory") and not (mapping.readable and _is_loadable(actor, address, size)):
        raise Missing
    fd = actor.fd(fd_slot)
    return call("pwrite", fd, address, writable(actor, fd, place, size), place)


@operation
def msync(actor: Actor, slot: int, flags: int) -> int:
    """msync(2)."""
    mapping, address = _place(actor, slot, 0, 0)
    return call("msync", address, mapping.length, flags)


@operation
def mprotect(actor: Actor, slot: int, offset: int, length: int, protection: int) -> int:
    """mprotect(2) of a part."""
    mapping, address = _place(actor, slot, offset, length)
    mapping.split = True
    mapping.readable &= bool(protection & READ)
    mapping.writable &= bool(protection & WRITE)
    return call("mprotect", address, length, protection)


@operation
def madvise(actor: Actor, slot: int, offset: int, length: int, advice: int) -> int:
    """madvise(2) of a part."""
    if advice == WILLNEED and actor.masks("read-ahead"):
        raise Missing
    mapping, address = _place(actor, slot, offset, length)
    if advice == REMOVE and actor.masks("MADV_REMOVE of a set-id file") and loses_bits(os.fstat(mapping.fd)):
        raise Missing
    mapping.split |= advice == RANDOM
    return call("madvise", address, length, advice)


@operation
def mremap(actor: Actor, slot: int, length: int) -> str:
    """mremap(2), which may move it."""
    mapping, address = _place(actor, slot, 0, 0)
    if mapping.split and actor.masks("mremap of what was split"):
        raise Missing
    mapping.address = call("mremap", address, mapping.length, length, MREMAP_MAYMOVE)
    mapping.length = -(-length // PAGE) * PAGE
    return "mapped"
