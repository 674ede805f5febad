"""System V and shared anonymous memory for the cases: the kernel's own, or a mount's through the library."""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shmfs.conformance import mounting
from shmfs.conformance.tools import NeedsRootError, libc
from shmfs.errors import ShmfsError
from shmfs.ipc import library
from shmfs.system import mounts, namespaces

PRIVATE_KEY = 0
CREAT, EXCL, HUGETLB, NORESERVE = 0o1000, 0o2000, 0o4000, 0o10000
RDONLY, RND, REMAP, EXEC = 0o10000, 0o20000, 0o40000, 0o100000
RMID, SET, STAT, IPC_INFO = range(4)
LOCK, UNLOCK, SHM_STAT, SHM_INFO, SHM_STAT_ANY = range(11, 16)
DEST, LOCKED = 0o1000, 0o2000
FREE = 1 << 44
"""An address that no mapping is near."""


class Status(ctypes.Structure):
    """struct shmid_ds of 64-bit Linux; see shmctl(2)."""

    _fields_ = (
        ("key", ctypes.c_int),
        *((name, ctypes.c_uint) for name in ("uid", "gid", "cuid", "cgid")),
        *((name, ctypes.c_ushort) for name in ("mode", "_pad1", "seq", "_pad2")),
        ("_unused", ctypes.c_ulong * 2),
        ("segsz", ctypes.c_size_t),
        *((name, ctypes.c_long) for name in ("atime", "dtime", "ctime")),
        *((name, ctypes.c_int) for name in ("cpid", "lpid")),
        ("nattch", ctypes.c_ulong),
        ("_reserved", ctypes.c_ulong * 2),
    )


class Limits(ctypes.Structure):
    """struct shminfo, of which the kernel fills the reserved part too (struct shminfo64)."""

    _fields_ = (
        *((name, ctypes.c_ulong) for name in ("max", "min", "mni", "seg", "all")),
        ("_reserved", ctypes.c_ulong * 4),
    )


class Usage(ctypes.Structure):
    """struct shm_info; in pages."""

    _fields_ = (
        ("used_ids", ctypes.c_int),
        *((name, ctypes.c_ulong) for name in ("tot", "rss", "swp", "attempts", "successes")),
    )


class Doors:
    """shmget(2), shmat(2), shmdt(2), shmctl(2) and mmap(2); all raise OSError."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions
        functions.shmat.restype = functions.mmap.restype = ctypes.c_void_p

    def _call(self, name: str, *arguments: Any) -> int:
        converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = getattr(self.functions, name)(*converted)
        if result in (-1, ctypes.c_void_p(-1).value):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(result or 0)

    def get(self, key: int, size: int, flags: int = CREAT | 0o600) -> int:
        """The id of a segment."""
        return self._call("shmget", ctypes.c_int(key), ctypes.c_size_t(size), flags)

    def at(self, identifier: int, address: int = 0, flags: int = 0) -> int:
        """The address of an attach."""
        return self._call("shmat", identifier, ctypes.c_void_p(address), flags)

    def dt(self, address: int) -> int:
        """Detach."""
        return self._call("shmdt", ctypes.c_void_p(address))

    def ctl(self, identifier: int, command: int, buffer: Any = None) -> int:
        """shmctl(2) itself."""
        return self._call("shmctl", identifier, command, ctypes.byref(buffer) if buffer else None)

    def stat(self, identifier: int, command: int = STAT) -> Status:
        """IPC_STAT, or another command that fills the same structure."""
        self.ctl(identifier, command, status := Status())
        return status

    def nattch(self, identifier: int) -> int:
        """How many mappings there are."""
        return int(self.stat(identifier).nattch)

    def set(self, identifier: int, **fields: int) -> int:
        """IPC_SET of some fields."""
        status = self.stat(identifier)
        for name, value in fields.items():
            setattr(status, name, value)
        return self.ctl(identifier, SET, status)

    def remove(self, identifier: int) -> int:
        """IPC_RMID."""
        return self.ctl(identifier, RMID)

    def usage(self) -> Usage:
        """SHM_INFO."""
        self.ctl(0, SHM_INFO, usage := Usage())
        return usage

    def ids(self) -> list[int]:
        """The id of every segment, by index."""
        highest = self.ctl(0, SHM_INFO, Usage())
        found = []
        for index in range(highest + 1):
            with suppress(OSError):
                found.append(self.ctl(index, SHM_STAT_ANY, Status()))
        return found

    def map(
        self, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0, address: int = 0
    ) -> int:
        """mmap(2): the address."""
        return self._call(
            "mmap", ctypes.c_void_p(address), ctypes.c_size_t(length), protection, flags, fd, offset
        )


def door() -> Doors:
    """The kernel's functions, or the library's if the working directory is on a shmfs."""
    mount = mounts.containing(os.getcwd())
    if mount is None or mount.fstype != mounts.FSTYPE:
        return Doors(libc)
    return through(mount.mountpoint)


def through(mountpoint: str) -> Doors:
    """The library's functions for a mount; a process has one."""
    found = library.path()
    if found is None:
        raise RuntimeError("the library was not built")
    os.environ["SHMFS_DIR"] = mountpoint
    os.environ["SHMFS_PRELOAD"] = ",".join(library.DOORS)
    return Doors(ctypes.CDLL(found, use_errno=True))


@contextmanager
def segments(**limits: int) -> Iterator[Doors]:
    """System V memory that is nobody else's and is cleared away; with limits shmmax, shmall, shmmni."""
    try:
        namespaces.leave_ipc()
    except ShmfsError as failure:
        raise NeedsRootError(str(failure)) from None
    for name, value in limits.items():
        Path(f"/proc/sys/kernel/{name}").write_text(str(value))
    if limits and mounting.on_shmfs():
        text = ",".join(f"{name}={value}" for name, value in limits.items())
        with mounting.another(f"size=16m,{text}") as directory:
            yield through(str(directory))
        return
    doors = door()
    try:
        yield doors
    finally:
        for identifier in doors.ids():
            with suppress(OSError):
                doors.remove(identifier)


def gone(doors: Doors, identifier: int) -> Any:
    """The errno of a segment that is to go with its last mapping, which FUSE is told of a moment later."""
    deadline = time.monotonic() + 10
    while True:
        try:
            doors.stat(identifier)
        except OSError as failure:
            return errno.errorcode[failure.errno or 0]
        if time.monotonic() > deadline:
            return "still there"
        time.sleep(0.005)


def areas(start: int, end: int) -> list[str]:
    """Rights and length in pages of the mappings between two addresses, in order."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(word, 16) for word in line.split()[0].split("-"))
        if low < end and high > start:
            found.append(f"{line.split()[1]} {(high - low) // 4096}")
    return found


def load(address: int, size: int = 1) -> bytes:
    """The bytes at an address."""
    return ctypes.string_at(address, size)


def store(address: int, data: bytes = b"x") -> None:
    """Store bytes at an address."""
    ctypes.memmove(address, data, len(data))
