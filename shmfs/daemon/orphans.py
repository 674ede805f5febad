"""Segments that nobody is left to remove, as the daemon finds them; `client.collect` asks for them.

A segment is a file in the root directory (as shm_open makes it) or one of System V. It is an orphan when the
process that made it is dead, told from a later one with its pid by the start time, and when nobody has it
open or mapped.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from shmfs.daemon import control
from shmfs.daemon.history import History
from shmfs.events.names import printable
from shmfs.events.records import Orphan, Process
from shmfs.fs.inode import RegularFile
from shmfs.fs.superblock import Credentials
from shmfs.fuse.operations import Operations
from shmfs.system import processes


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


def handlers(operations: Operations, history: History) -> dict[str, control.Handler]:
    """The commands of the control socket."""

    def orphans(request: dict[str, Any]) -> list[Orphan]:
        return of_the_dead(operations, history)

    def removal(request: dict[str, Any]) -> list[int]:
        return remove(operations, msgspec.convert(request["inodes"], list[int]))

    return {"orphans": orphans, "remove": removal}
