"""The tables of the report on a trace.

What is not known is "-"; columns of which nothing is known are not shown, and neither are the less important
ones where there is no room. Rows that are not shown are summed in a line.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from shmfs.analysis.analysis import killed_by
from shmfs.analysis.findings import Analysis, Calls, Process, Segment, Use, Who
from shmfs.report.text import clean, clip, exit_status, listing, plural, size, sparkline, strong

ROWS = 20
"""Rows of a table of segments or processes."""
FEWER = 12
"""Rows of the others."""
NAME, SHORT = 24, 14
"""Columns of a name: other columns make room for it up to NAME, and below SHORT there is no table."""
BAR = 16
CALLS = ("READ()", "BYTES READ", "WRITE()", "WRITTEN")
"""Columns of calls and their bytes, see `_calls`."""
DROPPED = ("READ()", "WRITE()")


class Tables:
    """The words and tables about one trace."""

    def __init__(self, analysis: Analysis, width: int) -> None:
        self.analysis = analysis
        self.width = width
        self.known = {one.process: one for one in analysis.processes}

    # Words.

    def at(self, when: int | None) -> str:
        """Return a time as seconds since the trace began."""
        if when is None:
            return "-"
        seconds = (when - self.analysis.started) / 1e9
        return "before" if seconds < 0 else f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"

    def process(self, number: int | None) -> str:
        """Return the name of a process of the trace."""
        if number is None:
            return "-"
        process = self.known.get(number)
        if process is None or not process.pid:
            return f"process {number} of the trace"
        return f"{clean(process.command) or 'pid'} {process.pid}"

    def people(self, numbers: Iterable[int]) -> str:
        """Return several processes, by command if they are more than one."""
        several = list(numbers)
        if len(several) < 2:
            return self.process(several[0]) if several else "-"
        known = [self.known.get(one) for one in several]
        return _counted(clean(one.command) or "?" if one else "?" for one in known)

    def pages(self, number: int) -> str:
        """Return pages as bytes."""
        return size(number * self.analysis.page_size)

    def segments(self) -> list[RenderableType]:
        """Return the segments."""
        rows = []
        shown = self.analysis.segments[:ROWS]
        doors = any(one.kind != "posix" for one in self.analysis.segments)
        for one in shown:
            row = [
                _name(one),
                Text(one.kind if doors else "-", "dim" if one.kind == "posix" else "magenta"),
                _number(one.size, size),
                _number(one.peak_resident, self.pages),
                _number(one.pages),
                _number(one.shared, style="bold green"),
                _number(one.faults.total),
                _number(one.faults.major),
                _number(one.faults.failed, style="bold red"),
                *_calls(one.calls),
                _number(len(one.used_by)),
                _text(self.process(one.first_toucher)),
                Text(sparkline(one.timeline or [], 32), "cyan"),
            ]
            rows.append(row)
        headings = ["SEGMENT", "KIND", "SIZE", "PEAK", "PAGES", "SHARED", "FAULTS", "MAJOR", "FAILED", *CALLS]
        parts = self.table(
            [*headings, "PROCESSES", "FIRST TOUCH", "OVER TIME"],
            rows,
            left={"KIND", "FIRST TOUCH", "OVER TIME"},
            drop=(*DROPPED, "PROCESSES", "FIRST TOUCH", "OVER TIME", "PEAK"),
        )
        more = self.analysis.segments[ROWS:]
        faults = sum(one.faults.total for one in more)
        pages = sum(one.pages for one in more)
        return parts + _rest(len(more), "segment", f"{faults:,} faults on {pages:,} pages")

    def processes(self) -> list[RenderableType]:
        """Return the processes."""
        every = sorted(
            self.analysis.processes, key=lambda one: (-one.faults.total, -_count(one.calls), one.process)
        )
        rows = []
        for one in every[:ROWS]:
            row = [
                Text(self.process(one.process), "cyan"),
                _text(self.process(one.parent)),
                _text(self.at(one.started)),
                self._process_end(one),
                _number(one.faults.total),
                _number(one.faults.major),
                _number(one.faults.failed, style="bold red"),
                _number(one.pages),
                *_calls(one.calls),
                _number(len(one.segments)),
            ]
            rows.append(row)
        headings = ["PROCESS", "PARENT", "START", "END", "FAULTS", "MAJOR", "FAILED", "PAGES", *CALLS]
        headings.append("SEGMENTS")
        more = every[ROWS:]
        faults = sum(one.faults.total for one in more)
        return self.table(
            headings, rows, left={"PARENT", "END"}, drop=(*DROPPED, "MAJOR", "SEGMENTS", "PARENT")
        ) + _rest(len(more), "process", f"{faults:,} faults")

    def _process_end(self, process: Process) -> Text:
        if process.ended is None:
            return Text("-", "dim")
        signal = killed_by(process.status)
        text = Text(self.at(process.ended))
        if process.status is not None:
            status = 128 + signal if signal else process.status
            text.append(" ").append(exit_status(status))
        return text

    def uses(self) -> list[RenderableType]:
        """Return what each process did with each segment."""
        uses = [(use, one) for one in self.analysis.segments for use in one.used_by]
        if len(uses) == len(self.analysis.segments) == 1:
            return []  # the two tables above say it
        uses.sort(key=lambda pair: (-pair[0].faults.total, -_count(pair[0].calls)))
        rows = [[_name(one), _text(self.process(use.process)), *self._use(use)] for use, one in uses[:FEWER]]
        headings = ["SEGMENT", "PROCESS", "MINOR", "MAJOR", "FAILED", "READS", "WRITES", "AROUND", "PAGES"]
        headings += [*CALLS, "PSS", "USS", "MAPPED", "FIRST", "LAST"]
        faults = sum(use.faults.total for use, _ in uses[FEWER:])
        rest = _rest(len(uses[FEWER:]), "pair", f"{faults:,} faults")
        return (
            self.table(
                headings, rows, left={"PROCESS"}, drop=(*DROPPED, "AROUND", "USS", "FIRST", "MAPPED", "LAST")
            )
            + rest
        )

    def _use(self, use: Use) -> list[Text]:
        count = use.faults
        return [
            _number(count.minor),
            _number(count.major),
            _number(count.failed, style="bold red"),
            _number(count.reads),
            _number(count.writes),
            _number(count.around),
            _number(use.pages),
            *_calls(use.calls),
            _number(use.pss, size),
            _number(use.uss, size),
            _number(use.mapped, size),
            _text(self.at(use.first)),
            _text(self.at(use.last)),
        ]

    def sharing(self) -> list[RenderableType]:
        """Return how many processes touched the pages of the segments that are shared."""
        several = [one for one in self.analysis.segments if one.shared or one.shared_at_once]
        several.sort(key=lambda one: -one.shared)
        rows = []
        for one in several[:FEWER]:
            by = Counter({min(processes, 4): 0 for processes in range(1, 5)})
            for processes, pages in one.sharing.items():
                by[min(processes, 4)] += pages
            total = max(1, by.total())
            filled = -(-BAR * one.shared // total)
            row = [_name(one), *(_number(by[processes]) for processes in range(1, 5))]
            row += [_number(one.shared, style="bold green"), _number(one.shared_at_once)]
            row.append(Text.assemble(("█" * filled, "green"), ("░" * (BAR - filled), "dim")))
            rows.append([*row, Text(f"{100 * one.shared / total:.0f} %")])
        headings = ["SEGMENT", "BY 1", "BY 2", "BY 3", "BY 4+", "SHARED", "AT ONCE", "OF ITS PAGES", "SHARE"]
        shared = sum(one.shared for one in several[FEWER:])
        rest = _rest(len(several[FEWER:]), "segment", f"{shared:,} shared pages")
        return self.table(headings, rows, left={"OF ITS PAGES"}, drop=("OF ITS PAGES",)) + rest

    def lives(self) -> list[RenderableType]:
        """Return who made, opened, mapped and removed each segment, and what became of it."""
        every = sorted(self.analysis.segments, key=lambda one: (one.end in ("gone", "unknown"), one.seen))
        rows = []
        for one in every[:FEWER]:
            row = [
                _name(one),
                self._when_who(one.created, one.created_by),
                _text(_openers(one.opened_by)),
                _text(self.people(use.process for use in one.used_by if use.mapped)),
                self._when_who(one.unlinked, one.unlinked_by),
                self._outcome(one),
            ]
            rows.append(row)
        headings = ["SEGMENT", "CREATED", "OPENED BY", "MAPPED BY", "UNLINKED", "END"]
        more = every[FEWER:]
        ends = Counter(one.end for one in more)
        said = ", ".join(f"{count:,} {_ENDS[end]}" for end, count in ends.most_common())
        parts = self.table(headings, rows, left=set(headings), drop=("OPENED BY",))
        return parts + _rest(len(more), "segment", said)

    def _when_who(self, when: int | None, who: Who | None) -> Text:
        if when is None:
            return _text("-")
        return Text(self.at(when)).append(
            f" {clip(_who(who), 24 if self.width >= 100 else 14)}" if who else ""
        )

    def _outcome(self, segment: Segment) -> Text:
        if segment.end == "gone":
            return Text("gone" + (f" {self.at(segment.evicted)}" if segment.evicted else ""))
        if segment.end == "unknown":
            return Text("-", "dim")
        text = strong(segment.end, "bold yellow")
        held = self.pages(segment.resident) if segment.resident is not None else ""
        return text.append(f", {held}" if held else "")

    def table(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[Text]],
        left: Iterable[str] = (),
        drop: Sequence[str] = (),
    ) -> list[RenderableType]:
        """Return one line a row; without the columns in `drop`, the last first, where there is no room."""
        if not rows:
            return []
        keep = [
            i
            for i, _ in enumerate(headings)
            if i == 0 or any(row[i].plain not in ("", "-", "0") for row in rows)
        ]
        drop = list(drop)
        longest = max(cell_len(headings[0]), *(row[0].cell_len for row in rows))
        while True:
            shown = [headings[i] for i in keep]
            cells = [[row[i] for i in keep] for row in rows]
            room = self.width - sum(
                2 + max(cell_len(shown[i]), *(row[i].cell_len for row in cells)) for i in range(1, len(keep))
            )
            if room >= min(NAME, longest) or not drop:
                break
            last = drop.pop()
            keep = [i for i in keep if headings[i] != last]
        if room >= SHORT:
            for row in cells:
                row[0] = Text(clip(row[0].plain, max(room, cell_len(shown[0]))), row[0].style)
        right = [heading for heading in shown[1:] if heading not in left]
        return listing(shown, cells, self.width, right)


_ENDS = {
    "gone": "gone",
    "linked": "still linked",
    "held": "unlinked, still held",
    "unknown": "of unknown end",
}


def _name(segment: Segment) -> Text:
    number = f"inode {segment.inode}" if segment.inode else f"segment {segment.segment} of the trace"
    if segment.kind == "anon":  # they all have the same name
        return Text(f"{clean(segment.path)} ({number})", "cyan")
    return Text(clean(segment.path) or f"({number}, no name)", "cyan")


def _text(text: str) -> Text:
    return Text(text, "dim" if text == "-" else "")


def _number(number: int | None, unit: Callable[[int], str] = "{:,}".format, style: str = "") -> Text:
    return Text("-" if number is None else unit(number) if number else "0", style if number else "dim")


def _count(calls: Calls | None) -> int:
    return calls.reads + calls.writes if calls else 0


def _calls(calls: Calls | None) -> list[Text]:
    if calls is None:
        return [_number(None) for _ in CALLS]
    return [
        _number(calls.reads),
        _number(calls.bytes_read, size),
        _number(calls.writes),
        _number(calls.bytes_written, size),
    ]


def _who(who: Who | None) -> str:
    return f"{clean(who.command) or 'pid'} {who.pid}" if who else "-"


def _openers(several: list[Who]) -> str:
    return (
        _who(several[0])
        if len(several) == 1
        else _counted(clean(one.command) or "?" for one in several) or "-"
    )


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names).most_common()
    return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in counts)  # noqa: RUF001


def _rest(count: int, word: str, what: str) -> list[RenderableType]:
    return [Text(f"… and {plural(count, word)} more: {what}", "dim")] if count else []
