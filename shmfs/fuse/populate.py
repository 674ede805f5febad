"""The end of a populate (mlock, MAP_POPULATE) for which there is no room, and the repair of what ends it.

An error does not end a populate (see `refused_reads`). A READ that returns no bytes does: the kernel takes it
for the end of the file and sets i_size to the start of that page (fs/fuse/file.c:fuse_short_read). The next
fault of the populate is then VM_FAULT_SIGBUS, and mlock fails with ENOMEM as on tmpfs. Two things are wrong
in the kernel from then on, for every process: i_size, and a page of zeros in the cache that was not charged.
A thread puts them right:

1. It sends FUSE_NOTIFY_INVAL_INODE for the page while the populate's READ is refused once more. The kernel
   invalidates the attributes at once and then waits for the page's lock, which the READ holds.
2. The next READ is newer than these attributes (fuse_short_read compares attr_version) and has the lock
   again. It is answered with no bytes. The kernel changes i_size, unlocks the page, and the invalidation
   drops it. While i_size ends before the page nobody can have mapped it.
3. The thread sends FUSE_NOTIFY_STORE for the last byte of the file from memory that cannot be read. The
   kernel raises i_size before it copies (fs/fuse/dev.c:fuse_notify_store). The copy fails with EFAULT, so no
   page changes, and no GETATTR is needed.

If the lock goes to the invalidation too early, the kernel sends the READ again, and all begins anew.

Between 2 and 3 a fault of another process behind that page is a false SIGBUS. Pages that it has mapped are
not affected. Measured with a process that does nothing but fault there (two CPUs, Linux 6.18): 4 of 5
failed mlocks gave it a false SIGBUS, for 9 µs at the median and 70 µs at the 95th percentile. On an
overcommitted machine (a load of 20) it was 50 and 200 µs; without CAP_SYS_NICE 6 ms. The thread that
populates meets it too if it touches a page behind the refused one directly after the call.
Write-back of a dirty page behind the refused one that begins in this time is skipped as behind the end
(fs/iomap/buffered-io.c:iomap_writeback_handle_eof): the page stays in the cache and counts as clean, and its
stores are lost if the kernel drops it before the next store. With a process that loops over mlock, 65 of 9094
msync calls were skipped. FUSE_NOTIFY_RETRIEVE of the pages behind, after the repair, could fetch them.
Requests for the attributes wait for the repair, so that stat(2), read(2) and SEEK_END answer truly.
"""

import contextlib
import errno
import logging
import mmap
import os
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shmfs.fs.superblock import Superblock
from shmfs.mm import PAGE_SIZE

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IiQ")
_INVAL_INODE, _STORE = 2, 4
_INVAL_INODE_OUT = struct.Struct("<Qqq")
_STORE_OUT = struct.Struct("<QQII")
_GRACE = 20e-6
"""Seconds for which the populate may run on and fail before the size is right again."""
_SWITCH_INTERVAL = 50e-6
"""Seconds for which another thread keeps the interpreter at most, during an attempt."""
_PATIENCE = 1.0
"""Seconds that requests for attributes, and the end of the mount, wait for a repair at most."""


class _Attempt:
    """One try to end the populate of a page."""

    def __init__(self, tid: int, ino: int, page: int) -> None:
        self.target = (tid, ino, page)
        self.ino = ino
        self.page = page
        self.waits = False
        """The invalidation was seen to wait for the page before an earlier READ was answered."""
        self.short = False
        """A READ was answered with no bytes."""


class PopulateEnd:
    """Ends populates of one mount, one at a time; `device` is the descriptor of /dev/fuse."""

    def __init__(self, device: int, superblock: Superblock) -> None:
        self._device = device
        self._superblock = superblock
        self._attempt: _Attempt | None = None
        self._queue: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._thread: threading.Thread | None = None
        self._interval = sys.getswitchinterval()
        self._unreadable = memoryview(mmap.mmap(-1, PAGE_SIZE, prot=0))[:1]

    def refused(self, tid: int, ino: int, page: int) -> bool:
        """Take a step for the populate of which a READ is refused; returns whether to answer with no bytes.

        Called by the thread that serves requests, before the answer; it does not block.
        """
        attempt = self._attempt
        if attempt is None:
            self._begin(_Attempt(tid, ino, page))
            return False
        if attempt.target != (tid, ino, page) or not self._invalidation_waits():
            return False
        attempt.short, attempt.waits = attempt.waits, True
        if attempt.short:
            self._schedule(os.SCHED_FIFO, 1)
        return attempt.short

    def _begin(self, attempt: _Attempt) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shmfs-populate", daemon=True)
            self._thread.start()
        self._attempt = attempt
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._queue.put(attempt)

    def _schedule(self, policy: int, priority: int) -> None:
        """Set how the thread is scheduled, where that is permitted (CAP_SYS_NICE).

        On a busy machine the repair would take milliseconds. Earlier than with the last answer it would get
        the page's lock before the populate sends its next READ.
        """
        if self._thread and self._thread.native_id:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread.native_id, policy, os.sched_param(priority))

    def _invalidation_waits(self) -> bool:
        """Whether the thread sleeps in the kernel, where it waits for nothing but the page ("D" in stat)."""
        thread = self._thread.native_id if self._thread else None
        try:
            status = Path(f"/proc/self/task/{thread}/stat").read_bytes()
        except OSError:
            return False
        return status.rpartition(b") ")[2].startswith(b"D")

    def repair_of(self, ino: int) -> Callable[[], None] | None:
        """Return a function that waits for the attempt on the inode to be over, or None if there is none.

        The function is not for the thread that serves requests.
        """
        attempt = self._attempt
        if attempt is None or attempt.ino != ino:
            return None

        def wait() -> None:
            with self._done:
                self._done.wait_for(lambda: self._attempt is not attempt, _PATIENCE)

        return wait

    def close(self) -> None:
        """Wait for an attempt that is under way, while requests are still served, but not for ever."""
        with self._done:
            self._done.wait_for(lambda: self._attempt is None, _PATIENCE)

    def _run(self) -> None:
        while True:
            attempt = self._queue.get()
            try:
                offset = attempt.page * PAGE_SIZE
                self._notify(_INVAL_INODE, _INVAL_INODE_OUT.pack(attempt.ino, offset, PAGE_SIZE))
                if attempt.short:
                    time.sleep(_GRACE)
                    self._restore_size(attempt.ino)
            except Exception:
                log.exception("the kernel may have a wrong size of inode %d until the next stat", attempt.ino)
            self._schedule(os.SCHED_OTHER, 0)
            sys.setswitchinterval(self._interval)
            with self._done:
                self._attempt = None
                self._done.notify_all()

    def _restore_size(self, ino: int) -> None:
        """Raise the kernel's i_size to the true one."""
        inode = self._superblock.inodes.get(ino)
        if inode and inode.size:
            self._notify(_STORE, _STORE_OUT.pack(ino, inode.size - 1, 1, 0), self._unreadable)

    def _notify(self, code: int, body: bytes, unreadable: memoryview | None = None) -> None:
        """Send a notification; an inode that the kernel has forgotten needs none."""
        parts: list[bytes | memoryview] = [body] if unreadable is None else [body, unreadable]
        size = _HEADER.size + sum(map(len, parts))
        try:
            os.writev(self._device, [_HEADER.pack(size, code, 0), *parts])
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.EFAULT):
                log.debug("notification %d failed: %s", code, failure)
