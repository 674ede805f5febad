"""Flags of inodes, ioctls and seals."""

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    AT_FDCWD,
    KEEP_SIZE,
    PAGE,
    PUNCH,
    allocate,
    call,
    changes,
    child,
    new,
    opened,
    tried,
    unprivileged,
)

GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
GETXATTR, SETXATTR = 0x801C581F, 0x401C5820
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


def utimensat(atime: int, mtime: int) -> int:
    """utimensat(2) of "f" with nanoseconds, which may be UTIME_NOW and UTIME_OMIT."""
    return call("utimensat", AT_FDCWD, "f", struct.pack("<qqqq", 0, atime, 0, mtime), 0)


@case()
def extents_and_clones(d: Path) -> Any:
    source, sink = new("a", b"x" * PAGE), new("b")
    ficlone, fibmap, figetbsz, fionread = 0x40049409, 1, 2, 0x541B
    whole = bytearray(4)
    return {
        "clone": tried(fcntl.ioctl, sink, ficlone, source),
        "bmap": tried(fcntl.ioctl, source, fibmap, bytes(4)),
        "block size": tried(fcntl.ioctl, source, figetbsz, whole) and bytes(whole),
        "bytes left": tried(fcntl.ioctl, source, fionread, bytes(4)),
        "fiemap": tried(fcntl.ioctl, source, 0xC020660B, bytearray(32)),
        "unknown": tried(fcntl.ioctl, source, 0x5A5A),
    }


@case()
def flags_of_inodes(d: Path) -> Any:
    fd = new("f")
    get = tried(fcntl.ioctl, fd, 0x80086601, bytearray(8))
    return {"get": get, "set": tried(fcntl.ioctl, fd, 0x40086602, (0x40).to_bytes(8, "little"))}


@case()
def seals(d: Path) -> Any:
    fd = new("f")
    return {"get": tried(fcntl.fcntl, fd, 1034), "add": tried(fcntl.fcntl, fd, 1033, 2)}


@case()
def flags_and_what_they_forbid(d: Path) -> Any:
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
def capabilities_go(d: Path) -> Any:
    """A change of content takes a program's capabilities away, also if root makes it."""
    capability = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
    seen: dict[str, Any] = {}
    actions = {
        "write": lambda: os.pwrite(os.open("f", os.O_WRONLY), b"y", 0),
        "append": lambda: os.write(os.open("f", os.O_WRONLY | os.O_APPEND), b"y"),
        "read": lambda: os.read(os.open("f", os.O_RDWR), 1),
        "truncate": lambda: os.truncate("f", 50),
        "open": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
        "chmod": lambda: os.chmod("f", 0o700),
        "chown": lambda: os.chown("f", -1, 7),
    }
    os.close(new("f", b"x" * 100))
    for user in (0, 65534):
        for name, action in actions.items():
            os.chown("f", user, user), os.chmod("f", 0o777)
            os.setxattr("f", "security.capability", capability)
            answer = child(lambda action=action: isinstance(action(), object), uid=user, gid=user)
            seen[f"{user} {name}"] = answer, os.listxattr("f")
    return seen
