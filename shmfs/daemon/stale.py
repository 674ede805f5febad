"""Which figures of a daemon are stale. Called by the thread that serves the mount."""

from collections.abc import Iterable

from shmfs.daemon.log import JsonLines
from shmfs.events.hooks import Failure
from shmfs.events.records import Stale

FOLLOWER = "follower"
"""The observer that sends events to a client of the control socket: no statistics are made from it."""


def failed(failures: Iterable[Failure], log: JsonLines | None) -> list[Stale]:
    """Return the observers that failed, and the log whose writer failed after the last event."""
    found = [Stale(one.observer, list(one.figures), one.since, one.reason) for one in failures]
    if log and log.failed_at and not any(one.observer == log.name for one in found):
        found.append(Stale(log.name, list(log.figures), log.failed_at, log.failure))
    return found


def of_statistics(several: Iterable[Stale]) -> list[Stale]:
    """Return those that make statistics stale."""
    return [one for one in several if one.observer != FOLLOWER]
