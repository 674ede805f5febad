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

4. Write-back of a dirty page behind the refused one that begins between 2 and 3 is skipped as behind the end
   (fs/iomap/buffered-io.c:iomap_writeback_handle_eof): the page stays in the cache and counts as clean. So
   the kernel is made to write the cached pages behind once more (see `rewrite`), before another attempt.

If the lock goes to the invalidation too early, the kernel sends the READ again, and all begins anew. So it
does if the populate did not run between 2 and 3; the time that it gets is then doubled.

Between 2 and 3 a fault of another process behind that page is a false SIGBUS. Pages that it has mapped are
not affected. The extension sends both notifications without the interpreter's lock in between. Measured with
a process that does nothing but fault there (two CPUs, Linux 6.18, three runs at each load): a failed mlock
gave it a false SIGBUS in 17 to 54 of 100 cases. At a load of 5 that lasted 29 to 54 µs at the median, 76 to
224 µs at the 95th percentile, 0.1 to 2.4 ms at the 99th; at a load of 50, 20 to 54 µs, 240 to 296 µs, 0.4 to
2.0 ms. With the interpreter's lock the 99th was 2.3 to 8.1 ms. Without CAP_SYS_NICE: 0.2, 3.4, 9.3 ms.
The thread that populates meets it too if it touches a page behind the refused one directly after the call.
Requests for the attributes wait for the repair, so that stat(2), read(2) and SEEK_END answer truly.

With a process that loops over mlock, and another that stores and calls msync(2) 10,000 times, 67 calls were
skipped and all of them made good; a failed mlock takes 2 ms longer where pages behind are allocated. What
remains: until then, some ms, the kernel may drop the page, which nobody may have mapped at that moment; and
without CAP_DAC_READ_SEARCH nothing is made good in a file that has no name, or that the daemon's user may
not write. The log has it at level debug.
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
from itertools import islice
from typing import Protocol, cast

from shmfs.fs.inode import RegularFile
from shmfs.fs.superblock import Superblock
from shmfs.fuse.rewrite import Range, Rewriter
from shmfs.mm import PAGE_SIZE
from shmfs.system import proc

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IiQ")
_INVAL_INODE, _STORE = 2, 4
_INVAL_INODE_OUT = struct.Struct("<Qqq")
_STORE_OUT = struct.Struct("<QQII")
_GRACE = 20_000
"""Nanoseconds for which the populate may run on and fail before the size is right again."""
_LONGEST_GRACE = 160_000
"""The same at most: it doubles for the next attempt on the page when the populate did not run in time."""
_SWITCH_INTERVAL = 50e-6
"""Seconds for which another thread keeps the interpreter at most, during an attempt without the extension."""
_RANGES = 1024
"""Runs of pages that are written again one by one; with more the last extends to the end of the file."""
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
        self.store = bytearray(_HEADER.size + _STORE_OUT.size)
        """The notification that raises the size again; zeros until a READ is answered with no bytes."""
        self.path = ""
        """Of the inode within the mount, if it has a name."""
        self.behind: list[Range] = []
        """Allocated pages whose write-back may be skipped meanwhile: first page and end."""
        self.missed = False
        """The populate did not end: it went on when the size was right again."""
        self.grace = _GRACE
        self.repaired = False
        """The kernel has the true size again."""


class EndPopulate(Protocol):
    """How the notifications of an attempt are sent: `_lane.end_populate`, or in Python."""

    def __call__(self, first: bytes, second: bytearray, unreadable: memoryview, pause: int, /) -> None:
        """Send the first, and after a pause (ns) the second, unless that begins with zeros by then."""


