"""The tracepoints of the kernel: tracefs, where it is mounted and where it is not."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from shmfs.system import mounting

PLACES = "/sys/kernel/tracing", "/sys/kernel/debug/tracing"
"""Where it is usually mounted."""


def mounted() -> str:
    """Return the directory where this process finds tracefs mounted, or an empty string."""
    return next((place for place in PLACES if os.path.exists(f"{place}/events")), "")


@contextlib.contextmanager
def directory() -> Iterator[str]:
    """The directory where tracefs is mounted, otherwise a detached mount of it, until the context ends.

    The mount table stays as it is. An event that was opened by its id outlives the mount.

    Raises OSError where tracefs is not mounted and a detached mount is refused: EPERM without CAP_SYS_ADMIN
    in the initial user namespace, ENODEV for a kernel without tracefs.
    """
    if place := mounted():
        yield place
    else:
        with detached() as place:
            yield place


@contextlib.contextmanager
def detached() -> Iterator[str]:
    """A mount of tracefs that no other process sees; raises OSError as `directory` does."""
    root = mounting.detached("tracefs")
    try:
        yield f"/proc/self/fd/{root}"
    finally:
        os.close(root)


def event_id(root: str, name: str) -> int:
    """Return the number of the tracepoint `name`, as "signal/signal_generate", for perf_event_open(2).

    Raises FileNotFoundError if this kernel lacks it, PermissionError under lockdown and without root.
    """
    return int(Path(f"{root}/events/{name}/id").read_text())
