"""The one place that carries out deferred work, for the lane and for pyfuse3's handlers.

The thread that serves requests awaits `finish`; the work itself, with the notifications that it sends, runs
in a thread of trio's.
"""

import math
from typing import TypeVar

import trio

from shmfs.fs.deferred import Deferred
from shmfs.fs.superblock import Superblock

T = TypeVar("T")

_UNLIMITED = trio.CapacityLimiter(math.inf)


async def finish(deferred: Deferred[T], superblock: Superblock, caller: int, request: int) -> T:
    """Do the work, then make the reply or roll back; events name `caller` and `request`."""
    instruments = superblock.instruments
    try:
        # It may wait long for another's mmap_lock, and then holds up neither other work nor the end.
        await trio.to_thread.run_sync(deferred.work, abandon_on_cancel=True, limiter=_UNLIMITED)
    except Exception:
        instruments.caller, instruments.request = caller, request
        deferred.rollback()
        raise
    instruments.caller, instruments.request = caller, request
    return deferred.answer()
