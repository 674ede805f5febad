"""One table of plain functions, one for each FUSE request: where requests meet the file system.

Arguments are typed, errors are OSError, nothing awaits. The lane and pyfuse3's handlers call these. Inodes
go by number, as in the protocol; what answers with an entry has counted the kernel's reference (`nlookup`).

A file handle is made of the inode number and the access mode, so an open costs no memory and there is no
table of them to lose.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from shmfs.fs import acl, attributes, file, namei, xattr
from shmfs.fs import flags as file_flags
from shmfs.fs.attributes import Changes
from shmfs.fs.directory import Dentry, Directory
from shmfs.fs.inode import Inode, RegularFile, Symlink, is_fixed
from shmfs.fs.native import NativeFile
from shmfs.fs.superblock import Credentials, Statfs, Superblock, error
from shmfs.fuse.reads import REWRITE, UNKNOWN, Reader, Reads
from shmfs.ipc import protocol
from shmfs.ipc.sysv import ANONYMOUS, Registry
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE

_COPY_CHUNK = 8 << 20
"""Bytes that one COPY_FILE_RANGE copies at most, so that it delays nobody; the caller asks again."""
FOREVER = 365 * 86400.0
"""Seconds that the kernel may keep what only a request through itself can change."""


class Operations:
    """The requests of one mount, on one superblock."""

    def __init__(self, superblock: Superblock) -> None:
        self.superblock = superblock
        self.ipc = Registry(superblock)
        self.handle_killpriv = False
        """Whether the kernel leaves clearing set-id bits at a write to us (FUSE_HANDLE_KILLPRIV)."""
        self.trace_io = 0
        """How many want read(2) and write(2) of native files reported; files opened meanwhile send them."""
        self.pages_cached: Callable[[int, int, int], None] = lambda ino, offset, length: None
        """Called with the bytes of a native file that the kernel will cache, and not keep up to date."""
        self.cache_again: Callable[[int, list[tuple[int, bytes]]], None] = lambda ino, pages: None
        """Called, in a thread, with what the kernel is to cache of a managed file: offsets and data."""
        self.attributes_changed: Callable[[int], None] = lambda ino: None
        """Called with an inode whose attributes changed although the kernel was told it may keep them."""
        self.reads = Reads(superblock)

    # ---- replies

    def entry_timeout(self, inode: Inode) -> float:
        """Seconds that a name may be cached: names change by requests only, but for those of segments."""
        return 0.0 if is_fixed(inode) else FOREVER

    def attribute_timeout(self, inode: Inode) -> float:
        """Seconds that the attributes, which are told now, may be cached."""
        return FOREVER if inode.told() else 0.0

    def _entry(self, inode: Inode) -> Inode:
        inode.nlookup += 1
        return inode

    # ---- names

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
            return inode, self.open(inode.ino, flags & ~os.O_TRUNC, cred)[0]
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
            return inode, self.open(inode.ino, flags, cred)[0]
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

    # ---- attributes

    def getattr(self, ino: int) -> Inode:
        """FUSE_GETATTR."""
        self.reads.wait_for_repair(ino)
        return self.superblock.inode(ino)

    def setattr(self, ino: int, changes: Changes, cred: Credentials) -> Inode:
        """FUSE_SETATTR."""
        inode = self.superblock.inode(ino)
        inode.refresh()
        old_size = inode.size
        attributes.set_attributes(self.superblock, inode, changes, cred)
        if changes.size is not None:
            self._resized(inode, old_size, cred.pid)
            if self.handle_killpriv and cred.uid:
                attributes.kill_privileges(self.superblock, inode, cred)
        return inode

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

    def shm(
        self, ino: int, request: bytes, cred: Credentials
    ) -> protocol.Answer | Callable[[], protocol.Answer]:
        """FUSE_IOCTL of the preloaded library; raises ENOTTY elsewhere than in the hidden directory."""
        if ino != self.ipc.directory.ino:
            raise error(errno.ENOTTY)
        return protocol.answer(self.ipc, request, cred)

    # ---- extended attributes

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

    # ---- files

    def open(self, ino: int, flags: int, cred: Credentials) -> tuple[int, bool]:
        """FUSE_OPEN: file handle, and whether the kernel may keep the pages it has cached."""
        inode = file.regular(self.superblock.inode(ino))
        if self.reads.rewrites(cred):
            return ino << 2 | REWRITE, file.open_file(inode, flags)
        if inode.flags:
            file_flags.check_open(inode, flags)
        if is_fixed(inode):
            self.ipc.attach(inode, flags, cred)
        if flags & os.O_TRUNC:
            self.setattr(ino, Changes(size=0, through_descriptor=True), cred)
            if cred.uid:  # the kernel leaves this truncation wholly to us (FUSE_ATOMIC_O_TRUNC)
                attributes.kill_privileges(self.superblock, inode, cred)
        keep_cache = file.open_file(inode, flags)
        if isinstance(inode, NativeFile):
            inode.descriptor()
            inode.was_written = inode.was_written or inode.writers > 0 or inode.has_holes()
        if "open" in self.superblock.instruments:
            self.superblock.instruments.call("open", ino, flags, cred.pid)
        return ino << 2 | min(flags & os.O_ACCMODE, os.O_RDWR), keep_cache

    def _file(self, handle: int) -> RegularFile:
        inode = file.regular(self.superblock.inode(handle >> 2))
        inode.refresh()
        return inode

    def release(self, handle: int) -> None:
        """FUSE_RELEASE: the last descriptor and mapping of an open are gone."""
        inode = file.regular(self.superblock.inode(handle >> 2))
        if isinstance(inode, NativeFile) and handle & os.O_ACCMODE:
            self.superblock.tell_usage(inode)
        else:
            inode.refresh()
        file.release(inode, handle & os.O_ACCMODE)
        if "release" in self.superblock.instruments and handle & os.O_ACCMODE != REWRITE:
            self.superblock.instruments.call("release", inode.ino, handle & os.O_ACCMODE)

    def read(self, handle: int, offset: int, size: int, reader: Reader = UNKNOWN) -> bytes:
        """FUSE_READ: fills the kernel's page cache, for read(2) or for a fault; raises ENOSPC (SIGBUS), EIO.

        Of a native file with direct I/O it is read(2) itself (`reader.called`); or it is splice(2) or
        sendfile(2), which fill the page cache also there. Mappings are not of those pages.
        """
        inode = self._file(handle)
        if isinstance(inode, NativeFile):
            data = inode.pages.read(offset, size)
            if not reader.called:
                self.pages_cached(inode.ino, offset, size)
            elif self.trace_io:
                self._called("read", inode.ino, offset, len(data), reader.tid)
            return data
        before = inode.allocated
        data = self.reads.read(inode, offset, size, reader)
        if inode.attributes_cached and inode.allocated != before:
            self._attributes_changed(inode)
        return data

    def write(
        self,
        handle: int,
        offset: int,
        data: bytes | memoryview,
        killer: Credentials | None = None,
        *,
        writeback: bool = True,
        caller: int | None = None,
    ) -> int:
        """FUSE_WRITE: bytes stored, or ENOSPC, EFBIG.

        `caller` is the thread that called write(2), if it is that; `killer` is who writes, where that takes
        set-id bits and capabilities away; `writeback` says that it may not be write(2), after which the
        kernel asks for the attributes by itself.
        """
        inode = self._file(handle)
        if writeback and self.reads.is_rewrite(inode, offset, data):
            return len(data)
        old_size, old_mode = inode.size, inode.mode
        killer = killer or (Credentials() if self.handle_killpriv else None)
        if killer is not None:  # also where nothing can be stored (file_remove_privs)
            attributes.kill_privileges(self.superblock, inode, killer)
        stored = file.write(self.superblock, inode, offset, data)
        if inode.size != old_size:
            self._resized(inode, old_size, 0)
        if inode.attributes_cached:
            # An empty file has nothing to write back; of the mode the kernel does not think.
            if (writeback and old_size) or inode.mode != old_mode:
                self._attributes_changed(inode)
            else:
                inode.attributes_cached = False
        if self.trace_io and caller is not None:
            self._called("write", inode.ino, offset, stored, caller)
        return stored

    def not_stored(self, handle: int, start: int, end: int) -> None:
        """Have the kernel cache again what a write(2) was to replace, before that is answered.

        The kernel copied all data into its pages before it asked, and leaves those that are mapped so
        (fuse_send_write_pages): with the next store into one the refused data would be written back. The
        writer has the file's lock meanwhile, and may have that of the last page if it filled that in part,
        until it is answered: that page is dropped when it can be.
        """
        inode = self._file(handle)
        if isinstance(inode, NativeFile) or self.superblock.deferred is not None:
            return
        last = end >> PAGE_SHIFT
        kept = file.held(inode, (start + PAGE_SIZE - 1) >> PAGE_SHIFT, last)
        if any(inode.pages.runs(last, last + (end % PAGE_SIZE > 0))):
            self.pages_cached(inode.ino, last << PAGE_SHIFT, PAGE_SIZE)
        if kept:
            self.superblock.defer(lambda: self.cache_again(inode.ino, kept), lambda: None)

    def _called(self, call: str, ino: int, offset: int, length: int, tid: int) -> None:
        pid = self.ipc.process_of(tid) or tid
        self.superblock.instruments.call(call, ino, offset, length, pid, tid)

    def fallocate(self, handle: int, mode: int, offset: int, length: int, cred: Credentials) -> None:
        """FUSE_FALLOCATE."""
        inode = self._file(handle)
        old_size = inode.size
        file.fallocate(self.superblock, inode, mode, offset, length)
        self._resized(inode, old_size, cred.pid)
        if cred.uid:
            attributes.kill_privileges(self.superblock, inode, cred)

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """FUSE_LSEEK, which the kernel asks for SEEK_DATA and SEEK_HOLE."""
        return file.seek(self._file(handle), offset, whence)

    def copy_file_range(
        self, source: int, source_offset: int, target: int, target_offset: int, length: int, cred: Credentials
    ) -> int:
        """FUSE_COPY_FILE_RANGE: within the mount, frame to frame; bytes copied, fewer at a limit."""
        inode = self._file(source)
        room = min(length, _COPY_CHUNK, max(0, inode.size - source_offset))
        data = inode.pages.read(source_offset, room)
        try:
            return self.write(target, target_offset, data, cred if cred.uid else None, writeback=False)
        except OSError:  # the times have changed all the same, and the kernel asks after a success only
            self._attributes_changed(self._file(target))
            raise

    def _attributes_changed(self, inode: RegularFile) -> None:
        inode.attributes_cached = False
        self.attributes_changed(inode.ino)

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
