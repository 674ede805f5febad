"""Copies inside the kernel, and buffers that are mappings of the very file."""

import os
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    blocks,
    call,
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
def sendfile(d: Path) -> Any:
    source, sink = new("a", b"0123456789" * 1000), new("b", b"#" * 20)
    seen = [os.sendfile(sink, source, 5, 6000), os.lseek(sink, 0, os.SEEK_CUR), digest(content("b"))]
    left, right = socket.socketpair()
    seen += [os.sendfile(left.fileno(), source, 9990, 100), right.recv(100)]
    seen += [tried(os.sendfile, sink, source, 20000, 10), tried(os.sendfile, source, source, 0, 10)]
    outside = os.memfd_create("outside")
    seen += [os.sendfile(outside, source, 0, 10000), os.pread(outside, 5, 9990)]
    seen += [os.sendfile(sink, outside, 0, 10000), digest(content("b"))]
    return seen


@case()
def splice(d: Path) -> Any:
    fd = new("f", b"0123456789" * 2000)
    reader, writer = os.pipe()
    seen = [os.splice(fd, writer, 5000, offset_src=3), digest(os.read(reader, 5000))]
    os.write(writer, b"spliced" * 100)
    seen += [os.splice(reader, fd, 700, offset_dst=4090), digest(content("f"))]
    seen += [tried(os.splice, fd, fd, 10), tried(os.splice, fd, writer, 10, offset_src=1 << 40)]
    end = os.open("f", os.O_WRONLY | os.O_APPEND)
    os.write(writer, b"x")
    seen += [tried(os.splice, reader, end, 1)]
    return seen


@case()
def vmsplice_gives_pages(d: Path) -> Any:
    fd = new("f", b"a" * PAGE)
    mapping = Mapping(fd)
    reader, writer = os.pipe()
    vector = struct.pack("PP", mapping.address, PAGE)
    seen = [call("vmsplice", writer, vector, 1, 0)]
    mapping.store(b"later")
    return [seen, os.read(reader, 8)]


@case()
def copy_file_range(d: Path) -> Any:
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
def a_buffer_that_maps_the_same_file(d: Path) -> Any:
    fd = new("f", bytes(range(256)) * 16)
    os.ftruncate(fd, 8 * PAGE)
    mapping = Mapping(fd, 8 * PAGE)
    at = mapping.address
    seen = [call("pread", fd, at + PAGE, 100, 5), mapping.load(PAGE, 100)]  # a page that was never touched
    seen += [call("pread", fd, at + 50, 100, 0), digest(mapping.load(0, PAGE))]  # the very page
    seen += [call("pwrite", fd, at + 3 * PAGE, 10, 2 * PAGE), mapping.load(2 * PAGE, 12)]  # from a hole
    seen += [call("pwrite", fd, at, 300, 5 * PAGE - 100), digest(os.pread(fd, 400, 5 * PAGE - 100))]
    seen += [call("pwrite", fd, at + 10, 200, 60), digest(mapping.load(0, PAGE))]
    seen += [
        call("pwrite", fd, at + 7 * PAGE, PAGE, 6 * PAGE),
        call("pwrite", fd, at + 4 * PAGE, PAGE, 4 * PAGE),
    ]
    seen += [tried(call, "pwrite", fd, at + 8 * PAGE, 1, 0), digest(content("f")), blocks("f")]
    return seen


@case()
def a_buffer_behind_the_end_of_the_file(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    return {
        "write": tried(call, "pwrite", fd, mapping.address + PAGE, 10, 0),
        "read": tried(call, "pread", fd, mapping.address + 2 * PAGE, 10, 0),
        "partly": tried(call, "pwrite", fd, mapping.address + PAGE - 10, 20, 100),
        "partial read": tried(call, "pread", fd, mapping.address + PAGE - 10, 20, 0),
    }


@case()
def a_buffer_that_the_write_itself_takes_into_the_file(d: Path) -> Any:
    fd = new("f")
    mapping = Mapping(fd, 4 * PAGE)
    seen = {"behind": [tried(call, "pwrite", fd, mapping.address, PAGE, PAGE), os.fstat(fd).st_size]}
    os.ftruncate(fd, 2 * PAGE)
    return seen | {"within": [tried(call, "pwrite", fd, mapping.address, PAGE, PAGE), os.fstat(fd).st_size]}


@case()
def copies(d: Path) -> Any:
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


@case(options=SMALL)
def a_copy_fills_the_file_system(d: Path) -> Any:
    source, target = new("source", b"s" * 40 * PAGE), new("target")
    m = Mapping(source, 40 * PAGE)
    m.store(b"mapped", 3 * PAGE)
    first = tried(os.copy_file_range, source, target, 40 * PAGE, 0, 0)
    second = tried(os.copy_file_range, source, target, PAGE, 0, 30 * PAGE)
    return [first, second, free()[0], state("target"), os.pread(target, 6, 3 * PAGE)]
