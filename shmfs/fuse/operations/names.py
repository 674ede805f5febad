"""Requests about names: look up, create, remove, rename, and list directories."""

import errno
import stat
from collections.abc import Callable, Iterable, Iterator

from shmfs.fs import attributes, file, namei
from shmfs.fs.directory import Dentry, Directory
from shmfs.fs.inode import Inode, RegularFile, Symlink, is_fixed
from shmfs.fs.superblock import Credentials, Superblock, error
from shmfs.fuse.operations.data import Data
from shmfs.ipc.sysv import ANONYMOUS


class Names(Data):
    """Names, and with CREATE and TMPFILE the first open of a file."""

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """FUSE_LOOKUP; None for a missing name, which may be cached like an entry."""
        inode = namei.find(self.superblock.inode(parent), name)
        if inode is None and parent == self.ipc.directory.ino:  # whose names come without a request
            raise error(errno.ENOENT)
        if inode is not None and is_fixed(inode):
            self.ipc.found(inode)
        return None if inode is None else self._entry(inode)

    def forget(self, forgets: Iterable[tuple[int, int]]) -> None:
        """FUSE_FORGET and FUSE_BATCH_FORGET: pairs of inode and references."""
        for ino, nlookup in forgets:
            self.superblock.forget(ino, nlookup)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, cred: Credentials) -> Inode:
        """FUSE_MKNOD."""
        directory = self.superblock.inode(parent)
        return self._created(namei.create(self.superblock, directory, name, mode, cred, rdev), cred)

    def mkdir(self, parent: int, name: bytes, mode: int, cred: Credentials) -> Inode:
        """FUSE_MKDIR."""
        return self.mknod(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), 0, cred)

    def symlink(self, parent: int, name: bytes, target: bytes, cred: Credentials) -> Inode:
        """FUSE_SYMLINK."""
        directory = self.superblock.inode(parent)
        return self._created(namei.symlink(self.superblock, directory, name, target, cred), cred)

    def create(self, parent: int, name: bytes, mode: int, flags: int, cred: Credentials) -> tuple[Inode, int]:
        """FUSE_CREATE: entry and file handle of a new file, which has nothing for O_TRUNC to take away."""
        inode = self.mknod(parent, name, stat.S_IFREG | stat.S_IMODE(mode), 0, cred)
        try:
            return inode, self._opened(file.regular(inode), flags, cred)[0]
        except OSError:
            self.uncreate(inode, parent, name, cred)
            raise

    def _created(self, inode: Inode, cred: Credentials) -> Inode:
        if "create" in self.superblock.instruments:
            self.superblock.instruments.call("create", inode.ino, inode.path(), inode.mode, cred.pid)
        return self._entry(inode)

    def tmpfile(self, parent: int, mode: int, flags: int, cred: Credentials) -> tuple[Inode, int]:
        """FUSE_TMPFILE: entry and file handle of a file without a name."""
        inode = namei.tmpfile(self.superblock, self.superblock.inode(parent), mode, cred)
        if parent == self.ipc.directory.ino and isinstance(inode, RegularFile):
            inode.door = ANONYMOUS
        self._created(inode, cred)
        if parent == self.ipc.directory.ino:
            self.superblock.instruments.call("door", inode.ino, ANONYMOUS.kind, 0, 0)
        try:
            return inode, self._opened(file.regular(inode), flags, cred)[0]
        except OSError:
            self.uncreate(inode, parent, None, cred)
            raise

    def uncreate(self, inode: Inode, parent: int, name: bytes | None, cred: Credentials) -> None:
        """Take a new file back whose open failed: its caller gets an error, and the kernel no reference."""
        if name is not None:
            self.unlink(parent, name, cred)
        self.superblock.forget(inode.ino, 1)

    def link(self, ino: int, parent: int, name: bytes, cred: Credentials) -> Inode:
        """FUSE_LINK."""
        inode = self.superblock.inode(ino)
        namei.link(self.superblock, inode, self.superblock.inode(parent), name)
        if "link" in self.superblock.instruments:
            self.superblock.instruments.call("link", ino, inode.path(), cred.pid)
        return self._entry(inode)

    def unlink(self, parent: int, name: bytes, cred: Credentials) -> None:
        """FUSE_UNLINK."""
        self._remove(namei.unlink, parent, name, cred)

    def rmdir(self, parent: int, name: bytes, cred: Credentials) -> None:
        """FUSE_RMDIR."""
        self._remove(namei.rmdir, parent, name, cred)

    def _remove(
        self, remove: Callable[[Superblock, Inode, bytes], Inode], parent: int, name: bytes, cred: Credentials
    ) -> None:
        directory = self.superblock.inode(parent)
        inode = namei.lookup(directory, name)
        inode.nlookup += 1  # kept meanwhile, so that it is told of as unlinked before as evicted
        try:
            remove(self.superblock, directory, name)
            if "unlink" in self.superblock.instruments:
                path = _path(directory, name)
                self.superblock.instruments.call("unlink", inode.ino, path, inode.nlink, cred.pid)
        finally:
            self.superblock.forget(inode.ino, 1)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, cred: Credentials
    ) -> None:
        """FUSE_RENAME and FUSE_RENAME2."""
        source, target = self.superblock.inode(parent), self.superblock.inode(new_parent)
        inode = namei.lookup(source, name)
        victim = target.get(new_name) if isinstance(target, Directory) else None
        if victim is not None:
            victim.nlookup += 1  # kept meanwhile, as in `_remove`
        try:
            namei.rename(self.superblock, source, name, target, new_name, flags, cred)
            if "rename" in self.superblock.instruments and victim is not inode:
                whiteout = namei.find(source, name) if flags & namei.RENAME_WHITEOUT else None
                self._renamed(
                    inode, victim, whiteout, _path(source, name), _path(target, new_name), flags, cred.pid
                )
        finally:
            if victim is not None:
                self.superblock.forget(victim.ino, 1)

    def _renamed(
        self,
        inode: Inode,
        victim: Inode | None,
        whiteout: Inode | None,
        old_path: str,
        new_path: str,
        flags: int,
        pid: int,
    ) -> None:
        tell = self.superblock.instruments.call
        if victim is not None and flags & namei.RENAME_EXCHANGE:
            tell("rename", victim.ino, new_path, old_path, pid)
        elif victim is not None:
            tell("unlink", victim.ino, new_path, victim.nlink, pid)
        tell("rename", inode.ino, old_path, new_path, pid)
        if whiteout is not None:
            tell("create", whiteout.ino, old_path, whiteout.mode, pid)

    def readlink(self, ino: int) -> bytes:
        """FUSE_READLINK; raises EINVAL."""
        inode = self.superblock.inode(ino)
        if not isinstance(inode, Symlink):
            raise error(errno.EINVAL)
        attributes.accessed(self.superblock, inode)
        return inode.target

    # ---- directories

    def opendir(self, ino: int) -> bool:
        """FUSE_OPENDIR: whether the kernel may answer from the listing it has; not if atime would change."""
        return not attributes.access_counts(self.superblock, self.superblock.inode(ino))

    def readdir(self, ino: int, cookie: int) -> Iterator[Dentry]:
        """FUSE_READDIR and FUSE_READDIRPLUS, of which the caller counts the entries sent (`listed`)."""
        directory = self.superblock.inode(ino)
        if not isinstance(directory, Directory):
            raise error(errno.ENOTDIR)
        if cookie == 0:
            attributes.accessed(self.superblock, directory)
        return directory.read(cookie)

    def listed(self, dentry: Dentry) -> None:
        """Count the reference that an entry of READDIRPLUS gives the kernel; `.` and `..` give none."""
        if dentry.name not in (b".", b".."):
            dentry.inode.nlookup += 1


def _path(directory: Inode, name: bytes) -> str:
    """Path of a name in a directory, as instruments are told it."""
    return directory.path().rstrip("/") + "/" + name.decode(errors="surrogateescape")
