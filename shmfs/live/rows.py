"""The tables of a snapshot: their columns, and each cell as text; what is too narrow for all leaves some out.

Names come escaped. Styles are names of `Palette`.
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from rich.cells import cell_len

from shmfs.live.model import Process, Rates, Segment, Share, Snapshot
from shmfs.report.text import LEVELS, clean, clip, plural, size
from shmfs.system.pagemap import PAGE

Row = TypeVar("Row")
Cell = tuple[str, str]
"""Text and style."""

NOTHING: Cell = ("·", "dim")
UNKNOWN: Cell = ("-", "dim")
GAP = 2
"""Cells between columns."""
SHORTEST_NAME = 12

History = Sequence[float]


class Column(NamedTuple, Generic[Row]):
    """One column; the one of width 0 takes what the others leave."""

    heading: str
    width: int
    key: Callable[[Row], float | str]
    """What is sorted by."""
    cell: Callable[[Row], Cell]
    left: bool = False
    rising: bool = False
    """Whether its own order begins with the least."""
    rank: int = 0
    """The higher, the sooner it is left out."""
    drawn: Callable[[Row, int], Sequence[Cell]] | None = None
    """What a terminal shows instead of the cell, where that has several styles; the width is given."""


def amount(number: int | None) -> Cell:
    """Bytes."""
    return UNKNOWN if number is None else (size(number), "") if number else NOTHING


def rate(number: float | None, style: str = "") -> Cell:
    """So many per second."""
    if number is None:
        return UNKNOWN
    return (quantity(number), style) if number else NOTHING


def quantity(number: float) -> str:
    """A number in at most five characters: "0.2", "7", "1204", "12.5k", "3.1M"."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    if round(number) < 10_000:
        return f"{number:.0f}"
    units = iter("kMGT")
    while round(number) >= 1000:
        number, unit = number / 1000, next(units)
    return f"{number:.0f}{unit}" if number >= 99.95 else f"{number:.1f}{unit}"


def seconds(number: float) -> str:
    """A time, as in "0.5 s" or "12 s"."""
    return f"{number:.0f} s" if number >= 9.95 else f"{number:.1f} s".replace(".0 ", " ")


def count(number: int | None, style: str = "") -> Cell:
    """A number of things."""
    return UNKNOWN if number is None else (str(number), style) if number else NOTHING


def name_of(segment: Segment) -> str:
    """How a segment is called, escaped."""
    return clean(segment.path) or f"(inode {segment.inode}, no name)"


def _name(segment: Segment) -> Cell:
    if segment.unlinked:
        return f"{name_of(segment)} (unlinked)", "warn"
    return name_of(segment), "name"


