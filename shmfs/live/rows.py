"""The tables of a snapshot: their columns, and each cell as text; what is too narrow for all leaves some out.

Names come escaped. Styles are names of `Palette`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from rich.cells import cell_len

from shmfs.events.amounts import quantity
from shmfs.events.names import process_name, segment_name
from shmfs.live.model import ProcessRow, SegmentRow, Share, Snapshot
from shmfs.report import columns
from shmfs.report.columns import Cell, Column
from shmfs.report.text import LEVELS, clean, clip, plural
from shmfs.system.pagemap import PAGE

Row = TypeVar("Row")

NOTHING: Cell = ("·", "dim")
GAP = 2
"""Cells between columns."""
SHORTEST_NAME = 12

History = Sequence[float]


class Placed(NamedTuple, Generic[Row]):
    """A column in a table of `top`; the one of width 0 takes what the others leave."""

    column: Column
    width: int
    value: Callable[[Row], Any]
    rank: int = 0
    """The higher, the sooner it is left out."""
    order: Callable[[Row], float | str] | None = None
    """What is sorted by, where not by the value."""
    rising: bool = False
    """Whether its own order begins with the least."""
    drawn: Callable[[Row, int], Sequence[Cell]] | None = None
    """What a terminal shows instead of the cell, where that has several styles; the width is given."""

    @property
    def heading(self) -> str:
        """What is above it."""
        return self.column.heading

    def key(self, row: Row) -> float | str:
        """Return what rows are sorted by: names ascending, the largest number first."""
        if self.order:
            return self.order(row)
        value: Any = self.value(row)
        return value if isinstance(value, str) else -(value or 0)

    def cell(self, row: Row) -> Cell:
        """Return text and style."""
        value = self.value(row)
        return NOTHING if value == 0 else self.column.cell(value)


def name_of(segment: SegmentRow) -> str:
    """How a segment is called, escaped."""
    return clean(segment_name(segment.path, f"inode {segment.inode}"))


def _name(segment: SegmentRow) -> Cell:
    if segment.unlinked:
        return f"{name_of(segment)} (unlinked)", "warn"
    return name_of(segment), "name"


def _filled(segment: SegmentRow) -> str:
    """How much of a segment has memory, as a bar of eight cells."""
    pages = -(-segment.size // PAGE)
    return bar(segment.resident / pages, 8) if segment.resident is not None and pages else ""


def bar(part: float, cells: int) -> str:
    """A bar that is filled to a part from 0 to 1; what is not 0 is seen, what is not all is not full."""
    eighths = round(max(0.0, min(1.0, part)) * cells * 8)
    if part > 0:
        eighths = max(1, eighths)
    if part < 1:
        eighths = min(cells * 8 - 1, eighths)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _all(row: SegmentRow | ProcessRow | Share) -> float:
    return -row.faults.all if row.faults else 0.0


def _faults(row: SegmentRow | ProcessRow | Share) -> float | Cell | None:
    if row.faults is None:
        return None
    return (quantity(row.faults.all), "bad") if row.faults.failed else row.faults.all


def segments(snapshot: Snapshot) -> list[Placed[SegmentRow]]:
    """Columns of the table of segments."""
    placed: list[Placed[SegmentRow]] = [
        Placed(columns.SEGMENT, 0, _name, order=lambda one: one.path, rising=True),
        Placed(columns.SIZE, 9, lambda one: one.size, 3),
        Placed(columns.RESIDENT, 9, _resident),
        Placed(columns.FILLED, 8, _filled, 8, order=_emptiness),
        Placed(columns.SHARED_SIZE, 9, lambda one: one.shared * PAGE, 2),
        Placed(columns.PROCS, 6, lambda one: one.processes, 4),
        Placed(columns.FAULT_RATE, 9, _faults, 1, order=_all),
    ]
    if snapshot.store == "managed":
        placed.append(Placed(columns.PAGE_INS_RATE, 11, lambda one: one.page_ins, 5))
    if snapshot.limits.refused:
        placed.append(Placed(columns.REFUSED, 8, lambda one: one.refused, 4))
    if any(one.created_by for one in snapshot.segments):
        placed.append(Placed(columns.CREATED_BY, 14, lambda one: one.created_by, 7, rising=True))
    return placed


def _resident(segment: SegmentRow) -> int | None:
    return None if segment.resident is None else segment.resident * PAGE


def _emptiness(segment: SegmentRow) -> float:
    return -(segment.resident or 0) * PAGE / max(1, segment.size)


def processes(snapshot: Snapshot) -> list[Placed[ProcessRow]]:
    """Columns of the table of processes."""
    return [
        Placed(columns.PROCESS, 0, process_name, order=lambda one: one.command, rising=True),
        Placed(columns.SEGMENTS, 9, lambda one: one.segments, 5),
        Placed(columns.MAPPED, 9, lambda one: one.mapped, 4),
        Placed(columns.PRESENT, 9, lambda one: one.pages * PAGE, 2),
        Placed(columns.PSS, 9, lambda one: one.pss),
        Placed(columns.USS, 9, lambda one: one.uss, 3),
        Placed(columns.FAULT_RATE, 9, _faults, 1, order=_all),
        Placed(columns.MAJOR_RATE, 8, lambda one: one.faults.major if one.faults else None, 6),
    ]


def shares(column: Column, names: Callable[[Share], str]) -> list[Placed[Share]]:
    """Columns of who has what of a segment, or of what a process has."""
    return [
        Placed(column, 0, names, rising=True),
        Placed(columns.MAPPED, 9, lambda one: one.mapped, 3),
        Placed(columns.PRESENT, 9, lambda one: one.pages * PAGE),
        Placed(columns.PSS, 9, lambda one: one.pss, 2),
        Placed(columns.USS, 9, lambda one: one.uss, 4),
        Placed(columns.FAULT_RATE, 9, _faults, 1, order=_all),
    ]


def fitting(placed: Sequence[Placed[Row]], width: int) -> list[Placed[Row]]:
    """The columns that fit, the one of width 0 as wide as it may be."""
    kept = list(placed)
    while True:
        rest = width - sum(column.width + GAP for column in kept) + GAP
        droppable = [column for column in kept if column.rank]
        if rest >= (SHORTEST_NAME if len(kept) < 4 else 2 * SHORTEST_NAME) or not droppable:
            return [column if column.width else column._replace(width=max(1, rest)) for column in kept]
        kept.remove(max(droppable, key=lambda column: column.rank))


def padded(text: str, column: Placed[Row]) -> str:
    """Text as wide as its column."""
    text = clip(text, column.width)
    space = " " * (column.width - cell_len(text))
    return text + space if column.column.left else space + text


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
