"""Operations on an existing mapping: mprotect, mremap, munmap, mbind, userfaultfd, buffers of io_uring."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    EXEC,
    PAGE,
    PRIVATE,
    READ,
    WRITE,
    Mapping,
    call,
    child,
    content,
    eventually,
    free,
    mapped_file,
    new,
    tried,
)

MAYMOVE, MREMAP_FIXED, DONTUNMAP = 1, 2, 4


# ---- mprotect


@case()
def mprotect_of_a_part(d: Path) -> Any:
    m = mapped_file(3)
    seen = [call("mprotect", m.address + PAGE, PAGE, READ)]
    return [*seen, child(m.store, b"y"), child(m.store, b"y", PAGE), child(m.store, b"y", 2 * PAGE)]


@case()
def mprotect_that_is_not_aligned(d: Path) -> Any:
    m = mapped_file()
    return [tried(call, "mprotect", m.address + 1, PAGE, READ), tried(call, "mprotect", m.address, 1, READ)]


@case()
def mprotect_of_an_unmapped_range(d: Path) -> Any:
    m = mapped_file()
    m.unmap()
    return tried(m.protect, READ)


@case()
def mprotect_with_unknown_bits(d: Path) -> Any:
    return tried(mapped_file().protect, 0x1000)


@case()
def mprotect_to_write_of_a_reader(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    m = Mapping(os.open("f", os.O_RDONLY), PAGE, READ)
    return [
        tried(m.protect, READ | WRITE),
        tried(m.protect, WRITE),
        tried(m.protect, 0),
        tried(m.protect, READ),
    ]


@case()
def mprotect_to_write_of_a_private_mapping_of_a_reader(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    m = Mapping(os.open("f", os.O_RDONLY), PAGE, READ, PRIVATE)
    return [tried(m.protect, READ | WRITE), m.store(b"y"), m.load(), content("f")[:1]]


@case()
def mprotect_to_execute(d: Path) -> Any:
    return tried(mapped_file().protect, READ | EXEC)


@case()
def mprotect_after_the_descriptor_is_closed(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    m = Mapping(fd, PAGE, READ)
    os.close(fd)
    os.chmod("f", 0)
    return [tried(m.protect, READ | WRITE), m.store(b"y"), content("f")[:2]]


@case()
def pkey_mprotect_without_a_key(d: Path) -> Any:
    m = mapped_file()
    return tried(call, "pkey_mprotect", m.address, PAGE, READ, -1)


@case()
def mprotect_of_a_readers_mapping(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    reader = os.open("f", os.O_RDONLY)
    shared, private = Mapping(reader, PAGE, READ), Mapping(reader, PAGE, READ, PRIVATE)
    seen = {
        "shared": tried(shared.protect, READ | WRITE),
        "private": tried(private.protect, READ | WRITE),
        "execute": tried(shared.protect, READ | EXEC),
        "nothing": tried(shared.protect, 0),
        "store": child(shared.store, b"y"),
        "load without right": child(shared.load),
    }
    writable = Mapping(os.open("f", os.O_RDWR), PAGE, READ)
    seen["raised"] = [
        child(writable.store, b"z"),
        tried(writable.protect, READ | WRITE),
        child(writable.store, b"z"),
    ]
    seen["content"] = content("f")[:2]
    return seen


# ---- mremap


def remap(m: Mapping, old: int, size: int, flags: int = MAYMOVE, to: int = 0) -> Any:
    return tried(call, "mremap", m.address, old, size, flags, to)


@case()
def mremap_grows(d: Path) -> Any:
    fd = new("f", b"a" * PAGE + b"b" * PAGE)
    moved = remap(Mapping(fd, PAGE), PAGE, 2 * PAGE)
    return [ctypes.string_at(moved, 1), ctypes.string_at(moved + PAGE, 1)]


@case()
def mremap_grows_beyond_the_end(d: Path) -> Any:
    moved = remap(mapped_file(1), PAGE, 4 * PAGE)
    return [ctypes.string_at(moved, 1), child(ctypes.string_at, moved + PAGE, 1)]


@case()
def mremap_shrinks(d: Path) -> Any:
    m = mapped_file(4)
    return [remap(m, 4 * PAGE, PAGE, 0) == m.address, m.load(), child(m.load, PAGE)]


@case()
def mremap_in_place_without_room(d: Path) -> Any:
    m = mapped_file(4)
    call("mprotect", m.address + PAGE, PAGE, READ)
    return remap(m, PAGE, 2 * PAGE, 0)


@case()
def mremap_of_size_0(d: Path) -> Any:
    m = mapped_file(2)
    again = remap(m, 0, 2 * PAGE)
    ctypes.memmove(again, b"yy", 2)
    return [again != m.address, m.load(0, 3), remap(m, PAGE, 0)]


@case()
def mremap_of_size_0_of_a_private_mapping(d: Path) -> Any:
    return remap(mapped_file(2, flags=PRIVATE), 0, PAGE)


@case()
def mremap_fixed(d: Path) -> Any:
    m = mapped_file(2)
    room = Mapping(os.open("f", os.O_RDWR), 2 * PAGE, READ)
    m.store(b"moved")
    to = remap(m, 2 * PAGE, 2 * PAGE, MAYMOVE | MREMAP_FIXED, room.address)
    return [to == room.address, room.load(0, 5), child(m.load)]


@case()
def mremap_fixed_refused(d: Path) -> Any:
    m = mapped_file(4)
    return [
        remap(m, PAGE, PAGE, MREMAP_FIXED, m.address),
        remap(m, 2 * PAGE, 2 * PAGE, MAYMOVE | MREMAP_FIXED, m.address + PAGE),
        remap(m, PAGE, PAGE, MAYMOVE | MREMAP_FIXED, m.address + 1),
        remap(m, PAGE, PAGE, 8),
        remap(m, PAGE, 2 * PAGE, DONTUNMAP),
        remap(m, PAGE, 2 * PAGE, MAYMOVE | DONTUNMAP),
    ]


@case()
def mremap_dontunmap(d: Path) -> Any:
    m = mapped_file(1)
    m.store(b"y")
    to = remap(m, PAGE, PAGE, MAYMOVE | DONTUNMAP)
    return [ctypes.string_at(to, 2), m.load(0, 2)]


@case()
def mremap_over_the_offset(d: Path) -> Any:
    return remap(mapped_file(1), PAGE, 1 << 62)


@case()
def mremap_of_a_part_keeps_its_offset(d: Path) -> Any:
    fd = new("f", b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
    m = Mapping(fd, 3 * PAGE)
    to = tried(call, "mremap", m.address + PAGE, PAGE, 2 * PAGE, MAYMOVE, 0)
    return [
        ctypes.string_at(to, 1),
        ctypes.string_at(to + PAGE, 1),
        m.load(),
        m.load(2 * PAGE),
        child(m.load, PAGE),
    ]


@case()
def mremap_moves_and_duplicates(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 * PAGE)
    mapping = Mapping(fd, 2 * PAGE)
    mapping.store(b"first")
    moved = call("mremap", mapping.address, 2 * PAGE, 8 * PAGE, 1, 0)
    ctypes.memmove(moved + 7 * PAGE, b"last", 4)
    seen: list[Any] = [os.pread(fd, 5, 0), os.pread(fd, 4, 7 * PAGE), ctypes.string_at(moved, 5)]
    copy = call("mremap", moved, 0, PAGE, 1, 0)  # old size 0: a second mapping of the same pages
    ctypes.memmove(copy, b"FIRST", 5)
    seen += [ctypes.string_at(moved, 5)]
    smaller = call("mremap", moved, 8 * PAGE, PAGE, 0, 0)
    seen += [smaller == moved, child(ctypes.string_at, moved + PAGE, 1)]
    kept = call("mremap", moved, PAGE, PAGE, 1 | 4, 0)  # MREMAP_DONTUNMAP
    seen += [ctypes.string_at(kept, 5), tried(call, "mremap", kept + 1, PAGE, PAGE, 1, 0)]
    return seen


# ---- munmap


@case()
def munmap_of_a_part(d: Path) -> Any:
    m = mapped_file(3)
    m.store(b"kept", 2 * PAGE)
    call("munmap", m.address + PAGE, PAGE)
    return [m.load(), child(m.load, PAGE), m.load(2 * PAGE, 4), content("f")[2 * PAGE :][:4]]


@case()
def munmap_refused(d: Path) -> Any:
    m = mapped_file()
    return [tried(call, "munmap", m.address + 1, PAGE), tried(call, "munmap", m.address, 0), m.load()]


@case()
def munmap_of_an_unmapped_range(d: Path) -> Any:
    m = mapped_file()
    return [m.unmap(), m.unmap()]


@case()
def pages_of_an_unmapped_unlinked_file(d: Path) -> Any:
    before = free()
    fd = new("f", b"x" * 10 * PAGE)
    m = Mapping(fd, 10 * PAGE)
    os.close(fd)
    os.unlink("f")
    held = before[0] - free()[0]
    m.unmap()
    return [held, eventually(free, before) == before]


@case()
def remap_file_pages(d: Path) -> Any:
    fd = new("f", b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
    m = Mapping(fd, 3 * PAGE)
    return [tried(call, "remap_file_pages", m.address, PAGE, 0, 2, 0), m.load(), m.load(PAGE)]


@case()
def proc_maps(d: Path) -> Any:
    """/proc/self/maps: rights, offset and name."""
    m = mapped_file(2)
    line = next(
        line
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.startswith(f"{m.address:x}-")
    )
    rights, offset, _, inode, name = line.split(None, 5)[1:]
    return [rights, offset, int(inode) == os.stat("f").st_ino, name.endswith("/room/f")]


# ---- other users of the pages


@case()
def userfaultfd(d: Path) -> Any:
    """UFFDIO_API and UFFDIO_REGISTER for missing pages."""
    fd = new("f", b"x" * 4096)
    watch = tried(call, "syscall", "userfaultfd", 1)  # UFFD_USER_MODE_ONLY
    if isinstance(watch, str):
        return {"answer": watch}
    call("ioctl", watch, 0xC018AA3F, ctypes.create_string_buffer(struct.pack("QQQ", 0xAA, 0, 0)))
    mapping = Mapping(fd)
    place = ctypes.create_string_buffer(struct.pack("QQQQ", mapping.address, 4096, 1, 0))
    return {"answer": tried(call, "ioctl", watch, 0xC020AA00, place)}


@case()
def io_uring_buffers(d: Path) -> Any:
    """Registration pins the pages (FOLL_LONGTERM)."""
    ring = tried(call, "syscall", "io_uring_setup", 2, ctypes.create_string_buffer(120))
    if isinstance(ring, str):
        return {"shared": ring}
    fd, seen = new("f", b"x" * 4096), {}
    for name, flags in (("shared", 1), ("private", 2)):
        place = struct.pack("QQ", Mapping(fd, flags=flags).address, 4096)
        seen[name] = tried(call, "syscall", "io_uring_register", ring, 0, place, 1)
        tried(call, "syscall", "io_uring_register", ring, 1, 0, 0)
    return seen


@case()
def mbind_of_a_shared_file(d: Path) -> Any:
    """A policy that mbind(2) sets through one shared mapping applies to another."""
    fd = new("f", b"x" * 4096)
    one, other = Mapping(fd), Mapping(fd)
    answer = tried(call, "syscall", "mbind", one.address, 4096, 3, struct.pack("Q", 1), 64, 0)
    policy = ctypes.c_int(-1)
    tried(call, "syscall", "get_mempolicy", ctypes.byref(policy), 0, 0, other.address, 2)  # MPOL_F_ADDR
    return {"set": answer, "of the other": policy.value}
