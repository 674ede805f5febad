"""Full file systems: what fails with ENOSPC, and what a failed call leaves behind."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    KEEP_SIZE,
    PAGE,
    PRIVATE,
    PUNCH,
    RENAME_WHITEOUT,
    Mapping,
    allocate,
    blocks,
    call,
    changes,
    child,
    content,
    digest,
    eventually,
    fill_file_system,
    free,
    new,
    renameat2,
    state,
    tried,
)

SMALL = "size=64k,nr_inodes=16"


# ---- writes


@case(options=SMALL)
def a_partial_write_then_enospc(d: Path) -> Any:
    fd = new("f")
    pattern = bytes(range(256)) * 512
    seen = [os.pwrite(fd, pattern, 100), tried(os.pwrite, fd, b"x", 16 * PAGE), tried(os.write, fd, b"")]
    seen += [os.fstat(fd).st_size, free()]
    seen += [content("f") == bytes(100) + pattern[: 16 * PAGE - 100]]
    seen += [os.pwrite(fd, b"again", 50), tried(os.truncate, "f", PAGE), os.pwrite(fd, pattern, PAGE + 1)]
    return [seen, free()]


@case(options=SMALL)
def a_partial_write(d: Path) -> Any:
    fd = new("f")
    return [
        os.write(fd, b"x" * (20 * PAGE)),
        os.lseek(fd, 0, os.SEEK_CUR),
        tried(os.write, fd, b"x"),
        free()[0],
    ]


@case(options=SMALL)
def a_partial_vector(d: Path) -> Any:
    fd = new("f")
    return [os.writev(fd, [b"a" * 10 * PAGE, b"b" * 10 * PAGE]), content("f").count(b"b")]


@case(options=SMALL)
def an_append_to_a_full_file_system(d: Path) -> Any:
    os.close(new("f", b"x" * (16 * PAGE - 10)))
    fd = os.open("f", os.O_WRONLY | os.O_APPEND)
    return [tried(os.write, fd, b"y" * 20), tried(os.write, fd, b"y"), os.stat("f").st_size]


@case(options=SMALL)
def a_write_over_holes(d: Path) -> Any:
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
def an_empty_write(d: Path) -> Any:
    fd = new("f")
    fill_file_system()
    before = os.fstat(fd)
    seen = [tried(os.write, fd, b""), tried(os.pwrite, fd, b"", 1 << 30), os.fstat(fd).st_size]
    return [seen, os.fstat(fd).st_mtime_ns == before.st_mtime_ns]


@case(options=SMALL)
def empty_writes_at_any_offset(d: Path) -> Any:
    fd = fill_file_system()
    return [tried(os.write, fd, b""), tried(os.pwrite, fd, b"", 1 << 40), tried(os.writev, fd, [b"", b""])]


@case(options=SMALL)
def overwriting(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    fill_file_system()
    m = Mapping(fd, 4 * PAGE)
    m.store(b"mapped")
    return [os.pwrite(fd, b"y" * 100, PAGE - 50), digest(content("f")), tried(os.fsync, fd), tried(m.sync, 4)]


@case(options=SMALL)
def a_write_into_preallocation(d: Path) -> Any:
    fd = new("f")
    seen = [allocate(fd, 0, 0, 4 * PAGE)]
    fill_file_system()
    return [*seen, tried(os.pwrite, fd, b"x" * 4 * PAGE, 0), tried(os.pwrite, fd, b"x", 4 * PAGE), state()]


@case(options=SMALL)
def a_write_into_preallocation_beyond_the_end(d: Path) -> Any:
    fd = new("f")
    seen = [allocate(fd, KEEP_SIZE, 0, 4 * PAGE)]
    fill_file_system()
    return [*seen, tried(os.pwrite, fd, b"x" * 6 * PAGE, PAGE), state(), digest(content("f"))]


# ---- after a failed write


@case(options="size=64k,nr_inodes=24")
def times_after_a_failed_write(d: Path) -> Any:
    os.pwrite(new("filler"), b"x" * 16 * PAGE, 0)
    fd = new("f")
    return changes(lambda: os.pwrite(fd, b"x", 0), f="f")


@case(options="size=64k,nr_inodes=24")
def mapped_data_after_a_failed_write(d: Path) -> Any:
    fd = new("f")
    os.pwrite(fd, b"o" * PAGE, PAGE)
    mapping = Mapping(fd, 2 * PAGE)
    mapping.load(PAGE)
    os.pwrite(new("filler"), b"x" * 15 * PAGE, 0)
    seen = tried(os.pwrite, fd, b"n" * 2 * PAGE, 0)
    return {"answer": seen, "mapped": mapping.load(PAGE), "read": os.pread(fd, 1, PAGE)}


@case(options="size=64k,nr_inodes=24")
def a_failed_write_up_to_the_end(d: Path) -> Any:
    """The last page is not cached, so the kernel holds its lock until the write is answered."""
    os.pwrite(new("f"), b"o" * (PAGE - 1), PAGE)
    fd = os.open("f", os.O_RDWR)
    os.fsync(fd), os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pwrite(new("filler"), b"x" * 15 * PAGE, 0)
    seen = [tried(os.pwrite, fd, b"n" * size, 0) for size in (2 * PAGE - 1, 2 * PAGE - 2)]
    return [*seen, os.pread(fd, 2, PAGE), os.stat("f").st_size]


@case(options="size=64k,nr_inodes=24")
def stores_after_a_failed_write(d: Path) -> Any:
    """Data stored after a failed write is kept; data of the failed write is not."""
    fd = new("f")
    for page in (1, 3, 4):
        os.pwrite(fd, b"o" * PAGE, page * PAGE)
    os.ftruncate(fd, 5 * PAGE - 7)
    mapping = Mapping(fd, 5 * PAGE)
    before = [mapping.load(page * PAGE) for page in (1, 3, 4)]
    os.pwrite(new("filler"), b"x" * 13 * PAGE, 0)
    answers = [tried(os.pwrite, fd, b"n" * 5 * PAGE, 0), tried(os.pwrite, fd, b"n" * 3 * PAGE, PAGE)]
    answers.append(tried(os.pwrite, fd, b"n" * 3 * PAGE, 2 * PAGE))
    for page in (1, 3, 4):
        mapping.store(b"stored", page * PAGE + 50)
    kept = [mapping.load(page * PAGE + 45, 16) for page in (1, 3, 4)]
    mapping.sync(4)
    pages = [os.pread(fd, 60, page * PAGE) for page in (1, 3, 4)]
    return {"before": before, "answers": answers, "mapped": kept, "read": pages, "size": os.fstat(fd).st_size}


# ---- faults and reads


@case(options=SMALL)
def faults(d: Path) -> Any:
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
def system_calls_that_fault(d: Path) -> Any:
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
def a_read_of_a_hole(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    os.close(fd)
    fill_file_system()
    return content("f") == bytes(4 * PAGE)


@case(options=SMALL)
def a_private_copy_of_an_allocated_page(d: Path) -> Any:
    """Private copies are anonymous memory, which the file system does not charge."""
    fd = new("f", b"x" * 4 * PAGE)
    fill_file_system()
    m = Mapping(fd, 4 * PAGE, flags=PRIVATE)
    m.store(b"own", PAGE)
    return [m.load(PAGE, 4), free()[0]]


# ---- holes, truncation, removal


@case(options=SMALL)
def a_punched_hole(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    fill_file_system()
    seen = [allocate(fd, PUNCH, PAGE, PAGE), free()[0], tried(os.pwrite, fd, b"y" * 2 * PAGE, PAGE)]
    return [*seen, free()[0], content("f").count(b"y"), allocate(fd, PUNCH, 100, 100), free()[0]]


@case(options=SMALL)
def a_hole_that_cannot_be_filled(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    allocate(fd, PUNCH, PAGE, PAGE)
    fill_file_system()
    m = Mapping(fd, 4 * PAGE)
    return [tried(os.pwrite, fd, b"y", PAGE + 5), child(m.store, b"y", PAGE), m.load(2 * PAGE)]


@case(options=SMALL)
def truncation(d: Path) -> Any:
    fd = fill_file_system()
    os.ftruncate(fd, 3 * PAGE + 1)
    seen = [free()[0]]
    os.ftruncate(fd, 100 * PAGE)
    return [*seen, free()[0], tried(os.pwrite, fd, b"x" * 13 * PAGE, 50 * PAGE), free()[0]]


@case(options=SMALL)
def removal(d: Path) -> Any:
    os.close(fill_file_system())
    os.mkdir("d"), os.rename("filler", "d/filler"), os.unlink("d/filler"), os.rmdir("d")
    eventually(lambda: free()[0] >= 10, True)  # the last reference may go after unlink has returned
    return [tried(os.close, tried(new, "f", b"x" * 10 * PAGE)), free()[0]]


# ---- inodes


@case(options="size=64k,nr_inodes=6")
def a_whiteout_without_inodes(d: Path) -> Any:
    os.close(new("f", b"x"))
    while isinstance(fd := tried(new, f"filler{free()[1]}"), int):
        os.close(fd)
    seen = [fd, tried(renameat2, "f", "g", RENAME_WHITEOUT), os.path.lexists("f"), os.path.lexists("g")]
    os.unlink(next(name for name in os.listdir(".") if name.startswith("filler")))
    eventually(lambda: free()[1], 1)
    return [*seen, tried(renameat2, "f", "g", RENAME_WHITEOUT), os.path.lexists("f"), content("g")]
