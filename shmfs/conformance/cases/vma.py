"""What is done to a mapping once there is one: mprotect, mremap, munmap."""

import ctypes
import os
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
def mprotect_of_what_is_not_mapped(d: Path) -> Any:
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


# ---- mremap


def remap(m: Mapping, old: int, size: int, flags: int = MAYMOVE, to: int = 0) -> Any:
    return tried(call, "mremap", m.address, old, size, flags, to)


@case()
def mremap_grows(d: Path) -> Any:
    fd = new("f", b"a" * PAGE + b"b" * PAGE)
    moved = remap(Mapping(fd, PAGE), PAGE, 2 * PAGE)
    return [ctypes.string_at(moved, 1), ctypes.string_at(moved + PAGE, 1)]


@case()
def mremap_grows_behind_the_end(d: Path) -> Any:
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
def munmap_of_what_is_not_mapped(d: Path) -> Any:
    m = mapped_file()
    return [m.unmap(), m.unmap()]


@case()
def an_unmapped_and_unlinked_file_gives_its_pages_back(d: Path) -> Any:
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
def what_proc_maps_tells(d: Path) -> Any:
    """/proc/self/maps: rights, offset and name."""
    m = mapped_file(2)
    line = next(
        line
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.startswith(f"{m.address:x}-")
    )
    rights, offset, _, inode, name = line.split(None, 5)[1:]
    return [rights, offset, int(inode) == os.stat("f").st_ino, name.endswith("/room/f")]
