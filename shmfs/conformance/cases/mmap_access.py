"""Access that mmap(2) permits: protection, open flags, inode flags, kinds of files. See mm/mmap.c:do_mmap."""

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    EXEC,
    PAGE,
    PRIVATE,
    READ,
    SETFLAGS,
    SHARED,
    WRITE,
    Mapping,
    child,
    data_file,
    new,
    tried,
    try_map,
)

PROT_SEM, PROT_GROWSDOWN, PROT_GROWSUP = 0x8, 0x01000000, 0x02000000


# ---- the descriptor


@case()
def a_descriptor_that_is_closed(d: Path) -> Any:
    fd = data_file()
    os.close(fd)
    return try_map(fd, PAGE, READ)


@case()
def a_negative_descriptor(d: Path) -> Any:
    return try_map(-1, PAGE, READ)


@case()
def a_descriptor_of_o_path(d: Path) -> Any:
    return try_map(data_file(os.O_PATH), PAGE, READ)


@case()
def shared_write_without_write(d: Path) -> Any:
    return try_map(data_file(os.O_RDONLY), PAGE, READ | WRITE)


@case()
def shared_write_alone_without_write(d: Path) -> Any:
    return try_map(data_file(os.O_RDONLY), PAGE, WRITE)


@case()
def shared_read_without_write(d: Path) -> Any:
    return Mapping(data_file(os.O_RDONLY), PAGE, READ).load()


@case()
def private_write_without_write(d: Path) -> Any:
    mapping = Mapping(data_file(os.O_RDONLY), PAGE, READ | WRITE, PRIVATE)
    mapping.store(b"y")
    return [mapping.load(), os.pread(os.open("f", os.O_RDONLY), 1, 0)]


@case()
def shared_read_without_read(d: Path) -> Any:
    return try_map(data_file(os.O_WRONLY), PAGE, READ)


@case()
def shared_write_without_read(d: Path) -> Any:
    return try_map(data_file(os.O_WRONLY), PAGE, WRITE)


@case()
def private_without_read(d: Path) -> Any:
    return try_map(data_file(os.O_WRONLY), PAGE, READ, PRIVATE)


@case()
def no_access_without_read(d: Path) -> Any:
    return [try_map(data_file(os.O_WRONLY), PAGE, 0), try_map(os.open("f", os.O_WRONLY), PAGE, 0, PRIVATE)]


@case()
def execution_without_read(d: Path) -> Any:
    return try_map(data_file(os.O_WRONLY), PAGE, EXEC, PRIVATE)


@case()
def neither_read_nor_write(d: Path) -> Any:
    """Access mode 3 is for ioctl(2) alone."""
    return try_map(data_file(3), PAGE, READ)


@case()
def shared_write_with_o_append(d: Path) -> Any:
    mapping = Mapping(data_file(os.O_RDWR | os.O_APPEND), PAGE)
    mapping.store(b"y")
    return mapping.load(0, 2)


def _append_only(look: Callable[[], Any]) -> Any:
    """The answer of a function while the file is append-only (chattr +a)."""
    fd = data_file(os.O_RDONLY)
    answer = tried(fcntl.ioctl, fd, SETFLAGS, struct.pack("<Q", 0x20))
    if isinstance(answer, str):
        return {"chattr": answer}
    try:
        return {"chattr": "done", "answer": look()}
    finally:
        fcntl.ioctl(fd, SETFLAGS, bytes(8))


@case()
def shared_write_on_an_append_only_file(d: Path) -> Any:
    return _append_only(lambda: try_map(os.open("f", os.O_RDWR | os.O_APPEND), PAGE))


@case()
def shared_read_on_an_append_only_file(d: Path) -> Any:
    def look() -> Any:
        mapping = try_map(os.open("f", os.O_RDWR | os.O_APPEND), PAGE, READ)
        return [mapping, tried(mapping.protect, READ | WRITE)] if isinstance(mapping, Mapping) else mapping

    return _append_only(look)


@case()
def private_write_on_an_append_only_file(d: Path) -> Any:
    return _append_only(lambda: try_map(os.open("f", os.O_RDWR | os.O_APPEND), PAGE, READ | WRITE, PRIVATE))


# ---- the protection


@case()
def prot_none(d: Path) -> Any:
    mapping = Mapping(data_file(), PAGE, 0)
    return [child(mapping.load), child(mapping.store, b"y")]


@case()
def prot_exec(d: Path) -> Any:
    return try_map(data_file(), PAGE, READ | EXEC)


@case(options="size=1m,noexec")
def prot_exec_on_a_noexec_mount(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, READ | EXEC), try_map(fd, PAGE, EXEC), try_map(fd, PAGE, READ | EXEC, PRIVATE)]


@case(options="size=1m,noexec")
def mprotect_to_prot_exec_on_a_noexec_mount(d: Path) -> Any:
    fd = data_file()
    kinds = SHARED, PRIVATE
    return [tried(Mapping(fd, PAGE, READ, kind).protect, READ | EXEC) for kind in kinds]


@case()
def unknown_protections(d: Path) -> Any:
    fd = data_file()
    return [try_map(fd, PAGE, READ | bit) for bit in (PROT_SEM, PROT_GROWSDOWN, PROT_GROWSUP, 0x40)]


# ---- what is mapped


@case()
def a_directory(d: Path) -> Any:
    fd = os.open(".", os.O_RDONLY)
    return [try_map(fd, PAGE, READ), try_map(fd, PAGE, READ, PRIVATE), try_map(fd, PAGE, READ | WRITE)]


@case()
def a_fifo(d: Path) -> Any:
    os.mkfifo("p")
    fd = os.open("p", os.O_RDWR)
    return [try_map(fd, PAGE, READ), try_map(fd, PAGE, READ | WRITE, PRIVATE)]


@case()
def a_device(d: Path) -> Any:
    os.mknod("zero", 0o20666, os.makedev(1, 5))
    mapping = Mapping(os.open("zero", os.O_RDWR), PAGE, READ | WRITE, PRIVATE)
    mapping.store(b"x")
    return mapping.load(0, 2)


@case()
def an_empty_file(d: Path) -> Any:
    mapping = Mapping(new("empty"), PAGE)
    return [child(mapping.load), child(mapping.store, b"x")]


@case()
def a_file_without_a_name(d: Path) -> Any:
    fd = data_file()
    os.unlink("f")
    mapping = Mapping(fd)
    mapping.store(b"y")
    return os.pread(fd, 2, 0)
