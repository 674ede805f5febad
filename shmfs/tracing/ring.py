"""The ring buffer of perf_event_open(2): what the kernel writes on one processor and this process reads.

The kernel advances `data_head` and this process `data_tail`, both 64-bit words of a shared page. A record may
be read only after the head that covers it, and its place given back only after it was read, so the head is
loaded with acquire and the tail stored with release ordering, each whole. The extension does that.

`struct` cannot: unpack_from with a byte order loads one byte after the other, and pack_into sets its target
to 0 before it packs (Modules/_struct.c:s_pack_internal). The kernel may see a tail of 0, and drop records or
overwrite ones that were not read. The fallback goes through a view of 64-bit words, which copies 8 bytes by
memcpy (Objects/memoryobject.c:unpack_single, pack_single): one aligned instruction on x86-64. There loads
have acquire and stores have release ordering by themselves; elsewhere they have not.
"""

import importlib
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable

from shmfs.errors import ShmfsError

HEAD, TAIL, DATA = 1024, 1032, mmap.PAGESIZE
"""Offsets of data_head, data_tail and the records, see struct perf_event_mmap_page."""

Load = Callable[[memoryview, int], int]
Store = Callable[[memoryview, int, int], None]

_ORDERED = ("x86_64", "AMD64")
"""Machines whose plain loads and stores have the ordering that is needed."""


def access() -> tuple[Load, Store]:
    """Return how a 64-bit word is loaded with acquire and stored with release ordering.

    Raises ShmfsError without the extension, except on x86-64; and on big-endian machines, whose records
    shmfs does not decode.
    """
    if sys.byteorder != "little":
        raise ShmfsError("page faults cannot be recorded on a big-endian machine: shmfs cannot decode them")
    if os.environ.get("SHMFS_EXTENSION") != "0":
        try:
            extension = importlib.import_module("shmfs.tracing._ring")
        except ImportError:
            pass
        else:
            return extension.load_acquire, extension.store_release
    if platform.machine() in _ORDERED and struct.calcsize("P") == 8:
        return _load, _store
    raise ShmfsError(
        f"page faults cannot be recorded on {platform.machine()} without the C extension shmfs.tracing._ring;"
        " reinstall shmfs where a C compiler and Python's headers are"
    )


def _load(view: memoryview, offset: int) -> int:
    with view.cast("Q") as words:
        return int(words[offset >> 3])


def _store(view: memoryview, offset: int, value: int) -> None:
    with view.cast("Q") as words:
        words[offset >> 3] = value


class Ring:
    """The ring buffer of one processor. One thread reads it."""

    def __init__(self, fd: int, size: int) -> None:
        """Map `size` bytes of records, a power of two; raises ShmfsError as `access` does, and OSError."""
        self._load, self._store = access()
        self._map = mmap.mmap(fd, DATA + size)
        self._view = memoryview(self._map)
        self._size = size
        self._tail = self._load(self._view, TAIL)
        """Only this process stores it."""

    def read(self) -> bytes:
        """Take what is there: whole records, as the kernel advances the head by such."""
        head, tail = self._load(self._view, HEAD), self._tail
        if head == tail:
            return b""
        first, length = tail % self._size, head - tail
        rest = max(0, first + length - self._size)
        data = bytes(self._view[DATA + first : DATA + first + length - rest])
        if rest:
            data += bytes(self._view[DATA : DATA + rest])
        self._tail = head
        self._store(self._view, TAIL, head)
        return data

    def close(self) -> None:
        """Unmap."""
        self._view.release()
        self._map.close()
