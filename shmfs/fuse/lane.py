"""The second caller of `Operations`: requests as the kernel sends them, read and answered by the extension.

Every request but INIT comes this way, so there is no order to keep between two callers. A method takes the
credentials, the node and the body, and returns bytes, an errno (0 for success), None for no answer, or
`Deferred`. The extension calls the lane in the thread of the event loop with the GIL held: it must not block.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from shmfs.fs.attributes import Changes
from shmfs.fs.deferred import Deferred, Outcome, then
from shmfs.fs.inode import Inode, is_fixed
from shmfs.fs.native import NativeFile
from shmfs.fs.superblock import Credentials
from shmfs.fuse import protocol as p
from shmfs.fuse.backing import Backings
from shmfs.fuse.finish import finish
from shmfs.fuse.operations import Operations
from shmfs.fuse.reads import Reader
from shmfs.ipc import protocol
from shmfs.mm import PAGE_SIZE

log = logging.getLogger(__name__)

Reply = bytes | int | tuple[bytes, ...] | None
Handler = Callable[[int, int, int, int, int, int, bytes | memoryview], Reply]
"""Opcode, unique, node, uid, gid, pid and body of a request."""
_FOREVER = p.FOREVER
_NEGATIVE = (bytes(16) + p.U64.pack(_FOREVER)).ljust(p.ENTRY_OUT.size, b"\0")
"""Entry of inode 0: there is no such name, and the kernel may keep that in mind."""
_PADDING = tuple(bytes(size) for size in range(8))
_NANO = 1_000_000_000
_NOW = p.FATTR_ATIME | p.FATTR_ATIME_NOW | p.FATTR_MTIME | p.FATTR_MTIME_NOW
"""Both times, set to the time of day: what utime(2) without times asks for."""


class Lane:
    """Decodes requests, calls the table, encodes answers."""

    def __init__(
        self,
        operations: Operations,
        spawn: Callable[[int, Coroutine[Any, Any, Reply]], None],
        freed: Callable[[], None],
        backings: Backings | None = None,
    ) -> None:
        self.operations = operations
        self._superblock = operations.superblock
        self._instruments = operations.superblock.instruments
        self._arena = operations.superblock.store.arena
        self._freed = freed
        """Called when memory waits to be given back."""
        self._backings = backings
        self._cred = self._cred_masked = Credentials()
        self._spawn = spawn
        """Answers a request with what the coroutine returns."""
        names = {code: code.name.lower() for code in p.Opcode}
        names |= {p.Opcode.RENAME2: "rename2", p.Opcode.BATCH_FORGET: "batch_forget"}
        # A body is bytes, except that of WRITE, which is a view of the buffer it was read into.
        self._handlers: dict[int, Callable[[Credentials, int, Any], Outcome[Reply]]] = {
            int(code): getattr(self, name) for code, name in names.items() if hasattr(self, name)
        }

    def __call__(
        self, opcode: int, unique: int, node: int, uid: int, gid: int, pid: int, body: bytes | memoryview
    ) -> Reply:
        """Answer one request."""
        handler = self._handlers.get(opcode)
        if handler is None:
            return errno.ENOSYS
        cred = self._cred
        if cred.pid != pid or cred.uid != uid or cred.gid != gid:
            cred = self._cred = Credentials(uid, gid, pid)
        self._instruments.caller, self._instruments.request = pid, opcode
        try:
            result = handler(cred, node, body)
        except OSError as failure:
            result = failure.errno or errno.EIO
        except Exception:
            log.exception("the request %d failed", opcode)
            result = errno.EIO
        if self._arena.dirty:
            self._freed()
        if type(result) is Deferred:
            self._spawn(unique, self._finish(result, pid, opcode))
            return None
        return result

    async def _finish(self, deferred: Deferred[Reply], pid: int, opcode: int) -> Reply:
        try:
            return await finish(deferred, self._superblock, pid, opcode)
        except OSError as failure:
            return failure.errno or errno.EIO
        except Exception:
            log.exception("the deferred request %d failed", opcode)
            return errno.EIO

    def _masked(self, cred: Credentials, umask: int) -> Credentials:
        """The credentials with a umask; made anew only for another caller."""
        masked = self._cred_masked
        if masked.umask != umask or masked[:3] != cred[:3]:
            masked = self._cred_masked = cred._replace(umask=umask)
        return masked

    # ---- answers

    @staticmethod
    def _entry(inode: Inode) -> bytes:
        return p.entry(
            inode, 0 if is_fixed(inode) else _FOREVER, _FOREVER if inode.can_cache_attributes() else 0
        )

    @staticmethod
    def _attributes(inode: Inode) -> bytes:
        return p.attributes(inode, _FOREVER if inode.can_cache_attributes() else 0)

    def _open(self, opened: tuple[int, bool], flags: int, cred: Credentials) -> bytes:
        """How the kernel is to serve this open: from its cache, or from the native store's own file.

        The kernel refuses to mix the two on one inode, and every open of an inode needs the same backing id.
        """
        handle, keep_cache = opened
        inode = cast("NativeFile", self._superblock.inodes[handle >> 2])
        if self._backings is None:
            how = p.FOPEN_KEEP_CACHE if keep_cache else 0
            return p.OPEN_OUT.pack(handle, how | (p.FOPEN_NOFLUSH if is_fixed(inode) else 0), 0)
        direct = is_fixed(inode) or self.operations.trace_io
        how = p.FOPEN_PASSTHROUGH | (p.FOPEN_DIRECT_IO if direct else 0)
        privileged = inode.mode & (stat.S_ISUID | stat.S_ISGID)
        if privileged and cred.uid and flags & os.O_ACCMODE:
            how |= p.FOPEN_DIRECT_IO  # its writes come here, where they clear the set-id bits
        try:
            return p.OPEN_OUT.pack(handle, how, self._backings.get(inode))
        except OSError:
            self.operations.release(handle)
            raise

    # ---- names

    def lookup(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_LOOKUP; a missing name is cached as such."""
        inode = self.operations.lookup(node, body[:-1])
        return _NEGATIVE if inode is None else self._entry(inode)

    def forget(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_FORGET."""
        self.operations.forget([(node, p.U64.unpack(body)[0])])
        return None

    def batch_forget(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_BATCH_FORGET."""
        count = p.BATCH_FORGET_IN.unpack_from(body)[0]
        records = body[p.BATCH_FORGET_IN.size :][: count * p.FORGET_ONE.size]
        self.operations.forget(cast("list[tuple[int, int]]", list(p.FORGET_ONE.iter_unpack(records))))
        return None

    def mknod(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_MKNOD."""
        mode, rdev, umask, _ = p.MKNOD_IN.unpack_from(body)
        name = body[p.MKNOD_IN.size : -1]
        return self._entry(self.operations.mknod(node, name, mode, rdev, self._masked(cred, umask)))

    def mkdir(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_MKDIR."""
        mode, umask = p.MKDIR_IN.unpack_from(body)
        name = body[p.MKDIR_IN.size : -1]
        return self._entry(self.operations.mkdir(node, name, mode, self._masked(cred, umask)))

    def symlink(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_SYMLINK."""
        name, target, _ = body.split(b"\0", 2)
        return self._entry(self.operations.symlink(node, name, target, cred))

    def create(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_CREATE."""
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(body)
        name = body[p.CREATE_IN.size : -1]
        inode, handle = self.operations.create(node, name, mode, flags, self._masked(cred, umask))
        try:
            return self._entry(inode), self._open((handle, True), flags, cred)
        except OSError:
            self.operations.uncreate(inode, node, name, cred)
            raise

    def tmpfile(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_TMPFILE (O_TMPFILE); the name is the kernel's and means nothing."""
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(body)
        inode, handle = self.operations.tmpfile(node, mode, flags, self._masked(cred, umask))
        try:
            return self._entry(inode), self._open((handle, True), flags, cred)
        except OSError:
            self.operations.uncreate(inode, node, None, cred)
            raise

    def link(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_LINK."""
        return self._entry(self.operations.link(p.U64.unpack_from(body)[0], node, body[8:-1], cred))

    def unlink(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_UNLINK."""
        self.operations.unlink(node, body[:-1], cred)
        return 0

    def rmdir(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_RMDIR."""
        self.operations.rmdir(node, body[:-1], cred)
        return 0

    def rename(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_RENAME."""
        old, new, _ = body[8:].split(b"\0", 2)
        self.operations.rename(node, old, p.U64.unpack_from(body)[0], new, 0, cred)
        return 0

    def rename2(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_RENAME2."""
        directory, flags, _ = p.RENAME2_IN.unpack_from(body)
        old, new, _rest = body[p.RENAME2_IN.size :].split(b"\0", 2)
        self.operations.rename(node, old, directory, new, flags, cred)
        return 0

    def readlink(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_READLINK."""
        return self.operations.readlink(node)

    # ---- attributes

    def getattr(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_GETATTR."""
        inode = self.operations.getattr(node)
        return inode.then(self._attributes) if type(inode) is Deferred else self._attributes(inode)

    def setattr(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_SETATTR."""
        (valid, _, _, size, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid, _) = (
            p.SETATTR_IN.unpack_from(body)
        )
        now = time.time_ns()
        changes = Changes(
            mode=mode if valid & p.FATTR_MODE else None,
            uid=uid if valid & p.FATTR_UID else None,
            gid=gid if valid & p.FATTR_GID else None,
            size=size if valid & p.FATTR_SIZE else None,
            atime=(now if valid & p.FATTR_ATIME_NOW else _nanoseconds(atime, atime_ns))
            if valid & p.FATTR_ATIME
            else None,
            mtime=(now if valid & p.FATTR_MTIME_NOW else _nanoseconds(mtime, mtime_ns))
            if valid & p.FATTR_MTIME
            else None,
            ctime=_nanoseconds(ctime, ctime_ns) if valid & p.FATTR_CTIME else None,
            through_descriptor=bool(valid & p.FATTR_FH),
            kill_privileges=bool(valid & p.FATTR_KILL_SUIDGID),
            times_given=valid & _NOW not in (0, _NOW),
        )
        return then(self.operations.setattr(node, changes, cred), self._attributes)

    def statx(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_STATX: for the time of birth."""
        inode = self.operations.getattr(node)
        return then(inode, lambda inode: p.statx(inode, _FOREVER if inode.can_cache_attributes() else 0))

    def ioctl(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_IOCTL: the flags of chattr(1)."""
        _, _, command, *_ = p.IOCTL_IN.unpack_from(body)
        if command == p.FS_IOC_GETFLAGS:
            return p.IOCTL_OUT.pack(0, 0, 0, 0) + p.U32.pack(self.operations.getflags(node))
        if command == p.FS_IOC_SETFLAGS:
            self.operations.setflags(node, p.U32.unpack_from(body, p.IOCTL_IN.size)[0])
            return p.IOCTL_OUT.pack(0, 0, 0, 0)
        if command == p.FS_IOC_FSGETXATTR:
            flags = self.operations.getflags(node)
            xflags = sum(xflag for flag, xflag in p.XFLAGS.items() if flags & flag)
            return p.IOCTL_OUT.pack(0, 0, 0, 0) + p.FSXATTR.pack(xflags, 0, 0, 0, 0)
        if command == p.FS_IOC_FSSETXATTR:
            xflags, extent, _, project, cow_extent = p.FSXATTR.unpack_from(body, p.IOCTL_IN.size)
            if xflags & ~sum(p.XFLAGS.values()) or extent or project or cow_extent:  # fileattr_has_fsx
                return errno.EOPNOTSUPP
            flags = sum(flag for flag, xflag in p.XFLAGS.items() if xflags & xflag)
            self.operations.setflags(node, flags)
            return p.IOCTL_OUT.pack(0, 0, 0, 0)
        if command == protocol.COMMAND:
            answer = self.operations.shm(node, bytes(body[p.IOCTL_IN.size :]), cred)
            return then(answer, lambda answer: _ioctl(*answer))
        return errno.ENOTTY

    def statfs(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_STATFS."""
        blocks, blocks_free, files, files_free = self.operations.statfs()
        return p.STATFS_OUT.pack(
            blocks, blocks_free, blocks_free, files, files_free, PAGE_SIZE, 255, PAGE_SIZE
        )

    # ---- extended attributes

    def getxattr(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_GETXATTR."""
        room = p.GETXATTR_IN.unpack_from(body)[0]
        return _sized(self.operations.getxattr(node, body[p.GETXATTR_IN.size : -1]), room)

    def listxattr(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_LISTXATTR."""
        room = p.GETXATTR_IN.unpack_from(body)[0]
        return _sized(b"".join(name + b"\0" for name in self.operations.listxattr(node, cred)), room)

    def setxattr(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_SETXATTR, in the form of SETXATTR_EXT."""
        size, flags, extra, _ = p.SETXATTR_IN_EXT.unpack_from(body)
        name, value = body[p.SETXATTR_IN_EXT.size :].split(b"\0", 1)
        self.operations.setxattr(node, name, value[:size], flags)
        if extra & p.SETXATTR_ACL_KILL_SGID:
            self.operations.kill_setgid(node, name)
        return 0

    def removexattr(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_REMOVEXATTR."""
        self.operations.removexattr(node, body[:-1], cred)
        return 0

    # ---- files

    def open(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_OPEN."""
        flags, _ = p.OPEN_IN.unpack_from(body)
        opened = self.operations.open(node, flags, cred)
        if type(opened) is Deferred:
            return opened.then(partial(self._open, flags=flags, cred=cred))
        return self._open(opened, flags, cred)

    def release(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_RELEASE."""
        self.operations.release(p.U64.unpack_from(body)[0])
        return 0

    def read(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_READ."""
        handle, offset, size, flags, _, opened, _ = p.READ_IN.unpack_from(body)
        called = bool(flags & p.READ_LOCKOWNER)
        reader = Reader(cred.pid, called, called or bool(opened & os.O_DIRECT))
        return self.operations.read(handle, offset, size, reader)

    def write(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_WRITE."""
        handle, offset, size, flags, _, opened, _ = p.WRITE_IN.unpack_from(body)
        data = body[p.WRITE_IN.size : p.WRITE_IN.size + size]
        killer = cred if flags & p.WRITE_KILL_SUIDGID else None
        writeback = bool(flags & p.WRITE_CACHE)
        cached = not (writeback or opened & os.O_DIRECT)
        stored = self.operations.write(
            handle, offset, data, killer, writeback=writeback, cached=cached, caller=cred.pid
        )
        return stored.then(_written) if type(stored) is Deferred else p.WRITE_OUT.pack(stored, 0)

    def fallocate(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_FALLOCATE."""
        handle, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(body)
        return then(self.operations.fallocate(handle, mode, offset, length, cred), lambda _: 0)

    def lseek(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_LSEEK: SEEK_DATA and SEEK_HOLE."""
        handle, offset, whence, _ = p.LSEEK_IN.unpack_from(body)
        return p.U64.pack(self.operations.lseek(handle, offset, whence))

    def copy_file_range(self, cred: Credentials, node: int, body: bytes) -> Outcome[Reply]:
        """FUSE_COPY_FILE_RANGE."""
        source, offset_in, _node, target, offset_out, length, _ = p.COPY_FILE_RANGE_IN.unpack_from(body)
        copied = self.operations.copy_file_range(source, offset_in, target, offset_out, length, cred)
        return then(copied, _written)

    def syncfs(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_SYNCFS: there is nothing to sync to."""
        return 0

    # ---- directories

    def opendir(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_OPENDIR; the kernel may keep the listing, for it sees every change of a directory."""
        keep = p.FOPEN_KEEP_CACHE if self.operations.opendir(node) else 0
        return p.OPEN_OUT.pack(node, p.FOPEN_CACHE_DIR | keep, 0)

    def releasedir(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_RELEASEDIR."""
        return 0

    def readdir(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_READDIR; not READDIRPLUS: the kernel keeps names for good, attributes are seldom news."""
        _, cookie, room, *_ = p.READ_IN.unpack_from(body)
        pack, head = p.DIRENT.pack, p.DIRENT.size
        parts = []
        for name, inode, place in self.operations.readdir(node, cookie):
            size = head + len(name)
            padding = -size & 7
            room -= size + padding
            if room < 0:
                break
            parts.append(pack(inode.ino, place, len(name), inode.mode >> 12) + name + _PADDING[padding])
        return b"".join(parts)

    # ---- the session

    def interrupt(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_INTERRUPT: what it is about was answered before it could be read, or soon will be."""
        return None

    def destroy(self, cred: Credentials, node: int, body: bytes) -> Reply:
        """FUSE_DESTROY."""
        return 0


def _written(stored: int) -> bytes:
    return p.WRITE_OUT.pack(stored, 0)


def _ioctl(result: int, data: bytes) -> bytes:
    return p.IOCTL_OUT.pack(result, 0, 0, 0) + data


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    """The protocol's unsigned seconds are the kernel's signed ones."""
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * _NANO + nanoseconds


def _sized(value: bytes, room: int) -> Reply:
    """The answer to getxattr(2) and listxattr(2): the value, or with no room its size."""
    if room == 0:
        return p.GETXATTR_OUT.pack(len(value), 0)
    return value if len(value) <= room else errno.ERANGE
