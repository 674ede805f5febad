"""What a trace says as `model.Page`: two readings, for what is binned needs to know how much there is.

What the page has is bounded whatever the trace: the segments and processes with most faults are shown by
themselves and the rest is summed, and heat maps are binned. `Page.notes` say so.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from shmfs.analysis.analysis import analyse
from shmfs.analysis.findings import Analysis, FaultCount, TracedProcess, TracedSegment, Use, Who
from shmfs.analysis.tally import Tally, batches
from shmfs.events.names import process_name
from shmfs.report.html import model
from shmfs.report.html.levels import Levels, most
from shmfs.report.html.touches import U64, Axis, Plan, Touches, matrix
from shmfs.report.text import Fact, clean, clip, exit_status
from shmfs.report.trace_report import TraceReport
from shmfs.tracefile.stream import Trace

SEGMENTS = 40
"""Segments that are shown by themselves."""
PROCESSES = 200
PEOPLE = 64
"""Processes in a matrix or a heat map."""
COMPARED = 1000
"""Segments of which the sharing matrix is made: those with most shared pages."""
DEATHS = 50
BINS = 240
"""Parts of the time in pictures over time."""

LARGE, FINE = 8, (150, 128)
"""Heat maps that are fine: at most so many rows and columns; up to HEATS there are coarser ones."""
HEATS, COARSE = 24, (64, 80)

CHARGED = "fuse and mm, exact"

NAME = 120
"""Characters of a name."""

Pages = dict[int, dict[int, list[U64]]]
"""Distinct pages by segment and process (ids)."""


def extract(trace: Trace) -> model.Page:
    """Read the whole trace."""
    tally, levels = Tally(), Levels()
    analysis = analyse(trace, tally, levels.hear)
    return _Extract(trace, analysis, tally, levels).page()


class _Heats(NamedTuple):
    touches: Touches
    pages: Pages
    planned: set[int]


class _Extract:
    """Makes the parts of the page."""

    def __init__(self, trace: Trace, analysis: Analysis, tally: Tally, levels: Levels) -> None:
        self.analysis = a = analysis
        self.report = TraceReport(a, 200)
        self.start, self.end = _span(a)
        self.axis = Axis.of(self.start, self.end, BINS)
        self.shown = a.segments[:SEGMENTS]
        self.place = {one.segment: i for i, one in enumerate(self.shown) if one.segment is not None}
        self.table = levels.table() if levels else None
        self.inodes = Counter(one.inode for one in a.segments)
        self.looked = "fuse, seen by looking" if a.store == "native" else ""
        self.processes = _tree(a.processes)
        self.row = {one.process: i for i, (one, _) in enumerate(self.processes)}
        self.compared = sorted((one for one in a.segments if one.shared), key=lambda one: -one.shared)
        self.pages = self._pages(tally)
        self.heats = self._heats(trace)

    def _pages(self, tally: Tally) -> Pages:
        several = self.shown[:HEATS] + self.compared[:COMPARED]
        wanted = {one.segment for one in several if one.segment is not None}
        pages: Pages = defaultdict(lambda: defaultdict(list))
        for segment, process, some in tally.touches(wanted):
            pages[segment][process].append(some)
        return pages

    def _busy(self, one: TracedSegment) -> tuple[int, int]:
        """Return the time of the first touch and of the last; all of it where pages were mapped around."""
        firsts = [use.first for use in one.used_by if use.first is not None]
        lasts = [use.last for use in one.used_by if use.last is not None]
        if one.faults.around or not firsts:
            return self.start, self.end
        died = [death.time for death in self.analysis.deaths if death.segment == one.segment]
        return min(firsts + died), max(lasts + died) + 1

    def _heats(self, trace: Trace) -> _Heats:
        plans: list[Plan] = []
        for one in self.shown[:HEATS]:
            if one.segment is None or one.segment not in self.pages:
                continue
            users = sorted(one.used_by, key=lambda use: -use.faults.total - use.faults.around)
            last = max(int(part[-1]) for parts in self.pages[one.segment].values() for part in parts)
            failed = [death.page or 0 for death in self.analysis.deaths if death.segment == one.segment]
            last = max([last] + [page for page in failed if page <= last + last // 4 + 16])
            rows, columns = FINE if len(plans) < LARGE else COARSE
            people = [use.process for use in users if use.process in self.pages[one.segment]][:PEOPLE]
            people.sort(key=lambda process: self.row.get(process, PROCESSES))
            plans.append(Plan(one.segment, last + 1, rows, people, Axis.of(*self._busy(one), columns)))
        touches = Touches(plans, self.axis)
        for faults in batches(trace.faults()):
            touches.add(faults)
        return _Heats(touches, self.pages, {plan.segment for plan in plans})

    def page(self) -> model.Page:
        """Return all of it."""
        a, report = self.analysis, self.report
        facts = [fact for fact in _plain(report.head()) if fact[0] not in ("", "cut", "lost", "stale")]
        segments = [self._segment(one) for one in self.shown]
        return model.Page(
            title=next((text for label, text in facts if label == "ran"), "") or clean(a.path),
            outcome=report.outcome().plain,
            bad=bool(a.status) or not a.complete,
            facts=facts,
            warnings=_plain(report.missing()),
            start=self.start,
            seconds=(self.end - self.start) / 1e9,
            duration=a.duration,
            bins=BINS,
            page_size=a.page_size,
            limit=a.size_limit,
            peak=a.sizing.peak,
            **_counts(a.faults),
            number_of_segments=len(a.segments),
            number_of_processes=len(a.processes),
            kinds=self.heats.touches.kinds(),
            level=self._level_of_all(segments),
            level_source=f"{self.looked}, and between looks the pages touched so far (perf)"
            if self.looked
            else CHARGED,
            peak_source=self.looked or CHARGED,
            perf=bool(a.faults.total) or any(one.source == "perf" and one.figures for one in a.sources),
            fault_source=report.perf,
            deaths=self._deaths(),
            refusals=_plain(report.refusals()),
            segments=segments,
            rest=_rest(a.segments[SEGMENTS:]),
            processes=[self._process(one, depth) for one, depth in self.processes],
            rest_of_processes=_rest([one for one in a.processes if one.process not in self.row]),
            matrix=self._matrix(),
            lives=_plain(report.left()),
            sizing=_plain(report.sizing()),
            sources=_plain(report.sources()),
            notes=self._notes(),
        )  # fmt: skip

    def _since(self, time: int | None) -> float | None:
        return None if time is None else round((time - self.start) / 1e9, 6)

    def _segment(self, one: TracedSegment) -> model.SegmentRecord:
        touched = one.segment if one.segment in self.heats.planned else None
        so_far = None if touched is None else self.heats.touches.touched(touched)
        users = [use for use in one.used_by if use.process in self.row]
        return model.SegmentRecord(
            name=_name(one.name),
            **{name: getattr(one, name) for name in _COPIED},
            peak=one.peak_resident,
            **_counts(one.faults),
            seen=self._since(one.seen) or 0.0,
            created=self._since(one.created),
            created_by=self._who(one.created_by),
            unlinked=self._since(one.unlinked),
            unlinked_by=self._who(one.unlinked_by),
            evicted=self._since(one.evicted),
            users=[self._user(use) for use in users[:PEOPLE]],
            others=len(one.used_by) - len(users[:PEOPLE]),
            level=self._level(one, so_far),
            touched=so_far,
            heat=None if touched is None else self._heat(touched),
        )

    def _user(self, use: Use) -> model.User:
        counts = _counts(use.faults)
        return model.User(self.row[use.process], **counts, pages=use.pages, pss=use.pss, uss=use.uss)

    def _who(self, who: Who | None) -> str:
        return _name(process_name(who)) if who else ""

    def _level(self, one: TracedSegment, so_far: list[int] | None) -> list[int] | None:
        """Return the pages charged over time; inodes come round again, so it ends with the segment.

        Where they are only looked at now and then, pages that were touched since are charged, too.
        """
        if self.table is None or one.size is None:
            return None
        mine = self.table[:, 1] == one.inode
        if self.inodes[one.inode] > 1:
            end = one.evicted or self.end
            mine &= (self.table[:, 0] >= one.seen) & (self.table[:, 0] <= end)
        level = most(self.table[mine], self.start, self.axis.width, BINS)
        if not self.looked or so_far is None:
            return level
        last = BINS - 1 if one.evicted is None else int((one.evicted - self.start) / self.axis.width)
        return [
            max(pair) if at <= last else pair[0] for at, pair in enumerate(zip(level, so_far, strict=True))
        ]

    def _level_of_all(self, segments: list[model.SegmentRecord]) -> list[int] | None:
        if self.table is None:
            return None
        level = most(self.table, self.start, self.axis.width, BINS)
        if not self.looked:
            return level
        shown = [one.level for one in segments if one.level is not None]
        return [max(all_, sum(some)) for all_, *some in zip(level, *shown, strict=True)]

    def _heat(self, segment: int) -> model.Heat:
        heat = self.heats.touches.heat(segment, self.pages[segment])
        heat.people = [self.row.get(process, -1) for process in heat.people]
        return heat

    def _process(self, one: TracedProcess, depth: int) -> model.ProcessRecord:
        shown = [self.place[segment] for segment in one.segments if segment in self.place]
        return model.ProcessRecord(
            name=clip(self.report.tables.process(one.process), NAME),
            depth=depth,
            parent=None if one.parent is None else self.row.get(one.parent),
            start=self._since(one.started),
            end=self._since(one.ended),
            outcome="" if one.status is None else exit_status(one.status).plain,
            bad=bool(one.status),
            faults=one.faults.total,
            major=one.faults.major,
            failed=one.faults.failed,
            pages=one.pages,
            segments=shown,
            others=len(one.segments) - len(shown),
        )

    def _deaths(self) -> list[model.DeathRecord]:
        return [
            model.DeathRecord(
                text=self.report.death(death).plain,
                time=self._since(death.time) or 0.0,
                segment=self.place.get(death.segment) if death.segment is not None else None,
                page=death.page,
                process=self.row.get(death.process) if death.process is not None else None,
            )
            for death in self.analysis.deaths[:DEATHS]
        ]

    def _matrix(self) -> model.Matrix | None:
        compared = {one.segment for one in self.compared[:COMPARED]}
        pages = {segment: users for segment, users in self.pages.items() if segment in compared}
        touched: dict[int, int] = defaultdict(int)
        for users in pages.values():
            for process, parts in users.items():
                touched[process] += sum(map(len, parts))
        most_pages = sorted(set(touched) & set(self.row), key=lambda one: -touched[one])[:PEOPLE]
        if not pages:
            return None
        people = sorted(most_pages, key=lambda one: self.row[one])
        return model.Matrix([self.row[one] for one in people], matrix(pages, people).tolist())

    def _notes(self) -> list[str]:
        """Return what is binned or left out."""
        a = self.analysis
        segments, processes = len(a.segments), len(a.processes)
        people = max((len(users) for users in self.pages.values()), default=0)
        said = [
            (segments > SEGMENTS, f"{SEGMENTS} of {segments:,} segments are shown by themselves, those with "
             "most faults; the others are summed"),
            (segments > HEATS, f"heat maps are there for the first {HEATS} segments"),
            (processes > PROCESSES, f"{PROCESSES} of {processes:,} processes are shown, those with most "
             "faults and those from which they descend; the others are summed"),
            (people > PEOPLE, f"matrix and heat maps have the {PEOPLE} processes with most pages or faults"),
            (len(self.compared) > COMPARED, f"the sharing matrix is of the {COMPARED:,} segments that share "
             f"most pages, of {len(self.compared):,} that share any"),
            (len(a.deaths) > DEATHS, f"{DEATHS} of {len(a.deaths):,} deaths are told"),
            (True, f"time is in {BINS} equal parts; heat maps have at most {FINE[0]} rows and {FINE[1]} "
             f"columns, {COARSE[0]} and {COARSE[1]} from the {LARGE + 1}th on: what lies in the same cell is "
             "counted together"),
        ]  # fmt: skip
        return [text for true, text in said if true]


def _span(a: Analysis) -> tuple[int, int]:
    """Return the time of the first and of the last thing known; the clock may have been set meanwhile."""
    starts = [a.started, a.timeline.start if a.timeline.counts else 0]
    start = min((time for time in starts if time), default=0)
    ends = [a.started + round((a.duration or 0) * 1e9)]
    ends += [one.ended or 0 for one in a.processes] + [one.time for one in a.deaths]
    for segment in a.segments:
        ends += [segment.created or 0, segment.unlinked or 0, segment.evicted or 0]
        ends += [use.last or 0 for use in segment.used_by]
    return start, max(start + 1, *ends)


_KINDS = ("minor", "major", "failed", "around")
_COPIED = ("size", "resident", "pages", "shared", "refused", "end", "sharing")
"""Fields of `TracedSegment` that a `SegmentRecord` has too."""


def _plain(facts: list[Fact]) -> list[model.Fact]:
    return [(label, text.plain) for label, text in facts]


def _counts(faults: FaultCount) -> dict[str, Any]:
    return {"faults": faults.total} | {kind: getattr(faults, kind) for kind in _KINDS}


def _rest(others: Sequence[TracedSegment | TracedProcess]) -> model.Rest:
    return model.Rest(len(others), sum(one.faults.total for one in others), sum(one.pages for one in others))


def _name(text: str) -> str:
    return clip(clean(text), NAME)


def _tree(processes: list[TracedProcess]) -> list[tuple[TracedProcess, int]]:
    """Return processes, each behind its parent, with depth: those with most faults, and their parents."""
    known = {one.process: one for one in processes}
    ranked = sorted(processes, key=lambda one: (-one.faults.total, one.process))
    shown: set[int] = set()
    for one in ranked:
        line: list[int] = []
        number: int | None = one.process
        while number in known and number not in shown and number not in line:
            line.append(number)
            number = known[number].parent
        if len(shown) + len(line) <= PROCESSES:
            shown.update(line)
        if len(shown) >= PROCESSES:
            break
    children: dict[int | None, list[int]] = defaultdict(list)
    for number in sorted(shown, key=lambda one: (known[one].started or 0, one)):
        parent = known[number].parent
        children[parent if parent in shown and parent != number else None].append(number)
    order: list[tuple[TracedProcess, int]] = []
    seen: set[int] = set()
    for root in [*children[None], *sorted(shown)]:  # what is its own ancestor, in a damaged trace, is a root
        waiting = [(root, 0)]
        while waiting:
            number, depth = waiting.pop()
            if number not in seen:
                seen.add(number)
                order.append((known[number], depth))
                waiting += [(child, depth + 1) for child in reversed(children[number])]
    return order
