"""Blocks and inodes: what is charged, what is refused, what comes back."""

import os
import time
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    blocks,
    call,
    child,
    content,
    eventually,
    fill_file_system,
    free,
    new,
    tried,
)

SMALL = "size=64k,nr_inodes=16"


def figures(before: os.statvfs_result) -> list[int]:
    """How statfs has changed, once it no longer does: FUSE tells of the end of an inode by itself."""
    after, same = os.statvfs("."), 0
    while same < 3:
        time.sleep(0.003)
        last, after = after, os.statvfs(".")
        same = same + 1 if after == last else 0
    return [
        getattr(after, name) - getattr(before, name) for name in ("f_blocks", "f_bfree", "f_files", "f_ffree")
    ]


@case(options="size=16m,nr_inodes=2k")
def statfs(d: Path) -> Any:
    names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
    result = os.statvfs(d)
    return {name: getattr(result, name) for name in (*names, "f_namemax", "f_flag")}


@case(options="")
def statfs_of_the_defaults(d: Path) -> Any:
    return statfs(d)


@case(options="size=0,nr_inodes=0")
def statfs_without_limits(d: Path) -> Any:
    os.write(new("a"), b"x" * 10000)
    return statfs(d)


@case(options="nr_blocks=33,nr_inodes=5")
def statfs_of_nr_blocks(d: Path) -> Any:
    return statfs(d)


@case(options="size=10001")
def statfs_of_an_odd_size(d: Path) -> Any:
    return statfs(d)


@case()
def blocks_follow_allocation(d: Path) -> Any:
    before = os.statvfs(".")
    fd = new("f")
    seen: list[Any] = [blocks("f")]
    for offset, size in ((0, 1), (PAGE - 1, 2), (10 * PAGE, 1), (10 * PAGE, PAGE), (3 * PAGE + 5, 3 * PAGE)):
        os.pwrite(fd, b"x" * size, offset)
        seen.append(blocks("f"))
    for size in (20 * PAGE, 5 * PAGE + 1, 5 * PAGE, PAGE, 1, 0):
        os.ftruncate(fd, size)
        seen.append(blocks("f"))
    os.ftruncate(fd, 1 << 40)
    seen.append(blocks("f"))
    os.pwrite(fd, b"x", 1 << 39)
    seen += [blocks("f"), figures(before)]
    os.unlink("f")
    seen.append(figures(before))
    os.close(fd)
    return [seen, eventually(lambda: figures(before), [0, 0, 0, 0])]


@case()
def reading_a_hole_takes_nothing(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 * PAGE)
    os.close(fd)
    fd = os.open("f", os.O_RDONLY)
    data = os.read(fd, 8 * PAGE)
    return [data == bytes(8 * PAGE), blocks("f")]


@case()
def reading_a_hole_of_a_writer(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 * PAGE)
    data = os.read(fd, 8 * PAGE)
    return {"zeros": data == bytes(8 * PAGE), "blocks": blocks("f")}


@case()
def a_fault_takes_a_page(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 64 * PAGE)
    shared, private = Mapping(fd, 64 * PAGE), Mapping(fd, 64 * PAGE, flags=2)
    seen = [blocks("f")]
    for mapping, offset in ((shared, 0), (shared, 40 * PAGE), (private, 50 * PAGE), (private, 0)):
        mapping.load(offset)
        seen.append(blocks("f"))
    shared.store(b"x", 20 * PAGE)
    seen.append(blocks("f"))
    private.store(b"x", 30 * PAGE)
    seen.append(blocks("f"))
    return seen


@case()
def a_read_fault_of_a_reader(d: Path) -> Any:
    os.ftruncate(new("f"), 8 * PAGE)
    readonly = child(lambda: [Mapping(os.open("f", os.O_RDONLY), 8 * PAGE, 1).load(PAGE), blocks("f")])
    return {"with a writer": readonly}


@case()
def a_read_fault_without_a_writer(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 * PAGE)
    os.close(fd)
    Mapping(os.open("f", os.O_RDONLY), 8 * PAGE, 1).load(PAGE)
    return {"blocks": blocks("f")}


@case(options=SMALL)
def a_write_is_partial_then_refused(d: Path) -> Any:
    fd = new("f")
    pattern = bytes(range(256)) * 512
    seen = [os.pwrite(fd, pattern, 100), tried(os.pwrite, fd, b"x", 16 * PAGE), tried(os.write, fd, b"")]
    seen += [os.fstat(fd).st_size, free()]
    seen += [content("f") == bytes(100) + pattern[: 16 * PAGE - 100]]
    seen += [os.pwrite(fd, b"again", 50), tried(os.truncate, "f", PAGE), os.pwrite(fd, pattern, PAGE + 1)]
    return [seen, free()]


