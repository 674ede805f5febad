"""Names: create, link, unlink, rename. Compare fs/namei.c and mm/shmem.c.

The kernel has checked permissions (default_permissions), names' characters and lengths, and the caller's
rights to what lies between; what is checked here is what only the file system knows.
"""

import errno
import stat

from shmfs.fs import flags
from shmfs.fs.directory import Directory
from shmfs.fs.inode import Inode, is_fixed
from shmfs.fs.superblock import INODE_SIZE, Credentials, Superblock, error
from shmfs.fs.xattr import inherit_acl
from shmfs.mm import PAGE_SIZE

NAME_MAX = 255
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
WHITEOUT = stat.S_IFCHR
"""Mode of a whiteout: a character device 0:0 without permissions."""


def find(directory: Inode, name: bytes) -> Inode | None:
    """What `name` names, or None; raises ENOTDIR, ENAMETOOLONG.

    `.` is anything itself, for a handle (open_by_handle_at) tells no more than the inode; `..` a directory's.
    """
    if name == b".":
        return directory if directory.nlink else None
    parent = _directory(directory)
    inode = parent.get(name)
    if inode is None:
        _check_name(name)
        if name == b"..":
            return parent.parent
    return inode


def lookup(directory: Inode, name: bytes) -> Inode:
    """What `name` names; raises ENOENT, ENOTDIR, ENAMETOOLONG."""
    inode = find(directory, name)
    if inode is None:
        raise error(errno.ENOENT)
    return inode


def create(
    sb: Superblock, directory: Inode, name: bytes, mode: int, cred: Credentials, rdev: int = 0
) -> Inode:
    """A new file, directory, fifo, socket or device as `mode` says; raises EEXIST, ENOENT, ENOSPC."""
    parent = _directory(directory)
    _check_new(parent, name)
    inode = sb.new_inode(parent, mode, cred, rdev=rdev)
    inherit_acl(parent, inode, cred.umask)
    _enter(sb, parent, name, inode)
    return inode


def tmpfile(sb: Superblock, directory: Inode, mode: int, cred: Credentials) -> Inode:
    """A regular file without a name (O_TMPFILE); raises ENOSPC."""
    parent = _directory(directory)
    inode = sb.new_inode(parent, stat.S_IFREG | stat.S_IMODE(mode), cred)
    inherit_acl(parent, inode, cred.umask)
    return inode


def symlink(sb: Superblock, directory: Inode, name: bytes, target: bytes, cred: Credentials) -> Inode:
    """A symbolic link; raises EEXIST, ENOSPC, and ENAMETOOLONG where target and NUL exceed a page."""
    parent = _directory(directory)
    _check_new(parent, name)
    if len(target) + 1 > PAGE_SIZE:
        raise error(errno.ENAMETOOLONG)
    inode = sb.new_inode(parent, stat.S_IFLNK | 0o777, cred, target=target)
    _enter(sb, parent, name, inode)
    return inode


def link(sb: Superblock, inode: Inode, directory: Inode, name: bytes) -> None:
    """Another name; costs an inode, but not the first of an O_TMPFILE.

    Raises EEXIST, EPERM for a directory, ENOENT for what has lost its last name, ENOSPC.
    """
    parent = _directory(directory)
    _check_new(parent, name)
    if isinstance(inode, Directory) or is_fixed(inode):
        raise error(errno.EPERM)
    if not inode.nlink and inode.parent is not None:
        raise error(errno.ENOENT)
    flags.refuse(inode)
    if inode.nlink:
        sb.charge_inode_space(inode.ino, INODE_SIZE)
    parent.add(name, inode)
    inode.nlink += 1
    now = sb.clock()
    inode.ctime = now
    parent.touch(now)


def unlink(sb: Superblock, directory: Inode, name: bytes) -> Inode:
    """Take a name from a file; the inode lives on while the kernel refers to it. Raises ENOENT, EISDIR."""
    parent = _directory(directory)
    inode = lookup(parent, name)
    if isinstance(inode, Directory):
        raise error(errno.EISDIR)
    _check_removal(parent, inode)
    parent.remove(name)
    now = sb.clock()
    parent.touch(now)
    _drop_link(sb, inode, now)
    return inode


def rmdir(sb: Superblock, directory: Inode, name: bytes) -> Inode:
    """Remove an empty directory; raises ENOENT, ENOTDIR, ENOTEMPTY."""
    parent = _directory(directory)
    inode = lookup(parent, name)
    if not isinstance(inode, Directory):
        raise error(errno.ENOTDIR)
    _check_removal(parent, inode)
    if len(inode):
        raise error(errno.ENOTEMPTY)
    parent.remove(name)
    parent.nlink -= 1
    now = sb.clock()
    parent.touch(now)
    _drop_link(sb, inode, now)
    return inode


