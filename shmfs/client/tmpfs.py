"""What is on a tmpfs of the kernel, which nobody serves: its files are walked."""

import os
import stat
import time
from collections.abc import Iterator

from shmfs.events.names import printable
from shmfs.events.records import PAGE, Segment, Statistics

DELETED = "deleted files, still open or mapped"


def regular_files(root: str, device: int) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file below `root` that may be seen; what is mounted there is left out."""
    directories = [root]
    while directories:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    if stat.S_ISREG(status.st_mode):
                        yield entry.path, status
                    elif stat.S_ISDIR(status.st_mode):
                        directories.append(entry.path)
        except OSError:
            continue


def survey(root: str, device: str) -> Statistics:
    """Return what is on the tmpfs mounted at `root` as the daemon of a shmfs mount would; raises OSError.

    `device` is as in mountinfo. Who created a file is not known. What deleted files take, and directories and
    symbolic links, is one segment without an inode, DELETED.
    """
    room = os.statvfs(root)
    prefix = len(root.rstrip("/"))
    segments, linked = [], set()
    for path, status in regular_files(root, os.stat(root).st_dev):
        if status.st_ino in linked:
            continue
        if status.st_nlink > 1:
            linked.add(status.st_ino)
        segments.append(
            _segment(status.st_ino, path[prefix:], status.st_size, status.st_blocks * 512 // PAGE)
        )
    pages = sum(one.resident for one in segments)
    used = (room.f_blocks - room.f_bfree) * room.f_frsize // PAGE if room.f_blocks else pages
    if used > pages:
        segments.append(_segment(0, DELETED, 0, used - pages))
    return Statistics(
        mount=root,
        device=device,
        options="",
        size_limit=room.f_blocks * room.f_frsize,
        used=used * PAGE,
        peak=used * PAGE,
        inode_limit=room.f_files,
        inodes_used=room.f_files - room.f_ffree,
        inodes_peak=room.f_files - room.f_ffree,
        readahead=0,
        store="tmpfs",
        pid=0,
        started=0,
        lost_records=0,
        notes=[],
        segments=segments,
    )


def _segment(inode: int, path: str, size: int, pages: int) -> Segment:
    return Segment(
        inode=inode,
        path=printable(path),
        size=size,
        resident=pages,
        peak_resident=pages,
        page_ins=None,
        created_by=None,
        opened_by=[],
        created=time.time_ns(),
        nlink=1 if inode else 0,
        open_handles=0,
        evicted=False,
        refused=0,
    )
