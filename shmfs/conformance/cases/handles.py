"""Handles: name_to_handle_at(2) and open_by_handle_at(2)."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.mounting import MS_REMOUNT, with_options
from shmfs.conformance.tools import AT_FDCWD, call, eventually, new, tried, unprivileged


def handle_of(path: str, flags: int = 0, size: int = 128) -> Any:
    """See name_to_handle_at(2): the handle's bytes, or the name of the errno."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", size, 0), 8 + size)
    answer = tried(call, "name_to_handle_at", AT_FDCWD, path, buffer, ctypes.byref(ctypes.c_int()), flags)
    return buffer if answer == 0 else answer


def open_handle(handle: Any, flags: int = os.O_RDWR) -> Any:
    return tried(call, "open_by_handle_at", os.open(".", os.O_RDONLY), handle, flags)


@case()
def handles_of_every_kind(d: Path) -> Any:
    os.close(new("f", b"content")), os.mkdir("d"), os.symlink("f", "s")
    seen = []
    for name in ("f", "d", "s", "."):
        handle = handle_of(name)
        fd = handle if isinstance(handle, str) else open_handle(handle, os.O_PATH)
        seen.append(fd if isinstance(fd, str) else os.fstat(fd).st_ino == os.lstat(name).st_ino)
    return seen


@case()
def a_handle_of_a_removed_file(d: Path) -> Any:
    os.close(new("f"))
    handle = handle_of("f")
    os.unlink("f")

    def look() -> Any:
        fd = handle if isinstance(handle, str) else open_handle(handle)
        return fd if isinstance(fd, str) else os.close(fd)

    return eventually(look, "ESTALE")  # FUSE keeps an inode until a moment after its last close


@case()
def a_handle_by_another_name(d: Path) -> Any:
    os.close(new("f", b"content"))
    handle = handle_of("f")
    os.rename("f", "g")
    fd = handle if isinstance(handle, str) else open_handle(handle)
    return fd if isinstance(fd, str) else os.read(fd, 7)


@case()
def a_handle_that_is_too_small(d: Path) -> Any:
    os.close(new("f"))
    return [handle_of("f", size=0), handle_of("none"), handle_of("f", 1 << 20)]


@case()
def a_handle_by_nobody(d: Path) -> Any:
    os.close(new("f"))
    handle = handle_of("f")
    return unprivileged(open_handle, handle)


@case(mounts=True)
def handles_outlive_the_cache(d: Path) -> Any:
    """Handles of inodes that the kernel has evicted open them again, and ".." of a directory resolves."""
    return with_options("size=1m", _forgotten)


def _forgotten(directory: Path) -> Any:
    os.makedirs("a/b")
    os.close(new("a/b/f", b"content"))
    os.symlink("f", "a/s")
    handles = {name: handle_of(name) for name in (".", "a", "a/b", "a/b/f", "a/s")}
    numbers = {name: os.lstat(name).st_ino for name in handles}
    seen: dict[str, Any] = {}
    for what in ("forgotten", "renamed"):
        if what == "renamed":
            os.rename("a/b", "a/c")
        for name, handle in reversed(handles.items()):
            call("mount", "none", directory, 0, MS_REMOUNT, "")  # drops what nobody uses (shrink_dcache_sb)
            fd = open_handle(handle, os.O_PATH)
            seen[f"{what} {name}"] = fd if isinstance(fd, str) else os.fstat(fd).st_ino == numbers[name]
            if isinstance(fd, int) and name == "a/b":
                seen[f"{what}, above"] = os.stat("..", dir_fd=fd).st_ino == numbers["a"]
    fd = open_handle(handles["a/b/f"], os.O_RDWR)
    seen["read"] = fd if isinstance(fd, str) else os.read(fd, 7)
    return seen
