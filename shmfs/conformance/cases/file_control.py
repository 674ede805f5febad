"""ioctl(2) and fcntl(2) commands for blocks, clones, trim, UUIDs and seals."""

import ctypes
import fcntl
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, call, new, tried


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
def unsupported_ioctls(d: Path) -> Any:
    """FITRIM with and without an argument, and FS_IOC_GETFSUUID."""
    fd = new("f")
    room = ctypes.create_string_buffer(64)
    return {
        "argument": tried(call, "ioctl", fd, 0xC0185879, room),
        "none": tried(call, "ioctl", fd, 0xC0185879, 0),
        "identity": tried(call, "ioctl", fd, 0x80111500, room),
    }


@case()
def seals(d: Path) -> Any:
    fd = new("f")
    return {"get": tried(fcntl.fcntl, fd, 1034), "add": tried(fcntl.fcntl, fd, 1033, 2)}
