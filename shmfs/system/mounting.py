"""Mounts without a mount point: fsopen(2), fsconfig(2), fsmount(2), fspick(2), since Linux 5.2.

A detached mount is in no mount table. Its files are reached by openat(2), or by /proc/self/fd/N/NAME in a
process that has its descriptor. It ends when the last descriptor of it and of its files is closed.
"""

import os

from shmfs.system.syscalls import syscall

MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20

_SET_FLAG, _SET_STRING, _CMD_CREATE, _CMD_RECONFIGURE = 0, 1, 6, 7  # FSCONFIG_
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC, FSPICK_CLOEXEC
_FSPICK_EMPTY_PATH = 8


def detached(fstype: str, options: dict[str, str | None] | None = None, attributes: int = 0) -> int:
    """Mount a file system nowhere; return a descriptor of its root, closed on exec.

    An option without a value is a flag. `attributes` are MOUNT_ATTR_ flags.

    Raises EPERM without CAP_SYS_ADMIN, ENODEV for a type and EINVAL for an option that the kernel does not
    know, ENOSYS before Linux 5.2.
    """
    context = syscall("fsopen", fstype.encode(), _CLOEXEC)
    try:
        _configure(context, options or {}, _CMD_CREATE)
        return syscall("fsmount", context, _CLOEXEC, attributes)
    finally:
        os.close(context)


def reconfigure(mount: int, options: dict[str, str | None]) -> None:
    """Remount a detached mount with other options; raises EINVAL where they do not fit."""
    context = syscall("fspick", mount, b"", _CLOEXEC | _FSPICK_EMPTY_PATH)
    try:
        _configure(context, options, _CMD_RECONFIGURE)
    finally:
        os.close(context)


def _configure(context: int, options: dict[str, str | None], command: int) -> None:
    for name, value in options.items():
        if value is None:
            syscall("fsconfig", context, _SET_FLAG, name.encode(), None, 0)
        else:
            syscall("fsconfig", context, _SET_STRING, name.encode(), value.encode(), 0)
    syscall("fsconfig", context, command, None, None, 0)
