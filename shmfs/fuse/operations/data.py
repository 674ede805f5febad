"""Requests about content: open, read, write, allocate, seek."""

import os
from collections.abc import Callable
from functools import partial

from shmfs.fs import attributes, file
from shmfs.fs import flags as file_flags
from shmfs.fs.attributes import Changes
from shmfs.fs.deferred import Deferred, Outcome, failing, then
from shmfs.fs.inode import RegularFile, is_fixed
from shmfs.fs.superblock import Credentials
from shmfs.fuse.operations.attributes import Attributes
from shmfs.fuse.reads import REWRITE, UNKNOWN, Reader
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE

_COPY_CHUNK = 8 << 20
"""Bytes that one COPY_FILE_RANGE copies at most, so that it delays nobody; the caller asks again."""


class Data(Attributes):
    """Open files and what is in them."""

    def open(self, ino: int, flags: int, cred: Credentials) -> Outcome[tuple[int, bool]]:
        """FUSE_OPEN: file handle, and whether the kernel may keep the pages it has cached."""
        inode = file.regular(self.superblock.inode(ino))
        if self.reads.rewrites(cred):
            return ino << 2 | REWRITE, inode.open(flags)
        if inode.flags:
            file_flags.check_open(inode, flags)
        if is_fixed(inode):
            self.ipc.attach(inode, flags, cred)
        if not flags & os.O_TRUNC:
            return self._opened(inode, flags, cred)
        truncated = self.setattr(ino, Changes(size=0, through_descriptor=True), cred)
        if cred.uid:  # the kernel leaves this truncation wholly to us (FUSE_ATOMIC_O_TRUNC)
            attributes.kill_privileges(self.superblock, inode, cred)
        opened = self._opened(inode, flags, cred)
        return then(truncated, lambda _: opened)

    def _opened(self, inode: RegularFile, flags: int, cred: Credentials) -> tuple[int, bool]:
        """Count an open, after O_TRUNC."""
        keep_cache = inode.open(flags)
        if "open" in self.superblock.instruments:
            self.superblock.instruments.call("open", inode.ino, flags, cred.pid)
        return inode.ino << 2 | min(flags & os.O_ACCMODE, os.O_RDWR), keep_cache

    def _file(self, handle: int) -> RegularFile:
        inode = file.regular(self.superblock.inode(handle >> 2))
        inode.refresh()
        return inode

    def release(self, handle: int) -> None:
        """FUSE_RELEASE: the last descriptor and mapping of an open are gone."""
        inode = file.regular(self.superblock.inode(handle >> 2))
        if handle & os.O_ACCMODE:
            inode.emit_usage(self.superblock.instruments)
        else:
            inode.refresh()
        inode.release(handle)
        if "release" in self.superblock.instruments and handle & os.O_ACCMODE != REWRITE:
            self.superblock.instruments.call("release", inode.ino, handle & os.O_ACCMODE)

    def read(self, handle: int, offset: int, size: int, reader: Reader = UNKNOWN) -> bytes:
        """FUSE_READ: fills the kernel's page cache, for read(2) or for a fault; raises ENOSPC (SIGBUS), EIO.

        Of a native file with direct I/O it is read(2) itself (`reader.called`); or it is splice(2) or
        sendfile(2), which fill the page cache also there. Mappings are not of those pages.
        """
        inode = self._file(handle)
        if self.superblock.native:
            data = inode.pages.read(offset, size)
            if not reader.called:
                self.pages_cached(inode.ino, offset, size)
            elif self.trace_io:
                self._emit_call("read", inode.ino, offset, reader.tid, len(data))
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
        cached: bool = False,
        caller: int | None = None,
    ) -> Outcome[int]:
        """FUSE_WRITE: bytes stored, or ENOSPC, EFBIG.

        `caller` is the thread that called write(2), if it is that; `killer` is who writes, where that takes
        set-id bits and capabilities away; `writeback` says that it may not be write(2), after which the
        kernel asks for the attributes by itself; `cached` says that the kernel has the data of a write(2) in
        its page cache.
        """
        inode = self._file(handle)
        if writeback and self.reads.is_rewrite(inode, offset, data):
            return len(data)
        old_size, old_mode = inode.size, inode.mode
        killer = killer or (Credentials() if self.handle_killpriv else None)
        if killer is not None:  # also where nothing can be stored (file_remove_privs)
            attributes.kill_privileges(self.superblock, inode, killer)
        try:
            stored = file.write(self.superblock, inode, offset, data)
        except OSError as failure:
            if not cached:
                raise
            return self._cache_again(inode, offset, offset + len(data), failing(failure))
        if inode.size != old_size:
            self._resized(inode, old_size, 0)
        if inode.attributes_cached:
            # An empty file has nothing to write back; of the mode the kernel does not think.
            if (writeback and old_size) or inode.mode != old_mode:
                self._attributes_changed(inode)
            else:
                inode.attributes_cached = False
        if self.trace_io and caller is not None:
            stored = then(stored, partial(self._emit_call, "write", inode.ino, offset, caller))
        if cached and type(stored) is int and stored < len(data):
            return self._cache_again(inode, offset + stored, offset + len(data), partial(int, stored))
        return stored

    def _cache_again(
        self, inode: RegularFile, start: int, end: int, answer: Callable[[], int]
    ) -> Outcome[int]:
        """Have the kernel cache again what a write(2) was to replace, before that is answered.

        The kernel copied all data into its pages before it asked, and leaves those that are mapped so
        (fuse_send_write_pages): with the next store into one the refused data would be written back. The
        writer has the file's lock meanwhile, and may have that of the last page if it filled that in part,
        until it is answered: that page is dropped when it can be.

        Case no_space.mapped_data_after_a_failed_write.
        """
        last = end >> PAGE_SHIFT
        kept = file.held(inode, (start + PAGE_SIZE - 1) >> PAGE_SHIFT, last)
        if any(inode.pages.runs(last, last + (end % PAGE_SIZE > 0))):
            self.pages_cached(inode.ino, last << PAGE_SHIFT, PAGE_SIZE)
        return Deferred(lambda: self.cache_again(inode.ino, kept), answer) if kept else answer()

    def _emit_call(self, call: str, ino: int, offset: int, tid: int, length: int) -> int:
        pid = self.ipc.process_of(tid) or tid
        self.superblock.instruments.call(call, ino, offset, length, pid, tid)
        return length

    def fallocate(self, handle: int, mode: int, offset: int, length: int, cred: Credentials) -> Outcome[None]:
        """FUSE_FALLOCATE."""
        inode = self._file(handle)
        old_size = inode.size
        allocated = file.fallocate(self.superblock, inode, mode, offset, length)
        self._resized(inode, old_size, cred.pid)
        if cred.uid:
            attributes.kill_privileges(self.superblock, inode, cred)
        return allocated

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """FUSE_LSEEK, which the kernel asks for SEEK_DATA and SEEK_HOLE."""
        return file.seek(self._file(handle), offset, whence)

    def copy_file_range(
        self, source: int, source_offset: int, target: int, target_offset: int, length: int, cred: Credentials
    ) -> Outcome[int]:
        """FUSE_COPY_FILE_RANGE: within the mount, frame to frame; bytes copied, fewer at a limit."""
        inode = self._file(source)
        room = min(length, _COPY_CHUNK, max(0, inode.size - source_offset))
        data = inode.pages.read(source_offset, room)
        try:
            return self.write(target, target_offset, data, cred if cred.uid else None, writeback=False)
        except OSError:
            # The times have changed all the same, and the kernel asks for them after a success only
            # (case copy.times_of_a_failed_copy).
            self._attributes_changed(self._file(target))
            raise

    def _attributes_changed(self, inode: RegularFile) -> None:
        inode.attributes_cached = False
        self.attributes_changed(inode.ino)
