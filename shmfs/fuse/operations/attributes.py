"""Requests about attributes: stat(2), chmod(2), truncate(2), chattr(1), statfs(2)."""

import errno
from functools import partial

from shmfs.fs import attributes
from shmfs.fs import flags as file_flags
from shmfs.fs.attributes import Changes
from shmfs.fs.deferred import Deferred, Outcome, then
from shmfs.fs.inode import Inode, is_fixed
from shmfs.fs.superblock import Credentials, Statfs, error
from shmfs.fuse.operations.table import Table


class Attributes(Table):
    """Attributes, sizes and file flags."""

    def getattr(self, ino: int) -> Outcome[Inode]:
        """FUSE_GETATTR; waits until an attempt to end a populate of the inode is over."""
        ends = self.reads.populate_end
        if ends is not None and (repair := ends.repair_of(ino)) is not None:
            return Deferred(repair, partial(self.superblock.inode, ino))
        return self.superblock.inode(ino)

    def setattr(self, ino: int, changes: Changes, cred: Credentials) -> Outcome[Inode]:
        """FUSE_SETATTR."""
        inode = self.superblock.inode(ino)
        inode.refresh()
        old_size = inode.size
        changed = attributes.set_attributes(self.superblock, inode, changes, cred)
        if changes.size is not None:
            self._resized(inode, old_size, cred.pid)
            if self.handle_killpriv and cred.uid:
                attributes.kill_privileges(self.superblock, inode, cred)
        return then(changed, lambda _: inode)

    def _resized(self, inode: Inode, old_size: int, pid: int) -> None:
        if inode.size != old_size and "resize" in self.superblock.instruments:
            self.superblock.instruments.call("resize", inode.ino, old_size, inode.size, pid)

    def statfs(self) -> Statfs:
        """FUSE_STATFS."""
        return self.superblock.statfs()

    def getflags(self, ino: int) -> int:
        """FUSE_IOCTL with FS_IOC_GETFLAGS."""
        return self.superblock.inode(ino).flags

    def setflags(self, ino: int, flags: int) -> None:
        """FUSE_IOCTL with FS_IOC_SETFLAGS."""
        inode = self.superblock.inode(ino)
        if is_fixed(inode) or inode is self.ipc.directory:
            raise error(errno.EPERM)
        file_flags.put(inode, flags)
        inode.ctime = self.superblock.clock()
        self.attributes_changed(ino)  # which the kernel does not expect of an ioctl
