"""What proves that a fault failed: a charge that the store refused, or a page behind the end of its file.

With the software events a fault that failed and one that was aborted look alike: neither has an end.
"""

import os
from typing import Any

from shmfs.events.records import PAGE

_REPEATED = 1_000_000_000
"""Nanoseconds: a fault may repeat one that was refused and aborted, and fail without another refusal."""
_MOST = 4096
"""Pages of which a refusal is remembered."""


class Proofs:
    """Refusals and sizes of files, by inode. Called by the recorder's thread alone."""

    def __init__(self, device: tuple[int, int], root: str) -> None:
        """Look at files of `device` below `root`, where they have a name there."""
        self._device = os.makedev(*device)
        self._root = root
        self._refused: dict[tuple[int, int], dict[int, int]] = {}
        """By inode and page: the time of the newest refusal for each thread (0: not known which)."""
        self._sizes: dict[int, int] = {}

    def take(self, event: dict[str, Any]) -> None:
        """Take note of `refuse`, `resize` and `usage`, as the daemon reports them."""
        inode, name = int(event["inode"]), event["event"]
        if name == "refuse":
            for page in range(int(event["page"]), int(event["page"]) + max(1, int(event["pages"]))):
                if len(self._refused) >= _MOST:
                    del self._refused[next(iter(self._refused))]
                by = self._refused.setdefault((inode, page), {})
                by[int(event.get("pid") or 0)] = int(event["time"])
        else:
            self._sizes[inode] = int(event["size"])

    def failed(self, inode: int, path: str, page: int, tid: int, since: int) -> bool:
        """Whether a fault of thread `tid` that began at `since`, in nanoseconds since the epoch, failed."""
        refused = self._refused.get((inode, page), {})
        if max(refused.get(tid, 0), refused.get(0, 0)) >= since - _REPEATED:
            return True
        if not self._is_behind(inode, page):
            return False
        self.look(inode, path)  # it may have grown
        return self._is_behind(inode, page)

    def _is_behind(self, inode: int, page: int) -> bool:
        return self._sizes.get(inode, page * PAGE + 1) <= page * PAGE

    def look(self, inode: int, path: str) -> None:
        """Look how large a file is now; where its name is gone, the size stays that of the last look."""
        try:
            status = os.stat(self._root + path)
        except (OSError, ValueError):
            return
        if status.st_dev == self._device and status.st_ino == inode:
            self._sizes[inode] = status.st_size
