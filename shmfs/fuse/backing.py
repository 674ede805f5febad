"""Backing ids: by which the kernel serves an open file from the native store's own file.

Compare fs/fuse/backing.c. All opens of an inode must name the same id, so an id is kept while the inode is
open, and some more stay warm for the next open. Only the thread that serves requests calls this.
"""

import errno
import fcntl
import logging
import struct
from collections import OrderedDict

from shmfs.fs.native import NativeFile

log = logging.getLogger(__name__)

_WARM = 4096
"""Ids kept at most for files that nobody has open."""
_BACKING_OPEN = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
_BACKING_CLOSE = 0x4004E502  # _IOW(229, 2, u32)
_MAP = struct.Struct("iIQ")
_ID = struct.Struct("I")


class Backings:
    """The ids of one connection."""

    def __init__(self, device: int) -> None:
        """`device` is the descriptor of /dev/fuse."""
        self._device = device
        self._ids: OrderedDict[int, tuple[int, NativeFile]] = OrderedDict()
        self.pinned = 0
        """Ids that the kernel did not take back."""
        self._room = _WARM
        """Ids until it is looked for some that are not in use; more than _WARM where most of them are."""

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, inode: NativeFile) -> int:
        """The inode's id; raises ENFILE where the kernel gives no more, EPERM without CAP_SYS_ADMIN."""
        known = self._ids.get(inode.ino)
        if known:
            self._ids.move_to_end(inode.ino)
            return known[0]
        try:
            number = self.backing_open(inode.descriptor())
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            self._shrink(0)
            number = self.backing_open(inode.descriptor())
        self._ids[inode.ino] = number, inode
        if len(self._ids) > self._room:
            self._shrink(_WARM - _WARM // 8)
            self._room = max(_WARM, len(self._ids) + _WARM // 8)  # not with each open over all that are open
        return number

    def notes(self) -> list[str]:
        """What went wrong, a sentence each."""
        if not self.pinned:
            return []
        return [f"the kernel keeps the pages of {self.pinned} deleted files until the mount ends"]

    def backing_open(self, fd: int) -> int:
        """FUSE_DEV_IOC_BACKING_OPEN."""
        return int(fcntl.ioctl(self._device, _BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0))))

    def backing_close(self, number: int) -> None:
        """FUSE_DEV_IOC_BACKING_CLOSE."""
        fcntl.ioctl(self._device, _BACKING_CLOSE, _ID.pack(number))

    def evict(self, ino: int) -> None:
        """Give up the id of an inode that is gone; raises nothing.

        An id that the kernel does not take back pins the pages of its file until the mount ends.
        """
        known = self._ids.pop(ino, None)
        if known:
            try:
                self.backing_close(known[0])
            except OSError as failure:
                self.pinned += 1
                log.error("the kernel keeps the backing file of inode %d: %s", ino, failure.strerror)

    def _shrink(self, size: int) -> None:
        """Close the ids of files that nobody has open, the longest unused first."""
        for ino, (_, inode) in list(self._ids.items()):
            if len(self._ids) <= size:
                return
            if not inode.opens:
                self.evict(ino)
