"""Advice about mappings, and their pages in memory: madvise, msync, mincore, mlock."""

import os
import resource
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    PRIVATE,
    READ,
    Mapping,
    blocks,
    call,
    changes,
    child,
    content,
    mapped_file,
    mapped_hole,
    new,
    tried,
    unprivileged,
)

ASYNC, INVALIDATE, MS_SYNC = 1, 2, 4
MADV_NORMAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE = 0, 3, 4, 8, 9
MADV_WIPEONFORK, MADV_COLD, MADV_PAGEOUT, POPULATE_READ, POPULATE_WRITE = 18, 20, 21, 22, 23
MADV_DONTNEED_LOCKED, MADV_COLLAPSE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 24, 25, 102, 103
MADV_HWPOISON, MADV_SOFT_OFFLINE, MADV_KEEPONFORK = 100, 101, 19


# ---- madvise


def advised(number: int, m: Mapping | None = None) -> Any:
    m = m or mapped_file()
    m.store(b"y", PAGE)
    return [tried(m.advise, number), m.load(), m.load(PAGE, 2), blocks("f")]


@case()
def madv_dontneed_of_a_shared_mapping(d: Path) -> Any:
    return advised(MADV_DONTNEED)


@case()
def madv_dontneed_of_a_private_mapping(d: Path) -> Any:
    return advised(MADV_DONTNEED, mapped_file(flags=PRIVATE))


@case()
def madv_free(d: Path) -> Any:
    return advised(MADV_FREE)


@case()
def madv_remove(d: Path) -> Any:
    m = mapped_file()
    return [
        tried(m.advise, MADV_REMOVE, PAGE, 2 * PAGE),
        m.load(),
        m.load(PAGE),
        blocks("f"),
        content("f").count(0),
    ]


@case()
def madv_remove_of_a_private_mapping(d: Path) -> Any:
    return tried(mapped_file(flags=PRIVATE).advise, MADV_REMOVE)


