"""The identifiers of System V objects: an index, and above it a sequence number. Compare ipc/util.c."""

import errno
from collections.abc import Iterator
from typing import Generic, TypeVar

from shmfs.fs.superblock import error

T = TypeVar("T")

IPCMNI = 32768
"""Most objects, and so the first bit of the sequence number (ipcmni_seq_shift)."""
_SEQUENCES = 0x7FFF_FFFF // IPCMNI
_MIN_CYCLE = 64
"""Indexes that are used in turn at least, before one comes round again (ipc_min_cycle)."""


class Ids(Generic[T]):
    """Objects by index. An index comes back as late as possible, and then with another sequence number."""

    def __init__(self) -> None:
        self._objects: dict[int, tuple[int, T]] = {}
        self._next = self._sequence = 0
        self._last = -1

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[T]:
        return (one for _, one in list(self._objects.values()))

    def new(self) -> int:
        """The id that the next object will have (ipc_idr_alloc); raises ENOSPC."""
        end = min(max(len(self._objects) * 3 // 2, _MIN_CYCLE), IPCMNI)
        start = self._next if self._next < end else 0
        index = next((one for one in range(start, end) if one not in self._objects), None)
        if index is None:
            index = next((one for one in range(start) if one not in self._objects), None)
        if index is None:
            raise error(errno.ENOSPC)
        if index <= self._last:
            self._sequence = (self._sequence + 1) % _SEQUENCES
        self._last, self._next = index, index + 1
        return self._sequence * IPCMNI + index

    def add(self, identifier: int, one: T) -> None:
        """Enter an object under an id of `new`."""
        self._objects[identifier % IPCMNI] = identifier, one

    def remove(self, identifier: int) -> None:
        """Take an object out."""
        del self._objects[identifier % IPCMNI]

    def at(self, index: int) -> T:
        """The object at an index, of which an id may be the whole; raises EINVAL (ipc_obtain_object_idr)."""
        found = self._objects.get(index % IPCMNI)
        if found is None:
            raise error(errno.EINVAL)
        return found[1]

    def get(self, identifier: int) -> T:
        """The object with that id; raises EINVAL, also where another has its index (ipc_checkid)."""
        one = self.at(identifier)
        if self._objects[identifier % IPCMNI][0] != identifier:
            raise error(errno.EINVAL)
        return one

    def highest(self) -> int:
        """The highest index in use, 0 without any."""
        return max(self._objects, default=0)
