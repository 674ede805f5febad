"""fsync(2), syncfs(2), sync_file_range(2) and msync(2)."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, PRIVATE, Mapping, call, content, digest, mapped_file, new, tried

ASYNC, INVALIDATE, MS_SYNC = 1, 2, 4


# ---- descriptors


@case()
def every_call(d: Path) -> Any:
    fd = new("f", b"x" * 10000)
    directory = os.open(".", os.O_RDONLY)
    return {
        "fsync": tried(os.fsync, fd),
        "fdatasync": tried(os.fdatasync, fd),
        "of a reader": tried(os.fsync, os.open("f", os.O_RDONLY)),
        "of a directory": tried(os.fsync, directory),
        "syncfs": tried(call, "syncfs", fd),
        "sync_file_range": tried(call, "sync_file_range", fd, 0, 4096, 7),
        "fadvise": [tried(os.posix_fadvise, fd, 0, 0, advice) for advice in range(6)],
        "readahead": tried(call, "readahead", fd, 0, 8192),
        "content": digest(content("f")),
    }


@case()
def syncfs_and_sync_file_range(d: Path) -> Any:
    fd = new("f", b"x" * 10000)
    m = Mapping(fd)
    m.store(b"y")
    seen = [tried(call, "syncfs", fd), tried(call, "syncfs", os.open(".", os.O_RDONLY))]
    seen += [tried(call, "syncfs", os.open("f", os.O_PATH)), tried(os.fsync, os.open(".", os.O_RDONLY))]
    return [*seen, os.pread(fd, 2, 0), tried(call, "sync_file_range", fd, 0, 0, 7)]


# ---- msync


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