@case()
def madv_remove_of_a_reader(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    return tried(Mapping(os.open("f", os.O_RDONLY), PAGE, READ).advise, MADV_REMOVE)


@case()
def madv_remove_changes_times(d: Path) -> Any:
    m = mapped_file()
    return changes(lambda: m.advise(MADV_REMOVE, 0, PAGE), f="f")


@case()
def madv_willneed(d: Path) -> Any:
    return advised(MADV_WILLNEED)


@case()
def madv_willneed_of_a_hole_allocates_nothing(d: Path) -> Any:
    m = mapped_hole()
    seen = [tried(m.advise, MADV_WILLNEED, 0, PAGE), blocks("f")]
    return [*seen, tried(m.advise, MADV_WILLNEED), blocks("f")]


@case()
def madv_populate_read_of_holes(d: Path) -> Any:
    m = mapped_hole()
    return [tried(m.advise, POPULATE_READ), blocks("f"), m.resident()]


@case()
def madv_populate_write_of_holes(d: Path) -> Any:
    m = mapped_hole()
    return [tried(m.advise, POPULATE_WRITE), blocks("f"), m.resident()]


@case()
def madv_populate_write_of_a_private_mapping(d: Path) -> Any:
    m = mapped_hole(flags=PRIVATE)
    return [tried(m.advise, POPULATE_WRITE), content("f") == bytes(4 * PAGE)]


@case()
def madv_populate_behind_the_end(d: Path) -> Any:
    m = Mapping(new("f", b"x"), 2 * PAGE)
    return [tried(m.advise, POPULATE_READ), tried(m.advise, POPULATE_WRITE)]


@case()
def madv_populate_write_of_a_reader(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    return tried(Mapping(os.open("f", os.O_RDONLY), PAGE, READ).advise, POPULATE_WRITE)


@case()
def madv_pageout_keeps_the_data(d: Path) -> Any:
    return [advised(MADV_PAGEOUT)[1:], tried(Mapping(os.open("f", os.O_RDWR), PAGE).advise, MADV_COLD)]


@case()
def madv_wipeonfork(d: Path) -> Any:
    """Only for private anonymous memory."""
    m = mapped_file()
    return [tried(m.advise, MADV_WIPEONFORK), tried(m.advise, MADV_KEEPONFORK)]


@case()
def madv_dontneed_locked(d: Path) -> Any:
    m = mapped_file()
    call("mlock", m.address, PAGE)
    return [tried(m.advise, MADV_DONTNEED), tried(m.advise, MADV_DONTNEED_LOCKED), m.load()]


@case()
def madv_guard(d: Path) -> Any:
    m = mapped_file()
    seen = [tried(m.advise, MADV_GUARD_INSTALL, PAGE, PAGE), child(m.load, PAGE), child(m.load)]
    return [*seen, tried(m.advise, MADV_GUARD_REMOVE, PAGE, PAGE), child(m.load, PAGE)]


@case()
def madvise_that_is_not_aligned(d: Path) -> Any:
    m = mapped_file()
    return [tried(m.advise, MADV_NORMAL, 1, PAGE), tried(call, "madvise", m.address, 0, MADV_NORMAL)]


@case()
def madvise_of_what_is_not_mapped(d: Path) -> Any:
    m = mapped_file()
    m.unmap()
    return [tried(m.advise, number) for number in (MADV_NORMAL, MADV_WILLNEED, MADV_DONTNEED, MADV_REMOVE)]


# ---- msync


@case()
def msync_flags(d: Path) -> Any:
    m = mapped_file()
    return [tried(m.sync, flags) for flags in range(10)]


@case()
def msync_with_a_hole_between(d: Path) -> Any:
    m = mapped_file(3)
    call("munmap", m.address + PAGE, PAGE)
    return [tried(m.sync, flags) for flags in (ASYNC, MS_SYNC)]


@case()
def msync_of_a_locked_mapping(d: Path) -> Any:
    m = mapped_file()
    call("mlock", m.address, PAGE)
    return [tried(m.sync, flags) for flags in (INVALIDATE, MS_SYNC | INVALIDATE, MS_SYNC)]


@case()
def msync_invalidate_keeps_stores(d: Path) -> Any:
    m = mapped_file()
    m.store(b"kept")
    return [tried(m.sync, MS_SYNC | INVALIDATE), m.load(0, 4), content("f")[:4]]


@case()
def msync_of_a_private_mapping(d: Path) -> Any:
    m = mapped_file(flags=PRIVATE)
    m.store(b"own")
    return [tried(m.sync, MS_SYNC), content("f")[:3], m.load(0, 3)]


# ---- mincore, mlock


@case()
def mincore_after_a_write(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    os.pwrite(fd, b"x", PAGE)
    return Mapping(fd, 4 * PAGE).resident()


@case()
def mincore_of_another_who_may_not_write(d: Path) -> Any:
    """can_do_mincore: all is said to be there."""
    os.close(new("f", b"x" * PAGE, 0o644))
    os.truncate("f", 4 * PAGE)
    os.chmod("f", 0o644)
    return unprivileged(lambda: Mapping(os.open("f", os.O_RDONLY), 4 * PAGE, READ).resident())


@case()
def mincore_behind_the_end(d: Path) -> Any:
    return Mapping(new("f", b"x"), 3 * PAGE).resident()[1:]


@case()
def mlock_of_holes_allocates(d: Path) -> Any:
    m = mapped_hole()
    return [tried(call, "mlock", m.address, 2 * PAGE), blocks("f")]


@case()
def mlock_of_a_reader_of_data(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    return tried(call, "mlock", Mapping(os.open("f", os.O_RDONLY), PAGE, READ).address, PAGE)


@case()
def mlock_onfault(d: Path) -> Any:
    m = mapped_hole()
    return [tried(call, "mlock2", m.address, 4 * PAGE, 1), blocks("f"), m.load(PAGE), blocks("f")]


@case()
def mlock_behind_the_end(d: Path) -> Any:
    return tried(call, "mlock", Mapping(new("f", b"x"), 3 * PAGE).address, 3 * PAGE)


@case()
def mlock_over_the_limit(d: Path) -> Any:
    m = mapped_file()

    def limited() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (2 * PAGE, 2 * PAGE))
        return unprivileged(lambda: [tried(call, "mlock", m.address, n * PAGE) for n in (1, 2, 4)])

    return child(limited)


@case()
def mlockall(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)

    def locked() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, resource.getrlimit(resource.RLIMIT_MEMLOCK))
        answer = tried(call, "mlockall", 2)
        Mapping(fd, 4 * PAGE)
        return [answer, blocks("f"), tried(call, "munlockall")]

    return child(locked)


# ---- beyond the end


@case()
def madv_remove_beyond_the_end(d: Path) -> Any:
    fd = new("f")
    call("fallocate", fd, 1, 0, 4 * PAGE)
    mapping = Mapping(fd, 2 * PAGE)
    return [blocks("f"), mapping.advise(9), blocks("f")]
