"""File flags (chattr(1)): FUSE gives the kernel no S_IMMUTABLE and S_APPEND, so they are enforced here.

Who may set them the kernel has checked (CAP_LINUX_IMMUTABLE). Compare fs/namei.c:may_delete and fs/attr.c.
"""

import errno
import os

from shmfs.fs.inode import Inode

FS_IMMUTABLE_FL = 0x10
FS_APPEND_FL = 0x20
FS_NODUMP_FL = 0x40
FS_NOATIME_FL = 0x80
_SETTABLE = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL
"""SHMEM_FL_USER_MODIFIABLE."""


def put(inode: Inode, flags: int) -> None:
    """Set the flags; raises EOPNOTSUPP for one that tmpfs does not have."""
    if flags & ~_SETTABLE:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    inode.flags = flags


def refuse(inode: Inode, flags: int = FS_IMMUTABLE_FL | FS_APPEND_FL) -> None:
    """Raise EPERM if the inode has one of `flags`."""
    if inode.flags & flags:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def check_open(inode: Inode, flags: int) -> None:
    """Whether `flags` may open the file (may_open): an append-only one for appending, without truncation."""
    if flags & (os.O_ACCMODE | os.O_TRUNC):
        refuse(inode, FS_IMMUTABLE_FL)
        if not flags & os.O_APPEND or flags & os.O_TRUNC:
            refuse(inode, FS_APPEND_FL)