class PopulateEnd:
    """Ends populates of one mount, one at a time; `device` is the descriptor of /dev/fuse.

    `send` does not need the interpreter between its two notifications, if the extension is there.
    """

    def __init__(
        self, device: int, superblock: Superblock, rewriter: Rewriter, send: EndPopulate | None = None
    ) -> None:
        self._device = device
        self._superblock = superblock
        self.rewriter = rewriter
        self._send = send or self._send_in_python
        self._in_python = send is None
        self._attempt: _Attempt | None = None
        self._last: _Attempt | None = None
        self.rewritten = 0
        """The inode whose pages are being rewritten; 0: none."""
        self._queue: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self._done = threading.Condition()
        """Guards the end of an attempt: `_Attempt.repaired`, and `_attempt` when it becomes None."""
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
        if attempt.target != (tid, ino, page):
            return False
        if attempt.short:  # once only: the thread may be past the point where it raises the size again
            attempt.missed = attempt.missed or attempt.repaired
            return False
        if not self._invalidation_waits():
            return False
        if not attempt.waits:
            attempt.waits = True
            return False
        self._answer_short(attempt)
        return True

    def _answer_short(self, attempt: _Attempt) -> None:
        """Prepare what the thread does as soon as the READ is answered with no bytes."""
        inode = cast("RegularFile", self._superblock.inodes[attempt.ino])
        attempt.behind = _behind(inode, attempt.page)
        attempt.path = inode.path() if inode.nlink else ""
        size = _HEADER.size + _STORE_OUT.size + len(self._unreadable)
        attempt.store[:] = _HEADER.pack(size, _STORE, 0) + _STORE_OUT.pack(attempt.ino, inode.size - 1, 1, 0)
        attempt.short = True
        self._schedule(os.SCHED_FIFO, 1)

    def _begin(self, attempt: _Attempt) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shmfs-populate", daemon=True)
            self._thread.start()
        if (last := self._last) and last.target == attempt.target and last.missed:
            attempt.grace = min(2 * last.grace, _LONGEST_GRACE)
        self._attempt = self._last = attempt
        if self._in_python:
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
        return proc.state(f"self/task/{thread}") == "D"

    def repair_of(self, ino: int) -> Callable[[], None] | None:
        """Return a function that waits until the kernel has the size of the inode again, or None if it has.

        The function is not for the thread that serves requests.
        """
        attempt = self._attempt
        if attempt is None or attempt.ino != ino or attempt.repaired:
            return None

        def wait() -> None:
            with self._done:
                self._done.wait_for(lambda: attempt.repaired, _PATIENCE)

        return wait

    def close(self) -> None:
        """Wait for an attempt that is under way, while requests are still served, but not for ever."""
        with self._done:
            self._done.wait_for(lambda: self._attempt is None, _PATIENCE)
        self.rewriter.close()

    def _run(self) -> None:
        while True:
            attempt = self._queue.get()
            offset = attempt.page * PAGE_SIZE
            first = _HEADER.pack(_HEADER.size + _INVAL_INODE_OUT.size, _INVAL_INODE, 0)
            first += _INVAL_INODE_OUT.pack(attempt.ino, offset, PAGE_SIZE)
            try:
                self._send(first, attempt.store, self._unreadable, attempt.grace)
            except Exception:
                log.exception("the kernel may have a wrong size of inode %d until the next stat", attempt.ino)
            self._schedule(os.SCHED_OTHER, 0)
            if self._in_python:
                sys.setswitchinterval(self._interval)
            with self._done:
                attempt.repaired = True
                self._done.notify_all()
            if attempt.behind:
                self._rewrite(attempt)
            with self._done:
                self._attempt = None
                self._done.notify_all()

    def _rewrite(self, attempt: _Attempt) -> None:
        """Have the kernel write what it may count as clean by mistake, before the next attempt begins."""
        self.rewritten = attempt.ino
        try:
            self.rewriter.rewrite(attempt.ino, attempt.behind, attempt.path)
        except OSError as failure:
            if failure.errno != errno.ESTALE:  # the kernel has dropped it with all its pages
                log.debug("inode %d is not written back again: %s", attempt.ino, failure)
        finally:
            self.rewritten = 0

    def _send_in_python(self, first: bytes, second: bytearray, unreadable: memoryview, pause: int) -> None:
        """Do what the extension does, with the interpreter's lock in between."""
        self._notify(first)
        if any(second[: _HEADER.size]):
            time.sleep(pause * 1e-9)
            self._notify(second, unreadable)

    def _notify(self, *parts: bytes | bytearray | memoryview) -> None:
        """Send a notification; an inode that the kernel has forgotten needs none."""
        try:
            os.writev(self._device, parts)
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.EFAULT):
                log.debug("a notification failed: %s", failure)


def _behind(inode: RegularFile, page: int) -> list[Range]:
    """Return the runs of allocated pages behind a page that may be dirty: none if nobody can store."""
    if not inode.writers:
        return []
    ranges = [(run.first, run.first + run.length) for run in islice(inode.pages.runs(page + 1), _RANGES + 1)]
    if len(ranges) > _RANGES:
        ranges[_RANGES:] = []
        ranges[-1] = (ranges[-1][0], -(-inode.size // PAGE_SIZE))
    return ranges
