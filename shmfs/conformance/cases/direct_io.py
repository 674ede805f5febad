"""O_DIRECT: alignment, coherence with cached reads and mappings, and asynchronous requests."""

import ctypes
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, Mapping, blocks, call, child, content, digest, new, tried


def open_direct(flags: int = 0) -> int:
    os.close(new("f", b"x" * 2 * PAGE))
    return os.open("f", os.O_RDWR | os.O_DIRECT | flags)


def aligned(letter: bytes, pages: int = 1) -> mmap.mmap:
    memory = mmap.mmap(-1, pages * PAGE)
    memory[:] = letter * pages * PAGE
    return memory


# ---- alignment


@case()
def o_direct_aligned(d: Path) -> Any:
    fd = open_direct()
    return [os.pwritev(fd, [aligned(b"d")], PAGE), digest(os.pread(fd, 3 * PAGE, 0)), digest(content("f"))]


@case()
def o_direct_unaligned(d: Path) -> Any:
    fd = open_direct()
    return [tried(os.pwrite, fd, b"odd", 5), tried(os.pread, fd, 3, 4), os.pread(fd, 10, 2 * PAGE - 5)]


@case()
def o_direct_of_every_alignment(d: Path) -> Any:
    fd = tried(os.open, "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    if isinstance(fd, str):
        return fd
    aligned = mmap.mmap(-1, 4 * PAGE)
    aligned[:] = b"d" * 4 * PAGE
    seen = [os.pwritev(fd, [memoryview(aligned)[: 2 * PAGE]], 0), tried(os.pwrite, fd, b"odd", 5)]
    seen += [tried(os.preadv, fd, [aligned], 0), tried(os.pread, fd, 10, 3), os.fstat(fd).st_size]
    other = os.open("f", os.O_RDWR)
    mapping = Mapping(other, PAGE)
    mapping.store(b"mapped", 100)
    seen += [
        os.pread(fd, 10, 98),
        os.pwrite(fd, b"direct", 200),
        mapping.load(199, 8),
        Mapping(fd).load(99, 9),
    ]
    return seen


# ---- coherence


@case()
def o_direct_beside_cached(d: Path) -> Any:
    fd = open_direct()
    other = os.open("f", os.O_RDWR)
    seen: list[Any] = [os.pread(other, 3, 0)]
    os.pwritev(fd, [aligned(b"d")], 0)
    seen += [os.pread(other, 3, 0), os.pwrite(other, b"cached", 1), os.pread(fd, 8, 0)]
    return seen


@case()
def o_direct_beside_a_mapping(d: Path) -> Any:
    fd = open_direct()
    m = Mapping(os.open("f", os.O_RDWR), 2 * PAGE)
    seen = [m.load()]
    os.pwritev(fd, [aligned(b"d")], 0)
    seen.append(m.load())
    m.store(b"stored", PAGE)
    return [*seen, os.pread(fd, 6, PAGE)]


@case()
def o_direct_is_mapped(d: Path) -> Any:
    m = Mapping(open_direct(), 2 * PAGE)
    m.store(b"stored")
    return content("f")[:7]


@case()
def o_direct_by_fcntl(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    seen = [tried(fcntl.fcntl, fd, fcntl.F_SETFL, os.O_DIRECT), os.pread(fd, 3, 0), os.pwrite(fd, b"odd", 5)]
    return [*seen, content("f")[:9], bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)]


# ---- asynchronous and partial requests


@case()
def io_submit_completes_requests(d: Path) -> Any:
    """Requests with O_DIRECT are complete when io_submit(2) returns."""
    count, size = 32, 64 << 10
    os.close(new("f", b"x" * size * count))
    fd = os.open("f", os.O_RDWR | os.O_DIRECT)
    context = ctypes.c_ulong()
    call("syscall", "io_setup", count, ctypes.byref(context))
    buffer = mmap.mmap(-1, size * count)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    events = ctypes.create_string_buffer(32 * count)
    seen = []
    for opcode in (0, 1):  # IOCB_CMD_PREAD, IOCB_CMD_PWRITE
        blocks = [
            ctypes.create_string_buffer(
                struct.pack("<QIIHhIQQq16x", 0, 0, 0, opcode, 0, fd, address + n * size, size, n * size), 64
            )
            for n in range(count)
        ]
        pointers = (ctypes.c_void_p * count)(*map(ctypes.addressof, blocks))
        seen.append(call("syscall", "io_submit", context.value, count, pointers))
        no_time = (ctypes.c_long * 2)()
        seen.append(call("syscall", "io_getevents", context.value, 0, count, events, no_time))
    return [seen, buffer[:] == b"x" * size * count]


@case(options="size=64k,nr_inodes=24")
def a_partial_write_then_enospc(d: Path) -> Any:
    fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    big = child(lambda: os.pwrite(os.open("f", os.O_WRONLY | os.O_DIRECT), b"x" * 20 * PAGE, 0))
    return [big, os.fstat(fd).st_size, blocks("f"), tried(os.pwrite, fd, b"x", 16 * PAGE)]
