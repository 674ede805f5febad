"""The client of scripts/bench that makes requests: tight loops, timed, in a process of its own.

`bench_requests.py DIR COUNT [CORE]` works on COUNT names in a new directory under DIR, which it removes, and
prints {measure: seconds per operation} as JSON. With CORE it runs on that processor alone.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable

PASSES = 5  # over names that are only looked at


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def opened(names: list[str], flags: int) -> None:
    """Open and close each."""
    open_, close = os.open, os.close
    for name in names:
        close(open_(name, flags, 0o600))


def each(call: Callable[[str], object], names: list[str]) -> None:
    """Call with each."""
    for name in names:
        call(name)


def renamed(old: list[str], new: list[str]) -> None:
    """Rename each."""
    rename = os.rename
    for before, after in zip(old, new, strict=True):
        rename(before, after)


def looked_up(names: list[str]) -> float:
    """Look each up once, as a warm-up, and then time several passes; in seconds per name."""
    exists = os.access  # stat(2) would time the making of Python's stat_result, or of an exception, as well
    each(lambda name: exists(name, os.F_OK), names)
    return seconds(lambda: [exists(name, os.F_OK) for _ in range(PASSES) for name in names]) / (
        PASSES * len(names)
    )