@case(options=SMALL)
def a_write_over_holes_in_a_full_file_system(d: Path) -> Any:
    fd = new("f")
    for index in (0, 2, 4, 6):
        os.pwrite(fd, b"x" * PAGE, index * PAGE)
    os.ftruncate(fd, 10 * PAGE)
    filler = fill_file_system()
    os.ftruncate(filler, os.fstat(filler).st_size - PAGE)
    seen = [tried(os.pwrite, fd, b"y" * 10 * PAGE, 0), tried(os.pwrite, fd, b"z" * PAGE, 5 * PAGE)]
    parts = [os.pread(fd, PAGE, index * PAGE) for index in (0, 1, 2, 4, 6)]
    return {"seen": seen, "parts": parts, "blocks": blocks("f"), "free": free(), "hole": tried(content, "f")}


@case(options=SMALL)
def an_empty_write_in_a_full_file_system(d: Path) -> Any:
    fd = new("f")
    fill_file_system()
    before = os.fstat(fd)
    seen = [tried(os.write, fd, b""), tried(os.pwrite, fd, b"", 1 << 30), os.fstat(fd).st_size]
    return [seen, os.fstat(fd).st_mtime_ns == before.st_mtime_ns]


@case(options=SMALL)
def names_are_free_of_blocks(d: Path) -> Any:
    fill_file_system()
    os.mkdir("d")
    os.close(new("d/f"))
    os.symlink("x" * 127, "short")
    seen = [tried(os.symlink, "x" * 128, "long"), os.path.lexists("long"), free()]
    os.truncate("filler", 15 * PAGE)
    return [seen, tried(os.symlink, "x" * 128, "long"), free()]


@case(options=SMALL)
def a_fault_in_a_full_file_system(d: Path) -> Any:
    fd = new("f", b"kept")
    os.ftruncate(fd, 4 * PAGE)
    filler = fill_file_system()
    mapping, private = Mapping(fd, 4 * PAGE), Mapping(fd, 4 * PAGE, flags=2)
    seen: dict[str, Any] = {
        "allocated": child(mapping.load, 0, 4),
        "load": child(mapping.load, PAGE),
        "store": child(mapping.store, b"x", PAGE),
        "private": child(private.load, 2 * PAGE),
    }
    os.ftruncate(filler, PAGE)
    seen["after"] = [child(mapping.load, PAGE), child(mapping.store, b"x", PAGE)]
    seen["content"] = os.pread(fd, PAGE + 1, 0)
    os.ftruncate(filler, 0)
    seen["free"] = free()
    return seen


@case(options=SMALL)
def read_of_a_hole_in_a_full_file_system(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    os.close(fd)
    fill_file_system()
    return content("f") == bytes(4 * PAGE)


@case(options=SMALL)
def a_system_call_into_a_fault_in_a_full_file_system(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    fill_file_system()
    mapping = Mapping(fd, 4 * PAGE)
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    return [
        tried(lambda: _read_into(reader, mapping.address + PAGE, 3)),
        tried(lambda: _write_from(writer, mapping.address + PAGE, 3)),
    ]


def _read_into(fd: int, address: int, size: int) -> int:
    return call("read", fd, address, size)


def _write_from(fd: int, address: int, size: int) -> int:
    return call("write", fd, address, size)


@case(options=SMALL)
def inodes_are_charged(d: Path) -> Any:
    before = os.statvfs(".")
    steps = [
        lambda: os.close(new("f")),
        lambda: os.mkdir("d"),
        lambda: os.symlink("f", "s"),
        lambda: os.mkfifo("p"),
        lambda: os.link("f", "d/g"),
        lambda: os.link("s", "t", follow_symlinks=False),
        lambda: os.rename("f", "d/h"),
        lambda: os.rename("d/h", "d/g"),
        lambda: os.rename("s", "p"),
        lambda: os.unlink("d/g"),
        lambda: os.unlink("t"),
    ]
    seen = []
    for step in steps:
        seen.append((tried(step), figures(before)))  # noqa: PERF401  each looks at what the last has left
    return seen


@case(options=SMALL)
def inodes_run_out(d: Path) -> Any:
    room = free()[1]
    os.close(new("first"))
    seen = [tried(os.close, tried(new, f"f{i}")) for i in range(room - 1)]
    full = {
        "create": tried(new, "x"),
        "mkdir": tried(os.mkdir, "x"),
        "symlink": tried(os.symlink, "a", "x"),
        "mkfifo": tried(os.mkfifo, "x"),
        "link": tried(os.link, "first", "x"),
        "rename": tried(os.rename, "f0", "f1"),
        "free": eventually(free, (16, 1)),
        "names": sorted(os.listdir(".")),
    }
    return [seen, full, tried(new, "y") != "ENOSPC", tried(os.link, "first", "z"), free()]


@case()
def an_unlinked_file_keeps_what_it_has(d: Path) -> Any:
    before = os.statvfs(".")
    fd = new("f", b"x" * 3 * PAGE)
    os.unlink("f")
    seen = [figures(before), os.fstat(fd).st_nlink, os.pread(fd, 2, PAGE), os.pwrite(fd, b"y", 7 * PAGE)]
    seen += [figures(before), tried(os.link, f"/proc/self/fd/{fd}", "g", follow_symlinks=True)]
    os.close(fd)
    return [seen, os.listdir(".")]