def _filled(segment: Segment) -> Cell:
    """How much of a segment has memory, as a bar of eight cells."""
    pages = -(-segment.size // PAGE)
    if segment.resident is None or not pages:
        return UNKNOWN
    return bar(segment.resident / pages, 8), "used"


def bar(part: float, cells: int) -> str:
    """A bar that is filled to a part from 0 to 1; what is not 0 is seen, what is not all is not full."""
    eighths = round(max(0.0, min(1.0, part)) * cells * 8)
    if part > 0:
        eighths = max(1, eighths)
    if part < 1:
        eighths = min(cells * 8 - 1, eighths)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _all(rates: Rates | None) -> float:
    return rates.all if rates else 0.0


def _faults(rates: Rates | None) -> Cell:
    if rates is None:
        return UNKNOWN
    return rate(rates.all, "bad" if rates.failed else "faults")


def segments(snapshot: Snapshot) -> list[Column[Segment]]:
    """Columns of the table of segments."""
    columns: list[Column[Segment]] = [
        Column("SEGMENT", 0, lambda one: one.path, _name, left=True, rising=True),
        Column("SIZE", 9, lambda one: -one.size, lambda one: amount(one.size), rank=3),
        Column("RESIDENT", 9, lambda one: -(one.resident or 0), _resident),
        Column("FILLED", 8, _emptiness, _filled, left=True, rank=8),
        Column("SHARED", 9, lambda one: -one.shared, lambda one: _shared(one.shared), rank=2),
        Column("PROCS", 6, lambda one: -one.processes, lambda one: count(one.processes), rank=4),
        Column("FAULTS/S", 9, lambda one: -_all(one.faults), lambda one: _faults(one.faults), rank=1),
    ]
    if snapshot.store == "managed":
        columns += [
            Column(
                "PAGE-INS/S", 11, lambda one: -(one.page_ins or 0), lambda one: rate(one.page_ins), rank=5
            ),
        ]
    if snapshot.limits.refused:
        columns.append(
            Column(
                "REFUSED", 8, lambda one: -(one.refused or 0), lambda one: count(one.refused, "bad"), rank=4
            )
        )
    if any(one.created_by for one in snapshot.segments):
        columns.append(
            Column("CREATED BY", 14, lambda one: one.created_by, _maker, left=True, rising=True, rank=7)
        )
    return columns


def _resident(segment: Segment) -> Cell:
    return amount(None if segment.resident is None else segment.resident * PAGE)


def _emptiness(segment: Segment) -> float:
    return -(segment.resident or 0) * PAGE / max(1, segment.size)


def _maker(segment: Segment) -> Cell:
    return (clean(segment.created_by), "") if segment.created_by else UNKNOWN


def _shared(pages: int) -> Cell:
    return (size(pages * PAGE), "shared") if pages else NOTHING


def processes(snapshot: Snapshot) -> list[Column[Process]]:
    """Columns of the table of processes."""
    return [
        Column("PROCESS", 0, lambda one: one.command, _process, left=True, rising=True),
        Column("SEGMENTS", 9, lambda one: -one.segments, lambda one: count(one.segments), rank=5),
        Column("MAPPED", 9, lambda one: -one.mapped, lambda one: amount(one.mapped), rank=4),
        Column("PRESENT", 9, lambda one: -one.pages, lambda one: amount(one.pages * PAGE), rank=2),
        Column("PSS", 9, lambda one: -one.pss, lambda one: amount(one.pss)),
        Column("USS", 9, lambda one: -one.uss, lambda one: amount(one.uss), rank=3),
        Column("FAULTS/S", 9, lambda one: -_all(one.faults), lambda one: _faults(one.faults), rank=1),
        Column("MAJOR/S", 8, lambda one: -(one.faults.major if one.faults else 0), _major, rank=6),
    ]


def _process(process: Process) -> Cell:
    return f"{clean(process.command) or 'pid'} {process.pid}", "name"


def _major(process: Process) -> Cell:
    return rate(process.faults.major if process.faults else None)


def shares(names: Callable[[Share], str], heading: str) -> list[Column[Share]]:
    """Columns of who has what of a segment, or of what a process has."""
    return [
        Column(heading, 0, names, lambda one: (names(one), "name"), left=True, rising=True),
        Column("MAPPED", 9, lambda one: -one.mapped, lambda one: amount(one.mapped), rank=3),
        Column("PRESENT", 9, lambda one: -one.pages, lambda one: amount(one.pages * PAGE)),
        Column("PSS", 9, lambda one: -one.pss, lambda one: amount(one.pss), rank=2),
        Column("USS", 9, lambda one: -one.uss, lambda one: amount(one.uss), rank=4),
        Column("FAULTS/S", 9, lambda one: -_all(one.faults), lambda one: _faults(one.faults), rank=1),
    ]


def fitting(columns: Sequence[Column[Row]], width: int) -> list[Column[Row]]:
    """The columns that fit, the one of width 0 as wide as it may be."""
    kept = list(columns)
    while True:
        rest = width - sum(column.width + GAP for column in kept) + GAP
        droppable = [column for column in kept if column.rank]
        if rest >= (SHORTEST_NAME if len(kept) < 4 else 2 * SHORTEST_NAME) or not droppable:
            return [column if column.width else column._replace(width=max(1, rest)) for column in kept]
        kept.remove(max(droppable, key=lambda column: column.rank))


def placed(text: str, column: Column[Row]) -> str:
    """Text as wide as its column."""
    text = clip(text, column.width)
    space = " " * (column.width - cell_len(text))
    return text + space if column.left else space + text


def trend(history: History, cells: int, most: float = 0.0) -> str:
    """A line of bars, the newest at its end; what is not 0 is seen."""
    shown = list(history)[-cells:]
    most = max([most, *shown, 1e-9])
    return "".join(
        LEVELS[max(0, -int(-value * len(LEVELS) // most) - 1)] if value else " " for value in shown
    )


def footer(snapshot: Snapshot) -> list[str]:
    """Where the figures come from."""
    parts = [
        f"{one.figures}: {one.stale or ('exact' if one.exact else 'sampled')} ({one.source})"
        for one in snapshot.sources
    ]
    if snapshot.hidden:
        parts.append(f"{plural(snapshot.hidden, 'process')} may not be looked at")
    return [*parts, *snapshot.notes]
