"""Find and remove segments that nobody is left to remove (`daemon.orphans`)."""

from collections import Counter
from typing import NamedTuple

import msgspec

from shmfs.client import control, inventory
from shmfs.errors import ShmfsError
from shmfs.events.records import Orphan
from shmfs.ipc import attaches


class Collected(NamedTuple):
    """What was found on a mount."""

    mountpoint: str
    orphans: list[Orphan]
    removed: set[int]
    """Inodes of those that are gone now."""
    hidden: int
    """Processes that may not be looked at: what they map is not known."""


def collect(target: str, *, dry_run: bool) -> Collected:
    """Find the orphans of the mount that holds `target`, and remove them; raises ShmfsError."""
    entry = inventory.find(target)
    if entry.statistics is None:
        raise ShmfsError(f"{entry.mountpoint}: {entry.reason}")
    found = msgspec.convert(control.call(entry.device, "orphans"), list[Orphan])
    mapped: Counter[int] = Counter()
    hidden = 0
    if found:
        mapped, hidden = attaches.mappings(entry.device)
    orphans = [one for one in found if not mapped[one.inode]]
    removed: list[int] = []
    if orphans and not dry_run:
        removed = control.call(entry.device, "remove", inodes=[one.inode for one in orphans])
    return Collected(entry.mountpoint, orphans, set(removed), hidden)
