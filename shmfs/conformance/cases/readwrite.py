"""The ways to read and write: flags of preadv2 and pwritev2, O_DIRECT, O_SYNC, O_APPEND, offsets, vectors."""

import ctypes
import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    blocks,
    call,
    changes,
    child,
    content,
    digest,
    mode,
    new,
    opened,
    tried,
    unprivileged,
)

HIPRI, DSYNC, RWF_SYNC, NOWAIT, APPEND, NOAPPEND, ATOMIC, DONTCACHE = (1 << bit for bit in range(8))
LONG_MAX = (1 << 63) - 1


def aligned(letter: bytes, pages: int = 1) -> mmap.mmap:
    memory = mmap.mmap(-1, pages * PAGE)
    memory[:] = letter * pages * PAGE
    return memory


# ---- flags of preadv2 and pwritev2


def read_with(flags: int) -> Any:
    return tried(os.preadv, new("f", b"content"), [bytearray(4)], 0, flags)


def write_with(flags: int) -> Any:
    return [tried(os.pwritev, new("f", b"content"), [b"NEW"], 0, flags), content("f")]


@case()
def rwf_hipri(d: Path) -> Any:
    return [read_with(HIPRI), os.unlink("f"), write_with(HIPRI)]


@case()
def rwf_dsync(d: Path) -> Any:
    return [read_with(DSYNC), os.unlink("f"), write_with(DSYNC)]


@case()
def rwf_sync(d: Path) -> Any:
    return [read_with(RWF_SYNC), os.unlink("f"), write_with(RWF_SYNC)]


@case()
def rwf_nowait_reads(d: Path) -> Any:
    return read_with(NOWAIT)


@case()
def rwf_nowait_writes(d: Path) -> Any:
    return write_with(NOWAIT)


@case()
def rwf_append(d: Path) -> Any:
    return [write_with(APPEND), os.unlink("f"), read_with(APPEND)]


@case()
def rwf_append_moves_no_position(d: Path) -> Any:
    fd = new("f", b"content")
    os.lseek(fd, 3, os.SEEK_SET)
    return [os.pwritev(fd, [b"!"], -1, APPEND), os.lseek(fd, 0, os.SEEK_CUR), content("f")]


@case()
def rwf_noappend(d: Path) -> Any:
    os.close(new("f", b"content"))
    fd = os.open("f", os.O_RDWR | os.O_APPEND)
    return [tried(os.pwritev, fd, [b"NEW"], 0, NOAPPEND), content("f")]


@case()
def rwf_atomic(d: Path) -> Any:
    return [write_with(ATOMIC), os.unlink("f"), read_with(ATOMIC)]


@case()
def rwf_dontcache(d: Path) -> Any:
    return [write_with(DONTCACHE), os.unlink("f"), read_with(DONTCACHE)]


@case()
def rwf_unknown(d: Path) -> Any:
    return [write_with(1 << 12), os.unlink("f"), read_with(1 << 30)]


# ---- vectors


@case()
def vectors_of_many_parts(d: Path) -> Any:
    fd = new("f")
    parts = [bytes([65 + index % 26]) * (index % 97) for index in range(1000)]
    written = os.writev(fd, parts)
    buffers = [bytearray(index % 53) for index in range(1000)]
    read = os.preadv(fd, buffers, 0)
    return [written, content("f") == b"".join(parts), read, b"".join(buffers)[:read] == content("f")[:read]]


@case()
def vectors_of_too_many_parts(d: Path) -> Any:
    fd = new("f")
    return [
        tried(os.writev, fd, [b"x"] * 1025),
        tried(os.readv, fd, [bytearray(1)] * 1025),
        tried(os.writev, fd, []),
    ]


