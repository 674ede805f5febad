"""The tables of the report on a trace.

What is not known is "-"; columns of which nothing is known are not shown, and neither are the less important
ones where there is no room. Rows that are not shown are summed in a line.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import astuple
from rich.console import RenderableType
from rich.text import Text

from shmfs.analysis.findings import Analysis, Calls, TracedProcess, TracedSegment, Use, Who
from shmfs.events.names import people, process_name
from shmfs.report import columns
from shmfs.report.columns import CALLS, FAILED, FAULTS, MAJOR, PROCESS, SEGMENT, TOUCHED, Column
from shmfs.report.text import clean, clip, exit_status, plural, size, sparkline, strong

ROWS = 20
"""Rows of a table of segments or processes."""
FEWER = 12
"""Rows of the others."""
NAME = 24
"""Cells of a name up to which other columns make room for it."""
BAR = 16
DROPPED = (columns.READ_CALLS, columns.WRITE_CALLS)

SEGMENTS = (
    *(SEGMENT, columns.KIND, columns.SIZE, columns.PEAK, TOUCHED, columns.TOUCHED_BY_SEVERAL),
    *(FAULTS, MAJOR, FAILED, *CALLS, columns.PROCESSES, columns.FIRST_TOUCH, columns.OVER_TIME),
)
PROCESSES = (
    *(PROCESS, columns.PARENT, columns.START, columns.END, FAULTS, MAJOR, FAILED, TOUCHED, *CALLS),
    columns.SEGMENTS,
)
USES = (
    *(SEGMENT, columns.OF_PROCESS, columns.MINOR, MAJOR, FAILED, columns.READS, columns.WRITES),
    *(columns.AROUND, TOUCHED, *CALLS, columns.PSS, columns.USS, columns.MAPPED, columns.FIRST, columns.LAST),
)
SHARING = (
    *(SEGMENT, *columns.TOUCHED_BY, columns.TOUCHED_BY_SEVERAL, columns.AT_ONCE, columns.OF_ITS_PAGES),
    columns.SHARE,
)
LIVES = (SEGMENT, columns.CREATED, columns.OPENED_BY, columns.EVER_MAPPED_BY, columns.UNLINKED, columns.END)


class Tables:
    """The words and tables about one trace."""

    def __init__(self, analysis: Analysis, width: int) -> None:
        self.analysis = analysis
        self.width = width
        self.known = {one.process: one for one in analysis.processes}

    # Words.

    def at(self, when: int | None) -> str:
        """Return a time as seconds since the trace began; "" is not known."""
        if when is None:
            return ""
        seconds = (when - self.analysis.started) / 1e9
        return "before" if seconds < 0 else f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"

    def process(self, number: int | None) -> str:
        """Return the name of a process of the trace; "" is none."""
        if number is None:
            return ""
        process = self.known.get(number)
        if process is None or not process.pid:
            return f"process {number} of the trace"
        return clean(process_name(process))

    def people(self, numbers: Iterable[int]) -> str:
        """Return several processes, by command if they are more than one."""
        several = list(numbers)
        if len(several) < 2:
            return self.process(several[0] if several else None)
        return clean(people([self.known.get(one) or Who(0) for one in several]))

    def pages(self, number: int) -> str:
        """Return pages as bytes."""
        return size(number * self.analysis.page_size)

    def segments(self) -> list[RenderableType]:
        """Return the segments."""
        several = any(one.kind != "posix" for one in self.analysis.segments)
        rows = [
            [
                *(one.name, columns.kind(one.kind) if several else None, one.size),
                None if one.peak_resident is None else one.peak_resident * self.analysis.page_size,
                *(one.pages, one.shared, *_faults(one), *_calls(one.calls), len(one.used_by)),
                *(self.process(one.first_toucher), Text(sparkline(one.timeline or [], 32), "cyan")),
            ]
            for one in self.analysis.segments[:ROWS]
        ]
        dropped = (*DROPPED, columns.PROCESSES, columns.FIRST_TOUCH, columns.OVER_TIME, columns.PEAK)
        more = self.analysis.segments[ROWS:]
        faults = sum(one.faults.total for one in more)
        pages = sum(one.pages for one in more)
        rest = _rest(len(more), "segment", f"{faults:,} faults on {pages:,} pages")
        return self.table(SEGMENTS, rows, dropped) + rest

    def processes(self) -> list[RenderableType]:
        """Return the processes."""
        every = sorted(
            self.analysis.processes, key=lambda one: (-one.faults.total, -_count(one.calls), one.process)
        )
        rows = [
            [
                *(self.process(one.process), self.process(one.parent), self.at(one.started)),
                *(self._process_end(one), *_faults(one), one.pages, *_calls(one.calls), len(one.segments)),
            ]
            for one in every[:ROWS]
        ]
        more = every[ROWS:]
        faults = sum(one.faults.total for one in more)
        rest = _rest(len(more), "process", f"{faults:,} faults")
        return self.table(PROCESSES, rows, (*DROPPED, MAJOR, columns.SEGMENTS, columns.PARENT)) + rest

    def _process_end(self, process: TracedProcess) -> Text | None:
        if process.ended is None:
            return None
        text = Text(self.at(process.ended))
        return text if process.status is None else text.append(" ").append(exit_status(process.status))

    def uses(self) -> list[RenderableType]:
        """Return what each process did with each segment."""
        uses = [(use, one) for one in self.analysis.segments for use in one.used_by]
        if len(uses) == len(self.analysis.segments) == 1:
            return []  # the two tables above say it
        uses.sort(key=lambda pair: (-pair[0].faults.total, -_count(pair[0].calls)))
        rows = [[one.name, self.process(use.process), *self._use(use)] for use, one in uses[:FEWER]]
        faults = sum(use.faults.total for use, _ in uses[FEWER:])
        rest = _rest(len(uses[FEWER:]), "pair", f"{faults:,} faults")
        dropped = (*DROPPED, columns.AROUND, columns.USS, columns.FIRST, columns.MAPPED, columns.LAST)
        return self.table(USES, rows, dropped) + rest

    def _use(self, use: Use) -> list[Any]:
        count = use.faults
        return [
            *(count.minor, count.major, count.failed, count.reads, count.writes, count.around, use.pages),
            *(*_calls(use.calls), use.pss, use.uss, use.mapped, self.at(use.first), self.at(use.last)),
        ]

    def sharing(self) -> list[RenderableType]:
        """Return how many processes touched the pages of the segments that are shared."""
        several = [one for one in self.analysis.segments if one.shared or one.shared_at_once]
        several.sort(key=lambda one: -one.shared)
        rows = []
        for one in several[:FEWER]:
            by = Counter(dict.fromkeys(range(1, 5), 0))
            for processes, pages in one.sharing.items():
                by[min(processes, 4)] += pages
            total = max(1, by.total())
            filled = -(-BAR * one.shared // total)
            bar = Text.assemble(("█" * filled, "green"), ("░" * (BAR - filled), "dim"))
            share = f"{100 * one.shared / total:.0f} %"
            rows.append([one.name, *by.values(), one.shared, one.shared_at_once, bar, share])
        shared = sum(one.shared for one in several[FEWER:])
        rest = _rest(len(several[FEWER:]), "segment", f"{shared:,} shared pages")
        return self.table(SHARING, rows, (columns.OF_ITS_PAGES,)) + rest

    def lives(self) -> list[RenderableType]:
        """Return who made, opened, mapped and removed each segment, and what became of it."""
        every = sorted(self.analysis.segments, key=lambda one: (one.end in ("gone", "unknown"), one.seen))
        rows = [
            [
                one.name,
                self._when_who(one.created, one.created_by),
                people(one.opened_by),
                self.people(use.process for use in one.used_by if use.mapped),
                self._when_who(one.unlinked, one.unlinked_by),
                self._outcome(one),
            ]
            for one in every[:FEWER]
        ]
        more = every[FEWER:]
        ends = Counter(one.end for one in more)
        said = ", ".join(f"{count:,} {_ENDS[end]}" for end, count in ends.most_common())
        return self.table(LIVES, rows, (columns.OPENED_BY,)) + _rest(len(more), "segment", said)

    def _when_who(self, when: int | None, who: Who | None) -> str:
        if when is None or who is None:
            return self.at(when)
        return f"{self.at(when)} {clip(clean(process_name(who)), columns.people_room(self.width))}"

    def _outcome(self, segment: TracedSegment) -> Text | str:
        if segment.end == "gone":
            return "gone" + (f" {self.at(segment.evicted)}" if segment.evicted else "")
        if segment.end == "unknown":
            return ""
        held = f", {self.pages(segment.resident)}" if segment.resident is not None else ""
        return strong(segment.end, "bold yellow").append(held)

    def table(
        self, shown: Sequence[Column], rows: Sequence[Sequence[Any]], drop: Sequence[Column] = ()
    ) -> list[RenderableType]:
        """Return one line a row; without the columns in `drop`, the last first, where there is no room."""
        if not rows:
            return []
        texts = [[column.text(value) for column, value in zip(shown, row, strict=True)] for row in rows]
        widths = [
            max(len(column.heading), *(row[i].cell_len for row in texts)) for i, column in enumerate(shown)
        ]
        keep = [i for i, _ in enumerate(shown) if i == 0 or any(row[i] for row in rows)]
        for column in reversed(drop):
            if self.width - sum(2 + widths[i] for i in keep[1:]) >= min(NAME, widths[0]):
                break
            keep = [i for i in keep if shown[i] is not column]
        cells = [[row[i] for i in keep] for row in texts]
        return columns.listing([shown[i] for i in keep], cells, self.width, columns.SHORTEST)


_ENDS = {
    "gone": "gone",
    "linked": "still linked",
    "held": "unlinked, still held",
    "unknown": "of unknown end",
}


def _count(calls: Calls | None) -> int:
    return calls.reads + calls.writes if calls else 0


def _faults(one: TracedSegment | TracedProcess) -> Sequence[int]:
    return one.faults.total, one.faults.major, one.faults.failed


def _calls(calls: Calls | None) -> Sequence[int | None]:
    return astuple(calls) if calls else [None] * len(CALLS)


def _rest(count: int, word: str, what: str) -> list[RenderableType]:
    return [Text(f"… and {plural(count, word)} more: {what}", "dim")] if count else []
