"""Accounting: which operations charge and free blocks and inodes, and what statfs reports."""

import os
import time
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    blocks,
    child,
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


@case()
def a_read_fault_after_growth(d: Path) -> Any:
    mapping = Mapping(os.open("f", os.O_RDONLY | os.O_CREAT, 0o600), PAGE, 1)
    writer = os.open("f", os.O_WRONLY)  # so that the managed store charges the fault too
    os.truncate("f", 1)
    seen = [os.stat("f").st_size, mapping.load(), blocks("f")]
    os.close(writer)
    return seen


@case()
def a_read_fault_after_growth_without_a_writer(d: Path) -> Any:
    mapping = Mapping(os.open("f", os.O_RDONLY | os.O_CREAT, 0o600), PAGE, 1)
    os.truncate("f", 1)
    size, loaded = os.stat("f").st_size, mapping.load()
    return {"seen": [size, loaded], "blocks": blocks("f")}


@case(options=SMALL)
def names_without_free_blocks(d: Path) -> Any:
    fill_file_system()
    os.mkdir("d")
    os.close(new("d/f"))
    os.symlink("x" * 127, "short")
    seen = [tried(os.symlink, "x" * 128, "long"), os.path.lexists("long"), free()]
    os.truncate("filler", 15 * PAGE)
    return [seen, tried(os.symlink, "x" * 128, "long"), free()]


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
def an_unlinked_open_file(d: Path) -> Any:
    before = os.statvfs(".")
    fd = new("f", b"x" * 3 * PAGE)
    os.unlink("f")
    seen = [figures(before), os.fstat(fd).st_nlink, os.pread(fd, 2, PAGE), os.pwrite(fd, b"y", 7 * PAGE)]
    seen += [figures(before), tried(os.link, f"/proc/self/fd/{fd}", "g", follow_symlinks=True)]
    os.close(fd)
    return [seen, os.listdir(".")]
