"""pyfuse3's handlers: each turns a request into one call of the table, and the answer into a reply.

They run as tasks in the thread of the event loop and await nothing but `finish`.
"""

import errno
import functools
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from shmfs.fs.attributes import Changes
from shmfs.fs.deferred import Deferred, Outcome, then
from shmfs.fs.inode import Inode, is_fixed
from shmfs.fs.superblock import Credentials
from shmfs.fuse import protocol as p
from shmfs.fuse import session
from shmfs.fuse.finish import finish
from shmfs.fuse.operations import Operations
from shmfs.fuse.reads import Reader
from shmfs.mm import PAGE_SIZE

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def request(
    function: Callable[Concatenate["Adapter", P], Outcome[T]],
) -> Callable[Concatenate["Adapter", P], Coroutine[Any, Any, T]]:
    """Make a synchronous function a handler: errors become replies, and none ends the session."""
    opcode = getattr(p.Opcode, function.__name__.upper(), 0)

    async def handler(self: "Adapter", /, *args: P.args, **kwargs: P.kwargs) -> T:
        instruments = self.operations.superblock.instruments
        instruments.caller, instruments.request = 0, opcode  # pyfuse3 names no caller of READ and WRITE
        try:
            result = function(self, *args, **kwargs)
            if isinstance(result, Deferred):
                return await finish(result, self.operations.superblock, instruments.caller, opcode)
            return result
        except OSError as failure:
            raise FUSEError(failure.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception:
            log.exception("the request %s failed", function.__name__)
            raise FUSEError(errno.EIO) from None
        finally:
            if self.operations.superblock.store.arena.dirty:
                self.freed()

    functools.update_wrapper(handler, function)
    return handler


class Adapter(pyfuse3.Operations):
    """The caller of `Operations` from pyfuse3."""

    supports_dot_lookup = True  # or handles are stale when the kernel has forgotten the inode
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, operations: Operations, freed: Callable[[], None]) -> None:
        super().__init__()
        self.operations = operations
        self.initialised = trio.Event()
        """Set when the kernel's INIT was answered."""
        self.freed = freed
        """Called when memory waits to be given back."""
        self._applies_umask = False
        self._opened_direct: set[int] = set()
        """Inodes of which a READ may be one that an O_DIRECT open makes past the page cache."""
        operations.attributes_changed = self._attributes_changed

    def init(self) -> None:
        """FUSE_INIT."""
        self.initialised.set()

    def negotiated(self) -> None:
        """Take over what INIT agreed on; to be called once it was answered."""
        self._applies_umask = session.takes(p.DONT_MASK)
        self.operations.handle_killpriv = session.takes(p.HANDLE_KILLPRIV)

    @staticmethod
    def _attributes_changed(ino: int) -> None:
        """Have the kernel ask again. Blocks on nothing: attributes take no lock that a request may hold."""
        try:
            pyfuse3.invalidate_inode(InodeT(ino), attr_only=True)
        except OSError as failure:
            if failure.errno != errno.ENOENT:  # the kernel has forgotten the inode meanwhile
                raise

    # ---- replies

    def _credentials(self, ctx: RequestContext) -> Credentials:
        self.operations.superblock.instruments.caller = ctx.pid
        return Credentials(ctx.uid, ctx.gid, ctx.pid, ctx.umask if self._applies_umask else 0)

    def _attributes(self, inode: Inode) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = InodeT(inode.ino)
        entry.entry_timeout = 0 if is_fixed(inode) else p.FOREVER
        entry.attr_timeout = p.FOREVER if inode.can_cache_attributes() else 0
        entry.st_mode = ModeT(inode.mode)
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blksize = PAGE_SIZE
        entry.st_blocks = inode.allocated * (PAGE_SIZE // 512)
        entry.st_atime_ns = inode.atime
        entry.st_mtime_ns = inode.mtime
        entry.st_ctime_ns = inode.ctime
        return entry

    # ---- names

    @request
    def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """FUSE_LOOKUP; a missing name is answered with inode 0, which the kernel caches."""
        inode = self.operations.lookup(parent_inode, name)
        if inode is not None:
            return self._attributes(inode)
        entry = EntryAttributes()
        entry.st_ino = InodeT(0)
        entry.entry_timeout = p.FOREVER
        return entry

    async def forget(self, inode_list: Any) -> None:
        """FUSE_FORGET, which has no answer."""
        self.operations.forget(inode_list)
        if self._opened_direct:
            self._opened_direct.intersection_update(self.operations.superblock.inodes)
        if self.operations.superblock.store.arena.dirty:
            self.freed()

    @request
    def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """FUSE_MKNOD."""
        return self._attributes(self.operations.mknod(parent_inode, name, mode, rdev, self._credentials(ctx)))

    @request
    def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """FUSE_MKDIR."""
        return self._attributes(self.operations.mkdir(parent_inode, name, mode, self._credentials(ctx)))

    @request
    def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """FUSE_SYMLINK."""
        return self._attributes(self.operations.symlink(parent_inode, name, target, self._credentials(ctx)))

    @request
    def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """FUSE_CREATE."""
        inode, handle = self.operations.create(parent_inode, name, mode, flags, self._credentials(ctx))
        if flags & os.O_DIRECT:
            self._opened_direct.add(inode.ino)
        return FileInfo(fh=FileHandleT(handle)), self._attributes(inode)

    @request
    def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """FUSE_LINK."""
        return self._attributes(
            self.operations.link(inode, new_parent_inode, new_name, self._credentials(ctx))
        )

    @request
    def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """FUSE_UNLINK."""
        self.operations.unlink(parent_inode, name, self._credentials(ctx))

    @request
    def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """FUSE_RMDIR."""
        self.operations.rmdir(parent_inode, name, self._credentials(ctx))

    @request
    def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """FUSE_RENAME and FUSE_RENAME2."""
        self.operations.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, flags, self._credentials(ctx)
        )

    @request
    def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """FUSE_READLINK."""
        return FileNameT(self.operations.readlink(inode))

    # ---- attributes

    @request
    def getattr(self, inode: InodeT, ctx: RequestContext) -> Outcome[EntryAttributes]:
        """FUSE_GETATTR."""
        return then(self.operations.getattr(inode), self._attributes)

    @request
    def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> Outcome[EntryAttributes]:
        """FUSE_SETATTR."""
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
            ctime=attr.st_ctime_ns if fields.update_ctime else None,
            through_descriptor=fh is not None,
        )
        return then(self.operations.setattr(inode, changes, self._credentials(ctx)), self._attributes)

    @request
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        """FUSE_STATFS."""
        figures = self.operations.statfs()
        reply = StatvfsData()
        reply.f_bsize = reply.f_frsize = PAGE_SIZE
        reply.f_blocks = figures.blocks
        reply.f_bfree = reply.f_bavail = figures.blocks_free
        reply.f_files = figures.files
        reply.f_ffree = reply.f_favail = figures.files_free
        reply.f_namemax = 255
        return reply

    # ---- extended attributes

    @request
    def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """FUSE_GETXATTR."""
        return self.operations.getxattr(inode, name)

    @request
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[XAttrNameT]:
        """FUSE_LISTXATTR."""
        names = self.operations.listxattr(inode, self._credentials(ctx))
        return [XAttrNameT(name) for name in names]

    @request
    def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """FUSE_SETXATTR; pyfuse3 has seen to XATTR_CREATE and XATTR_REPLACE."""
        self.operations.setxattr(inode, name, value, 0)

    @request
    def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """FUSE_REMOVEXATTR."""
        self.operations.removexattr(inode, name, self._credentials(ctx))

    # ---- files

    @request
    def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> Outcome[FileInfo]:
        """FUSE_OPEN."""
        opened = self.operations.open(inode, flags, self._credentials(ctx))
        if flags & os.O_DIRECT:
            self._opened_direct.add(inode)
        return then(opened, lambda opened: FileInfo(fh=FileHandleT(opened[0]), keep_cache=opened[1]))

    @request
    def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """FUSE_READ."""
        # pyfuse3 passes on neither the thread nor whether a read is past the page cache.
        reader = Reader(0, called=False, direct=fh >> 2 in self._opened_direct)
        return self.operations.read(fh, off, size, reader)

    @request
    def write(self, fh: FileHandleT, off: int, buf: bytes) -> Outcome[int]:
        """FUSE_WRITE."""
        return self.operations.write(fh, off, buf)

    @request
    def release(self, fh: FileHandleT) -> None:
        """FUSE_RELEASE."""
        self.operations.release(fh)

    # flush, fsync, fsyncdir and access stay unanswered (ENOSYS): the kernel then sees to them by itself and
    # asks no more, which saves a round trip at every close.

    # ---- directories

    @request
    def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """FUSE_OPENDIR."""
        return FileHandleT(inode)

    @request
    def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """FUSE_READDIRPLUS."""
        for dentry in self.operations.readdir(fh, start_id):
            if not pyfuse3.readdir_reply(
                token, FileNameT(dentry.name), self._attributes(dentry.inode), dentry.cookie
            ):
                return
            self.operations.listed(dentry)

    @request
    def releasedir(self, fh: FileHandleT) -> None:
        """FUSE_RELEASEDIR."""
