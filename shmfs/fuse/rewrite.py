"""A second write-back of pages that the kernel may wrongly count as clean; see `populate`.

Only the kernel knows whether a page of its cache is complete, and which of two stores is newer:
FUSE_NOTIFY_RETRIEVE also returns pages that are still being read, or of which write(2) filled a part, with
whatever the memory held before (fs/fuse/dev.c:fuse_retrieve). So the kernel writes them itself: a process
maps them, and MADV_POPULATE_WRITE marks them dirty and changes nothing (mm/madvise.c:madvise_populate).
msync(2) then sends an ordinary WRITE. Pages that are not cached are left alone, so nothing is charged.

It is a process, not a thread: a thread of the daemon that waits for an answer of the daemon would keep
/dev/fuse open when the daemon is killed. It opens files by handle (open_by_handle_at), as they may have no
name, which needs CAP_DAC_READ_SEARCH; without that right, by their path. It imports the standard library only
and ends when it has been idle for a while.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import select
import struct
import subprocess
import sys
from collections.abc import Sequence

_libc = ctypes.CDLL(None, use_errno=True)
_ORDER = struct.Struct("<QII")
"""Inode number, number of ranges, length of the path, which is empty if there is none."""
_RANGE = struct.Struct("<QQ")
"""First page and end."""
_ANSWER = struct.Struct("<i")
"""An errno, or 0."""
_HANDLE = struct.Struct("<IiIII")
"""struct file_handle of FUSE: length, type, inode number (high, low), generation."""
_FILEID_INO64_GEN = 0x81
_MADV_POPULATE_WRITE = 23
_SLICE = 64 << 20
"""Bytes that are mapped at once."""
_IDLE = 10.0
"""Seconds without an order after which the process ends."""
_PATIENCE = 10.0
"""Seconds that an order may take."""

Range = tuple[int, int]


class Rewriter:
    """Starts the process and sends it orders.

    `rewrite` is for one thread, which does not serve requests; `close` and `pid` are for any.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self.pid = 0
        """The process whose opens are no user's; 0 if there is none."""

    def rewrite(self, ino: int, ranges: Sequence[Range], path: str = "") -> None:
        """Have the cached pages of `ranges` (first page, end) of an inode written; returns when they are.

        `path` is that within the mount. Raises OSError: EPERM if the file may not be opened by handle and
        has no path, EACCES if it may not be written, ESTALE if the kernel has forgotten the inode,
        ETIMEDOUT, ESHUTDOWN after `close`.
        """
        name = os.fsencode(path)
        order = _ORDER.pack(ino, len(ranges), len(name)) + b"".join(_RANGE.pack(*pages) for pages in ranges)
        order += name
        try:
            answer = self._ask(order)
        except BrokenPipeError:  # it was idle for too long
            self._end()
            answer = self._ask(order)
        failure = _ANSWER.unpack(answer)[0] if len(answer) == _ANSWER.size else errno.ETIMEDOUT
        if failure == errno.ETIMEDOUT:
            self._end()
        if failure:
            raise OSError(failure, os.strerror(failure))

    def _ask(self, order: bytes) -> bytes:
        """Send an order; returns the answer, or nothing if none came in time."""
        if self._closed:
            raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, self._mountpoint],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
            self.pid = process.pid
        if process.stdin is None or process.stdout is None:
            return b""
        process.stdin.write(order)  # a pipe takes it whole
        if not select.select([process.stdout], [], [], _PATIENCE)[0]:
            return b""
        answer = os.read(process.stdout.fileno(), _ANSWER.size)
        if not answer:
            raise BrokenPipeError
        return answer

    def close(self) -> None:
        """End the process, also in the middle of an order, and start no other."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process, self._process, self.pid = self._process, None, 0
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)


def main() -> None:
    """Serve orders from standard input until its end."""
    mountpoint = sys.argv[1]
    while select.select([0], [], [], _IDLE)[0]:
        head = _read(_ORDER.size)
        if not head:
            return
        ino, count, length = _ORDER.unpack(head)
        ranges = list(_RANGE.iter_unpack(_read(count * _RANGE.size)))
        path = os.fsdecode(_read(length))
        try:
            _rewrite(mountpoint, ino, ranges, path)
            failure = 0
        except OSError as error:
            failure = error.errno or errno.EIO
        os.write(1, _ANSWER.pack(failure))


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            return b""
        data += part
    return data


def _rewrite(mountpoint: str, ino: int, ranges: Sequence[Range], path: str) -> None:
    try:
        descriptor = _open(mountpoint, ino)
    except PermissionError:
        if not path:
            raise
        descriptor = _open_path(mountpoint + path, ino)
    try:
        end_of_file = os.fstat(descriptor).st_size
        for first, end in ranges:
            stop = min(end * mmap.PAGESIZE, end_of_file)
            for offset in range(first * mmap.PAGESIZE, stop, _SLICE):
                _rewrite_slice(descriptor, offset, min(_SLICE, stop - offset))
    finally:
        os.close(descriptor)


def _open(mountpoint: str, ino: int) -> int:
    """The inode, opened by handle: no descriptor of the mount stays open, which would keep it busy."""
    handle = _HANDLE.pack(12, _FILEID_INO64_GEN, ino >> 32, ino & 0xFFFFFFFF, 0)
    root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor: int = _libc.open_by_handle_at(root, handle, os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(root)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _open_path(path: str, ino: int) -> int:
    """The inode, opened by its path in a mount that others may change meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    if os.fstat(descriptor).st_ino != ino:
        os.close(descriptor)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return descriptor


def _rewrite_slice(descriptor: int, offset: int, length: int) -> None:
    """Mark the cached pages of a slice dirty, and write them."""
    try:
        mapping = mmap.mmap(descriptor, length, offset=offset)
    except ValueError:  # the file has been cut meanwhile
        return
    try:
        for first, end in _cached(mapping):
            try:
                mapping.madvise(_MADV_POPULATE_WRITE, first, end - first)
            except OSError:  # one of them is gone meanwhile
                for start in range(first, end, mmap.PAGESIZE):
                    with contextlib.suppress(OSError):
                        mapping.madvise(_MADV_POPULATE_WRITE, start, mmap.PAGESIZE)
        mapping.flush()
    finally:
        mapping.close()


def _cached(mapping: mmap.mmap) -> list[Range]:
    """The runs of bytes whose pages are in the cache and complete (mincore(2))."""
    pages = -(-len(mapping) // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    start = ctypes.c_char.from_buffer(mapping)
    failed = _libc.mincore(ctypes.byref(start), ctypes.c_size_t(len(mapping)), vector)
    del start  # or the mapping could not be closed
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    runs: list[Range] = []
    for page, state in enumerate(bytes(vector)):
        if state & 1:
            begin = page * mmap.PAGESIZE
            if runs and runs[-1][1] == begin:
                begin = runs.pop()[0]
            runs.append((begin, min((page + 1) * mmap.PAGESIZE, pages * mmap.PAGESIZE)))
    return runs


if __name__ == "__main__":
    main()
