"""Deaths and refusals: each is explained once, when it happens, and then counted.

Three sources meet here. The daemon emits `refusal` for what its limits refuse. A recorder reports SIGBUS with
the page that was touched. And processes end by signal 7. Where the kernel charges by itself (native store, a
kernel tmpfs), `ask` surveys the file system, a moment later.

All methods are called in the recorder's thread, which may wait for the daemon; never in the serving thread.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import SIGBUS
from typing import Any, NamedTuple

import msgspec

from shmfs.analysis import surveys
from shmfs.analysis.refused_calls import RefusedCalls
from shmfs.analysis.surveys import Survey
from shmfs.analysis.wording import death_sentence, refusal_sentence
from shmfs.events.amounts import size as human
from shmfs.events.names import printable
from shmfs.events.records import PAGE, Death, Refusal, Statistics

MOST = 1000
"""Deaths and refusals that are kept, each; further ones are not recorded."""
UNKNOWN_PAGE = "page unknown (needs root)"
_ONCE = 5.0
"""Seconds in which a second source may still report the end of a process."""
_PATIENCE = 0.6
"""Seconds in which the rest of what is to be known may still come: `pending.PATIENCE` and some rounds."""


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


@dataclass(slots=True)
class _Failed:
    """A SIGBUS that is not explained yet."""

    when: float
    fault: Touched
    survey: Survey
    count: int = 1


class _Stray(NamedTuple):
    """A SIGBUS that is not about a page of this mount."""

    why: str
    time: int
    sent: bool


class _Last(NamedTuple):
    """The newest SIGBUS of a process that is about a page of this mount."""

    time: int
    inode: int


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
        self._over: dict[tuple[int, int], tuple[Death, int]] = {}
        """Those of processes that have ended, and when: some of their faults may be settled later."""
        self._ended: list[tuple[float, Touched, int | None]] = []
        self._calls = RefusedCalls(self.look, self._report, write)
        self._matched: set[int] = set()
        """By id(): the refusals of `_refused` that explain a death."""
        self._done: dict[int, float] = {}
        """Until when the end of a process is not reported again, by pid: two sources report it."""
        self._strays: dict[int, _Stray] = {}
        """By pid, where that was the newest SIGBUS."""
        self._last: dict[int, _Last] = {}
        """By pid."""

    @property
    def calls(self) -> list[Refusal]:
        """Refusals by the kernel, which the daemon does not count."""
        return self._calls.refusals

    # ---- what others have seen

    def told(self, event: dict[str, Any]) -> None:
        """Take in a `refusal` of the daemon, which is in the trace already."""
        refusal = msgspec.convert(event["refusal"], Refusal)
        self._calls.serve(refusal)
        if refusal.errno == "SIGBUS":
            self._refused.append((time.monotonic(), refusal))
        else:
            self._report(refusal)

    def refused(self, refusal: Refusal, survey: Survey | None = None) -> None:
        """Take in a call that failed; its process may get its name until the next `settle`.

        `survey` is of the moment after it; without one, the file system is surveyed now.
        """
        self._calls.take(refusal, survey)

    def _report(self, refusal: Refusal) -> None:
        if len(self.refusals) < MOST:
            self.refusals.append(refusal)
            self._say(refusal_sentence(refusal))

    def survey(self, pid: int) -> None:
        """Look at the file system on the first SIGBUS of a process, whose page is not known yet."""
        if pid not in self._surveys and not any(pid == known for known, _ in self._known):
            if len(self._surveys) >= MOST:
                self._surveys.clear()
            self._surveys[pid] = self.look()

    def failed(self, fault: Touched) -> None:
        """Take in a SIGBUS; the file system is surveyed at once, as its files may soon be gone."""
        self._remember(fault)
        known = self._known.get((fault.pid, fault.inode)) or self._of_the_ended(fault)
        waiting = [
            one for one in self._failed if (one.fault.pid, one.fault.inode) == (fault.pid, fault.inode)
        ]
        if known is not None:
            known.count += 1
        elif waiting:
            waiting[0].count += 1
            if fault.time < waiting[0].fault.time:
                waiting[0].fault = fault
        else:
            survey = self._surveys.pop(fault.pid, None)
            if survey is None and not self._refusal(fault):
                survey = self.look()
            self._failed.append(_Failed(time.monotonic(), fault, survey or Survey(None, 0)))

    def _of_the_ended(self, fault: Touched) -> Death | None:
        """The death of the process that has ended since the fault; of a later one with its pid it is not."""
        death, ended = self._over.get((fault.pid, fault.inode), (None, 0))
        return death if fault.time <= ended else None

    def look(self) -> Survey:
        """Survey the file system now."""
        return Survey(self._ask(), time.time_ns())

    def _remember(self, fault: Touched) -> None:
        """Note which SIGBUS of a process is the newest: the one that may have ended it."""
        last = self._last.get(fault.pid)
        if last is None or last.time <= fault.time:
            self._last[fault.pid] = _Last(fault.time, fault.inode)
        stray = self._strays.get(fault.pid)
        if stray is not None and stray.time <= fault.time:
            del self._strays[fault.pid]

    def stray(self, pid: int, why: str, when: int, *, sent: bool = False) -> None:
        """Take in a SIGBUS that is not about a page of this mount; `when` is ns since the epoch.

        `sent` says that a process sent it.
        """
        self._surveys.pop(pid, None)
        last = self._last.get(pid)
        if last is None or last.time < when:
            self._strays[pid] = _Stray(why, when, sent)

    def ended(self, process: Touched, status: int | None) -> None:
        """Take in the end of a process; `status` as a shell counts: 128+N for signal N, None is not known."""
        for number, (when, known, other) in enumerate(self._ended):
            if known.pid == process.pid:
                best = process if known.process < 0 or not known.command else known
                self._ended[number] = when, best, status if other is None else other
                return
        self._ended.append((time.monotonic(), process, status))

    def settle(self, *, last: bool = False) -> None:
        """Explain what has failed, once all that is to be known of it has come or must be missing."""
        overdue = float("inf") if last else time.monotonic() - _PATIENCE
        self._calls.settle(overdue, last=last)
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
            elif id(refusal) in self._matched:
                self._matched.discard(id(refusal))
            elif not self._is_explained(refusal):
                if self._signals_seen or not refusal.call:
                    self._report(refusal)
                else:
                    self._explain(_touched(refusal), Survey(None, 0), refusal)

    def _finish(self, process: Touched, status: int | None, deaths: list[Death]) -> None:
        """A process has ended, and all SIGBUS before that were explained."""
        stray, last = self._strays.pop(process.pid, None), self._last.pop(process.pid, None)
        killed = status == 128 + SIGBUS
        for death in deaths:
            if status is not None:
                death.fatal = killed and stray is None and last is not None and death.inode == last.inode
            del self._known[death.pid, death.inode]  # its pid may come again
            self._over[death.pid, death.inode] = death, process.time
        self._surveys.pop(process.pid, None)
        now = time.monotonic()
        again = now < self._done.get(process.pid, 0)
        while len(self._over) > MOST:
            del self._over[next(iter(self._over))]
        if len(self._done) >= MOST:
            self._done = {pid: until for pid, until in self._done.items() if now < until}
        self._done[process.pid] = now + _ONCE
        if not killed or (deaths and stray is None) or again:
            return
        mine = (one for _, one in self._refused if one.pid == process.pid and id(one) not in self._matched)
        refusal = next(mine, None) if stray is None else None
        if refusal is not None:
            self._explain(process._replace(inode=refusal.inode), Survey(None, 0), refusal, fatal=True)
        else:
            self._record(process, Death(
                process.pid, process.tid, process.command, "", 0, None,
                stray.why if stray else UNKNOWN_PAGE, 0, [], None, process.time, True,
                sent=stray is not None and stray.sent,
            ))  # fmt: skip

    # ---- explanations

    def _settle_faults(self, overdue: float) -> None:
        waiting, self._failed = self._failed, []
        for one in waiting:
            refusal = self._refusal(one.fault)
            fault = one.fault
            known = refusal is not None or surveys.is_beyond(
                fault.inode, fault.page, one.survey.statistics, fault.time
            )
            if one.when <= overdue or known:
                death = self._explain(one.fault, one.survey, refusal)
                death.count = one.count
            else:
                self._failed.append(one)

    def _refusal(self, fault: Touched) -> Refusal | None:
        """The refused page fault of the same process, file and page."""
        return next((one for _, one in self._refused if _is_about(one, fault)), None)

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
            if death.page is None or (refusal.asked == PAGE and refusal.pid == death.pid):
                death.page = refusal.page  # of the first; with read-ahead it may not be what was touched
            death.path, death.process = death.path or refusal.path, death.process or refusal.process
            death.reason, death.limit = surveys.FULL, refusal.limit
            death.holders, death.more_holders = refusal.holders, refusal.more_holders
            death.enough = refusal.enough
            self._matched.add(id(refusal))
        elif seen is not None and surveys.is_beyond(fault.inode, fault.page, seen, fault.time):
            known = surveys.segment(seen, fault.inode)
            death.reason = (
                f"that is beyond the end of the file, whose size is {human(known.size if known else 0)}"
            )
        elif seen is not None:
            death.reason, full = surveys.fullness(seen, fault.inode, fault.time)
            if full:
                death.limit, death.enough = seen.size_limit, surveys.enough(seen)
                death.holders, death.more_holders = surveys.holders(seen)
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
            event="sigbus", source="perf", time=death.time, pid=death.pid, tid=death.tid,
            command=death.process,
            process=fault.process if fault.process >= 0 else None,
            segment=fault.segment if fault.segment >= 0 else None, page=death.page, path=death.path,
            reason=death.reason, limit=death.limit, enough=death.enough,
            held_after=death.held_after, more_holders=death.more_holders,
            holders=msgspec.to_builtins(death.holders),
        )  # fmt: skip
        self._say(death_sentence(death))


def _is_about(refusal: Refusal, fault: Touched) -> bool:
    """Whether a refusal is the cause of a fault. A READ may be for more pages than the touched one."""
    if refusal.inode != fault.inode or refusal.pid not in (fault.pid, 0):
        return False
    if fault.page is None or refusal.page is None:
        return True
    return refusal.page <= fault.page < refusal.page + max(1, refusal.asked // PAGE)


def _touched(refusal: Refusal) -> Touched:
    return Touched(
        *(-1, refusal.pid, refusal.tid, refusal.process, -1, refusal.inode, refusal.path, refusal.page),
        refusal.time,
    )
