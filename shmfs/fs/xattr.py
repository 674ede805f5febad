"""Extended attributes. Compare mm/shmem.c:shmem_xattr_handler_set and xattr(7)."""

import errno
import stat

from shmfs.fs import acl
from shmfs.fs import flags as file_flags
from shmfs.fs.inode import Inode, is_fixed
from shmfs.fs.superblock import Superblock, attribute_space, error

XATTR_CREATE = 1
XATTR_REPLACE = 2
_NAMESPACES = (b"user.", b"trusted.", b"security.")


def get(inode: Inode, name: bytes) -> bytes:
    """The value; raises ENODATA, or EOPNOTSUPP for a namespace that tmpfs does not have."""
    value = inode.xattrs.get(name) if inode.xattrs else None
    if value is None:
        _check_name(inode, name)
        raise error(errno.ENODATA)
    return value


def names(inode: Inode, *, trusted: bool = True) -> list[bytes]:
    """The names in tmpfs's order (simple_xattr_list); those of trusted. only to whom they concern."""
    shown = (name for name in inode.xattrs or () if trusted or not name.startswith(b"trusted."))
    ordered = sorted(shown, reverse=True)
    lists = [name for name in (acl.ACCESS, acl.DEFAULT) if name in ordered]
    return lists + [name for name in ordered if name not in lists]


def put(sb: Superblock, inode: Inode, name: bytes, value: bytes, flags: int = 0) -> None:
    """Set an attribute.

    Raises EEXIST, ENODATA (by `flags`), ENOSPC, EOPNOTSUPP, EINVAL (a bad list, or a namespace alone), EACCES
    (a default list for what is no directory).
    """
    _check_name(inode, name)
    file_flags.refuse(inode)
    if is_fixed(inode):
        raise error(errno.EPERM)
    if name in (acl.ACCESS, acl.DEFAULT):
        _check_flags(inode, name, flags)
        _put_acl(inode, name, value)
    else:
        space = attribute_space(name, value)
        sb.charge_inode_space(inode.ino, space)  # first of all: a full file system is told before bad flags
        try:
            _check_flags(inode, name, flags)
        except OSError:
            sb.inode_space.uncharge(space)
            raise
        old = inode.xattrs.get(name) if inode.xattrs else None
        if old is not None:
            sb.inode_space.uncharge(attribute_space(name, old))
        _store(inode, name, value)
    inode.ctime = sb.clock()


def remove(sb: Superblock, inode: Inode, name: bytes) -> None:
    """Remove an attribute; raises ENODATA (never for an access list: that is then the mode alone)."""
    _check_name(inode, name)
    file_flags.refuse(inode)
    old = inode.xattrs.pop(name, None) if inode.xattrs else None
    if old is None and name not in (acl.ACCESS, acl.DEFAULT):
        raise error(errno.ENODATA)
    if old is not None and name not in (acl.ACCESS, acl.DEFAULT):
        sb.inode_space.uncharge(attribute_space(name, old))
    inode.xattrs = inode.xattrs or None
    inode.ctime = sb.clock()


def _check_flags(inode: Inode, name: bytes, flags: int) -> None:
    exists = inode.xattrs is not None and name in inode.xattrs
    if flags & XATTR_CREATE and exists:
        raise error(errno.EEXIST)
    if flags & XATTR_REPLACE and not exists:
        raise error(errno.ENODATA)


def _store(inode: Inode, name: bytes, value: bytes) -> None:
    if inode.xattrs is None:
        inode.xattrs = {}
    inode.xattrs[name] = value


def _check_name(inode: Inode, name: bytes) -> None:
    if name in (acl.ACCESS, acl.DEFAULT):
        if stat.S_ISLNK(inode.mode):
            raise error(errno.EOPNOTSUPP)
    elif name in _NAMESPACES:
        raise error(errno.EINVAL)
    elif not name.startswith(_NAMESPACES):
        raise error(errno.EOPNOTSUPP)


def _put_acl(inode: Inode, name: bytes, value: bytes) -> None:
    """Set a list; an access list sets the mode and is not kept where the mode says it all."""
    entries = acl.parse(value)
    if name == acl.ACCESS:
        if entries:
            inode.mode = (inode.mode & ~0o777) | acl.mode_of(entries)
        if acl.is_minimal(entries):
            if inode.xattrs:
                inode.xattrs.pop(name, None)
            return
    elif entries and not stat.S_ISDIR(inode.mode):
        raise error(errno.EACCES)
    elif not entries:
        if inode.xattrs:
            inode.xattrs.pop(name, None)
        return
    _store(inode, name, value)


def change_mode(inode: Inode, mode: int) -> None:
    """Set the permission bits and keep the access list in step (posix_acl_chmod)."""
    inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
    value = inode.xattrs.get(acl.ACCESS) if inode.xattrs else None
    if value is not None:
        _store(inode, acl.ACCESS, acl.pack(acl.with_mode(acl.parse(value), inode.mode)))


def inherit_acl(directory: Inode, inode: Inode, umask: int) -> None:
    """Give a new inode its directory's default list, or, where there is none, apply the umask."""
    if stat.S_ISLNK(inode.mode):
        return
    value = directory.xattrs.get(acl.DEFAULT) if directory.xattrs else None
    if value is None:
        inode.mode &= ~umask
        return
    entries, mode = acl.inherit(acl.parse(value), inode.mode)
    inode.mode = mode
    if not acl.is_minimal(entries):
        _store(inode, acl.ACCESS, acl.pack(entries))
    if stat.S_ISDIR(inode.mode):
        _store(inode, acl.DEFAULT, value)
