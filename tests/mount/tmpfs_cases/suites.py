"""What third-party suites of conformance tests and random calls by several users came upon."""

import ctypes
import mmap
import os
import struct
from pathlib import Path
from typing import Any

from tmpfs_cases import case
from tmpfs_cases.tools import NOBODY, call, child, mode, new

OTHER = 65533


@case
def direct_requests_end_at_once(d: Path) -> Any:
    """What io_submit(2) starts with O_DIRECT is done when it returns: nothing is left to wait for."""
    io_setup, io_getevents, io_submit = 206, 208, 209
    count, size = 32, 64 << 10
    os.close(new("f", b"x" * size * count))
    fd = os.open("f", os.O_RDWR | os.O_DIRECT)
    context = ctypes.c_ulong()
    call("syscall", io_setup, count, ctypes.byref(context))
    buffer = mmap.mmap(-1, size * count)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    events = ctypes.create_string_buffer(32 * count)
    seen = []
    for opcode in (0, 1):  # IOCB_CMD_PREAD, IOCB_CMD_PWRITE
        blocks = [
            ctypes.create_string_buffer(
                struct.pack("<QIIHhIQQq16x", 0, 0, 0, opcode, 0, fd, address + n * size, size, n * size), 64
            )
            for n in range(count)
        ]
        pointers = (ctypes.c_void_p * count)(*map(ctypes.addressof, blocks))
        seen.append(call("syscall", io_submit, context.value, count, pointers))
        no_time = (ctypes.c_long * 2)()
        seen.append(call("syscall", io_getevents, context.value, 0, count, events, no_time))
    return [seen, buffer[:] == b"x" * size * count]


@case
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