@case()
def more_than_2_gib_at_once(d: Path) -> Any:
    """rw_verify_area: cut to MAX_RW_COUNT."""
    fd = new("f", b"content")
    memory = mmap.mmap(-1, 4 * PAGE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return [tried(call, "pread", fd, at, LONG_MAX, 0), tried(call, "pread", fd, at, -1, 0)]


# ---- offsets


@case()
def seeks(d: Path) -> Any:
    fd = new("f", b"0123456789")
    return [
        os.lseek(fd, 5, os.SEEK_SET),
        os.read(fd, 2),
        os.lseek(fd, -3, os.SEEK_CUR),
        os.lseek(fd, 5, os.SEEK_END),
        os.read(fd, 1),
        os.write(fd, b"x"),
        content("f"),
        tried(os.lseek, fd, -100, os.SEEK_CUR),
        os.lseek(fd, 0, os.SEEK_CUR),
    ]


@case()
def a_position_is_shared_over_dup_and_fork(d: Path) -> Any:
    fd = new("f", b"0123456789")
    os.lseek(fd, 0, os.SEEK_SET)
    again = os.dup(fd)
    return [os.read(fd, 2), os.read(again, 2), child(os.read, fd, 2), os.read(fd, 2)]


@case()
def largest_offsets(d: Path) -> Any:
    fd = new("f")
    return [
        tried(os.pread, fd, 1, LONG_MAX),
        tried(os.pwrite, fd, b"x", LONG_MAX),
        tried(os.pwrite, fd, b"xx", LONG_MAX - 1),
        os.fstat(fd).st_size,
        tried(os.ftruncate, fd, LONG_MAX),
        tried(os.lseek, fd, 0, os.SEEK_END),
        tried(os.write, fd, b"x"),
        tried(os.lseek, fd, 1, os.SEEK_END),
    ]


@case()
def a_sparse_file_of_16_gib(d: Path) -> Any:
    fd = new("f")
    os.pwrite(fd, b"end", (16 << 30) - 3)
    os.pwrite(fd, b"middle", 8 << 30)
    seen = [os.fstat(fd).st_size, blocks("f"), os.pread(fd, 6, 8 << 30), os.pread(fd, 5, (16 << 30) - 5)]
    os.ftruncate(fd, (8 << 30) + 3)
    return [*seen, blocks("f"), os.pread(fd, 100, 8 << 30)]


@case()
def reads_at_the_end(d: Path) -> Any:
    fd = new("f", b"x" * (PAGE + 10))
    places = (
        (0, 1),
        (PAGE, PAGE),
        (PAGE + 9, 5),
        (PAGE + 10, 5),
        (PAGE + 11, 5),
        (10 * PAGE, 1),
        (PAGE - 1, 100),
    )
    return [len(os.pread(fd, size, at)) for at, size in places]


@case()
def a_read_across_holes(d: Path) -> Any:
    fd = new("f", b"a" * 100)
    os.pwrite(fd, b"b" * 100, 3 * PAGE - 50)
    os.pwrite(fd, b"c", 6 * PAGE)
    return [digest(os.pread(fd, 10 * PAGE, 0)), digest(os.pread(fd, 3 * PAGE, 99)), os.fstat(fd).st_size]


# ---- ways to open


def direct(flags: int = 0) -> int:
    os.close(new("f", b"x" * 2 * PAGE))
    return os.open("f", os.O_RDWR | os.O_DIRECT | flags)


@case()
def o_direct_aligned(d: Path) -> Any:
    fd = direct()
    return [os.pwritev(fd, [aligned(b"d")], PAGE), digest(os.pread(fd, 3 * PAGE, 0)), digest(content("f"))]


@case()
def o_direct_unaligned(d: Path) -> Any:
    fd = direct()
    return [tried(os.pwrite, fd, b"odd", 5), tried(os.pread, fd, 3, 4), os.pread(fd, 10, 2 * PAGE - 5)]


@case()
def o_direct_beside_cached(d: Path) -> Any:
    fd = direct()
    other = os.open("f", os.O_RDWR)
    seen: list[Any] = [os.pread(other, 3, 0)]
    os.pwritev(fd, [aligned(b"d")], 0)
    seen += [os.pread(other, 3, 0), os.pwrite(other, b"cached", 1), os.pread(fd, 8, 0)]
    return seen


@case()
def o_direct_beside_a_mapping(d: Path) -> Any:
    fd = direct()
    m = Mapping(os.open("f", os.O_RDWR), 2 * PAGE)
    seen = [m.load()]
    os.pwritev(fd, [aligned(b"d")], 0)
    seen.append(m.load())
    m.store(b"stored", PAGE)
    return [*seen, os.pread(fd, 6, PAGE)]


@case()
def o_direct_is_mapped(d: Path) -> Any:
    m = Mapping(direct(), 2 * PAGE)
    m.store(b"stored")
    return content("f")[:7]


@case()
def o_direct_by_fcntl(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    seen = [tried(fcntl.fcntl, fd, fcntl.F_SETFL, os.O_DIRECT), os.pread(fd, 3, 0), os.pwrite(fd, b"odd", 5)]
    return [*seen, content("f")[:9], bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)]


@case()
def o_sync_and_o_dsync(d: Path) -> Any:
    os.close(new("f"))
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_RSYNC):
        fd = os.open("f", os.O_WRONLY | flag)
        os.write(fd, b"x" * 5000)
    return [len(content("f")), blocks("f")]


@case()
def o_append_by_fcntl(d: Path) -> Any:
    fd = new("f", b"content")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return [os.pwrite(fd, b"!", 0), content("f")]


@case()
def o_append_of_several(d: Path) -> Any:
    fds = [os.open("f", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    for index in range(30):
        os.write(fds[index % 3], b"%02d" % index)
    return content("f")


@case()
def o_trunc_keeps_others_open(d: Path) -> Any:
    fd = new("f", b"content")
    m = Mapping(fd)
    os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
    return [os.pread(fd, 10, 0), child(m.load), os.pwrite(fd, b"end", 10), content("f"), m.load(10, 3)]


@case()
def o_noatime_is_for_the_owner(d: Path) -> Any:
    os.close(new("f", mode=0o644))
    return [opened("f", os.O_RDONLY | os.O_NOATIME), unprivileged(opened, "f", os.O_RDONLY | os.O_NOATIME)]


@case()
def o_creat_without_rights(d: Path) -> Any:
    """The descriptor may do what the new file's mode forbids."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0)
    return [os.write(fd, b"x"), mode("f"), unprivileged(opened, "f", os.O_RDONLY)]


# ---- limits


@case()
def writes_of_nothing_change_no_times(d: Path) -> Any:
    fd = new("f", b"x")
    return [changes(lambda: os.pwrite(fd, b"", 0), f="f"), changes(lambda: os.writev(fd, [b"", b""]), f="f")]
