"""What limits refused on a mount, of what the daemon counts and what the kernel reports."""

from collections import Counter
from collections.abc import Iterable, Sequence

from shmfs.events.records import Death, Refusal, Statistics

_READS = 2
"""READs that one SIGBUS costs at most: the kernel retries a fault once (mm/filemap.c:filemap_fault)."""


def refused(statistics: Statistics, deaths: Sequence[Death], calls: Iterable[Refusal]) -> int:
    """Return how often limits refused something: each failed call, and each SIGBUS of a full mount once.

    The daemon counts refused READs. Where signals are not seen, a death counts once, and the READs give the
    number of the others. `calls` are refusals by the kernel, of which the daemon does not know.
    """
    reads: Counter[tuple[int, int]] = Counter()
    for one in statistics.refusals:
        if one.errno == "SIGBUS":
            reads[one.pid, one.inode] += one.count
    faults = {touched: -(-count // _READS) for touched, count in reads.items()}
    touches: Counter[tuple[int, int]] = Counter()
    for death in deaths:
        if death.limit:  # otherwise the page was behind the end of the file, or somebody sent the signal
            unknown = (0, death.inode) in reads and (death.pid, death.inode) not in reads
            touches[0 if unknown else death.pid, death.inode] += death.count
    failed = sum(max(faults.get(one, 0), touches[one]) for one in faults.keys() | touches.keys())
    return statistics.refused - reads.total() + failed + sum(one.count for one in calls)


def unexplained(
    statistics: Statistics, deaths: Iterable[Death], calls: Iterable[Refusal] = ()
) -> list[Refusal]:
    """Return all refusals but those that a death explains."""
    died = {(death.pid, death.inode) for death in deaths}
    return [
        one
        for one in [*statistics.refusals, *calls]
        if one.errno != "SIGBUS" or (one.pid, one.inode) not in died
    ]
