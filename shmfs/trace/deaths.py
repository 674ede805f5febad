"""Deaths and refusals: each is explained once, when it happens, and then counted.

Three sources meet here. The daemon emits `refusal` for what its limits refuse. A recorder reports SIGBUS with
the page that was touched. And processes end by signal 7. Where the kernel charges by itself (native store, a
kernel tmpfs), `ask` surveys the file system, a moment later.

All methods are called in the recorder's thread, which may wait for the daemon; never in the serving thread.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from shmfs.trace.amounts import option_size
from shmfs.trace.amounts import size as human
from shmfs.trace.names import printable
from shmfs.trace.records import Death, Holder, Refusal, Segment, Statistics
from shmfs.trace.wording import death_sentence, refusal_sentence

PAGE = 4096
SIGBUS = 7
MOST = 1000
"""Deaths and refusals that are kept, each; further ones are not recorded."""
FULL = "the mount is full"
UNKNOWN_PAGE = "page unknown (needs root)"
_ONCE = 5.0
_PATIENCE = 0.6
"""Seconds in which the other part of a refused fault may still come: more than `pending.PATIENCE` and two rounds."""


class Touched(NamedTuple):
    """A fault that ended in SIGBUS, or the end of a process; -1 and None where something is not known."""

    process: int
    """Id in the trace."""
    pid: int
    tid: int
    command: str
    segment: int
    """Id in the trace."""
    inode: int
    path: str
    page: int | None
    time: int


class Survey(NamedTuple):
    """The file system as it was at a time, in nanoseconds since the epoch; None where nobody could say."""

    statistics: Statistics | None
    time: int


@dataclass(slots=True)
class _Failed:
    """A SIGBUS that is not explained yet."""

    when: float
    fault: Touched
    survey: Survey
    count: int = 1


class Deaths:
    """Explains what failed, and keeps the explanations."""

    def __init__(
        self,
        ask: Callable[[], Statistics | None],
        say: Callable[[str], None],
        write: Callable[..., None],
        *,
        signals_seen: bool = True,
        calls_seen: bool = False,
    ) -> None:
        """`say` gets each sentence for the user, `write` each event of the trace.

        With `signals_seen` every SIGBUS is reported by `failed`. Without, a refused page fault counts as one.
        With `calls_seen` every call that the kernel refuses by itself is reported by `refused`.
        """
        self.calls_seen = calls_seen
        self.deaths: list[Death] = []
        self.refusals: list[Refusal] = []
        self._ask = ask
        self._say = say
        self._write = write
        self._signals_seen = signals_seen
        self._refused: list[tuple[float, Refusal]] = []
        """Page faults that the daemon refused, and which no SIGBUS was matched with yet."""
        self._failed: list[_Failed] = []
        self._surveys: dict[int, Survey] = {}
        """By pid, from the moment of the signal."""
        self._known: dict[tuple[int, int], Death] = {}
        """By pid and inode."""
        self._ended: list[tuple[float, Touched, int | None]] = []
        self._calls: dict[tuple[str, str, str, int], Refusal] = {}
        self._done: dict[int, float] = {}
        """Until when the end of a process is not reported again, by pid: two sources report it."""
        self._strays: dict[int, str] = {}
        """By pid: why a SIGBUS came that is not about a page of this mount."""

    @property
    def calls(self) -> list[Refusal]:
        """Refusals by the kernel, which the daemon does not count."""
        return list(self._calls.values())

    # ---- what others have seen

    def told(self, event: dict[str, Any]) -> None:
        """Take in a `refusal` of the daemon, which is in the trace already."""
        refusal = msgspec.convert(event["refusal"], Refusal)
        if refusal.errno == "SIGBUS":
            self._refused.append((time.monotonic(), refusal))
        else:
            self._report(refusal)

    def refused(self, refusal: Refusal) -> None:
        """Take in a call that the kernel refused by itself."""
        key = refusal.errno, refusal.call, refusal.path, refusal.pid
        known = self._calls.get(key)
        if known is not None:
            known.count += 1
            return
        self._calls[key] = refusal
        survey = self._ask() if refusal.limit_name == "size" else None
        if survey is not None:
            refusal.limit, refusal.holders = survey.size_limit, _holders(survey)
            refusal.enough = _enough(survey, refusal.asked)
        self._write(
            event="refusal", source="perf", time=refusal.time, path=refusal.path,
            refusal=msgspec.to_builtins(refusal),
        )  # fmt: skip
        self._report(refusal)

    def _report(self, refusal: Refusal) -> None:
        if len(self.refusals) < MOST:
            self.refusals.append(refusal)
            self._say(refusal_sentence(refusal))

    def survey(self, pid: int) -> None:
        """Look at the file system on the first SIGBUS of a process, whose page is not known yet."""
        if pid not in self._surveys and not any(pid == known for known, _ in self._known):
            if len(self._surveys) >= MOST:
                self._surveys.clear()
            self._surveys[pid] = self._look()

    def failed(self, fault: Touched) -> None:
        """Take in a SIGBUS; the file system is surveyed at once, as its files may soon be gone."""
        known = self._known.get((fault.pid, fault.inode))
        waiting = [
            one for one in self._failed if (one.fault.pid, one.fault.inode) == (fault.pid, fault.inode)
        ]
        if known is not None:
            known.count += 1
        elif waiting:
            waiting[0].count += 1
        else:
            survey = self._surveys.get(fault.pid)
            if survey is None and not self._refusal(fault):
                survey = self._look()
            self._failed.append(_Failed(time.monotonic(), fault, survey or Survey(None, 0)))

    def _look(self) -> Survey:
        return Survey(self._ask(), time.time_ns())

    def stray(self, pid: int, why: str) -> None:
        """Take in a SIGBUS that is not about a page of this mount."""
        self._strays[pid] = why

    def ended(self, process: Touched, status: int | None) -> None:
        """Take in the end of a process; `status` as a shell counts: 128+N for signal N, None is not known."""
        for number, (when, known, other) in enumerate(self._ended):
            if known.pid == process.pid:
                self._ended[number] = when, known, status if other is None else other
                return
        self._ended.append((time.monotonic(), process, status))

    def settle(self, *, last: bool = False) -> None:
        """Explain what has failed, once all that is to be known of it has come or must be missing."""
        overdue = float("inf") if last else time.monotonic() - _PATIENCE
        self._settle_faults(overdue)
        waiting, self._ended = self._ended, []
        for when, process, status in waiting:
            known = [death for (pid, _), death in self._known.items() if pid == process.pid]
            pending = any(one.fault.pid == process.pid for one in self._failed)
            certain = known or status not in (None, 128 + SIGBUS)
            if when <= overdue or (certain and not pending):
                self._finish(process, status, known)
            else:
                self._ended.append((when, process, status))
        waiting_refusals, self._refused = self._refused, []
        for when, refusal in waiting_refusals:
            if when > overdue:
                self._refused.append((when, refusal))
            elif not self._is_explained(refusal):
                if self._signals_seen:
                    self._report(refusal)
                else:
                    self._explain(_touched(refusal), Survey(None, 0), refusal)

    def _finish(self, process: Touched, status: int | None, deaths: list[Death]) -> None:
        """A process has ended, and all SIGBUS before that were explained."""
        for death in deaths:
            if status is not None:
                death.fatal = status == 128 + SIGBUS and death is deaths[-1]
            del self._known[death.pid, death.inode]  # its pid may come again
        why = self._strays.pop(process.pid, "")
        self._surveys.pop(process.pid, None)
        again = time.monotonic() < self._done.get(process.pid, 0)
        self._done[process.pid] = time.monotonic() + _ONCE
        if status != 128 + SIGBUS or (deaths and not why) or again:
            return
        refusal = next((one for _, one in self._refused if one.pid == process.pid), None)
        if refusal is not None:
            self._explain(process._replace(inode=refusal.inode), Survey(None, 0), refusal, fatal=True)
        else:
            self._record(process, Death(
                process.pid, process.tid, process.command, "", 0, None, why or UNKNOWN_PAGE, 0, [], None,
                process.time, True,
            ))  # fmt: skip

    # ---- explanations

    def _settle_faults(self, overdue: float) -> None:
        waiting, self._failed = self._failed, []
        for one in waiting:
            refusal = self._refusal(one.fault)
            known = refusal is not None or _is_beyond(one.fault, one.survey.statistics)
            if one.when <= overdue or known:
                death = self._explain(one.fault, one.survey, refusal)
                death.count = one.count
            else:
                self._failed.append(one)

    def _refusal(self, fault: Touched) -> Refusal | None:
        """The refused page fault of the same process and file; the daemon emits the first one only."""
        return next(
            (one for _, one in self._refused if one.inode == fault.inode and one.pid in (fault.pid, 0)), None
        )

    def _is_explained(self, refusal: Refusal) -> bool:
        return any(one.inode == refusal.inode and one.pid == refusal.pid for one in self.deaths)

    def _explain(
        self, fault: Touched, survey: Survey, refusal: Refusal | None, *, fatal: bool | None = None
    ) -> Death:
        """Say why, by the daemon's refusal, or else by a survey of the file system."""
        death = Death(
            fault.pid, fault.tid, fault.command, printable(fault.path), fault.inode, fault.page,
            "there was no memory for it; who held how much is not known", 0, [], None, fault.time, fatal,
        )  # fmt: skip
        seen = survey.statistics
        if refusal is not None:
            death.page = refusal.page if death.page is None else death.page
            death.path, death.process = death.path or refusal.path, death.process or refusal.process
            death.reason, death.limit = FULL, refusal.limit
            death.holders, death.enough = refusal.holders, refusal.enough
        elif seen is not None and _is_beyond(fault, seen):
            known = _segment(seen, fault.inode)
            death.reason = (
                f"that is beyond the end of the file, whose size is {human(known.size if known else 0)}"
            )
        elif seen is not None:
            death.reason, full = _fullness(seen)
            if full:
                death.limit, death.holders, death.enough = seen.size_limit, _holders(seen), _enough(seen)
                death.held_after = max(0, survey.time - fault.time)
        self._record(fault, death)
        return death

    def _record(self, fault: Touched, death: Death) -> None:
        if len(self.deaths) >= MOST:
            return
        self.deaths.append(death)
        if death.inode:
            self._known[death.pid, death.inode] = death
        self._write(
            event="sigbus", source="perf", time=death.time, tid=death.tid,
            process=fault.process if fault.process >= 0 else None,
            segment=fault.segment if fault.segment >= 0 else None, page=death.page, path=death.path,
            reason=death.reason, limit=death.limit, enough=death.enough,
            held_after=death.held_after,
            holders=msgspec.to_builtins(death.holders),
        )  # fmt: skip
        self._say(death_sentence(death))


