"""How much of a limit is used. Compare mm/shmem.c: shmem_inode_acct_blocks and free_ispace."""

import errno
import os


class Reservation:
    """A counter with a limit that remembers its peak; the unit (pages, bytes) is the owner's."""

    __slots__ = ("_used", "limit", "peak")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        """The most that may be used; 0 is unlimited."""
        self._used = 0
        self.peak = 0

    @property
    def used(self) -> int:
        """How much is charged."""
        return self._used

    def sample_peak(self) -> None:
        """Note what is used now if it is the most so far; only where something else charges, too."""

    def available(self, wanted: int) -> int:
        """How much of `wanted` could be charged now."""
        return min(wanted, self.limit - self._used) if self.limit else wanted

    def charge(self, amount: int) -> None:
        """Take `amount`, or raise ENOSPC and take nothing."""
        used = self._used + amount
        if self.limit and used > self.limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._used = used
        if used > self.peak:
            self.peak = used

    def uncharge(self, amount: int) -> None:
        """Give `amount` back."""
        self._used -= amount
