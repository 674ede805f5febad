"""The page cache: mincore(2), cachestat(2) and posix_fadvise(2)."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, READ, Mapping, blocks, call, new, tried, unprivileged


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
def mincore_after_a_write(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    os.pwrite(fd, b"x", PAGE)
    return Mapping(fd, 4 * PAGE).resident()


@case()
def mincore_without_write_permission(d: Path) -> Any:
    """All pages are reported resident. Compare mm/mincore.c:can_do_mincore."""
    os.close(new("f", b"x" * PAGE, 0o644))
    os.truncate("f", 4 * PAGE)
    os.chmod("f", 0o644)
    return unprivileged(lambda: Mapping(os.open("f", os.O_RDONLY), 4 * PAGE, READ).resident())


@case()
def mincore_beyond_the_end(d: Path) -> Any:
    return Mapping(new("f", b"x"), 3 * PAGE).resident()[1:]


@case()
def cachestat(d: Path) -> Any:
    fd = new("f", b"x" * 4 * 4096)
    counts = ctypes.create_string_buffer(40)
    return {
        "answer": tried(call, "syscall", "cachestat", fd, struct.pack("<QQ", 4096, 2 * 4096), counts, 0),
        "cached": struct.unpack_from("<Q", counts)[0],
        "flags": tried(call, "syscall", "cachestat", fd, struct.pack("<QQ", 0, 0), counts, 1),
    }


@case()
def fadvise_willneed_of_holes(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 * PAGE)
    return [tried(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_WILLNEED), blocks("f")]
