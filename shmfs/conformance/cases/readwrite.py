"""read(2), write(2) and their relatives: flags of preadv2 and pwritev2, vectors, positions, offsets."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    blocks,
    call,
    changes,
    child,
    content,
    digest,
    new,
    preadv_with_flags,
    pwritev_with_flags,
    tried,
)

HIPRI, DSYNC, RWF_SYNC, NOWAIT, ATOMIC, DONTCACHE = 0x1, 0x2, 0x4, 0x8, 0x40, 0x80
LONG_MAX = (1 << 63) - 1


# ---- flags of preadv2 and pwritev2


@case()
def rwf_hipri(d: Path) -> Any:
    return [preadv_with_flags(HIPRI), os.unlink("f"), pwritev_with_flags(HIPRI)]


@case()
def rwf_dsync(d: Path) -> Any:
    return [preadv_with_flags(DSYNC), os.unlink("f"), pwritev_with_flags(DSYNC)]


@case()
def rwf_sync(d: Path) -> Any:
    return [preadv_with_flags(RWF_SYNC), os.unlink("f"), pwritev_with_flags(RWF_SYNC)]


@case()
def rwf_nowait_reads(d: Path) -> Any:
    return preadv_with_flags(NOWAIT)


@case()
def rwf_nowait_writes(d: Path) -> Any:
    return pwritev_with_flags(NOWAIT)


@case()
def rwf_atomic(d: Path) -> Any:
    return [pwritev_with_flags(ATOMIC), os.unlink("f"), preadv_with_flags(ATOMIC)]


@case()
def rwf_dontcache(d: Path) -> Any:
    return [pwritev_with_flags(DONTCACHE), os.unlink("f"), preadv_with_flags(DONTCACHE)]


@case()
def rwf_unknown(d: Path) -> Any:
    return [pwritev_with_flags(1 << 12), os.unlink("f"), preadv_with_flags(1 << 30)]


@case()
def rwf_nowait_atomic_and_unknown(d: Path) -> Any:
    fd = new("f", b"x")
    return {
        "read": tried(os.preadv, fd, [bytearray(1)], 0, os.RWF_NOWAIT),
        "write": tried(os.pwritev, fd, [b"x"], 0, 8),
        "atomic": tried(os.pwritev, fd, [b"x"], 0, 0x40),
        "unknown": tried(os.pwritev, fd, [b"x"], 0, 0x4000),
    }


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
def vectors_at_offsets(d: Path) -> Any:
    fd = new("f")
    parts = [b"x" * 5000, b"", b"y" * 10]
    seen: list[Any] = [
        os.writev(fd, parts),
        os.pwritev(fd, parts, 3),
        os.pwritev(fd, [b"end"], 0, os.RWF_APPEND),
    ]
    buffers = [bytearray(4), bytearray(6000)]
    seen += [os.preadv(fd, buffers, 2), bytes(buffers[0]), digest(bytes(buffers[1]))]
    seen += [os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size]
    seen += [tried(os.pwritev, fd, [b"s"], 0, os.RWF_SYNC), tried(os.pwritev, fd, [b"s"], 0, os.RWF_DSYNC)]
    return seen


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
def bad_offsets(d: Path) -> Any:
    fd = new("f", b"x")
    return {
        "pread": tried(os.pread, fd, 1, -1),
        "pwrite": tried(os.pwrite, fd, b"x", -1),
        "read far": tried(os.pread, fd, 1, LONG_MAX - 1),
        "lseek": tried(os.lseek, fd, -1, os.SEEK_SET),
        "lseek before": tried(os.lseek, fd, -2, os.SEEK_END),
        "lseek far": tried(os.lseek, fd, LONG_MAX, os.SEEK_SET),
        "read there": tried(os.read, fd, 1),
        "write there": tried(os.write, fd, b"x"),
        "lseek over": tried(os.lseek, fd, 1, os.SEEK_CUR),
        "whence": tried(call, "lseek", fd, 0, 77),
        "truncate": tried(os.ftruncate, fd, -1),
        "truncate far": tried(os.ftruncate, fd, LONG_MAX),
        "size": os.fstat(fd).st_size,
    }


@case()
def writes_up_to_the_largest_offset(d: Path) -> Any:
    fd = new("f")
    seen = {
        "last byte": tried(os.pwrite, fd, b"x", LONG_MAX - 1),
        "beyond": tried(os.pwrite, fd, b"x", LONG_MAX),
        "across": tried(os.pwrite, fd, b"xyz", LONG_MAX - 2),
        "size": os.fstat(fd).st_size,
        "blocks": blocks("f"),
        "read": tried(os.pread, fd, 10, LONG_MAX - 2),
    }
    os.ftruncate(fd, 0)
    return seen


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


# ---- synchronous and empty writes


@case()
def o_sync_and_o_dsync(d: Path) -> Any:
    os.close(new("f"))
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_RSYNC):
        fd = os.open("f", os.O_WRONLY | flag)
        os.write(fd, b"x" * 5000)
    return [len(content("f")), blocks("f")]


@case()
def writes_of_nothing_change_no_times(d: Path) -> Any:
    fd = new("f", b"x")
    return [changes(lambda: os.pwrite(fd, b"", 0), f="f"), changes(lambda: os.writev(fd, [b"", b""]), f="f")]
