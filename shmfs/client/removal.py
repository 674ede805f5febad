"""Segments are removed by who may: by their names, or with System V's ids and keys."""

import errno
import fcntl
import os
import stat
import struct

from shmfs.errors import ShmfsError
from shmfs.ipc import protocol, sysv
from shmfs.system import mounts


def remove(
    paths: list[str], ids: list[int], keys: list[int], mountpoint: str | None
) -> list[dict[str, str | int]]:
    """Remove files, and segments of one mount; returns each by what it was named by: path, id or key.

    Raises ShmfsError at the first that cannot be removed.
    """
    for path in paths:
        _unlink(path)
    removed: list[dict[str, str | int]] = [{"path": os.path.abspath(path)} for path in paths]
    if not (ids or keys):
        return removed
    where = mountpoint or _only_mount()
    try:
        directory = os.open(f"{where}/{sysv.NAME.decode()}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as failure:
        raise ShmfsError(f"{where} has no System V segments that you may reach: {failure.strerror}") from None
    try:
        for shmid in ids:
            _remove(directory, f"id {shmid}", shmid)
        for key in keys:
            what = f"key {key:#x}"
            signed = key - (1 << 32) if key >> 31 == 1 else key  # key_t is, and is written as if it were not
            _remove(directory, what, _find(directory, what, signed))
    finally:
        os.close(directory)
    removed += [{"id": shmid} for shmid in ids]
    return removed + [{"key": key} for key in keys]


def _unlink(path: str) -> None:
    mount = mounts.containing(path)
    if mount is None or mount.fstype != mounts.FSTYPE:
        raise ShmfsError(f"{path} is not on a shmfs mount; use rm(1) for it")
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ShmfsError(f"{path} is not a regular file, so it is no segment")
        os.unlink(path)
    except OSError as failure:
        raise ShmfsError(f"cannot remove {path}: {failure.strerror}") from None


def _only_mount() -> str:
    found = [mount.mountpoint for mount in mounts.shmfs_mounts()]
    if "/dev/shm" in found:  # noqa: S108
        return "/dev/shm"  # noqa: S108
    if len(found) == 1:
        return found[0]
    raise ShmfsError(
        f"there are {len(found)} mounts; say which one with --mount DIR" if found else "nothing is mounted"
    )


def _remove(directory: int, what: str, shmid: int) -> None:
    _ask(directory, what, op=protocol.SHMCTL, id=shmid, cmd=sysv.IPC_RMID)


def _find(directory: int, what: str, key: int) -> int:
    if key == sysv.IPC_PRIVATE:
        raise ShmfsError("key 0 is that of all private segments; name one by its id, see `shmfs ps`")
    return _ask(directory, what, op=protocol.SHMGET, key=key)


def _ask(directory: int, what: str, **fields: int) -> int:
    try:
        request = protocol.Request.of(**fields).pack()
        return int(fcntl.ioctl(directory, protocol.COMMAND, bytearray(request)))
    except OSError as failure:
        gone = failure.errno in (errno.ENOENT, errno.EINVAL, errno.EIDRM)
        why = "there is no such segment" if gone else failure.strerror
        raise ShmfsError(f"cannot remove the segment with {what}: {why}") from None
    except struct.error:  # too large for a number of the system's
        raise ShmfsError(f"cannot remove the segment with {what}: there is no such segment") from None
