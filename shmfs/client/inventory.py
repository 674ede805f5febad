"""The shmfs mounts that this user can know of: in this mount namespace, and in sandboxes by their sockets."""

from typing import Literal

from msgspec import Struct

from shmfs.client import control
from shmfs.daemon import runtime
from shmfs.errors import ShmfsError
from shmfs.events.records import Segment, Statistics
from shmfs.system import mounts


class Entry(Struct, frozen=True):
    """A mount and what its daemon answers."""

    mountpoint: str
    device: str
    state: Literal["serving", "dead", "silent"]
    """dead: nobody serves it any more; silent: its daemon does not answer this user."""
    sandbox: bool
    """In the mount namespace of a sandbox, where `mountpoint` is to be taken."""
    reason: str
    """Why there are no statistics and what to do, a sentence; "" when there are."""
    log: str
    """What its daemon said at its end, a file; "" when nothing."""
    statistics: Statistics | None


def entries() -> list[Entry]:
    """All mounts, those of this namespace first, in the order of /proc/self/mountinfo."""
    here = mounts.shmfs_mounts()
    found = [_entry(mount) for mount in here]
    known = {mount.device for mount in here}
    for path in sorted(runtime.directory().glob("*.sock")):
        device = path.name.removesuffix(".sock")
        if device not in known:
            found.append(_sandbox(device))
    return [entry for entry in found if entry is not None]


def find(target: str) -> Entry:
    """The mount that holds the path `target`, or has that device number ("0:57"); raises ShmfsError."""
    mount = mounts.containing(target)
    if mount is not None and mount.fstype == mounts.FSTYPE:
        entry = _entry(mount)
        if entry is not None:
            return entry
    major, _, minor = target.partition(":")
    if major.isdecimal() and minor.isdecimal():
        entry = next((entry for entry in entries() if entry.device == target), None)
        if entry is not None:
            return entry
    raise ShmfsError(f"{target} is not on a shmfs mount; `shmfs ps` lists the mounts")


def segment(target: str, *, shmid: int | None, inode: int | None) -> tuple[str, Segment]:
    """Device and what is known of a segment, by System V's id or the inode number; raises ShmfsError."""
    entry = find(target)
    if entry.statistics is None:
        raise ShmfsError(f"{entry.mountpoint}: {entry.reason}")
    for one in entry.statistics.segments:
        if not one.evicted and (one.inode == inode if inode is not None else one.id == shmid):
            return entry.device, one
    what = f"inode {inode}" if inode is not None else f"id {shmid}"
    raise ShmfsError(f"there is no segment with {what} on {entry.mountpoint}; `shmfs ps` lists them")


def _entry(mount: mounts.Mount) -> Entry | None:
    """Ask the daemon; None if the mount is gone meanwhile."""
    where = mount.mountpoint
    try:
        return Entry(where, mount.device, "serving", False, "", "", control.statistics(mount.device))
    except ShmfsError as failure:
        reason, dead = str(failure), control.is_dead(mount, failure)
    if mount not in mounts.shmfs_mounts():
        return None
    if not dead:
        return Entry(where, mount.device, "silent", False, reason, "", None)
    reason = f"its daemon is gone, and its files with it; `shmfs umount {where}` clears it away"
    return Entry(where, mount.device, "dead", False, reason, _log(mount.device), None)


def _sandbox(device: str) -> Entry | None:
    """Ask a daemon that is not seen here; None if nobody listens (any more)."""
    statistics = control.find_statistics(device)
    if statistics is None:
        runtime.remove_traces(device)
        return None
    return Entry(statistics.mount, device, "serving", True, "", "", statistics)


def _log(device: str) -> str:
    path = runtime.log_path(device)
    return str(path) if path.exists() and path.stat().st_size else ""
