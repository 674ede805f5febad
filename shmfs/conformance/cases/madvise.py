"""madvise(2)."""

import os
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
)

MADV_NORMAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE = 0, 3, 4, 8, 9
MADV_WIPEONFORK, MADV_COLD, MADV_PAGEOUT, POPULATE_READ, POPULATE_WRITE = 18, 20, 21, 22, 23
MADV_DONTNEED_LOCKED, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 24, 102, 103
MADV_KEEPONFORK = 19


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
def madv_remove_of_a_page(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    return {"answer": tried(mapping.advise, 9, PAGE, PAGE), "load": mapping.load(PAGE), "blocks": blocks("f")}


@case()
def madv_remove_beyond_the_end(d: Path) -> Any:
    fd = new("f")
    call("fallocate", fd, 1, 0, 4 * PAGE)
    mapping = Mapping(fd, 2 * PAGE)
    return [blocks("f"), mapping.advise(9), blocks("f")]


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
def madv_populate_beyond_the_end(d: Path) -> Any:
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
def madvise_of_an_unmapped_range(d: Path) -> Any:
    m = mapped_file()
    m.unmap()
    return [tried(m.advise, number) for number in (MADV_NORMAL, MADV_WILLNEED, MADV_DONTNEED, MADV_REMOVE)]


@case()
def every_advice(d: Path) -> Any:
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
def madv_dontfork(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mapping = Mapping(fd)
    mapping.advise(10)
    return [child(mapping.load), mapping.load()]
