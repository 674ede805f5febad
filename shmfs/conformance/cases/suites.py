"""What third-party suites of conformance tests and random calls by several users came upon."""

import ctypes
import fcntl
import functools
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import NOBODY, call, changes, child, mode, new, tried, unprivileged

OTHER = 65533
SETFLAGS = 0x40086602
"""FS_IOC_SETFLAGS."""


@case()
def new_files_are_not_truncated(d: Path) -> Any:
    """O_TRUNC at the creation of a file takes no set-id bit away, and at a later open it does."""
    os.chmod(".", 0o777)
    seen = []
    for _ in range(2):
        unprivileged(lambda: os.close(os.open("f", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o6777)))
        seen.append(mode("f"))
    return seen


@case()
def flags_change_the_ctime(d: Path) -> Any:
    """FS_IOC_SETFLAGS, also for one who has just looked at the attributes."""
    os.close(new("f"))
    os.mkdir("s")
    seen = []
    for name in ("f", "s"):
        fd = os.open(name, os.O_RDONLY)
        for flags in (0x40, 0x40, 0):
            ask = functools.partial(fcntl.ioctl, fd, SETFLAGS, struct.pack("l", flags))
            seen += [changes(ask, f=name)]
    return seen


@case()
def order_of_attribute_names(d: Path) -> Any:
    os.mkdir("d")
    entries = [(1, 7, 0xFFFFFFFF), (2, 6, 1000), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    names = [
        "system.posix_acl_default",
        "security.x",
        "trusted.c",
        "user.a",
        "user.b",
        "system.posix_acl_access",
    ]
    for name in names:
        os.setxattr("d", name, value if "acl" in name else b"1")
    return os.listxattr("d")


@case()
def set_group_id_without_execution(d: Path) -> Any:
    """The bit of a file that its group may not execute goes where the caller is not of that group."""
    actions = {
        "write": lambda: os.pwrite(os.open("f", os.O_WRONLY), b"x", 0),
        "truncate": lambda: os.truncate("f", 10),
        "open": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
        "allocate": lambda: os.posix_fallocate(os.open("f", os.O_WRONLY), 0, 100),
        "chown": lambda: os.chown("f", -1, -1),
    }
    callers: dict[str, tuple[int, int, tuple[int, ...]]] = {
        "root": (0, 0, ()),
        "group": (NOBODY, NOBODY, ()),
        "supplementary": (NOBODY, OTHER, (NOBODY, 1)),
        "neither": (NOBODY, OTHER, (1,)),
    }
    seen = {}
    for what, action in actions.items():
        for who, (uid, gid, groups) in callers.items():
            os.close(new("f", b"content"))
            os.chown("f", NOBODY, NOBODY)
            os.chmod("f", 0o6666)
            child(action, uid=uid, gid=gid, groups=groups)
            seen[f"{what}, {who}"] = mode("f")
            os.unlink("f")
    return seen


@case()
def positions_of_directories(d: Path) -> Any:
    """lseek(2) of a directory from its end, for data and for holes."""
    os.close(new("f"))
    fd = os.open(".", os.O_RDONLY)
    seen = {"start": tried(os.lseek, fd, 0, os.SEEK_SET), "before": tried(os.lseek, fd, -1, os.SEEK_SET)}
    for name, whence in (("end", os.SEEK_END), ("data", os.SEEK_DATA), ("hole", os.SEEK_HOLE)):
        seen[name] = tried(os.lseek, fd, 0, whence)
    return seen


@case()
def attributes_of_statx(d: Path) -> Any:
    """Which file flags statx(2) knows of (stx_attributes_mask), and whether it tells of one that is set."""
    fd = new("f")
    fcntl.ioctl(fd, SETFLAGS, struct.pack("l", 0x40))
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, "f", 0, 0x7FF, buffer)
    flags = 0x10 | 0x20 | 0x40  # STATX_ATTR_IMMUTABLE, APPEND, NODUMP
    attributes, known = (struct.unpack_from("<Q", buffer, at)[0] for at in (8, 56))
    return {"known": hex(known & flags), "set": hex(attributes & flags)}
