"""System V shared memory of a mount without the library: requests and attaches, one by one."""

import fcntl
import mmap
import os
from typing import Any

from shmfs.ipc import protocol

STAT, RMID, SET, INFO, SHM_STAT, SHM_INFO = 2, 0, 1, 3, 13, 14
CREAT, EXCL, NORESERVE = 0o1000, 0o2000, 0o10000


class Client:
    """One that asks as `preload.c` does."""

    def __init__(self, mount: str) -> None:
        self.directory = os.open(f"{mount}/.shmfs", os.O_RDONLY | os.O_DIRECTORY)

    def ask(self, **fields: Any) -> tuple[int, protocol.Request]:
        data = bytearray(protocol.Request.of(**fields).pack())
        result = fcntl.ioctl(self.directory, protocol.COMMAND, data)
        return result, protocol.unpack(bytes(data))

    def get(self, key: int, size: int, flags: int = CREAT | 0o600) -> int:
        return self.ask(op=protocol.SHMGET, key=key, size=size, flags=flags)[0]

    def ctl(self, shmid: int, cmd: int, **fields: Any) -> protocol.Request:
        return self.ask(op=protocol.SHMCTL, id=shmid, cmd=cmd, **fields)[1]

    def nattch(self, shmid: int) -> int:
        return self.ctl(shmid, STAT).nattch

    def name(self, shmid: int) -> str:
        told = self.ask(op=protocol.NAME, id=shmid)[1]
        return f"SYSV{told.key & 0xFFFFFFFF:08x}.{shmid}"

    def open(self, shmid: int, flags: int = os.O_RDWR) -> int:
        return os.open(self.name(shmid), flags, dir_fd=self.directory)

    def attach(self, shmid: int, flags: int = os.O_RDWR) -> "Attach":
        fd = self.open(shmid, flags)
        size = os.fstat(fd).st_size
        try:
            return Attach(fd, size, mmap.PROT_READ if flags == os.O_RDONLY else 3)
        finally:
            os.close(fd)


class Attach:
    """A mapping that keeps no descriptor, as Python's would."""

    def __init__(self, fd: int, size: int, protection: int = 3) -> None:
        import ctypes

        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._libc.munmap.argtypes = self._libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.size = -(-size // 4096) * 4096
        self.address: int = self._libc.mmap(None, self.size, protection, mmap.MAP_SHARED, fd, 0)
        if self.address == (1 << 64) - 1:
            raise OSError(ctypes.get_errno(), "mmap")
        self.memory = (ctypes.c_char * self.size).from_address(self.address)

    def unmap(self, first: int = 0, pages: int | None = None) -> None:
        length = self.size if pages is None else pages * 4096
        self._libc.munmap(self.address + first * 4096, length)
