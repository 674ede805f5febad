"""Segments that nobody is left to remove: what the daemon says of them, and who asks it.

A segment is a file in the root directory (as shm_open makes it) or one of System V. It is an orphan when the
process that made it is dead, told from a later one with its pid by the start time, and when nobody has it
open or mapped.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from shmfs.errors import ShmfsError
from shmfs.fs.inode import RegularFile
from shmfs.fs.superblock import Credentials
from shmfs.fuse import control
from shmfs.fuse.operations import Operations
from shmfs.ipc import attaches
from shmfs.trace import processes
from shmfs.trace.history import History
from shmfs.trace.names import printable
from shmfs.trace.records import Orphan, Process

# The daemon's side.


def of_the_dead(operations: Operations, history: History) -> list[Orphan]:
    """Segments whose makers are dead and that nobody has open; somebody may still map them."""
    return list(_orphans(operations, history))


def _orphans(operations: Operations, history: History) -> Iterator[Orphan]:
    superblock = operations.superblock
    for segment in history.segments():
        inode = superblock.inodes.get(segment.inode)
        if segment.evicted or not isinstance(inode, RegularFile) or not _is_free(operations, inode):
            continue
        if segment.created_by is not None and _is_dead(segment.created_by):
            inode.refresh()
            yield Orphan(
                inode=inode.ino,
                path=printable(inode.path()),
                kind=segment.kind,
                key=segment.key,
                id=segment.id,
                uid=inode.uid,
                size=inode.size,
                bytes=inode.allocated * 4096,
                created=segment.created,
                created_by=segment.created_by,
            )


def _is_free(operations: Operations, inode: RegularFile) -> bool:
    """Whether it has a name of a segment's and nobody has it open; of System V, nor mapped."""
    if not inode.nlink or inode.opens:
        return False
    if inode.door is not None:
        return inode.nlookup <= 0
    return inode.parent is operations.superblock.root


def _is_dead(maker: Process) -> bool:
    """Whether the process is gone; one that was gone before it was looked at has no start time."""
    now = processes.Processes().get(maker.pid)
    return now is None or not now.start_time or now.start_time != maker.start_time


def remove(operations: Operations, inodes: list[int]) -> list[int]:
    """Remove those that are still free; returns them."""
    removed = []
    for ino in inodes:
        inode = operations.superblock.inodes.get(ino)
        if not isinstance(inode, RegularFile) or not _is_free(operations, inode):
            continue
        try:
            if inode.door is not None:
                operations.ipc.remove(inode.door.id, Credentials())
            else:
                name = inode.name
                operations.unlink(operations.superblock.root.ino, name, Credentials())
                operations.ipc.drop_name(operations.superblock.root.ino, name)
        except OSError:
            continue  # it was made immutable
        removed.append(ino)
    return removed


# The side that asks.


class Collected(NamedTuple):
    """What was found on a mount."""

    mountpoint: str
    orphans: list[Orphan]
    removed: set[int]
    """Inodes of those that are gone now."""
    hidden: int
    """Processes that may not be looked at: what they map is not known."""


def collect(target: str, *, dry_run: bool) -> Collected:
    """Find the orphans of the mount that holds `target`, and remove them; raises ShmfsError."""
    from shmfs.fuse import inventory  # which the daemon does not need

    entry = inventory.find(target)
    if entry.statistics is None:
        raise ShmfsError(f"{entry.mountpoint}: {entry.reason}")
    found = msgspec.convert(control.call(entry.device, "orphans"), list[Orphan])
    mapped: Counter[int] = Counter()
    hidden = 0
    if found:
        mapped, hidden = attaches.mappings(entry.device)
    orphans = [one for one in found if not mapped[one.inode]]
    removed: list[int] = []
    if orphans and not dry_run:
        removed = control.call(entry.device, "remove", inodes=[one.inode for one in orphans])
    return Collected(entry.mountpoint, orphans, set(removed), hidden)


def handlers(operations: Operations, history: History) -> dict[str, control.Handler]:
    """The commands of the control socket."""

    def orphans(request: dict[str, Any]) -> list[Orphan]:
        return of_the_dead(operations, history)

    def removal(request: dict[str, Any]) -> list[int]:
        return remove(operations, msgspec.convert(request["inodes"], list[int]))

    return {"orphans": orphans, "remove": removal}
