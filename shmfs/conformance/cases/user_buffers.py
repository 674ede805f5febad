"""Buffers of system calls that lie in a mapping of the file system, or are bad."""

import ctypes
import os
import socket
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, Mapping, blocks, call, content, digest, new, state, tried

# ---- a mapping of the same file


@case()
def a_write_from_the_same_page(d: Path) -> Any:
    fd = new("f", bytes(range(256)) * 16)
    m = Mapping(fd)
    return [
        call("pwrite", fd, m.address, PAGE, 0),
        call("pwrite", fd, m.address + 100, 1000, 50),
        digest(content("f")),
    ]


@case()
def a_write_from_a_hole_of_the_same_file(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    m = Mapping(fd, 4 * PAGE)
    return [call("pwrite", fd, m.address + 2 * PAGE, PAGE, 0), state(), content("f").count(0)]


@case()
def a_write_at_the_end_from_the_same_file(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    m = Mapping(fd, 2 * PAGE)
    return [call("pwrite", fd, m.address, PAGE, PAGE), m.load(PAGE), state()]


@case()
def a_read_into_the_same_page(d: Path) -> Any:
    fd = new("f", bytes(range(256)) * 16)
    m = Mapping(fd)
    return [
        call("pread", fd, m.address + 10, 100, 0),
        call("pread", fd, m.address, PAGE, 0),
        digest(content("f")),
    ]


@case()
def a_read_into_a_hole_of_the_same_file(d: Path) -> Any:
    fd = new("f", b"data" * 100)
    os.ftruncate(fd, 4 * PAGE)
    m = Mapping(fd, 4 * PAGE)
    return [call("pread", fd, m.address + 3 * PAGE, 400, 0), m.load(3 * PAGE, 4), state()]


@case()
def reads_and_writes_within_one_file(d: Path) -> Any:
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
def a_buffer_beyond_the_end(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    return {
        "write": tried(call, "pwrite", fd, mapping.address + PAGE, 10, 0),
        "read": tried(call, "pread", fd, mapping.address + 2 * PAGE, 10, 0),
        "partly": tried(call, "pwrite", fd, mapping.address + PAGE - 10, 20, 100),
        "partial read": tried(call, "pread", fd, mapping.address + PAGE - 10, 20, 0),
    }


@case()
def a_buffer_that_the_write_brings_into_the_file(d: Path) -> Any:
    fd = new("f")
    mapping = Mapping(fd, 4 * PAGE)
    seen = {"behind": [tried(call, "pwrite", fd, mapping.address, PAGE, PAGE), os.fstat(fd).st_size]}
    os.ftruncate(fd, 2 * PAGE)
    return seen | {"within": [tried(call, "pwrite", fd, mapping.address, PAGE, PAGE), os.fstat(fd).st_size]}


# ---- a mapping of another file


@case()
def a_write_from_another_file(d: Path) -> Any:
    one, other = new("f", b"x" * PAGE), new("g", b"y" * PAGE)
    m = Mapping(other)
    return [call("pwrite", one, m.address, PAGE, 100), digest(content("f"))]


@case()
def a_socket_receives_into_a_mapping(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    m = Mapping(fd, 4 * PAGE)
    left, right = socket.socketpair()
    left.sendall(b"received" * 1000)
    return [call("recv", right.fileno(), m.address + 100, 8000, 0x100), blocks("f"), digest(content("f"))]


@case()
def a_pipe_is_written_from_a_mapping(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 2 * PAGE)
    m = Mapping(fd, 2 * PAGE)
    reader, writer = os.pipe()
    return [call("write", writer, m.address + PAGE, 100), os.read(reader, 100) == bytes(100), blocks("f")]


# ---- bad buffers


@case()
def a_vector_with_a_bad_part(d: Path) -> Any:
    fd = new("f")
    good = ctypes.create_string_buffer(b"good", 4)
    vector = struct.pack("PPPP", ctypes.addressof(good), 4, 16, 4)
    bad_first = struct.pack("PPPP", 16, 4, ctypes.addressof(good), 4)
    return [tried(call, "writev", fd, vector, 2), tried(call, "writev", fd, bad_first, 2), content("f")]


@case()
def a_bad_buffer(d: Path) -> Any:
    fd = new("f", b"content")
    return [
        tried(call, "pread", fd, 16, 4, 0),
        tried(call, "pwrite", fd, 16, 4, 0),
        tried(call, "pread", fd, 16, 0, 0),
        tried(call, "pread", fd, 16, 4, 100),
        content("f"),
    ]


@case()
def a_buffer_that_is_mapped_in_part(d: Path) -> Any:
    """A write from an unmapped buffer, and one from a buffer whose second half is unmapped."""
    fd = new("f", b"content")
    seen = {"nothing": [tried(call, "pwrite", fd, 8, 10, 9000), state()]}
    area = call("mmap", 0, 8192, 3, 0x22, -1, 0)
    call("munmap", area + 4096, 4096)
    os.ftruncate(fd, 0)
    return seen | {"a part": [tried(call, "pwrite", fd, area + 3996, 200, 0), state()]}
