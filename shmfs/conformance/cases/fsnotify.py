"""Notification of changes: inotify(7), fanotify(7) and dnotify (F_NOTIFY)."""

import ctypes
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Mapping, call, new, tried

# ---- inotify


def events_of(action: Callable[[], Any], mask: int = 0xFFF, path: str = "d") -> list[tuple[str, bytes]]:
    """What inotify tells of an action."""
    watch = call("inotify_init1", os.O_NONBLOCK)
    call("inotify_add_watch", watch, path, mask)
    action()
    found: list[tuple[str, bytes]] = []
    while select.select([watch], [], [], 0)[0]:
        data = os.read(watch, 1 << 16)
        position = 0
        while position < len(data):
            _, kind, _, length = struct.unpack_from("iIII", data, position)
            found.append((hex(kind), data[position + 16 : position + 16 + length].rstrip(b"\0")))
            position += 16 + length
    os.close(watch)
    return found


@case()
def inotify_of_every_operation(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/old"))
    watch = call("inotify_init1", os.O_NONBLOCK)
    call("inotify_add_watch", watch, "d", 0xFFF)
    fd = new("d/f", b"x")
    os.close(fd)
    os.read(os.open("d/f", os.O_RDONLY), 1)
    os.chmod("d/f", 0o600), os.truncate("d/f", 0), os.setxattr("d/f", "user.a", b"1"), os.utime("d/f", (1, 2))
    os.rename("d/f", "d/g"), os.link("d/g", "d/h"), os.unlink("d/h"), os.mkdir("d/s"), os.rmdir("d/s")
    os.rename("d/old", "d/g"), os.symlink("x", "d/y"), os.listdir("d"), os.unlink("d/g")
    events = []
    while select.select([watch], [], [], 0)[0]:
        data = os.read(watch, 1 << 16)
        position = 0
        while position < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, position)
            name = data[position + 16 : position + 16 + length].rstrip(b"\0")
            events.append((hex(mask), name))
            position += 16 + length
    return events


@case()
def inotify_of_creation(d: Path) -> Any:
    os.mkdir("d")
    return events_of(
        lambda: (os.close(new("d/f")), os.mkdir("d/s"), os.symlink("x", "d/l"), os.mkfifo("d/p"))
    )


@case()
def inotify_of_o_tmpfile(d: Path) -> Any:
    os.mkdir("d")
    found = events_of(lambda: tried(os.open, "d", os.O_TMPFILE | os.O_RDWR))
    return {"events": [kind for kind, _ in found], "by number": [name[:1] == b"#" for _, name in found]}


@case()
def inotify_of_content(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    return events_of(lambda: (os.pread(fd, 1, 0), os.pwrite(fd, b"y", 0), os.ftruncate(fd, 5)), path="f")


@case()
def inotify_of_empty_reads_and_writes(d: Path) -> Any:
    fd = new("f", b"x")
    return events_of(lambda: (os.pwrite(fd, b"", 0), os.pread(fd, 0, 0), os.fsync(fd)), path="f")


@case()
def inotify_of_allocation(d: Path) -> Any:
    fd = new("f")
    return events_of(lambda: tried(call, "fallocate", fd, 0, 0, 4096), path="f")


@case()
def inotify_of_mappings(d: Path) -> Any:
    """Stores through a mapping cause no events."""
    fd = new("f", b"x" * 4096)
    return events_of(lambda: (m := Mapping(fd), m.load(), m.store(b"y"), m.sync(4)), path="f")


@case()
def inotify_of_attributes(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f"))
    return events_of(
        lambda: (
            os.chmod("d/f", 0o600),
            os.chown("d/f", -1, -1),
            os.utime("d/f"),
            os.setxattr("d/f", "user.x", b"1"),
        )
    )


@case()
def inotify_of_removal(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f")), os.link("d/f", "d/g")
    return [events_of(lambda: os.unlink("d/g"), path="d/f"), events_of(lambda: os.unlink("d/f"))]


@case()
def inotify_of_a_removed_directory(d: Path) -> Any:
    os.mkdir("d")
    return events_of(lambda: os.rmdir("d"))


@case()
def inotify_of_an_open_file_that_is_removed(d: Path) -> Any:
    fd = new("f")
    return [events_of(lambda: os.unlink("f"), path="f"), os.close(fd)]


@case()
def inotify_of_renames(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f")), os.close(new("d/g")), os.close(new("out"))
    return events_of(
        lambda: (
            os.rename("d/f", "d/h"),
            os.rename("d/h", "d/g"),
            os.rename("d/g", "away"),
            os.rename("out", "d/in"),
        )
    )


@case()
def inotify_errors(d: Path) -> Any:
    watch = call("inotify_init1", os.O_NONBLOCK)
    return [
        tried(call, "inotify_add_watch", watch, "none", 0xFFF),
        tried(call, "inotify_add_watch", watch, ".", 0),
    ]


# ---- fanotify, dnotify


@case()
def fanotify_of_a_file(d: Path) -> Any:
    watch = tried(call, "fanotify_init", 0x2, os.O_RDONLY)  # FAN_NONBLOCK
    if isinstance(watch, str):
        return watch
    fd = new("f", b"x")
    answer = tried(call, "fanotify_mark", watch, 1, ctypes.c_ulonglong(0x2 | 0x8 | 0x20), -100, "f")
    os.pwrite(fd, b"y", 0)
    os.close(fd)
    os.close(os.open("f", os.O_RDONLY))
    found = []
    while select.select([watch], [], [], 0)[0]:
        data = os.read(watch, 4096)
        for position in range(0, len(data), 24):
            _, _, _, _, mask, source, _ = struct.unpack_from("IBBHQii", data, position)
            found.append((hex(mask), os.fstat(source).st_ino == os.stat("f").st_ino))
    return [answer, found]


@case()
def fanotify_by_handles(d: Path) -> Any:
    watch = tried(call, "fanotify_init", 0x2 | 0xC00, os.O_RDONLY)  # FAN_REPORT_DFID_NAME
    if isinstance(watch, str):
        return watch
    os.mkdir("d")
    answer = tried(call, "fanotify_mark", watch, 1, ctypes.c_ulonglong(0x100 | 0x200), -100, "d")
    os.close(new("d/f")), os.unlink("d/f")
    return [answer, len(os.read(watch, 4096)) > 0 if answer == 0 else None]


@case()
def fanotify_of_the_whole_file_system(d: Path) -> Any:
    watch = tried(call, "fanotify_init", 0x2, os.O_RDONLY)
    if isinstance(watch, str):
        return watch
    return [
        tried(call, "fanotify_mark", watch, 1 | kind, ctypes.c_ulonglong(0x20), -100, ".")
        for kind in (0x10, 0x100)
    ]


@case()
def fanotify_of_every_name(d: Path) -> Any:
    """A mark on the whole file system with FAN_REPORT_DFID_NAME."""
    watch = tried(call, "fanotify_init", 0xC00, os.O_RDONLY)
    if isinstance(watch, str):
        return {"mark": watch}
    return {"mark": tried(call, "fanotify_mark", watch, 0x101, ctypes.c_ulonglong(0x300), -100, ".")}


@case()
def dnotify(d: Path) -> Any:
    os.mkdir("d")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    answer = tried(fcntl.fcntl, os.open("d", os.O_RDONLY), fcntl.F_NOTIFY, 0x4)  # DN_CREATE
    os.close(new("d/f"))
    return [answer, signal.SIGIO in signal.sigpending()]
