"""mmap(2): what do_mmap and its kin check, and what a mapping does."""

import ctypes
import mmap
import os
import resource
from pathlib import Path
from typing import Any

from shmfs.conformance import case
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
    WRITE,
    Mapping,
    blocks,
    call,
    child,
    content,
    new,
    tried,
    unprivileged,
)


@case()
def protection_of_a_readers_mapping(d: Path) -> Any:
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


@case(options="size=1m,noexec")
def noexec(d: Path) -> Any:
    fd = new("f", b"x" * PAGE, 0o777)
    mapping = Mapping(fd, PAGE, READ)
    return {
        "map": tried(Mapping, fd, PAGE, READ | EXEC),
        "map private": tried(Mapping, fd, PAGE, READ | EXEC, PRIVATE),
        "mprotect": tried(mapping.protect, READ | EXEC),
        "exec": child(os.execv, "f", ["f"]),
        "access": tried(os.access, "f", os.X_OK),
    }


@case()
def too_many(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    most = int(Path("/proc/sys/vm/max_map_count").read_text())

    def exhaust() -> Any:
        for index in range(most + 10):
            # neighbours with different protection do not merge
            answer = tried(call, "mmap", 0, PAGE, READ if index % 2 else WRITE | READ, SHARED, fd, 0)
            if isinstance(answer, str):
                return answer
        return "no limit"

    return child(exhaust) if most < 200_000 else "too many to try"


@case()
def limits(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 << 20)

    def address_space() -> Any:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), used + (1 << 20)))
        return tried(Mapping, fd, 4 << 20)

    def locked() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (2 * PAGE, 2 * PAGE))
        return {
            "over": unprivileged(Mapping, fd, 16 * PAGE, READ | WRITE, SHARED | LOCKED),
            "under": unprivileged(Mapping, fd, PAGE, READ | WRITE, SHARED | LOCKED),
            "mlock": unprivileged(lambda: call("mlock", Mapping(fd, 16 * PAGE).address, 16 * PAGE)),
        }

    return [child(address_space), child(locked)]


@case()
def fixed(d: Path) -> Any:
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