def _touched(refusal: Refusal) -> Touched:
    return Touched(
        *(-1, refusal.pid, refusal.tid, refusal.process, -1, refusal.inode, refusal.path, refusal.page),
        refusal.time,
    )


def _segment(statistics: Statistics | None, inode: int) -> Segment | None:
    found = [one for one in statistics.segments if one.inode == inode] if statistics else []
    return found[-1] if found else None


def _is_beyond(fault: Touched, survey: Statistics | None) -> bool:
    """Whether the page lies behind the end of its file."""
    known = _segment(survey, fault.inode)
    return known is not None and fault.page is not None and fault.page * PAGE >= known.size


def _live(survey: Statistics) -> Iterator[Segment]:
    return (one for one in survey.segments if not one.evicted)


def _fullness(survey: Statistics) -> tuple[str, bool]:
    """What the survey says of the limit, a moment after the fault; and whether it was reached."""
    if not survey.size_limit:
        return "there was no memory for it, although the mount has no limit", False
    if survey.used + PAGE > survey.size_limit:
        return FULL, True
    return (
        "it lay beyond the end of the file, or the mount was full; a moment later neither was so"
        f" ({human(survey.used)} of {human(survey.size_limit)} in use)"
    ), False


def _holders(survey: Statistics) -> list[Holder]:
    holders = [
        Holder(one.path, one.resident * PAGE, one.created_by.pid, one.created_by.command)
        if one.created_by
        else Holder(one.path, one.resident * PAGE)
        for one in _live(survey)
        if one.resident
    ]
    return sorted(holders, key=lambda holder: -holder.bytes)


def _enough(survey: Statistics, asked: int = 0) -> str | None:
    """The size that would hold every file in full, and what was asked, at least a page more than there is."""
    if not survey.size_limit:
        return None
    wanted = sum(max(one.resident, -(-one.size // PAGE)) for one in _live(survey)) * PAGE
    return option_size(max(wanted, survey.used + asked, survey.size_limit + PAGE))
