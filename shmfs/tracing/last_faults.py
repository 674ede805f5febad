"""The newest page faults of a process tree, for whom the kernel does not report signals to (no root).

The kernel writes each fault into a ring of its processor and overwrites the oldest ones: nobody reads them
until a process has died of signal 7. A program that does nothing but fault takes about a tenth longer.
See perf_event_open(2), write_backward, and tools/perf/util/mmap.c.
"""

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from shmfs.tracing import perf, processors, ring

_MOST_PAGES, _LEAST_PAGES = 128, 4
"""Pages of a ring that are tried: 16,000 faults, or fewer where RLIMIT_MEMLOCK permits no more."""
_SPARE = 1024
"""Descriptors for what is followed again; closed at the end; of further processes nothing is known."""
_PAUSE_OUTPUT = 0x40042409
_SAMPLE = 9
_RECORD = struct.Struct("<IHHIIQQ")  # type, misc, size; pid, tid, time, address
_WRITE_BACKWARD = 1 << 27


class LastFault(NamedTuple):
    """A fault of user mode; its time in nanoseconds of CLOCK_MONOTONIC."""

    time: int
    tid: int
    address: int


class LastFaults:
    """Keeps them from the next exec of a process on. Only the recorder's thread reads them."""

    def __init__(self, pid: int) -> None:
        """Follow `pid` and what it starts; raises OSError where the kernel refuses, else as `ring.access`."""
        self._load, _ = ring.access()
        self._ends = contextlib.ExitStack()
        self._rings: list[tuple[int, mmap.mmap]] = []
        self._processors = processors.online()
        self._spare = _SPARE
        try:
            for processor in self._processors:
                fd = perf.open_faults(pid, processor, _WRITE_BACKWARD)
                self._ends.callback(os.close, fd)
                pages = _mapped(fd)
                self._ends.callback(pages.close)
                self._rings.append((fd, pages))
        except BaseException:
            self.close()
            raise

    def follow(self, tids: Iterable[int]) -> None:
        """Follow threads and what they start, whose events the kernel has removed, as far as it permits."""
        for tid in tids:
            for processor, (ring_fd, _) in zip(self._processors, self._rings, strict=True):
                if self._spare == 0:
                    return
                with contextlib.suppress(OSError):
                    self._ends.callback(os.close, perf.open_faults(tid, processor, _WRITE_BACKWARD, ring_fd))
                    self._spare -= 1

    def of(self, pid: int) -> list[LastFault]:
        """Return those of a process, the newest first."""
        found = []
        for fd, pages in self._rings:
            fcntl.ioctl(fd, _PAUSE_OUTPUT, 1)
            try:
                with memoryview(pages) as view:
                    head = self._load(view, ring.HEAD)
                    found += _records(bytes(view[ring.DATA :]), head, pid)
            finally:
                fcntl.ioctl(fd, _PAUSE_OUTPUT, 0)
        return sorted(found, reverse=True)

    def close(self) -> None:
        """Stop."""
        self._ends.close()


def _mapped(fd: int) -> mmap.mmap:
    """Map the ring of an event, as large as it may be; raises OSError."""
    pages = _MOST_PAGES
    while True:
        try:
            return mmap.mmap(fd, ring.DATA + pages * mmap.PAGESIZE, prot=mmap.PROT_READ)
        except PermissionError:
            if pages <= _LEAST_PAGES:
                raise
            pages //= 2


def _records(data: bytes, head: int, pid: int) -> list[LastFault]:
    """The records of a ring, which lie from the head on, the newest first, until one is not whole."""
    size = len(data)
    start = head % size
    data = data[start:] + data[:start]
    found, at = [], 0
    while at + _RECORD.size <= size:
        kind, _, length, owner, tid, time, address = _RECORD.unpack_from(data, at)
        if not length:
            break
        if kind == _SAMPLE and owner == pid and length == _RECORD.size:
            found.append(LastFault(time, tid, address))
        at += length
    return found
