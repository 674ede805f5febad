"""Shared anonymous memory: mmap(2) with MAP_SHARED|MAP_ANONYMOUS, and of /dev/zero."""

import ctypes
import os
import resource
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.doors import FREE, Doors, areas, door, load, store
from shmfs.conformance.tools import (
    EXEC,
    FIXED,
    FIXED_NOREPLACE,
    LOCKED,
    PAGE,
    POPULATE,
    PRIVATE,
    READ,
    SHARED,
    SHARED_VALIDATE,
    WRITE,
    Channel,
    call,
    child,
    process,
    tried,
)

ANONYMOUS, GROWSDOWN, NORESERVE, HUGETLB, LOW = 0x20, 0x100, 0x4000, 0x40000, 0x40
BOTH = SHARED | ANONYMOUS


def anonymous(
    doors: Doors, pages: int = 1, protection: int = READ | WRITE, more: int = 0, **rest: int
) -> int:
    return doors.map(pages * PAGE, protection, BOTH | more, **rest)


def mapped(doors: Doors, *arguments: Any, **keywords: Any) -> Any:
    """Whether it can be mapped, or the name of its errno."""
    result = tried(doors.map, *arguments, **keywords)
    return result if isinstance(result, str) else "mapped"


@case()
def shared_with_children(d: Path) -> Any:
    doors = door()
    address = anonymous(doors, 4)
    seen = [load(address, 4 * PAGE) == bytes(4 * PAGE)]
    store(address, b"parent")

    def grandchild() -> bytes:
        store(address + 2 * PAGE, b"grandchild")
        return load(address + PAGE, 5)

    def one() -> list[Any]:
        found = [load(address, 6)]
        store(address + PAGE, b"child")
        return [*found, child(grandchild), call("munmap", address, 4 * PAGE)]

    return [*seen, child(one), load(address + PAGE, 5), load(address + 2 * PAGE, 10)]


@case()
def a_store_is_seen_at_once(d: Path) -> Any:
    def other(channel: Channel, address: int) -> None:
        while (order := channel.receive()) != "gone":
            channel.send(load(address, len(order)) == order)
            store(address + PAGE, order[::-1])
            channel.send()

    address = anonymous(door(), 2)
    seen = []
    with process(other, address) as channel:
        for data in (b"first", b"second", b"third"):
            store(address, data)
            channel.send(data)
            seen.append((channel.receive(), channel.receive(), load(address + PAGE, len(data))))
    return seen


@case()
def a_mapping_outlives_its_creator(d: Path) -> Any:
    doors = door()
    address = anonymous(doors)

    def orphan() -> bytes:
        store(address, b"orphan")
        return load(address, 6)

    seen = [child(orphan)]
    other = anonymous(doors)
    return [*seen, load(address, 6), other != address, load(other, 6)]


@case()
def two_mappings_share_nothing(d: Path) -> Any:
    doors = door()
    one, two = anonymous(doors, 2), anonymous(doors, 2)
    store(one, b"one"), store(two, b"two")
    return [load(one, 3), load(two, 3)]


@case()
def bad_arguments(d: Path) -> Any:
    doors = door()
    return {
        "length": [
            mapped(doors, length, READ, BOTH) for length in (0, 1, (1 << 64) - 1, 1 << 63, 1 << 62, 1 << 47)
        ],
        "offset": [mapped(doors, PAGE, READ, BOTH, -1, offset) for offset in (1, PAGE, -PAGE, PAGE - 1)],
        "descriptor": [mapped(doors, PAGE, READ, BOTH, fd) for fd in (0, 5, 999, -7)],
        "kind": [mapped(doors, PAGE, READ, flags | ANONYMOUS) for flags in (0, SHARED_VALIDATE, 7)],
        "stack": mapped(doors, PAGE, READ | WRITE, BOTH | GROWSDOWN),
        "address": [mapped(doors, PAGE, READ, BOTH | FIXED, address=at) for at in (1, FREE + 5, 1 << 62)],
        "hint": mapped(doors, PAGE, READ, BOTH, address=FREE + 5),
    }


@case()
def not_whole_pages(d: Path) -> Any:
    address = door().map(5000, READ | WRITE, BOTH)
    store(address + 2 * PAGE - 1)
    return [load(address + 2 * PAGE - 1), areas(address, address + 1)]


@case()
def at_an_address(d: Path) -> Any:
    doors = door()
    fixed = anonymous(doors, 4, more=FIXED, address=FREE)
    store(fixed + PAGE, b"old")
    over = anonymous(doors, 1, more=FIXED, address=FREE + PAGE)
    seen = [fixed - FREE, over - FREE, load(over, 3)]
    seen += [mapped(doors, PAGE, READ, BOTH | FIXED_NOREPLACE, address=FREE + n * PAGE) for n in (1, 4)]
    return [*seen, anonymous(doors, address=FREE + 64 * PAGE) - FREE, anonymous(doors, more=LOW) < 1 << 32]


@case()
def protection(d: Path) -> Any:
    doors = door()
    nothing, reading = anonymous(doors, 1, 0), anonymous(doors, 1, READ)
    seen = {
        "none": [child(load, nothing), areas(nothing, nothing + 1)],
        "read": [child(store, reading), load(reading), areas(reading, reading + 1)],
    }
    code = anonymous(doors, 1, READ | WRITE | EXEC)
    seen["execute"] = areas(code, code + 1)
    for address in (nothing, reading):
        call("mprotect", address, PAGE, READ | WRITE)
        store(address, b"now")
    call("mprotect", code, PAGE, READ | EXEC)
    seen["later"] = [load(nothing, 3), load(reading, 3), areas(code, code + 1)]
    return seen


