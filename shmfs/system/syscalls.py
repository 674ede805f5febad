"""System calls that Python's `os` lacks. The GIL is released; errors are OSError."""

import ctypes
import os

from shmfs.system.syscall_table import number

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
MNT_FORCE, MNT_DETACH = 1, 2
UMOUNT_NOFOLLOW = 8
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37

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
    """Make a system call of `syscall_table`; raises ShmfsError where its number is not known."""
    return checked(libc.syscall(ctypes.c_long(number(name)), *arguments))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """See fallocate(2); offset and length are bytes."""
    checked(libc.fallocate(fd, mode, offset, length))


def prctl(option: int, argument: object) -> None:
    """See prctl(2). Does nothing where the kernel refuses the option."""
    libc.prctl(option, argument, 0, 0, 0)


def unshare(flags: int) -> None:
    """See unshare(2)."""
    checked(libc.unshare(flags))


def setns(descriptor: int) -> None:
    """See setns(2); the namespace may be of any type."""
    checked(libc.setns(descriptor, 0))


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """Attach a file system to the tree; the arguments are the system call's. See mount(2)."""
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    checked(libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3]))


def umount(target: str, *, lazy: bool = False, force: bool = False) -> None:
    """Detach what is mounted on `target`; a busy mount is EBUSY unless `lazy`. See umount(2).

    With `force` all requests that wait for FUSE there fail (MNT_FORCE).
    """
    flags = (MNT_DETACH if lazy else 0) | (MNT_FORCE if force else 0)
    checked(libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW))
