"""Inode flags (chattr(1)): FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR, and what the flags forbid."""

import fcntl
import functools
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    AT_FDCWD,
    GETFLAGS,
    KEEP_SIZE,
    PAGE,
    PUNCH,
    SETFLAGS,
    allocate,
    call,
    changes,
    new,
    opened,
    tried,
    unprivileged,
)

NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
GETXATTR, SETXATTR = 0x801C581F, 0x401C5820


def utimensat(atime: int, mtime: int) -> int:
    """utimensat(2) of "f" with nanoseconds, which may be UTIME_NOW and UTIME_OMIT."""
    return call("utimensat", AT_FDCWD, "f", struct.pack("<qqqq", 0, atime, 0, mtime), 0)


@case()
def get_and_set(d: Path) -> Any:
    fd = new("f")
    get = tried(fcntl.ioctl, fd, 0x80086601, bytearray(8))
    return {"get": get, "set": tried(fcntl.ioctl, fd, 0x40086602, (0x40).to_bytes(8, "little"))}


@case()
def operations_that_flags_forbid(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    os.mkdir("d")
    os.close(new("d/inside"))
    seen: dict[str, Any] = {}

    def flags(path: str) -> int:
        fd = os.open(path, os.O_RDONLY)
        (found,) = struct.unpack("<I4x", fcntl.ioctl(fd, GETFLAGS, bytes(8)))
        os.close(fd)
        return int(found)

    def put(path: str, value: int) -> Any:
        fd = os.open(path, os.O_RDONLY)
        answer = tried(fcntl.ioctl, fd, SETFLAGS, struct.pack("<Q", value))
        os.close(fd)
        return answer

    for path in ("f", "d"):
        for value in (0, NODUMP, NOATIME, NODUMP | NOATIME, 0x1, 0x8, 0x40000, 0):
            seen[f"{path} {value:#x}"] = put(path, value), flags(path)
    for name, value in (("immutable", IMMUTABLE), ("append", APPEND)):
        put("f", value), put("d", value)
        seen[name] = {
            "held": tried(os.pwrite, fd, b"y", 0),
            "write": opened("f", os.O_WRONLY),
            "append": opened("f", os.O_WRONLY | os.O_APPEND),
            "truncating": opened("f", os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
            "read": opened("f", os.O_RDONLY),
            "truncate": tried(os.truncate, "f", 5),
            "chmod": tried(os.chmod, "f", 0o600),
            "chown": tried(os.chown, "f", 1, 1),
            "utime": tried(os.utime, "f", ns=(1, 1)),
            "touch": tried(os.utime, "f"),
            "touch one": [tried(utimensat, *times) for times in ((NOW, OMIT), (OMIT, NOW), (OMIT, OMIT))],
            "unlink": tried(os.unlink, "f"),
            "link": tried(os.link, "f", "other"),
            "rename": tried(os.rename, "f", "other"),
            "xattr": tried(os.setxattr, "f", "user.x", b"x"),
            "fallocate": allocate(fd, KEEP_SIZE, 0, PAGE),
            "punch": allocate(fd, PUNCH, 0, PAGE),
            "new": tried(os.mknod, "d/new"),
            "unlink inside": tried(os.unlink, "d/inside"),
            "rename inside": tried(os.rename, "d/inside", "d/moved"),
            "rmdir": tried(os.rmdir, "d"),
            "flags": (flags("f"), flags("d")),
        }
        put("f", 0), put("d", 0)
        seen[f"{name} no more"] = sorted(os.listdir("d")), opened("f"), sorted(os.listdir("."))
    os.chmod("f", 0o666)
    seen["unprivileged"] = unprivileged(put, "f", IMMUTABLE), unprivileged(put, "f", NODUMP)
    seen["ctime"] = changes(lambda: put("f", NODUMP), f="f")
    return seen


@case()
def extended_flags(d: Path) -> Any:
    fd = new("f")
    seen = [tried(lambda: fcntl.ioctl(fd, GETXATTR, bytes(28)))]
    for value in (0x80, 0x40, 0x8, 0x10, 0x2, 0x10000, 0):
        seen.append(tried(fcntl.ioctl, fd, SETXATTR, struct.pack("<I24x", value)))
        seen.append(tried(lambda: fcntl.ioctl(fd, GETXATTR, bytes(28))))
    for field in range(1, 5):  # size of extents, number of them, project, size of extents copied on write
        given = struct.pack("<I24x", 0x80)[: 4 * field] + struct.pack("<I", 4096)
        seen.append(tried(fcntl.ioctl, fd, SETXATTR, given.ljust(28, b"\0")))
    seen.append(tried(fcntl.ioctl, fd, 0x5421, b"\0" * 4))  # FIONBIO
    return [*seen, tried(fcntl.ioctl, fd, 0x1234, b"")]


@case()
def ctime(d: Path) -> Any:
    """FS_IOC_SETFLAGS changes it, even where the kernel has the attributes cached."""
    os.close(new("f"))
    os.mkdir("s")
    seen = []
    for name in ("f", "s"):
        fd = os.open(name, os.O_RDONLY)
        for flags in (0x40, 0x40, 0):
            ask = functools.partial(fcntl.ioctl, fd, SETFLAGS, struct.pack("l", flags))
            seen += [changes(ask, f=name)]
    return seen
