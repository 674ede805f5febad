"""System calls that Python's `os` lacks. The GIL is released; errors are OSError."""

import ctypes
import os
import platform

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC, FSPICK_CLOEXEC
_FSPICK_EMPTY_PATH = 8
# The numbers are the same on every architecture that Linux added since 2011, and on x86.
_FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 430, 431, 432, 433

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.syscall.restype = ctypes.c_long


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(number: int, *arguments: object) -> int:
    if platform.machine() == "alpha":  # the one with other numbers
        number += 110
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """See fallocate(2); offset and length are bytes."""
    _checked(_libc.fallocate(fd, mode, offset, length))


def detached_tmpfs(options: dict[str, str | None], attributes: int = 0) -> int:
    """A tmpfs that is mounted nowhere: a descriptor of its root. See fsopen(2), fsmount(2).

    `attributes` are MOUNT_ATTR_ flags.

    Raises EPERM without CAP_SYS_ADMIN, EINVAL for an option the kernel does not know.
    """
    context = _syscall(_FSOPEN, b"tmpfs", _CLOEXEC)
    try:
        _configure(context, options, FSCONFIG_CMD_CREATE)
        return _syscall(_FSMOUNT, context, _CLOEXEC, attributes)
    finally:
        os.close(context)


def reconfigure(mount: int, options: dict[str, str | None]) -> None:
    """Remount the detached tmpfs with other limits; raises EINVAL where they do not fit."""
    context = _syscall(_FSPICK, mount, b"", _CLOEXEC | _FSPICK_EMPTY_PATH)
    try:
        _configure(context, options, FSCONFIG_CMD_RECONFIGURE)
    finally:
        os.close(context)


def _configure(context: int, options: dict[str, str | None], command: int) -> None:
    for name, value in options.items():
        if value is None:
            _syscall(_FSCONFIG, context, FSCONFIG_SET_FLAG, name.encode(), None, 0)
        else:
            _syscall(_FSCONFIG, context, FSCONFIG_SET_STRING, name.encode(), value.encode(), 0)
    _syscall(_FSCONFIG, context, command, None, None, 0)
