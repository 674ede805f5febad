"""Requests about extended attributes."""

import stat

from shmfs.fs import acl, attributes, xattr
from shmfs.fs.superblock import Credentials
from shmfs.fuse.operations.table import Table


class Xattrs(Table):
    """Extended attributes and access control lists."""

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """FUSE_GETXATTR."""
        return xattr.get(self.superblock.inode(ino), name)

    def listxattr(self, ino: int, cred: Credentials) -> list[bytes]:
        """FUSE_LISTXATTR."""
        return xattr.names(self.superblock.inode(ino), trusted=cred.uid == 0)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """FUSE_SETXATTR."""
        xattr.put(self.superblock, self.superblock.inode(ino), name, value, flags)

    def kill_setgid(self, ino: int, name: bytes) -> None:
        """SETXATTR_ACL_KILL_SGID: the caller who set a list is not of the file's group."""
        if name == acl.ACCESS:  # a default list, with which it comes too, changes no mode
            self.superblock.inode(ino).mode &= ~stat.S_ISGID

    def removexattr(self, ino: int, name: bytes, cred: Credentials) -> None:
        """FUSE_REMOVEXATTR."""
        attributes.remove_xattr(self.superblock, self.superblock.inode(ino), name, cred)