@case()
def advice(d: Path) -> Any:
    address = anonymous(door(), 4)
    store(address, b"a" * 4 * PAGE)
    call("madvise", address, PAGE, 4)  # MADV_DONTNEED
    call("madvise", address + PAGE, PAGE, 9)  # MADV_REMOVE
    seen = [load(address), load(address + PAGE), load(address + 2 * PAGE)]
    return [*seen, [tried(call, "madvise", address, PAGE, advice) for advice in (0, 1, 2, 3, 8, 12, 16)]]


@case()
def moved_grown_and_cut(d: Path) -> Any:
    address = anonymous(door(), 4, address=FREE)
    store(address, b"a" * 4 * PAGE)
    call("mremap", address, 4 * PAGE, 6 * PAGE, 0, 0)
    seen = [
        child(load, address + 3 * PAGE),
        child(load, address + 4 * PAGE),
        child(store, address + 5 * PAGE),
    ]
    double = call("mremap", address, 0, 4 * PAGE, 1, 0)
    store(double + PAGE, b"double")
    seen.append(load(address + PAGE, 6))
    call("munmap", address + PAGE, PAGE)
    return [*seen, load(address), child(load, address + PAGE), load(double + PAGE, 6)]


@case()
def dev_zero(d: Path) -> Any:
    doors = door()
    both, reading, writing = (os.open("/dev/zero", flags) for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY))
    shared = doors.map(2 * PAGE, READ | WRITE, SHARED, both)
    store(shared, b"zero")
    private = doors.map(2 * PAGE, READ | WRITE, PRIVATE, both)
    store(private, b"mine")
    only = doors.map(PAGE, READ, SHARED, reading)

    def one() -> bytes:
        store(shared + PAGE, b"child"), store(private, b"kid")
        return load(shared, 4)

    return {
        "shared": [child(one), load(shared + PAGE, 5), areas(shared, shared + 1)],
        "private": load(private, 4),
        "again": load(doors.map(PAGE, READ, SHARED, both), 4),
        "read only": [load(only), child(store, only), tried(call, "mprotect", only, PAGE, READ | WRITE)],
        "refused": [
            mapped(doors, PAGE, READ | WRITE, SHARED, reading),
            mapped(doors, PAGE, WRITE, SHARED, writing),
        ],
        "offset": [mapped(doors, PAGE, READ, SHARED, both, offset) for offset in (1, PAGE, 1 << 40)],
        "closed": mapped(doors, PAGE, READ, SHARED, 999),
    }


@case()
def other_devices_and_files(d: Path) -> Any:
    doors = door()
    seen = []
    for path in ("/dev/null", "/dev/full", "/proc/self/status", "/"):
        fd = os.open(path, os.O_RDONLY)
        seen.append(mapped(doors, PAGE, READ, SHARED, fd))
    Path("f").write_bytes(b"file")
    fd = os.open("f", os.O_RDWR)
    address = doors.map(PAGE, READ | WRITE, SHARED, fd)
    store(address, b"F")
    return [*seen, os.pread(fd, 4, 0), load(doors.map(PAGE, READ, PRIVATE, fd), 4)]


@case()
def more_than_the_available_memory(d: Path) -> Any:
    doors = door()
    refused = mapped(doors, 1 << 46, READ | WRITE, BOTH)
    sparse = doors.map(1 << 40, READ | WRITE, BOTH | NORESERVE)
    store(sparse + (1 << 39), b"sparse")
    return [refused, load(sparse + (1 << 39), 7), child(load, sparse)]


@case()
def resource_limits(d: Path) -> Any:
    doors = door()

    def files() -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        return mapped(doors, PAGE, READ | WRITE, BOTH)

    def size() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        address = anonymous(doors, 4)
        store(address + 3 * PAGE)
        return load(address + 3 * PAGE)

    def memory() -> Any:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return mapped(doors, 1 << 31, READ | WRITE, BOTH)

    def core() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        return mapped(doors, PAGE, READ | WRITE, BOTH | LOCKED)

    return [child(files), child(size), child(memory), child(core), child(core, uid=77, gid=77)]


@case()
def map_populate_and_map_locked(d: Path) -> Any:
    doors = door()
    seen = []
    for more in (POPULATE, LOCKED):
        address = anonymous(doors, 4, more=more)
        vector = (ctypes.c_ubyte * 4)()
        call("mincore", address, 4 * PAGE, vector)
        seen.append([page & 1 for page in vector])
    return seen


@case()
def many(d: Path) -> Any:
    doors = door()
    made = [anonymous(doors) for _ in range(300)]
    for number, address in enumerate(made):
        store(address, number.to_bytes(2, "little"))
    seen = all(load(address, 2) == number.to_bytes(2, "little") for number, address in enumerate(made))
    for address in made:
        call("munmap", address, PAGE)
    return [seen, len(set(made)), len(os.listdir("/proc/self/fd")) < 50]


@case()
def as_another_user(d: Path) -> Any:
    doors = door()

    def other() -> bytes:
        address = anonymous(doors)
        store(address, b"nobody")
        return child(load, address, 6)  # type: ignore[no-any-return]

    return child(other, uid=77, gid=77)


@case()
def name_in_proc_maps(d: Path) -> Any:
    address = anonymous(door())
    lines = Path("/proc/self/maps").read_text().splitlines()
    fields = next(line for line in lines if line.startswith(f"{address:x}-")).split(None, 5)
    return {"rights": fields[1], "offset": fields[2], "name": fields[5].strip()}
