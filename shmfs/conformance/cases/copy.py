"""copy_file_range(2)."""

import os
import zlib
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    call,
    changes,
    content,
    digest,
    free,
    mode,
    new,
    state,
    tried,
    unprivileged,
)

SMALL = "size=256k,nr_inodes=16"


@case()
def overlaps_and_errors(d: Path) -> Any:
    source, sink = new("a", bytes(range(256)) * 64), new("b", b"#" * 100)
    copy = os.copy_file_range
    seen = [copy(source, sink, 5000, 10, 50), digest(content("b")), copy(source, sink, 1 << 20, 16000, 0)]
    seen += [tried(copy, source, sink, 10, 1 << 20, 0), tried(copy, source, source, 100, 0, 8192)]
    seen += [tried(copy, source, source, 100, 0, 50), digest(content("a"))]
    outside = os.memfd_create("outside")
    os.write(outside, b"outside" * 100)
    seen += [tried(copy, outside, sink, 100, 0, 0), tried(copy, source, outside, 100, 0, 0)]
    seen += [tried(copy, os.open("a", os.O_WRONLY), sink, 10, 0, 0)]
    seen += [tried(copy, source, os.open("b", os.O_WRONLY | os.O_APPEND), 10, 0)]
    seen += [tried(copy, os.open(".", os.O_RDONLY), sink, 10, 0), content("b")[:8]]
    return seen


@case()
def ranges_and_positions(d: Path) -> Any:
    source = new("source", bytes(range(256)) * 100)
    os.ftruncate(source, 100 * PAGE)
    target = new("target", b"t" * 100)
    seen: list[Any] = []
    for length, start, to in (
        (100, 0, 0),
        (0, 0, 0),
        (5000, 25000, 7),
        (10 * PAGE, 3 * PAGE, 50 * PAGE),
        (1 << 40, 99 * PAGE, 0),
        (10, 100 * PAGE, 0),
        (10, 1 << 50, 0),
        (10, 0, 1 << 50),
    ):
        copied = tried(os.copy_file_range, source, target, length, start, to)
        seen.append((length, copied, os.stat("target").st_size, hash_of(target)))
        os.ftruncate(target, min(os.stat("target").st_size, 60 * PAGE))
    same = new("same", b"abcdefgh" * 1000)
    seen += [
        tried(os.copy_file_range, same, same, 100, start, to) for start, to in ((0, 50), (0, 100), (0, 0))
    ]
    seen.append(content("same")[:300])
    position = os.lseek(source, 5, os.SEEK_SET), os.lseek(target, 9, os.SEEK_SET)
    seen += [position, os.copy_file_range(source, target, 20)]
    seen += [os.lseek(source, 0, os.SEEK_CUR), os.lseek(target, 0, os.SEEK_CUR), content("target")[:40]]
    seen.append(tried(os.copy_file_range, os.open("target", os.O_WRONLY), target, 5, 0, 0))
    seen.append(tried(os.copy_file_range, source, os.open("target", os.O_RDONLY), 5, 0, 0))
    seen.append(tried(os.copy_file_range, source, os.open("target", os.O_WRONLY | os.O_APPEND), 5, 0, 0))
    os.chmod("target", 0o6777), os.chmod("source", 0o777)
    unprivileged(lambda: os.copy_file_range(os.open("source", 0), os.open("target", os.O_WRONLY), 5, 0, 0))
    return [seen, mode("target")]


def hash_of(fd: int) -> int:

    return zlib.crc32(os.pread(fd, 1 << 20, 0))


@case()
def errors(d: Path) -> Any:
    fd, other = new("f", b"x" * 100), new("g")
    os.mkfifo("p")
    return [
        tried(call, "copy_file_range", fd, 0, other, 0, 10, 1),
        tried(os.copy_file_range, fd, os.open("p", os.O_RDWR), 10),
        tried(os.copy_file_range, os.open(".", os.O_RDONLY), other, 10),
        tried(os.copy_file_range, fd, fd, 50, 0, 20),
        tried(os.copy_file_range, fd, other, 10, (1 << 63) - 5),
        tried(os.copy_file_range, fd, other, 10, 100),
    ]


@case(options=SMALL)
def a_copy_fills_the_file_system(d: Path) -> Any:
    source, target = new("source", b"s" * 40 * PAGE), new("target")
    m = Mapping(source, 40 * PAGE)
    m.store(b"mapped", 3 * PAGE)
    first = tried(os.copy_file_range, source, target, 40 * PAGE, 0, 0)
    second = tried(os.copy_file_range, source, target, PAGE, 0, 30 * PAGE)
    return [first, second, free()[0], state("target"), os.pread(target, 6, 3 * PAGE)]


@case(options="size=64k")
def times_of_a_failed_copy(d: Path) -> Any:
    fd, target = new("full", bytes(64 << 10)), new("f")
    os.stat("f")
    return changes(lambda: os.copy_file_range(fd, target, 1, 0, 0), f="f")
