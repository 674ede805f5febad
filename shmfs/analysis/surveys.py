"""What a file system held when something failed: who held the space, and what would have been enough."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from shmfs.events.amounts import option_size
from shmfs.events.amounts import size as human
from shmfs.events.records import PAGE, Holder, Segment, Statistics

FULL = "the mount is full"
UNSURE = "the page lay beyond the end of the file, or the mount was full"
"""Where the file or the lack of space is gone when somebody looks."""
HOLDERS = 20
"""Files that are named where there was no space."""


class Survey(NamedTuple):
    """The file system as it was at a time, in nanoseconds since the epoch; None where nobody could say."""

    statistics: Statistics | None
    time: int


def segment(statistics: Statistics | None, inode: int) -> Segment | None:
    """Return what is known of an inode; where its number came again, of the newest."""
    found = [one for one in statistics.segments if one.inode == inode] if statistics else []
    return found[-1] if found else None


def is_beyond(inode: int, page: int | None, survey: Statistics | None, since: int) -> bool:
    """Whether the page lies behind the end of its file, and did at `since`, in ns since the epoch."""
    known = segment(survey, inode)
    if known is None or page is None:
        return False
    return known.shrunk <= since and page * PAGE >= known.size


def _live(survey: Statistics) -> Iterator[Segment]:
    return (one for one in survey.segments if not one.evicted)


def is_full(survey: Statistics) -> bool:
    """Whether the mount has a limit, and there is no room for a page."""
    return bool(survey.size_limit) and survey.used + PAGE > survey.size_limit


def fullness(survey: Statistics, inode: int, since: int) -> tuple[str, bool]:
    """What the survey says of the limit, after a fault at `since` on a file; and whether it was reached."""
    if not survey.size_limit:
        return "there was no memory for it, although the mount has no limit", False
    if is_full(survey):
        known = segment(survey, inode)
        if known is None:
            return f"{UNSURE}, which it is now; the file is gone", True
        if survey.store == "managed" and known.grown > since:  # and the daemon did not refuse the page
            return "that was beyond the end of the file, which has grown since", False
        if max(known.shrunk, known.grown) > since:
            return f"{UNSURE}, which it is now; the size of the file has changed since", True
        return FULL, True
    return (
        f"{UNSURE}; a moment later neither was so ({human(survey.used)} of {human(survey.size_limit)} in use)"
    ), False


def holders(survey: Statistics) -> tuple[list[Holder], int]:
    """The largest HOLDERS, the largest first; and how many there are beside them."""
    live = [one for one in _live(survey) if one.resident]
    largest = heapq.nlargest(HOLDERS, live, key=lambda one: one.resident)
    named = [
        Holder(one.path, one.resident * PAGE, one.created_by.pid, one.created_by.command)
        if one.created_by
        else Holder(one.path, one.resident * PAGE)
        for one in largest
    ]
    return named, len(live) - len(named)


def enough(survey: Statistics, asked: int = 0) -> str | None:
    """The size that would hold every file in full, and what was asked, at least a page more than there is."""
    if not survey.size_limit:
        return None
    wanted = sum(max(one.resident, -(-one.size // PAGE)) for one in _live(survey)) * PAGE
    return option_size(max(wanted, survey.used + asked, survey.size_limit + PAGE))
