"""Calls that could not bring pages in: mlock(2), and madvise(2) with MADV_POPULATE_READ or _WRITE.

The kernel returns one error for many reasons. A refusal by the mount needs proof: the range is mapped from a
segment that lacks pages, the file system is full, and RLIMIT_MEMLOCK permits the call. All methods are called
in the recorder's thread.

Sources: mm/mlock.c (do_mlock), mm/madvise.c (madvise_populate). mmap(2), mremap(2) and mlockall(2) return
success where pages cannot be brought in.
"""

from typing import NamedTuple

from shmfs.analysis import surveys
from shmfs.analysis.deaths import Deaths
from shmfs.analysis.surveys import Survey
from shmfs.events.records import PAGE, Refusal
from shmfs.record.attribution import Attribution
from shmfs.record.registry import Registry
from shmfs.system import proc
from shmfs.system.syscall_table import LOCKING, NAMES, family
from shmfs.tracing.changes import FailedCall
from shmfs.tracing.probe import UNLIMITED

ERRNOS = {12: "ENOMEM", 14: "EFAULT"}
_MEMLOCK = "RLIMIT_MEMLOCK"


class _Waiting(NamedTuple):
    """A call whose mapping is not known yet, and what was known at once."""

    call: FailedCall
    limit: str
    """The limit that can have refused it."""
    survey: Survey

    def is_proven(self, inode: int) -> bool:
        """Whether that limit did: the file system was full, and the file has pages that lacked space."""
        if self.limit != "size":
            return True
        seen = self.survey.statistics
        file = surveys.segment(seen, inode)
        if seen is None or file is None:
            return False
        return surveys.is_full(seen) and file.resident * PAGE < file.size


class Populates:
    """Takes calls that failed, and reports those that the mount has refused."""

    def __init__(self, known: Registry, attribution: Attribution, offset: int) -> None:
        """`offset` leads from CLOCK_MONOTONIC to the epoch, in nanoseconds."""
        self._known = known
        self._attribution = attribution
        self._offset = offset
        self._waiting: dict[FailedCall, _Waiting] = {}

    def take(self, calls: list[FailedCall], deaths: Deaths) -> None:
        """Take what is new; the file system is surveyed once for all of them."""
        limits = [(call, _limit(call)) for call in calls]
        survey = deaths.look() if any(limit == "size" for _, limit in limits) else Survey(None, 0)
        self._waiting |= {call: _Waiting(call, limit, survey) for call, limit in limits if limit}

    def explain(self, call: FailedCall, deaths: Deaths) -> None:
        """Report a call that was taken, if the mount refused it; by what its process has mapped now."""
        one = self._waiting.pop(call, None)
        if one and (file := self._file(call)) and one.is_proven(file[0]):
            deaths.refused(self._refusal(one, *file), one.survey)

    def _file(self, call: FailedCall) -> tuple[int, str] | None:
        """Inode and path of the first segment that the range of a call overlaps."""
        space = self._attribution.spaces.get(call.pid)
        start, end = call.arguments[0], call.arguments[0] + call.arguments[1]
        for area in space.segments() if space else ():
            if area.start < end and start < area.end:
                return self._known.file(area.segment)
        return None

    def _refusal(self, one: _Waiting, inode: int, path: str) -> Refusal:
        call = one.call
        return Refusal(
            errno=ERRNOS[call.error],
            call=family(NAMES[call.call]),
            limit_name=one.limit,
            limit=call.memlock if one.limit == _MEMLOCK else 0,
            asked=call.arguments[1],
            pid=call.pid,
            tid=call.tid,
            process=self._known.name(call.pid),
            path=path,
            inode=inode,
            page=None,
            time=call.time + self._offset,
            holders=[],
            enough=None,
        )


def _limit(call: FailedCall) -> str:
    """The limit that can have refused a call; "" where RLIMIT_MEMLOCK may have, or the size.

    A call that RLIMIT_MEMLOCK refuses locks nothing; one that cannot bring pages in has locked its range.
    """
    if call.call not in LOCKING or call.memlock == UNLIMITED:
        return "size"
    start, end = call.arguments[0] // PAGE, -(-(call.arguments[0] + call.arguments[1]) // PAGE)
    asked, limit = (end - start) * PAGE, call.memlock // PAGE * PAGE
    if not call.memlock:
        return ""
    if asked > limit:
        return _MEMLOCK
    locked = _locked(call.pid)
    if locked is None:
        return ""
    if locked + asked <= limit:
        return "size"
    return _MEMLOCK if locked < asked else ""


def _locked(pid: int) -> int | None:
    """Bytes that a process has locked; None where that is not known."""
    try:
        return int(proc.status(pid, b"VmLck:")[0]) << 10
    except (OSError, ValueError, IndexError):
        return None
