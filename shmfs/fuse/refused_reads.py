"""Refused READs of managed pages: which are one refusal, and which would be repeated for ever.

A touch of a page that cannot be charged costs two refused READs: the kernel retries the fault once with
FAULT_FLAG_TRIED and then delivers SIGBUS (mm/filemap.c:filemap_fault). mlock, MAP_POPULATE and their kind
never set that flag (mm/gup.c:populate_vma_page_range): they repeat the READ until something else ends them.
"""

from typing import NamedTuple

from shmfs.mm import PAGE_SIZE
from shmfs.system.waiting import FAULT, blocked_in

_IN_SYSTEM_CALL = 8
"""Refusals in a row after which a thread in a system call populates; copies by the kernel end sooner."""
_UNKNOWN = 32
"""Refusals in a row after which a thread populates if the kernel does not show what it does."""
_THREADS = 1024
"""Threads that are remembered; beyond that the one refused longest ago is forgotten."""


class _Row(NamedTuple):
    """Refusals in a row: of one page, by one thread."""

    ino: int
    page: int
    refusals: int


class RefusedReads:
    """What the threads were refused last. Called by the thread that serves requests only.

    Thread ids are the kernel's, or 0 for all threads where the protocol's caller does not pass them on.
    """

    def __init__(self, readahead: int) -> None:
        self._window = max(1, readahead) * PAGE_SIZE
        self._rows: dict[int, _Row] = {}
        self._speculative: dict[int, set[tuple[int, int, int]]] = {}

    def is_speculative(self, tid: int, ino: int, offset: int, size: int) -> bool:
        """Whether a READ of the page cache is for more than the page that was touched.

        The kernel repeats a READ that failed for the touched page alone. A READ of the same bytes that comes
        directly again is for a large folio, which the kernel fills only as a whole.
        """
        if size <= PAGE_SIZE:
            return False
        read = (ino, offset, size)
        seen = self._speculative.setdefault(tid, set())
        if read in seen:
            return False
        seen.add(read)
        _bound(self._speculative)
        return True

    def exceeds_window(self, size: int) -> bool:
        """Whether a READ of `size` bytes is larger than the read-ahead that the mount was configured with.

        MADV_HUGEPAGE, readahead(2) and POSIX_FADV_RANDOM make the kernel ignore the window.
        """
        return size > self._window

    def served(self, tid: int) -> None:
        """Note that a READ of the thread succeeded: what is refused after it is a new refusal."""
        if self._rows:
            self._rows.pop(tid, None)
        if self._speculative:
            self._speculative.pop(tid, None)

    def is_repeated(self, tid: int, ino: int, page: int) -> bool:
        """Count a refused READ; returns whether the thread was refused this page last, too."""
        self._speculative.pop(tid, None)
        row = self._rows.pop(tid, None)
        repeated = row is not None and row.ino == ino and row.page == page
        self._rows[tid] = row._replace(refusals=row.refusals + 1) if row and repeated else _Row(ino, page, 1)
        _bound(self._rows)
        return repeated

    def populates(self, tid: int) -> bool:
        """Whether the kernel would repeat the READ that was just counted for ever."""
        count = self._rows[tid].refusals
        if count < _IN_SYSTEM_CALL:
            return False
        in_call = in_system_call(tid) if tid else None
        return in_call is True or (in_call is None and count >= _UNKNOWN)


def in_system_call(tid: int) -> bool | None:
    """Whether a thread that waits in the kernel entered it by a system call, not by a fault of user mode.

    None where that is not visible (Yama, another user namespace), or the thread does not wait yet.
    """
    call = blocked_in(tid)
    return call != FAULT if call else None


def _bound(threads: dict[int, _Row] | dict[int, set[tuple[int, int, int]]]) -> None:
    """Forget the oldest thread of too many."""
    if len(threads) > _THREADS:
        del threads[next(iter(threads))]
