"""System calls that Python's `os` lacks. The GIL is released; errors are OSError."""

import ctypes
import os

from shmfs.system.calls import number

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.syscall.restype = ctypes.c_long


def checked(result: int) -> int:
    """Return what a function of libc returned; raises OSError by its errno if that is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(name: str, *arguments: object) -> int:
    """Make a system call of `calls`; raises OSError, and ShmfsError where its number is not known."""
    return checked(libc.syscall(ctypes.c_long(number(name)), *arguments))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """See fallocate(2); offset and length are bytes."""
    checked(libc.fallocate(fd, mode, offset, length))
