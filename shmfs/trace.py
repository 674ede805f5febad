"""Instruments, records, one stream, reporters: what happened and who did it. Imports nothing of shmfs."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmfs.tracefile.stream import Trace

__all__ = ["open"]


def open(path: str | os.PathLike[str]) -> "Trace":  # noqa: A001  # it is trace.open, as there is gzip.open
    """Open a trace, see `stream`; raises ShmfsError with a sentence if it is none that can be read."""
    from shmfs.tracefile import stream  # only now: it loads numpy, and the daemon imports its neighbours

    return stream.open(path)