def rename(
    sb: Superblock,
    old_directory: Inode,
    old_name: bytes,
    new_directory: Inode,
    new_name: bytes,
    how: int = 0,
    cred: Credentials = Credentials(),  # noqa: B008  immutable
) -> None:
    """Rename, replace, exchange or leave a whiteout. Compare shmem_rename2.

    Raises ENOENT, EEXIST, EISDIR, ENOTDIR, ENOTEMPTY, EINVAL (into itself, or unknown flags), ENOSPC.
    """
    source, target = _directory(old_directory), _directory(new_directory)
    exclusive = how & (RENAME_NOREPLACE | RENAME_WHITEOUT)
    if how & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise error(errno.EINVAL)
    if how & RENAME_EXCHANGE and exclusive:
        raise error(errno.EINVAL)
    inode = lookup(source, old_name)
    victim = target.get(new_name)
    if victim is None:
        _check_new(target, new_name)
        if how & RENAME_EXCHANGE:
            raise error(errno.ENOENT)
    elif how & RENAME_NOREPLACE:
        raise error(errno.EEXIST)
    _check_loop(inode, target)
    _check_removal(source, inode)
    if victim is not None:
        _check_removal(target, victim)
    if victim is inode:
        return  # two names of one inode: nothing happens (rename(2))
    now = sb.clock()
    if how & RENAME_EXCHANGE and victim is not None:
        _check_loop(victim, source)
        _exchange(source, old_name, inode, target, new_name, victim)
        victim.ctime = now
    else:
        if victim is not None:
            _check_victim(inode, victim)
        whiteout = sb.new_inode(source, WHITEOUT, cred) if how & RENAME_WHITEOUT else None
        source.remove(old_name)
        if whiteout is not None:
            inherit_acl(source, whiteout, cred.umask)
            _enter(sb, source, old_name, whiteout)
        _move(sb, source, inode, target, new_name, victim, now)
    inode.ctime = now
    source.touch(now)
    target.touch(now)


def _move(
    sb: Superblock,
    source: Directory,
    inode: Inode,
    target: Directory,
    new_name: bytes,
    victim: Inode | None,
    now: int,
) -> None:
    """Enter the inode, whose name in `source` is gone, in place of the victim."""
    target.add(new_name, inode)
    if isinstance(inode, Directory):
        source.nlink -= 1
        target.nlink += 1
    if victim is not None:
        if isinstance(victim, Directory):
            target.nlink -= 1
        _drop_link(sb, victim, now)


def _exchange(
    source: Directory, old_name: bytes, inode: Inode, target: Directory, new_name: bytes, victim: Inode
) -> None:
    source.add(old_name, victim)
    target.add(new_name, inode)
    moved_directories = isinstance(inode, Directory) - isinstance(victim, Directory)
    source.nlink -= moved_directories
    target.nlink += moved_directories


def _directory(inode: Inode) -> Directory:
    if not isinstance(inode, Directory):
        raise error(errno.ENOTDIR)
    return inode


def _check_name(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise error(errno.ENAMETOOLONG)


def _check_new(directory: Directory, name: bytes) -> None:
    _check_name(name)
    flags.refuse(directory, flags.FS_IMMUTABLE_FL)
    if directory.nlink == 0:
        raise error(errno.ENOENT)
    if directory.get(name) is not None:
        raise error(errno.EEXIST)


def _check_removal(directory: Directory, inode: Inode) -> None:
    """Whether file flags permit to take a name away (may_delete)."""
    flags.refuse(directory)
    flags.refuse(inode)


def _check_loop(inode: Inode, directory: Directory) -> None:
    """Refuse to move a directory into itself or below."""
    ancestor = directory
    while isinstance(inode, Directory):
        if ancestor is inode:
            raise error(errno.EINVAL)
        if ancestor.parent is None or ancestor.parent is ancestor:
            return
        ancestor = ancestor.parent


def _check_victim(inode: Inode, victim: Inode) -> None:
    if isinstance(victim, Directory):
        if not isinstance(inode, Directory):
            raise error(errno.EISDIR)
        if len(victim):
            raise error(errno.ENOTEMPTY)
    elif isinstance(inode, Directory):
        raise error(errno.ENOTDIR)


def _enter(sb: Superblock, directory: Directory, name: bytes, inode: Inode) -> None:
    """Give a new inode its first name."""
    directory.add(name, inode)
    if isinstance(inode, Directory):
        directory.nlink += 1
    else:
        inode.nlink = 1
    directory.touch(inode.ctime)


def _drop_link(sb: Superblock, inode: Inode, now: int) -> None:
    """Take a link off; a directory's last two go at once, a link too many gives its inode charge back."""
    inode.ctime = now
    if isinstance(inode, Directory):
        inode.nlink = 0
    else:
        inode.nlink -= 1
        if inode.nlink:
            sb.inode_space.uncharge(INODE_SIZE)
    sb.drop_if_unused(inode)
