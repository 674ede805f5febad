"""Budgets: what a command may not do, as `shmfs run --fail-on` takes them, and what it did.

A budget is a condition that is not to come true: "leak", "faults.major>100", "peak>=64m".
"""

import operator
import re
from collections.abc import Callable, Sequence
from signal import SIGBUS
from typing import TYPE_CHECKING, NamedTuple

from shmfs.analysis.totals import unexplained
from shmfs.analysis.wording import death_brief, limit_text, refusal_brief, unfollowed
from shmfs.errors import ShmfsError
from shmfs.events.amounts import parse_size, size
from shmfs.events.names import process_name, some
from shmfs.events.records import Segment, Stale, Statistics, stale

if TYPE_CHECKING:
    from shmfs.analysis.deaths import Deaths
    from shmfs.events.records import Death

NAMED = 5
"""Segments that a sentence names."""

_BUDGET = re.compile(r" *([\w.]+) *(?:(>=|<=|==|>|<) *(.*?))? *")

_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


class Faults(NamedTuple):
    """What a recorder counted."""

    minor: int = 0
    major: int = 0
    failed: int = 0
    unknown: int = 0
    lost: int = 0
    """Records that the kernel dropped."""
    note: str = ""
    """What could not be seen, or why nothing could be: a sentence."""
    seen: bool = True
    """Whether faults could be seen at all."""
    unfollowed: Sequence[str] = ()
    """The first processes that were not followed for some time; each counts as a lost record."""


class Ended(NamedTuple):
    """What is known of a command at its end."""

    status: int
    """As a shell counts: 128+N for signal N."""
    statistics: Statistics
    faults: Faults | None
    """None where nothing was recorded."""
    explained: "Deaths | None" = None
    """Deaths and refusals; None where nothing was followed."""


class Figure(NamedTuple):
    """Something that is measured."""

    one: str
    many: str
    source: str
    measure: Callable[[Ended], int | None]
    """None if it could not be seen."""
    rests_on: tuple[str, ...] = ()
    """Figures of `records.Stale`: where one of them is stale, this one cannot be measured."""


def _faults(*kinds: str) -> Callable[[Ended], int | None]:
    def measure(ended: Ended) -> int | None:
        faults = ended.faults
        return sum(getattr(faults, kind) for kind in kinds) if faults and faults.seen else None

    return measure


def _sigbus(ended: Ended) -> int | None:
    explained = ended.explained.deaths if ended.explained else []
    deaths = sum(death.count for death in explained if not death.sent)
    failed = _faults("failed")(ended)
    sent = any(death.sent for death in explained)  # which explains the status
    if deaths or (ended.status == 128 + SIGBUS and not sent):
        return max(failed or 0, deaths, 1)
    return failed


def _refused(ended: Ended) -> int | None:
    known, explained = ended.statistics, ended.explained
    calls = sum(refusal.count for refusal in explained.calls) if explained else 0
    refused = known.refused + calls + sum(death.count for death in _native_deaths(ended))
    seen = known.store != "native" or (explained is not None and explained.calls_seen)
    return refused or (0 if seen else None)


def _native_deaths(ended: Ended) -> "list[Death]":
    """Touches that the kernel refused by itself; those of managed pages are among what the daemon refused."""
    if ended.explained is None or ended.statistics.store != "native":
        return []
    return [death for death in ended.explained.deaths if death.limit]


def _segments(ended: Ended) -> int | None:
    return len(ended.statistics.segments) + ended.statistics.segments_dropped


def _lost(ended: Ended) -> int | None:
    return ended.statistics.lost_records + (ended.faults.lost if ended.faults else 0)


FIGURES = {
    "leak": Figure(
        one="segment left behind with a name",
        many="segments left behind with a name",
        source="fuse",
        measure=lambda ended: len(left(ended.statistics)),
        rests_on=("segments", "nlink", "evicted"),
    ),
    "refused": Figure(
        "allocation that a limit refused",
        "allocations that a limit refused",
        "mm",
        _refused,
        ("refused", "refusals"),
    ),
    "sigbus": Figure(
        "touched page that ended in SIGBUS",
        "touched pages that ended in SIGBUS",
        "perf",
        _sigbus,
        ("deaths",),
    ),
    "faults": Figure("page fault", "page faults", "perf", _faults("minor", "major", "failed", "unknown")),
    "faults.major": Figure("major page fault", "major page faults", "perf", _faults("major")),
    "faults.minor": Figure("minor page fault", "minor page faults", "perf", _faults("minor")),
    "faults.failed": Figure("failed page fault", "failed page faults", "perf", _faults("failed")),
    "peak": Figure("byte in use at once", "bytes in use at once", "mm", lambda ended: ended.statistics.peak),
    "segments": Figure("segment", "segments", "fuse", _segments, ("segments",)),
    "page_ins": Figure("page-in", "page-ins", "fuse", lambda ended: ended.statistics.page_ins, ("page_ins",)),
    "lost": Figure("lost record", "lost records", "perf, fuse, mm", _lost, ("events",)),
}
BARE = ("leak", "refused", "sigbus")
"""Those that need no number: one is too many."""
SIZES = ("peak",)
_RECORDED = ("sigbus", "faults", "faults.major", "faults.minor", "faults.failed", "lost")


