"""What random differential testing (scripts/differential) has brought up, each made small."""

import os
import socket
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    FIXED,
    PAGE,
    READ,
    SHARED,
    Mapping,
    blocks,
    call,
    changes,
    mode,
    new,
    tried,
    unprivileged,
)


@case(options="size=64k,nr_inodes=24")
def a_full_inode_space_is_told_before_bad_flags_of_an_attribute(d: Path) -> Any:
    os.close(new("f"))
    big, small = b"x" * 32768, b"x"
    seen = [tried(os.setxattr, "f", "trusted.a", big, flags) for flags in (0, 1, 2, 3)]
    seen += [tried(os.setxattr, "f", "trusted.a", small, flags) for flags in (2, 3, 1, 1, 3)]
    return [seen, tried(os.setxattr, "f", "trusted.a", big, 1), os.statvfs(".").f_ffree]


def _write_into_what_is_allocated() -> Any:
    fd = new("s", mode=0o2366)
    call("fallocate", fd, 1, 0, 3 * PAGE)
    return [os.pwrite(fd, b"x", 0), blocks("s"), mode("s"), os.pwrite(fd, b"x", PAGE), blocks("s")]


@case()
def a_write_to_a_set_id_file_frees_nothing_behind_the_end(d: Path) -> Any:
    """Its writes reach the daemon with either store."""
    os.chmod(".", 0o777)
    return unprivileged(_write_into_what_is_allocated)


def _create(flags: int) -> Any:
    os.close(os.open("new", os.O_WRONLY | os.O_CREAT | flags, 0o6755))
    return mode("new")


@case()
def truncation_of_a_new_file_takes_no_set_id_bits(d: Path) -> Any:
    os.chmod(".", 0o777)
    seen = [unprivileged(_create, os.O_TRUNC)]
    return [*seen, unprivileged(_create, os.O_TRUNC)]  # the second finds it


@case()
def attributes_are_listed_in_an_order(d: Path) -> Any:
    os.close(new("f"))
    for name in ("user.a", "trusted.b", "security.x", "user.ab", "trusted.a", "user.b"):
        os.setxattr("f", name, b"")
    return os.listxattr("f")


@case()
def a_chown_to_nobody_takes_set_id_bits_from_the_owner_only(d: Path) -> Any:
    seen: dict[str, Any] = {}
    os.close(new("f"))
    os.chmod("f", 0o4755)
    seen["another's"] = [unprivileged(os.chown, "f", -1, -1), mode("f")]
    os.unlink("f")
    for bits in (0o755, 0o4755, 0o2755, 0o2745, 0o6755):
        os.close(new("f"))
        os.chmod("f", bits)
        seen[oct(bits)] = [tried(os.chown, "f", -1, -1), mode("f")]
        os.chown("f", 65534, 65534)
        os.chmod("f", bits)
        seen[oct(bits)] += [unprivileged(os.chown, "f", -1, -1), mode("f")]
        os.unlink("f")
    return seen


def _written(path: str) -> Any:
    return tried(os.pwrite, os.open(path, os.O_WRONLY), b"x" * PAGE, 0)


@case(options="size=64k,nr_inodes=24")
def a_write_that_finds_no_room_takes_set_id_bits(d: Path) -> Any:
    os.pwrite(new("filler"), b"x" * 16 * PAGE, 0)
    seen = []
    for bits in (0o4755, 0o2755, 0o6777):
        os.close(new("f"))
        os.chown("f", 65534, 65534)
        os.chmod("f", bits)
        seen.append([mode("f"), unprivileged(_written, "f"), mode("f"), os.stat("f").st_size])
        os.unlink("f")
    return seen


@case()
def seeking_in_a_directory(d: Path) -> Any:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    kinds = {"set": os.SEEK_SET, "current": os.SEEK_CUR, "end": os.SEEK_END, "data": os.SEEK_DATA}
    return {name: tried(os.lseek, fd, 0, kind) for name, kind in (kinds | {"hole": os.SEEK_HOLE}).items()}


@case()
def atime_of_a_mapping_beside_another(d: Path) -> Any:
    fd = new("f")
    place = Mapping(new("other"), 4 * PAGE, 0).address
    Mapping(fd, PAGE, READ, SHARED | FIXED, PAGE, place + 2 * PAGE)
    return changes(lambda: Mapping(fd, PAGE, READ, SHARED | FIXED, 0, place + PAGE), f="f")


@case()
def times_of_a_fifo(d: Path) -> Any:
    os.mkfifo("p")
    fd = os.open("p", os.O_RDWR | os.O_NONBLOCK)
    return {
        "write": changes(lambda: os.write(fd, b"x"), p="p"),
        "read": changes(lambda: os.read(fd, 1), p="p"),
        "read of nothing": changes(lambda: os.read(fd, 1), p="p"),
        "write of nothing": changes(lambda: os.write(fd, b""), p="p"),
    }


@case()
def times_of_a_socket(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        seen = {"connect": changes(lambda: client.connect("s"), s="s")}
        seen["send"] = changes(lambda: client.sendall(b"x"), s="s")
        return seen


@case()
def times_of_devices(d: Path) -> Any:
    os.mknod("zero", 0o20666, os.makedev(1, 5)), os.mknod("null", 0o20666, os.makedev(1, 3))
    return {
        "read": changes(lambda: os.read(os.open("zero", os.O_RDONLY), 1), f="zero"),
        "write": changes(lambda: os.write(os.open("null", os.O_WRONLY), b"x"), f="null"),
        "sendfile": changes(lambda: os.sendfile(new("f"), os.open("zero", os.O_RDONLY), None, 1), f="zero"),
    }
