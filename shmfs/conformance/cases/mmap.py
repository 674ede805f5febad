"""Arguments of mmap(2): length, offset, type, flags and address. Compare mm/mmap.c:do_mmap."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    FIXED,
    FIXED_NOREPLACE,
    PAGE,
    PRIVATE,
    READ,
    SHARED,
    SHARED_VALIDATE,
    SYNC,
    WRITE,
    Mapping,
    child,
    data_file,
    new,
    tried,
    try_map,
    unprivileged,
)

LONG_MAX = (1 << 63) - 1
MAP_DENYWRITE, MAP_EXECUTABLE, MAP_NORESERVE = 0x800, 0x1000, 0x4000
MAP_NONBLOCK, MAP_STACK, MAP_HUGETLB, MAP_GROWSDOWN, MAP_32BIT = 0x10000, 0x20000, 0x40000, 0x100, 0x40
MAP_DROPPABLE = 0x08


# ---- length and offset


@case()
def length_0(d: Path) -> Any:
    return try_map(data_file(), 0)


@case()
def length_of_one_byte(d: Path) -> Any:
    return Mapping(data_file(), 1).load(PAGE - 1)


@case()
def length_that_rounds_up_to_0(d: Path) -> Any:
    return [try_map(data_file(), -1), try_map(os.open("f", os.O_RDWR), -PAGE + 1)]


@case()
def length_over_task_size(d: Path) -> Any:
    return try_map(data_file(), LONG_MAX & -PAGE, READ)


@case()
def length_beyond_the_end(d: Path) -> Any:
    mapping = Mapping(data_file(pages=1), 4 * PAGE)
    return [mapping.load(), child(mapping.load, PAGE), child(mapping.store, b"x", 3 * PAGE)]


@case()
def offset_not_a_multiple_of_the_page_size(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, offset=offset) for offset in (1, 512, PAGE - 1, PAGE + 1)]


@case()
def offset_of_a_page(d: Path) -> Any:
    fd = data_file()
    os.pwrite(fd, b"second", PAGE)
    return Mapping(fd, PAGE, offset=PAGE).load(0, 6)


@case()
def offset_beyond_the_end(d: Path) -> Any:
    mapping = Mapping(data_file(), PAGE, offset=100 * PAGE)
    return [child(mapping.load), child(mapping.store, b"x")]


@case()
def offset_plus_length_overflows(d: Path) -> Any:
    fd = data_file()
    return [
        try_map(fd, 2 * PAGE, READ, SHARED, -PAGE),
        try_map(fd, PAGE, READ, SHARED, -PAGE),
        try_map(fd, 2 * PAGE, READ, SHARED, -2 * PAGE),
    ]


@case()
def offset_over_the_largest_file(d: Path) -> Any:
    """Compare mm/mmap.c:file_mmap_ok, which checks s_maxbytes."""
    fd = data_file()
    return [
        try_map(fd, PAGE, READ, SHARED, LONG_MAX & -PAGE),
        try_map(fd, PAGE, READ, SHARED, (LONG_MAX & -PAGE) - PAGE),
        try_map(fd, 2 * PAGE, READ, SHARED, (LONG_MAX & -PAGE) - PAGE),
    ]


@case()
def offset_of_16_gib(d: Path) -> Any:
    fd = data_file()
    os.ftruncate(fd, (16 << 30) + PAGE)
    mapping = Mapping(fd, PAGE, offset=16 << 30)
    mapping.store(b"far")
    return [os.pread(fd, 3, 16 << 30), os.fstat(fd).st_blocks]


# ---- the type of the mapping


@case()
def neither_shared_nor_private(d: Path) -> Any:
    return try_map(data_file(), PAGE, READ, 0)


@case()
def an_unknown_type(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, READ, kind) for kind in (4, 5, 6, 7, 8, 12, 15)]


@case()
def shared_validate(d: Path) -> Any:
    mapping = Mapping(data_file(), PAGE, READ | WRITE, SHARED_VALIDATE)
    mapping.store(b"y")
    return os.pread(os.open("f", os.O_RDONLY), 2, 0)


@case()
def shared_validate_with_unknown_flags(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, READ, SHARED_VALIDATE | 1 << bit) for bit in (26, 27, 28, 29, 30)]


@case()
def shared_validate_with_map_sync(d: Path) -> Any:
    return try_map(data_file(), PAGE, READ, SHARED_VALIDATE | SYNC)


@case()
def shared_with_unknown_flags(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, READ, SHARED | 1 << bit) for bit in (26, 27, 28, 29, 30)]


@case()
def shared_with_map_sync(d: Path) -> Any:
    return try_map(data_file(), PAGE, READ, SHARED | SYNC)


@case()
def flags_that_are_ignored(d: Path) -> Any:
    fd = data_file()
    flags = MAP_DENYWRITE, MAP_EXECUTABLE, MAP_NORESERVE, MAP_NONBLOCK, MAP_STACK
    return [try_map(fd, PAGE, READ, SHARED | flag) for flag in flags]


@case()
def map_32bit(d: Path) -> Any:
    return Mapping(data_file(), PAGE, READ, SHARED | MAP_32BIT).address < 1 << 32


@case()
def map_hugetlb(d: Path) -> Any:
    """Only hugetlbfs has such files."""
    return try_map(data_file(), 2 << 20, READ, SHARED | MAP_HUGETLB)


@case()
def map_growsdown(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, READ, SHARED | MAP_GROWSDOWN), try_map(fd, PAGE, READ, PRIVATE | MAP_GROWSDOWN)]


@case()
def map_droppable(d: Path) -> Any:
    return try_map(data_file(), PAGE, READ, MAP_DROPPABLE)


# ---- the address


@case()
def map_fixed_that_is_not_aligned(d: Path) -> Any:
    fd = data_file()
    room = Mapping(fd, 2 * PAGE)
    return try_map(fd, PAGE, READ, SHARED | FIXED, 0, room.address + 1)


@case()
def map_fixed_over_a_mapping(d: Path) -> Any:
    fd = data_file()
    os.pwrite(fd, b"y" * PAGE, PAGE)
    room = Mapping(fd, 3 * PAGE)
    over = Mapping(fd, PAGE, READ, SHARED | FIXED, PAGE, room.address)
    return [over.address == room.address, room.load(), room.load(PAGE), room.load(2 * PAGE)]


@case()
def map_fixed_in_the_middle(d: Path) -> Any:
    fd = data_file()
    os.pwrite(fd, b"y" * PAGE, 3 * PAGE)
    room = Mapping(fd, 3 * PAGE)
    Mapping(fd, PAGE, READ, PRIVATE | FIXED, 3 * PAGE, room.address + PAGE)
    return [room.load(), room.load(PAGE), room.load(2 * PAGE)]


@case()
def map_fixed_noreplace(d: Path) -> Any:
    fd = data_file()
    room = Mapping(fd, PAGE)
    taken = try_map(fd, PAGE, READ, SHARED | FIXED_NOREPLACE, 0, room.address)
    room.unmap()
    return [taken, try_map(fd, PAGE, READ, SHARED | FIXED_NOREPLACE, 0, room.address)]


@case()
def map_fixed_at_the_end_of_the_address_space(d: Path) -> Any:
    return try_map(data_file(), PAGE, READ, SHARED | FIXED, 0, 0x7FFF_FFFF_F000)


@case()
def map_fixed_below_mmap_min_addr(d: Path) -> Any:
    fd = data_file()
    return unprivileged(lambda: try_map(fd, PAGE, READ, SHARED | FIXED, 0, 0))


@case()
def an_address_that_is_only_a_hint(d: Path) -> Any:
    fd = data_file()
    room = Mapping(fd, PAGE)
    other = Mapping(fd, PAGE, address=room.address)
    return [other.address != room.address, Mapping(fd, PAGE, address=room.address + 5).address % PAGE]


# ---- limits


@case()
def map_fixed_and_noreplace(d: Path) -> Any:
    fd = new("f", b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
    room = Mapping(fd, 3 * PAGE)
    seen: list[Any] = [tried(Mapping, fd, PAGE, READ, SHARED | FIXED_NOREPLACE, 0, room.address)]
    again = Mapping(fd, PAGE, READ | WRITE, SHARED | FIXED, 2 * PAGE, room.address)
    seen += [again.address == room.address, room.load(0), room.load(PAGE), room.load(2 * PAGE)]
    again.store(b"C")
    seen += [room.load(2 * PAGE), tried(Mapping, fd, PAGE, READ, SHARED | FIXED, 0, room.address + 1)]
    room.unmap()
    seen += [tried(Mapping, fd, PAGE, READ, SHARED | FIXED_NOREPLACE, PAGE, room.address)]
    return [seen, room.load(0)]