class Budget(NamedTuple):
    """A condition that is not to come true."""

    text: str
    figure: str
    comparison: str
    limit: int

    @property
    def recorded(self) -> bool:
        """Whether it takes a recording to know."""
        return self.figure in _RECORDED

    def broken(self, ended: Ended) -> str | None:
        """Say in a sentence what was measured where that is not as it should be, or could not be measured."""
        figure = FIGURES[self.figure]
        measured = None if _stale(self, ended) else figure.measure(ended)
        if measured is None:
            return f"--fail-on {self.text}: {figure.many} could not be measured: {_why_not(self, ended)}"
        if not _OPERATORS[self.comparison](measured, self.limit):
            return None
        return (
            f"--fail-on {self.text}: {_told(self, measured)}{_details(self, ended)} ({_source(self, ended)})"
        )


def parse(text: str) -> Budget:
    """Read one; raises ShmfsError that says what there is."""
    match = _BUDGET.fullmatch(text)
    figure, comparison, value = match.groups("") if match else ("", "", "")
    if figure not in FIGURES:
        raise ShmfsError(f"{text!r} is no budget: {_HINT}", 2)
    if not comparison:
        if figure not in BARE:
            raise ShmfsError(f"{text!r} lacks a comparison, as in {figure}>{_example(figure)}", 2)
        return Budget(text, figure, ">", 0)
    digits = value.isascii() and value.isdecimal()
    limit = parse_size(value) if figure in SIZES else int(value) if digits else None
    if limit is None:
        raise ShmfsError(f"{text!r}: {value!r} is no number, as in {figure}{comparison}{_example(figure)}", 2)
    return Budget(text, figure, comparison, limit)


def left(statistics: Statistics) -> list[Segment]:
    """The segments that still have a name."""
    return [segment for segment in statistics.segments if segment.nlink and not segment.evicted]


def describe(segments: Sequence[Segment]) -> str:
    """Name segments and who made them: "/a (12 KiB, made by python 123)"."""
    made = [f", made by {process_name(one.created_by)}" if one.created_by else "" for one in segments]
    return some([f"{one.path} ({size(one.size)}{by})" for one, by in zip(segments, made, strict=True)], NAMED)


_HINT = (
    f"it is {', '.join(BARE)}, or a comparison (> >= < <= ==) of {', '.join(FIGURES)}, as in faults.major>100"
    " or peak>64m"
)


def _example(figure: str) -> str:
    return "64m" if figure in SIZES else "100"


def _told(budget: Budget, measured: int) -> str:
    figure = FIGURES[budget.figure]
    what = figure.one if measured == 1 else figure.many
    if budget.figure in SIZES:
        return f"{size(measured)} ({measured} {what})"
    return f"{measured} {what}"


def _details(budget: Budget, ended: Ended) -> str:
    """Name what was counted: segments, deaths or refusals."""
    if budget.figure == "leak":
        segments = left(ended.statistics)
        return f": {describe(segments)}" if segments else ""
    naming = {"refused": _refusals, "sigbus": _deaths}.get(budget.figure)
    named = naming(ended) if naming else []
    more = len(named) - NAMED
    return (f": {'; '.join(named[:NAMED])}" if named else "") + (f"; and {more} more" if more > 0 else "")


def _deaths(ended: Ended) -> list[str]:
    return [death_brief(one) for one in ended.explained.deaths] if ended.explained else []


def _refusals(ended: Ended) -> list[str]:
    """The refusals, each once; a page fault that a death explains is named by what was touched."""
    explained = ended.explained
    deaths = [death for death in explained.deaths if death.limit] if explained else []
    others = unexplained(ended.statistics, deaths, explained.calls if explained else ())
    return [
        *(f"{death_brief(death)}, beyond {limit_text('size', death.limit)}" for death in deaths),
        *(refusal_brief(one) for one in others),
    ]


def _source(budget: Budget, ended: Ended) -> str:
    source = FIGURES[budget.figure].source
    if budget.figure == "lost":
        return source
    if budget.figure == "refused" and (_native_deaths(ended) or (ended.explained and ended.explained.calls)):
        return "mm, perf, exact"
    if budget.figure == "peak" and ended.statistics.store == "native":
        return f"{source}, sampled"
    if budget.figure == "refused" and ended.statistics.store == "native":
        source += ", perf"
    if not budget.recorded:
        return f"{source}, exact"
    faults = ended.faults
    if faults is None or not faults.seen:
        return "the command's exit status"
    if faults.unfollowed:
        return f"{source}, at least: {unfollowed(faults.unfollowed)}"
    if faults.lost:
        return f"{source}, at least: {faults.lost} records were lost"
    return f"{source}, exact" + (f"; {faults.note}" if faults.note else "")


def _stale(budget: Budget, ended: Ended) -> Stale | None:
    return stale(ended.statistics.stale, *FIGURES[budget.figure].rests_on)


def _why_not(budget: Budget, ended: Ended) -> str:
    if failed := _stale(budget, ended):
        return failed.sentence
    if budget.recorded:
        return (ended.faults.note if ended.faults else "") or "nothing was recorded"
    return "with native pages the kernel serves them by itself; use -o pages=managed"
