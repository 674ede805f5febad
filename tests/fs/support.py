"""One language for two file systems: the model, and the kernel's own tmpfs, detached from the tree.

A case is written once against `FileSystem` and run on both; `errno_of` turns failures into names. Paths
have no leading slash and are relative to the root.
"""

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Any, Protocol

from shmfs.fs import attributes, file, namei, options, xattr
from shmfs.fs.attributes import Changes
from shmfs.fs.check import check
from shmfs.fs.deferred import Deferred
from shmfs.fs.directory import Directory
from shmfs.fs.inode import Inode, RegularFile, Symlink
from shmfs.fs.superblock import Credentials, Superblock
from shmfs.mm import PAGE_SIZE

SECOND = 1_000_000_000
PAGE = PAGE_SIZE
WHITEOUT_MODE = stat.S_IFCHR


def errno_of(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What the call returns, or the name of its error."""
    try:
        return function(*arguments, **named)
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now

    def tick(self, nanoseconds: int = 1) -> int:
        self.now += nanoseconds
        return self.now


class Status(dict[str, Any]):
    """What stat tells, by the names of struct stat."""


class FileSystem(Protocol):
    """What a case may do."""

    def create(self, path: str, mode: int = 0o644) -> Any: ...
    def mknod(self, path: str, mode: int, device: int = 0) -> Any: ...
    def mkdir(self, path: str, mode: int = 0o755) -> Any: ...
    def symlink(self, path: str, target: str) -> Any: ...
    def readlink(self, path: str) -> Any: ...
    def link(self, old: str, new: str) -> Any: ...
    def unlink(self, path: str) -> Any: ...
    def rmdir(self, path: str) -> Any: ...
    def rename(self, old: str, new: str, flags: int = 0) -> Any: ...
    def listdir(self, path: str = "") -> Any: ...
    def stat(self, path: str = "") -> Any: ...
    def statfs(self) -> Any: ...
    def write(self, path: str, offset: int, data: bytes) -> Any: ...
    def read(self, path: str, offset: int, size: int) -> Any: ...
    def truncate(self, path: str, size: int) -> Any: ...
    def ftruncate(self, path: str, size: int) -> Any: ...
    def fallocate(self, path: str, mode: int, offset: int, length: int) -> Any: ...
    def seek(self, path: str, offset: int, whence: int) -> Any: ...
    def chmod(self, path: str, mode: int) -> Any: ...
    def chown(self, path: str, uid: int, gid: int) -> Any: ...
    def utime(self, path: str, atime: int, mtime: int) -> Any: ...
    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> Any: ...
    def getxattr(self, path: str, name: str) -> Any: ...
    def listxattr(self, path: str) -> Any: ...
    def removexattr(self, path: str, name: str) -> Any: ...
    def open(self, path: str) -> Any: ...
    def open_tmpfile(self, path: str = "") -> Any: ...
    def close(self, handle: Any) -> Any: ...
    def link_handle(self, handle: Any, path: str) -> Any: ...
    def times(self, path: str) -> dict[str, int]: ...
    def wait(self) -> None: ...


class Model:
    """The model, called as the kernel calls a FUSE server: what the VFS checks first is checked first."""

    def __init__(self, text: str = "", cred: Credentials = Credentials(), **named: Any) -> None:  # noqa: B008
        self.clock = Clock()
        self.cred = cred
        self.sb = Superblock(options.parse(text), clock=self.clock, **named)
        self.root = self.sb.root
        self.deferred: Any = None
        """What the last change of a size, write or fallocate returned."""

    def close_arena(self) -> None:
        self.sb.store.arena.close()

    def check(self) -> None:
        assert check(self.sb) == []

    # ---- paths

    def inode(self, path: str = "") -> Inode:
        inode: Inode = self.root
        for name in filter(None, path.split("/")):
            inode = namei.lookup(self.followed(inode), os.fsencode(name))
        return inode

    @staticmethod
    def followed(inode: Inode) -> Inode:
        """A symlink on the way to something: those of the cases lead nowhere."""
        if isinstance(inode, Symlink):
            raise OSError(errno.ENOENT, "")
        return inode

    def file(self, path: str) -> RegularFile:
        return file.regular(self.inode(path))

    def directory(self, path: str = "") -> Directory:
        inode = self.inode(path)
        assert isinstance(inode, Directory)
        return inode

    def parent(self, path: str) -> tuple[Inode, bytes]:
        head, _, tail = path.rpartition("/")
        inode = self.followed(self.inode(head))
        if not isinstance(inode, Directory):
            raise OSError(errno.ENOTDIR, "")
        return inode, os.fsencode(tail)

    # ---- names

    def create(self, path: str, mode: int = 0o644) -> None:
        namei.create(self.sb, *self.parent(path), stat.S_IFREG | mode, self.cred)

    def mknod(self, path: str, mode: int, device: int = 0) -> None:
        namei.create(self.sb, *self.parent(path), mode, self.cred, device)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        namei.create(self.sb, *self.parent(path), stat.S_IFDIR | mode, self.cred)

    def symlink(self, path: str, target: str) -> None:
        namei.symlink(self.sb, *self.parent(path), os.fsencode(target), self.cred)

    def readlink(self, path: str) -> str:
        inode = self.inode(path)
        assert isinstance(inode, Symlink)
        return os.fsdecode(inode.target)

    def link(self, old: str, new: str) -> None:
        namei.link(self.sb, self.inode(old), *self.parent(new))

    def unlink(self, path: str) -> None:
        namei.unlink(self.sb, *self.parent(path))

    def rmdir(self, path: str) -> None:
        namei.rmdir(self.sb, *self.parent(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        (source, name), (target, new_name) = self.parent(old), self.parent(new)
        if not flags & ~7 and isinstance(target, Directory) and isinstance(source, Directory):
            victim = target.get(new_name)
            above = source
            while victim is not None and source.get(name) and not flags & 3 and above is not self.root:
                if above is victim:  # lock_rename found the new name above the old
                    raise OSError(errno.ENOTEMPTY, "")
                assert above.parent
                above = above.parent
        namei.rename(self.sb, source, name, target, new_name, flags, self.cred)

    def listdir(self, path: str = "") -> list[str]:
        return [os.fsdecode(dentry.name) for dentry in self.directory(path).read(0)][2:]

    # ---- attributes

    def status(self, inode: Inode) -> Status:
        return Status(
            mode=inode.mode,
            nlink=inode.nlink,
            uid=inode.uid,
            gid=inode.gid,
            rdev=inode.rdev,
            size=inode.size,
            blocks=inode.allocated * 8,
        )

    def stat(self, path: str = "") -> Status:
        return self.status(self.inode(path))

    def statfs(self) -> tuple[int, int, int, int]:
        return tuple(self.sb.statfs())

    def set(self, path: str, **changes: Any) -> None:
        self.deferred = attributes.set_attributes(self.sb, self.inode(path), Changes(**changes))

    def truncate(self, path: str, size: int) -> None:
        self.set(path, size=size)

    def ftruncate(self, path: str, size: int) -> None:
        self.set(path, size=size, through_descriptor=True)

    def chmod(self, path: str, mode: int) -> None:
        self.set(path, mode=mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self.set(path, uid=None if uid < 0 else uid, gid=None if gid < 0 else gid)

    def utime(self, path: str, atime: int, mtime: int) -> None:
        self.set(path, atime=atime, mtime=mtime)

    def times(self, path: str) -> dict[str, int]:
        inode = self.inode(path)
        return {"atime": inode.atime, "mtime": inode.mtime, "ctime": inode.ctime}

    def wait(self) -> None:
        self.clock.tick(SECOND)

    # ---- content

    def write(self, path: str, offset: int, data: bytes) -> int:
        self.deferred = outcome = file.write(self.sb, self.file(path), offset, data)
        return outcome.answer() if isinstance(outcome, Deferred) else outcome

    def read(self, path: str, offset: int, size: int) -> bytes:
        return file.read(self.sb, self.file(path), offset, size)

    def fallocate(self, path: str, mode: int, offset: int, length: int) -> None:
        self.deferred = file.fallocate(self.sb, self.file(path), mode, offset, length)

    def seek(self, path: str, offset: int, whence: int) -> int:
        return file.seek(self.file(path), offset, whence)

    # ---- extended attributes

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        xattr.put(self.sb, self.inode(path), os.fsencode(name), value, flags)

    def getxattr(self, path: str, name: str) -> bytes:
        return xattr.get(self.inode(path), os.fsencode(name))

    def listxattr(self, path: str) -> list[str]:
        return sorted(os.fsdecode(name) for name in xattr.names(self.inode(path)))

    def removexattr(self, path: str, name: str) -> None:
        xattr.remove(self.sb, self.inode(path), os.fsencode(name))

    # ---- open files: the kernel's reference to an inode

    def hold(self, inode: Inode) -> Inode:
        inode.nlookup += 1
        return inode

    def open(self, path: str) -> Inode:
        return self.hold(self.inode(path))

    def open_tmpfile(self, path: str = "") -> Inode:
        return self.hold(namei.tmpfile(self.sb, self.inode(path), 0o600, self.cred))

    def close(self, handle: Inode) -> None:
        self.sb.forget(handle.ino, 1)

    def link_handle(self, handle: Inode, path: str) -> None:
        namei.link(self.sb, handle, *self.parent(path))


# ---- the kernel's

_libc = ctypes.CDLL(None, use_errno=True)
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_AT_FDCWD, _AT_SYMLINK_FOLLOW = -100, 0x400


def _call(function: Any, *arguments: Any) -> int:
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


class Kernel:
    """A tmpfs that is attached nowhere: it is gone with its descriptor, whatever happens to the test."""

    def __init__(self, text: str = "") -> None:
        context = _call(_libc.syscall, _FSOPEN, b"tmpfs", 0)
        try:
            for item in filter(None, text.split(",")):
                key, _, value = item.partition("=")
                _call(_libc.syscall, _FSCONFIG, context, 1, key.encode(), value.encode(), 0)
            _call(_libc.syscall, _FSCONFIG, context, 6, None, None, 0)
            self.fd = _call(_libc.syscall, _FSMOUNT, context, 0, 0)
        finally:
            os.close(context)
        self.base = f"/proc/self/fd/{self.fd}"

    def destroy(self) -> None:
        os.close(self.fd)

    def check(self) -> None:
        """The kernel needs none."""

    def path(self, path: str) -> str:
        return f"{self.base}/{path}"

    def descriptor(self, path: str, flags: int, work: Callable[[int], Any]) -> Any:
        fd = os.open(self.path(path), flags)
        try:
            return work(fd)
        finally:
            os.close(fd)

    def create(self, path: str, mode: int = 0o644) -> None:
        os.close(os.open(self.path(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))

    def mknod(self, path: str, mode: int, device: int = 0) -> None:
        os.mknod(self.path(path), mode, device)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        os.mkdir(self.path(path), mode)

    def symlink(self, path: str, target: str) -> None:
        os.symlink(target, self.path(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self.path(path))

    def link(self, old: str, new: str) -> None:
        os.link(self.path(old), self.path(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.path(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.path(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        old_path, new_path = os.fsencode(self.path(old)), os.fsencode(self.path(new))
        _call(_libc.renameat2, _AT_FDCWD, old_path, _AT_FDCWD, new_path, flags)

    def listdir(self, path: str = "") -> list[str]:
        return os.listdir(self.path(path))

    def stat(self, path: str = "") -> Status:
        status = os.lstat(self.path(path))
        names = ("mode", "nlink", "uid", "gid", "rdev", "size", "blocks")
        return Status({name: getattr(status, f"st_{name}") for name in names})

    def statfs(self) -> tuple[int, int, int, int]:
        status = os.fstatvfs(self.fd)
        return status.f_blocks, status.f_bfree, status.f_files, status.f_ffree

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.path(path), size)

    def ftruncate(self, path: str, size: int) -> None:
        self.descriptor(path, os.O_WRONLY, lambda fd: os.ftruncate(fd, size))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self.path(path), uid, gid)

    def utime(self, path: str, atime: int, mtime: int) -> None:
        os.utime(self.path(path), ns=(atime, mtime), follow_symlinks=False)

    def times(self, path: str) -> dict[str, int]:
        status = os.lstat(self.path(path))
        return {"atime": status.st_atime_ns, "mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns}

    def wait(self) -> None:
        time.sleep(0.012)  # longer than a tick, by which tmpfs counts time

    def write(self, path: str, offset: int, data: bytes) -> int:
        written = self.descriptor(path, os.O_WRONLY, lambda fd: os.pwrite(fd, data, offset))
        assert isinstance(written, int)
        return written

    def read(self, path: str, offset: int, size: int) -> bytes:
        data = self.descriptor(path, os.O_RDONLY, lambda fd: os.pread(fd, size, offset))
        assert isinstance(data, bytes)
        return data

    def fallocate(self, path: str, mode: int, offset: int, length: int) -> None:
        def work(fd: int) -> None:
            _call(_libc.fallocate, fd, mode, ctypes.c_long(offset), ctypes.c_long(length))

        self.descriptor(path, os.O_RDWR, work)

    def seek(self, path: str, offset: int, whence: int) -> int:
        position = self.descriptor(path, os.O_RDONLY, lambda fd: os.lseek(fd, offset, whence))
        assert isinstance(position, int)
        return position

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self.path(path), name, value, flags, follow_symlinks=False)

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self.path(path), name, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        return sorted(os.listxattr(self.path(path), follow_symlinks=False))

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.path(path), name, follow_symlinks=False)

    def open(self, path: str) -> int:
        return os.open(self.path(path), os.O_RDWR)

    def open_tmpfile(self, path: str = "") -> int:
        return os.open(self.path(path), os.O_TMPFILE | os.O_RDWR, 0o600)

    def close(self, handle: int) -> None:
        os.close(handle)

    def link_handle(self, handle: int, path: str) -> None:
        old, new = f"/proc/self/fd/{handle}".encode(), os.fsencode(self.path(path))
        _call(_libc.linkat, _AT_FDCWD, old, _AT_FDCWD, new, _AT_SYMLINK_FOLLOW)


def kernel_available() -> str:
    """The reason why the kernel's tmpfs cannot be used beside the model, or nothing."""
    if os.geteuid() != 0:
        return "needs root, to hold the model against the kernel's own tmpfs"
    try:
        Kernel().destroy()
    except OSError as failure:
        return f"the kernel's own tmpfs cannot be made here: {failure.strerror}"
    return ""
