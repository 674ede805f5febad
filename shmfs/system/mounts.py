"""What is mounted where, from mountinfo, without touching a mount that may not answer."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

from shmfs.errors import ShmfsError
from shmfs.system import proc
from shmfs.system.syscalls import umount

FSTYPE = "fuse.shmfs"
_PATIENCE = 5.0
"""Seconds that a mount may take to answer before it is left alone."""


class Mount(NamedTuple):
    """A line of mountinfo, see proc(5)."""

    mountpoint: str
    device: str
    """major:minor, decimal, as st_dev."""
    fstype: str
    options: str
    """Of the mount and of the superblock, joined by a comma."""
    source: str


def mounts(pid: proc.Pid = "self", root: proc.Proc = "/proc") -> list[Mount]:
    """Return every mount of the namespace of a process, the topmost last; raises OSError.

    `root` is /proc, see `proc`.
    """
    found = []
    for line in filter(None, os.fsdecode(proc.read(pid, "mountinfo", root)).split("\n")):
        left, _, right = line.partition(" - ")
        fields, (fstype, source, superblock) = left.split(" "), right.split(" ", 2)
        options = f"{fields[5]},{superblock}"
        found.append(Mount(_unescape(fields[4]), fields[2], fstype, options, _unescape(source)))
    return found


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(text)))


def find(path: str) -> Mount | None:
    """The topmost mount on exactly `path`, which may be dead; None where nothing is mounted."""
    path = absolute(path)
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == path), None)


def containing(path: str) -> Mount | None:
    """The mount that holds `path`."""
    path = absolute(path)
    above = {path, *map(str, Path(path).parents)}
    holding = [mount for mount in mounts() if mount.mountpoint in above]
    longest = max((len(mount.mountpoint) for mount in holding), default=0)
    return next((mount for mount in reversed(holding) if len(mount.mountpoint) == longest), None)


def absolute(path: str) -> str:
    """`path` without links and dots; only its directory is looked up, so a dead mount does no harm."""
    path = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def shmfs_mounts() -> list[Mount]:
    """The shmfs mounts of this namespace."""
    return [mount for mount in mounts() if mount.fstype == FSTYPE]


def is_dead(mount: Mount) -> bool:
    """Whether nobody serves the mount any more (ENOTCONN); one that does not answer in time is not dead."""
    outcome = []

    def ask() -> None:
        try:
            os.statvfs(mount.mountpoint)
        except OSError as failure:
            outcome.append(failure.errno)

    asking = threading.Thread(target=ask, daemon=True)  # a stopped daemon would keep us for ever
    asking.start()
    asking.join(_PATIENCE)
    return outcome in ([errno.ENOTCONN], [errno.ECONNABORTED])


def served(path: str) -> Mount:
    """The mount on `path`, which is a shmfs and answers; raises ShmfsError."""
    mount = find(path)
    if mount is None or mount.fstype != FSTYPE:
        raise ShmfsError(f"{path} is not a shmfs mount; `shmfs ps` lists them")
    if is_dead(mount):
        raise ShmfsError(
            f"{path} is a dead mount, whose daemon has ended; `shmfs umount {path}` clears it away"
        )
    return mount


def check_mountpoint(path: str) -> str:
    """The absolute path to mount on; a dead shmfs there is cleared away. Raises ShmfsError."""
    if not path.isprintable():
        raise ShmfsError(f"the mount point {path!r} has characters that cannot be printed; name another")
    mount = find(path)
    if mount and mount.fstype == FSTYPE:
        if not is_dead(mount):
            raise ShmfsError(f"{path} is a shmfs mount already; `shmfs umount {path}` ends it")
        clear(mount.mountpoint)
    try:
        os.listdir(path)
    except FileNotFoundError:
        raise ShmfsError(f"the mount point {path} does not exist; create it with `mkdir {path}`") from None
    except NotADirectoryError:
        raise ShmfsError(f"the mount point {path} is not a directory; name a directory") from None
    except OSError as failure:
        raise ShmfsError(f"the mount point {path} cannot be used: {failure.strerror}") from None
    return os.path.realpath(path)


def clear(mountpoint: str) -> None:
    """Unmount what nobody serves any more; raises ShmfsError.

    A thread of a daemon that was killed may still wait in the kernel for a page, which a client has locked
    that waits for the daemon: only the end of the connection, which root may force, ends both.
    """
    unmount(mountpoint, lazy=True, force=True)


def unmount(mountpoint: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount as root, or through fusermount3; raises ShmfsError, naming who keeps it busy."""
    try:
        umount(mountpoint, lazy=lazy, force=force)
        return
    except OSError as failure:
        if failure.errno == errno.EBUSY:
            raise ShmfsError(f"{mountpoint} is busy{_holders(mountpoint)}; end them and try again") from None
        if failure.errno != errno.EPERM:
            raise ShmfsError(f"cannot unmount {mountpoint}: {failure.strerror}") from None
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is None:
        raise ShmfsError(f"cannot unmount {mountpoint}: not root, and fusermount3 is missing (package fuse3)")
    command = [helper, "-u", *(["-z"] if lazy else []), "--", mountpoint]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        if "busy" in result.stderr:
            raise ShmfsError(f"{mountpoint} is busy{_holders(mountpoint)}; end them and try again")
        raise ShmfsError(f"cannot unmount {mountpoint}: {result.stderr.strip() or 'fusermount3 failed'}")


def unmount_moved(device: str, mountpoint: str) -> None:
    """Detach a mount whose path has changed since (a directory above it was renamed), where permitted."""
    for mount in mounts():
        if mount.device == device and mount.fstype == FSTYPE and mount.mountpoint != mountpoint:
            with contextlib.suppress(ShmfsError):
                unmount(mount.mountpoint, lazy=True)


def _holders(mountpoint: str) -> str:
    """Processes seen to hold the mount, for a message."""
    mount = find(mountpoint)
    if mount is None:
        return ""
    device = os.makedev(*map(int, mount.device.split(":")))
    holders = [pid for pid in sorted(proc.pids()) if _holds(pid, device)]
    return ": held by " + _named(holders) if holders else ""


def _named(pids: list[int]) -> str:
    """A few processes by name, for a message."""
    names = [f"{name} ({pid})" for pid in pids[:5] if (name := proc.command(pid)) is not None]
    return ", ".join(names) + (" and others" if len(pids) > 5 else "")


def _holds(pid: int, device: int) -> bool:
    try:
        links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
        links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        links += [f"/proc/{pid}/map_files/{name}" for name in os.listdir(f"/proc/{pid}/map_files")]
    except OSError:
        return False
    for link in links:
        try:
            if os.stat(link).st_dev == device:
                return True
        except OSError:
            continue
    return False


def elsewhere(device: str) -> str:
    """Who sees a file system in another mount namespace than this one; "" where none may be looked at."""
    seen: dict[str | None, bool] = {proc.mount_namespace("self"): False, None: False}
    found = []
    for pid in sorted(proc.pids()):
        namespace = proc.mount_namespace(pid)
        if namespace not in seen:
            with contextlib.suppress(OSError):
                seen[namespace] = any(mount.device == device for mount in mounts(pid))
        if seen.get(namespace):
            found.append(pid)
    return _named(found)
