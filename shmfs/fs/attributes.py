"""Attributes: what setattr changes, and what a change of content or owner takes away.

Compare mm/shmem.c:shmem_setattr and fs/attr.c:setattr_copy.
"""

import errno
import stat
from typing import NamedTuple

from shmfs.fs import acl, file, flags
from shmfs.fs.deferred import Outcome
from shmfs.fs.inode import Inode, is_fixed
from shmfs.fs.superblock import Credentials, Superblock, error
from shmfs.fs.xattr import change_mode, remove

_CAPABILITY = b"security.capability"
_DAY = 86_400 * 1_000_000_000


class Changes(NamedTuple):
    """The attributes to set; None leaves one as it is. Times are nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    through_descriptor: bool = False
    """ftruncate or O_TRUNC, which change the times even where the size stays the same."""
    kill_privileges: bool = False
    """The caller may not keep set-id bits and capabilities (ATTR_KILL_SUID and its kin)."""
    times_given: bool = False
    """The times are others than now for both (ATTR_TIMES_SET)."""


_ROOT = Credentials()


def set_attributes(
    sb: Superblock, inode: Inode, changes: Changes, cred: Credentials = _ROOT
) -> Outcome[None]:
    """Change attributes; raises what `file.resize` raises or EPERM, and then has changed nothing."""
    now = sb.clock()
    flags.refuse(inode, flags.FS_IMMUTABLE_FL)
    if is_fixed(inode) and changes[:4] != (None, None, None, None):
        raise error(errno.EPERM)
    if (
        changes.mode is not None
        or changes.uid is not None
        or changes.gid is not None
        or changes.size is not None
        or changes.times_given
    ):
        flags.refuse(inode, flags.FS_APPEND_FL)
    if changes == Changes():  # chown(-1, -1), or the kernel's own file_remove_privs: they look alike
        changes = Changes(uid=inode.uid)
    resized = None
    if changes.size is not None:
        resized = file.resize(sb, file.regular(inode), changes.size, times=changes.through_descriptor)
    if changes.kill_privileges:
        kill_privileges(sb, inode, cred)
    if changes.uid is not None or changes.gid is not None:
        if not stat.S_ISDIR(inode.mode):
            kill_privileges(sb, inode, cred)
        inode.uid = inode.uid if changes.uid is None else changes.uid
        inode.gid = inode.gid if changes.gid is None else changes.gid
        inode.ctime = now
    if changes.mode is not None:
        change_mode(inode, changes.mode)
        inode.ctime = now
    if changes.atime is not None:
        inode.atime = changes.atime
        inode.ctime = now
    if changes.mtime is not None:
        inode.mtime = changes.mtime
        inode.ctime = now
    if changes.ctime is not None:
        inode.ctime = changes.ctime
    return resized


def _is_outsider(sb: Superblock, inode: Inode, cred: Credentials) -> bool:
    """Whether the caller is neither root nor in the file's group (not in_group_or_capable)."""
    return cred.uid != 0 and inode.gid != cred.gid and inode.gid not in sb.groups_of(cred.pid)


def _loses_setgid(sb: Superblock, inode: Inode, cred: Credentials) -> bool:
    """Whether a change takes the set-group-id bit away (setattr_should_drop_sgid).

    One that lets nobody execute stays for the file's group and for root (in_group_or_capable).
    """
    if not inode.mode & stat.S_ISGID:
        return False
    return bool(inode.mode & stat.S_IXGRP) or _is_outsider(sb, inode, cred)


def kill_privileges(sb: Superblock, inode: Inode, cred: Credentials) -> None:
    """Clear set-id bits and capabilities (setattr_should_drop_suidgid)."""
    if inode.mode & stat.S_ISUID:
        inode.mode &= ~stat.S_ISUID
    if _loses_setgid(sb, inode, cred):
        inode.mode &= ~stat.S_ISGID
    if inode.xattrs and _CAPABILITY in inode.xattrs:
        remove(sb, inode, _CAPABILITY)


def remove_xattr(sb: Superblock, inode: Inode, name: bytes, cred: Credentials) -> None:
    """Remove an attribute; without its access list a file loses set-gid too (posix_acl_update_mode)."""
    remove(sb, inode, name)
    if name == acl.ACCESS and inode.mode & stat.S_ISGID and _is_outsider(sb, inode, cred):
        inode.mode &= ~stat.S_ISGID


def access_counts(sb: Superblock, inode: Inode) -> bool:
    """Whether a read now changes the atime, as the mount's atime option says (relatime_need_update)."""
    vfs = sb.options.vfs
    if "noatime" in vfs or sb.options.read_only or inode.flags & flags.FS_NOATIME_FL:
        return False
    if "nodiratime" in vfs and stat.S_ISDIR(inode.mode):
        return False
    if "strictatime" in vfs or "norelatime" in vfs:
        return True
    return inode.atime <= max(inode.mtime, inode.ctime) or sb.clock() - inode.atime >= _DAY


def accessed(sb: Superblock, inode: Inode) -> None:
    """Note a read."""
    if access_counts(sb, inode):
        inode.atime = sb.clock()