@case()
def populate(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    os.ftruncate(fd, 8 * PAGE)
    mapping = Mapping(fd, 8 * PAGE, READ | WRITE, SHARED | POPULATE)
    seen = [blocks("f"), mapping.resident()]
    behind = Mapping(fd, 16 * PAGE, READ | WRITE, SHARED | POPULATE)
    return [seen, behind.load(0), child(behind.load, 8 * PAGE)]


@case()
def remap(d: Path) -> Any:
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


@case()
def advice(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    mapping, private = Mapping(fd, 4 * PAGE), Mapping(fd, 4 * PAGE, flags=PRIVATE)
    private.store(b"mine")
    mapping.store(b"ours", PAGE)
    seen: dict[str, Any] = {
        "dontneed": [
            tried(private.advise, 4),
            private.load(0, 4),
            tried(mapping.advise, 4),
            mapping.load(PAGE, 4),
        ],
    }
    names = {
        "normal": 0, "random": 1, "sequential": 2, "willneed": 3, "free": 8, "dontfork": 10, "dofork": 11,
        "mergeable": 12, "hugepage": 14, "nohugepage": 15, "dontdump": 16, "dodump": 17, "wipeonfork": 18,
        "cold": 20, "pageout": 21, "populate_read": 22, "populate_write": 23, "unknown": 77,
    }  # fmt: skip
    for name, number in names.items():
        seen[name] = tried(mapping.advise, number)
    seen["after"] = [mapping.load(0, 4), mapping.load(PAGE, 4), content("f")[PAGE : PAGE + 5]]
    return seen


@case()
def remove(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    return {"answer": tried(mapping.advise, 9, PAGE, PAGE), "load": mapping.load(PAGE), "blocks": blocks("f")}


@case()
def dontfork(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mapping = Mapping(fd)
    mapping.advise(10)
    return [child(mapping.load), mapping.load()]


@case()
def msync(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 2 * PAGE)
    mapping = Mapping(fd, 2 * PAGE)
    mapping.store(b"data", PAGE)
    seen: dict[Any, Any] = {flags: tried(mapping.sync, flags) for flags in range(9)}
    seen["unaligned"] = tried(call, "msync", mapping.address + 1, PAGE, 4)
    mapping.unmap()
    seen["unmapped"] = tried(mapping.sync, 4)
    seen["content"] = os.pread(fd, 4, PAGE)
    return seen


@case()
def lock(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    seen = [call("mlock", mapping.address, 2 * PAGE), mapping.resident()[:2], blocks("f")]
    seen += [tried(mapping.sync, 2), tried(mapping.advise, 4), call("munlock", mapping.address, 4 * PAGE)]
    seen += [tried(call, "mlock2", mapping.address + 2 * PAGE, PAGE, 1), blocks("f")]
    seen += [tried(call, "mlock", Mapping(fd, 8 * PAGE).address, 8 * PAGE)]
    return seen


@case()
def mincore(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    seen = [mapping.resident()]
    mapping.load(2 * PAGE)
    seen.append(mapping.resident())
    os.ftruncate(fd, PAGE)
    seen.append(mapping.resident())
    return [seen, tried(call, "mincore", mapping.address + 1, PAGE, b"x" * 8)]


@case()
def a_hole_that_was_read_and_is_written(d: Path) -> Any:
    """The kernel's page for the hole must not go on being taken for the file's."""
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    os.close(fd)
    reader = os.open("f", os.O_RDONLY)
    view = Mapping(reader, 4 * PAGE, READ)
    seen = [view.load(PAGE, 3), os.pread(reader, 3, 2 * PAGE)]
    writer = os.open("f", os.O_RDWR)
    os.pwrite(writer, b"abc", PAGE)
    seen += [view.load(PAGE, 3)]
    mapping = Mapping(writer, 4 * PAGE)
    mapping.store(b"def", 2 * PAGE)
    mapping.store(b"ghi", 3 * PAGE)
    seen += [view.load(2 * PAGE, 3), os.pread(reader, 3, 3 * PAGE), view.load(3 * PAGE, 3)]
    mapping.unmap()
    os.close(writer)
    return [seen, digest_of("f"), blocks("f")]


def digest_of(path: str) -> list[bytes]:
    data = content(path)
    return [data[i : i + 4] for i in range(0, len(data), PAGE)]


@case()
def after_close_and_unlink(d: Path) -> Any:
    fd = new("f", b"content")
    mapping = Mapping(fd)
    os.unlink("f")
    os.close(fd)
    mapping.store(b"CON")
    other = child(mapping.load, 0, 7)
    child(mapping.store, b"x", 6)
    return [other, mapping.load(0, 8), os.path.exists("f")]


@case()
def stores_reach_the_file(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 300 * PAGE)
    mapping = Mapping(fd, 300 * PAGE)
    for page in range(0, 300, 7):
        mapping.store(str(page).encode(), page * PAGE + 5)
    readable = [os.pread(fd, 3, page * PAGE + 5) for page in range(0, 300, 7)]
    mapping.unmap()
    os.close(fd)
    data = content("f")
    return [readable, [data[page * PAGE + 5 : page * PAGE + 8] for page in range(0, 300, 7)], blocks("f")]


@case()
def pythons_own(d: Path) -> Any:
    with open("f", "w+b") as file:
        file.write(b"0123456789" * 1000)
        file.flush()
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[5:10] = b"abcde"
            mapped.resize(20000)
            mapped[19990:] = b"z" * 10
            seen = [len(mapped), mapped.find(b"cde"), mapped.rfind(b"9"), os.fstat(file.fileno()).st_size]
            mapped.flush()
            mapped.move(0, 19990, 10)
    return [seen, content("f")[:12], len(content("f"))]


@case()
def a_program_is_executed(d: Path) -> Any:
    os.close(new("script", b"#!/bin/sh\nexit 7\n", 0o755))
    Path("true").write_bytes(Path("/bin/sleep").read_bytes())
    os.chmod("true", 0o755)

    def wait(*argv: str) -> int:
        pid = os.posix_spawn(argv[0], list(argv), dict(os.environ))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    seen = [wait("./script"), wait("./true", "0")]
    pid = os.posix_spawn("./true", ["./true", "60"], dict(os.environ))
    busy = [tried(os.open, "true", os.O_RDWR), tried(os.truncate, "true", 0), tried(os.unlink, "true")]
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.chmod("script", 0o644)
    fd = os.open("script", os.O_RDWR)
    os.chmod("script", 0o755)
    return [seen, busy, child(os.execv, "script", ["script"]), os.close(fd)]


@case()
def a_library_is_loaded(d: Path) -> Any:
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    library = next(Path(path) for path in sorted(mapped) if "/libc.so" in path or "/libm" in path)
    Path("lib.so").write_bytes(library.read_bytes())
    return child(lambda: bool(ctypes.CDLL("./lib.so")))
