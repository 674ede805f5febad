"""How much of a limit is used. Compare mm/shmem.c: shmem_inode_acct_blocks and free_ispace."""

import errno
import os


class Reservation:
    """A counter with a limit that remembers its peak; the unit (pages, bytes) is the owner's."""

    __slots__ = ("limit", "peak", "used")

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        """The most that may be used; 0 is unlimited."""
        self.used = 0
        self.peak = 0

    def available(self, wanted: int) -> int:
        """How much of `wanted` could be charged now."""
        return min(wanted, self.limit - self.used) if self.limit else wanted

    def charge(self, amount: int) -> None:
        """Take `amount`, or raise ENOSPC and take nothing."""
        used = self.used + amount
        if self.limit and used > self.limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.used = used
        if used > self.peak:
            self.peak = used

    def uncharge(self, amount: int) -> None:
        """Give `amount` back."""
        self.used -= amount
