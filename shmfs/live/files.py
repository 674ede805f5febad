"""The files and limits of what is watched: a mount of shmfs as its daemon knows it, or a tmpfs, walked."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shmfs.client import control, inventory
from shmfs.client.tmpfs import regular_files
from shmfs.errors import ShmfsError
from shmfs.events.amounts import clock
from shmfs.events.names import printable, process_name
from shmfs.events.records import Statistics
from shmfs.live.model import Limits, SegmentRow, SourceRow
from shmfs.system import mounts
from shmfs.system.pagemap import PAGE

TMPFS = ("tmpfs", "devtmpfs")
NAMED = 5
"""Mounts that are named where one must be."""
DEFAULT = "/dev/shm"  # noqa: S108


class Listed(NamedTuple):
    """What there is now, and what was counted since the file system was mounted."""

    limits: Limits
    segments: dict[int, SegmentRow]
    """By inode; rates are not filled in."""
    page_ins: dict[int, int] | None
    """By inode; None where nobody counts."""
    notes: Sequence[str] = ()
    """What is stale, a sentence each."""


class Files(Protocol):
    """One file system."""

    mount: str
    device: str
    store: str
    sources: list[SourceRow]

    def list(self) -> Listed:
        """What there is now; raises ShmfsError or OSError where nobody answers."""

    def again(self) -> "Files":
        """What is in the same place now; raises ShmfsError with the reason why nothing is."""


class Daemon:
    """A mount of shmfs; the mount itself is not touched, so one that hangs does no harm."""

    def __init__(self, entry: inventory.Entry) -> None:
        if entry.statistics is None:
            raise ShmfsError(f"{entry.mountpoint}: {entry.reason}")
        self.mount, self.device = printable(entry.mountpoint), entry.device
        self._sandbox = entry.sandbox
        self.store = entry.statistics.store
        self._mount = mounts.Mount(entry.mountpoint, entry.device, mounts.FSTYPE, "", "")
        self._managed = self.store == "managed"
        if self._managed:
            figures = "size, resident, page-ins, refused, peak, creator, limits"
            self.sources = [SourceRow(figures, "fuse, mm", exact=True)]
        else:
            self.sources = [
                SourceRow("size, resident, creator, limits", "fuse, mm", exact=True),
                SourceRow("peak", "mm", exact=False),
            ]

    def list(self) -> Listed:
        """Ask the daemon."""
        known = control.statistics(self._mount.device)
        if known.stale:
            self.sources[0].stale = f"as of {clock(min(one.since for one in known.stale))}"
        segments, page_ins = {}, {}
        for one in known.segments:
            if one.evicted:
                continue
            maker = one.created_by
            segments[one.inode] = SegmentRow(
                inode=one.inode,
                path=one.path,
                size=one.size,
                resident=one.resident,
                unlinked=not one.nlink,
                created_by=process_name(maker) if maker else "",
                refused=one.refused if self._managed else None,
            )
            if one.page_ins is not None and self._managed:
                page_ins[one.inode] = one.page_ins
        notes = [one.sentence for one in known.stale]
        return Listed(_limits(known, self._managed), segments, page_ins if self._managed else None, notes)

    def again(self) -> Files:
        """A new mount in its place."""
        if self._sandbox:
            raise ShmfsError(f"nobody serves {self.mount} any more: the sandbox has ended")
        mount = mounts.find(self._mount.mountpoint)
        if mount is None or mount.fstype != mounts.FSTYPE:
            raise ShmfsError(f"{self.mount} is not mounted any more")
        return Daemon(inventory.find(mount.mountpoint))


def _limits(known: Statistics, managed: bool) -> Limits:
    return Limits(
        used=known.used,
        size=known.size_limit,
        peak=known.peak,
        inodes_used=known.inodes_used,
        inodes=known.inode_limit,
        refused=known.refused if managed else None,  # where the kernel refuses, nobody counts
    )


class Tmpfs:
    """A tmpfs of the kernel; files without a name are found only where somebody maps them."""

    def __init__(self, mount: mounts.Mount) -> None:
        self.mount, self.device = printable(mount.mountpoint), mount.device
        self.store = mount.fstype
        self._root = mount.mountpoint
        self.sources = [SourceRow("size, resident, limits", "stat, statvfs", exact=True)]

    def list(self) -> Listed:
        """Walk the tree."""
        segments: dict[int, SegmentRow] = {}
        for path, status in regular_files(self._root, os.stat(self._root).st_dev):
            segments[status.st_ino] = SegmentRow(
                inode=status.st_ino,
                path=printable(path[len(self._root.rstrip("/")) :]),
                size=status.st_size,
                resident=status.st_blocks * 512 // PAGE,
            )
        room = os.statvfs(self._root)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        if not room.f_blocks:
            used = PAGE * sum(one.resident or 0 for one in segments.values())
        limits = Limits(
            used=used,
            size=room.f_blocks * room.f_frsize,
            inodes_used=room.f_files - room.f_ffree,
            inodes=room.f_files,
        )
        return Listed(limits, segments, None)

    def again(self) -> Files:
        """A new mount in its place."""
        mount = mounts.find(self._root)
        if mount is None or mount.fstype not in TMPFS:
            raise ShmfsError(f"{self.mount} is not mounted any more")
        return Tmpfs(mount)


def find(target: str | None) -> Files:
    """What `target` is on: a path, or the device number of a sandbox; raises ShmfsError.

    Without it /dev/shm if that is one of shmfs, else the only mount of shmfs there is, else /dev/shm.
    """
    mount = mounts.containing(DEFAULT)
    if target is None and (mount is None or mount.fstype != mounts.FSTYPE):
        known = [entry for entry in inventory.entries() if entry.state == "serving"]
        serving = [entry for entry in known if not entry.sandbox] or known
        if len(serving) > 1:
            names = [entry.device if entry.sandbox else entry.mountpoint for entry in serving[:NAMED]]
            more = ", …" if len(serving) > NAMED else ""
            raise ShmfsError(
                f"there are {len(serving)} mounts of shmfs; name one of them: {', '.join(names)}{more}"
            )
        if serving:
            return Daemon(serving[0])
    target = target or DEFAULT
    mount = mounts.containing(target)
    is_device = target.replace(":", "", 1).isdecimal() and not os.path.lexists(target)
    if is_device or (mount is not None and mount.fstype == mounts.FSTYPE):
        return Daemon(inventory.find(target))
    if not os.path.lexists(target):
        raise ShmfsError(f"{target} does not exist; name a directory on a mount of shmfs or on a tmpfs")
    mount = mounts.containing(os.path.realpath(target))
    if mount is not None and mount.fstype == mounts.FSTYPE:
        return Daemon(inventory.find(mount.mountpoint))
    if mount is None or mount.fstype not in TMPFS:
        kind = mount.fstype if mount else "nothing"
        raise ShmfsError(
            f"{target} is on {kind}, whose files are no shared memory; name a directory on a mount of shmfs"
            " or on a tmpfs, such as /dev/shm"
        )
    return Tmpfs(mount)
