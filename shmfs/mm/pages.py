"""What the pages of a file are to a file system, in either store."""

from collections.abc import Iterator
from typing import Protocol

from shmfs.mm.address_space import Intent
from shmfs.mm.runs import Run


class Pages(Protocol):
    """The interface of `AddressSpace` and `NativePages`. Offsets and sizes are bytes, indexes pages."""

    @property
    def allocated(self) -> int:
        """Pages charged."""

    def runs(self, first: int = 0, end: int = 1 << 63) -> Iterator[Run]:
        """The allocated runs that only shmfs knows, in order."""

    def holes(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The page ranges that the kernel could cache uncharged, in order."""

    def get_pages(self, first: int, end: int, intent: Intent) -> int:
        """Make the pages what `intent` asks for, or raise ENOSPC; returns how many were allocated."""

    def read(self, offset: int, size: int, intent: Intent = Intent.READ) -> bytes:
        """Up to `size` bytes."""

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Store; returns the bytes stored, raises ENOSPC for none."""

    def truncate(self, size: int) -> int:
        """Free what lies behind `size`; returns the pages freed, where they are counted."""

    def punch(self, offset: int, length: int) -> int:
        """Make a hole; returns the pages freed, where they are counted."""

    def seek(self, offset: int, *, data: bool, size: int) -> int:
        """SEEK_DATA or SEEK_HOLE; raises ENXIO."""
