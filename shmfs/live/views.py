"""What can be looked at in a snapshot: all segments, all processes, one segment, its pages, one process."""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from shmfs.events.names import process_name
from shmfs.live import rows
from shmfs.live.model import ProcessRow, SegmentRow, Share, Snapshot
from shmfs.live.rows import Placed
from shmfs.report import columns
from shmfs.report.columns import Cell
from shmfs.report.picture import GLYPHS, Kind, Range, draw, ranges
from shmfs.report.text import clean, plural, size
from shmfs.system.pagemap import PAGE, Matrix

Place = Literal["segments", "processes", "segment", "pages", "process"]

TREND = 10
"""Cells of the line of a segment."""
KEPT = 60
"""Looks whose rates are remembered."""


class View(NamedTuple):
    """A place, and the inode or pid that it is about."""

    place: Place
    subject: int = 0

    @property
    def sibling(self) -> "View":
        """The other tab."""
        other: dict[Place, Place] = {
            "segments": "processes",
            "processes": "segments",
            "segment": "pages",
            "pages": "segment",
        }
        return View(other.get(self.place, self.place), self.subject)


class Table(NamedTuple):
    """What a view shows."""

    title: list[Cell]
    columns: Sequence[Placed[Any]]
    rows: Sequence[Any]
    ident: Callable[[Any], Hashable]
    """What a row is about."""
    name: Callable[[Any], str]
    """What a filter looks at."""
    open: Callable[[Any], View | None]
    """Where Enter leads."""
    order: str
    """The heading that is sorted by, if nobody said otherwise."""
    empty: str
    """What is said where there is no row."""


class Trends:
    """Rates of the last looks, by segment; those that were ever other than 0."""

    def __init__(self) -> None:
        self.total: deque[float] = deque(maxlen=KEPT)
        self._segments: dict[int, deque[float]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Take over one look."""
        if not snapshot.seconds:
            return
        total = snapshot.page_ins if snapshot.faults is None else snapshot.faults.all
        self.total.append(total or 0.0)
        there = {}
        for one in snapshot.segments:
            value = one.page_ins if one.faults is None else one.faults.all
            known = self._segments.get(one.inode)
            if value and known is None:
                known = deque(maxlen=KEPT)
            if known is not None:
                known.append(value or 0.0)
                there[one.inode] = known
        self._segments = there

    def of(self, inode: int) -> Sequence[float]:
        """Of one segment, the newest at the end."""
        return self._segments.get(inode, ())

    def most(self, cells: int) -> float:
        """The highest of all that is seen in so many cells: what all lines are drawn by."""
        return max((value for one in self._segments.values() for value in list(one)[-cells:]), default=0.0)


def table(view: View, snapshot: Snapshot, matrix: Matrix | None, trends: Trends) -> Table:
    """What to show."""
    if view.place == "segments":
        return _segments(snapshot, trends)
    if view.place == "processes":
        return _processes(snapshot)
    if view.place == "process":
        return _process(snapshot, view.subject)
    if matrix is None or matrix.inode != view.subject:
        matrix = Matrix(snapshot.device, view.subject, "", [], False, 0)
    segment = next((one for one in snapshot.segments if one.inode == view.subject), None)
    if view.place == "segment":
        return _segment(snapshot, view.subject, segment, matrix)
    return _pages(snapshot, view.subject, segment, matrix)


def _segments(snapshot: Snapshot, trends: Trends) -> Table:
    most = trends.most(TREND)
    trend = Placed[SegmentRow](
        *(columns.TREND, TREND, lambda one: rows.trend(trends.of(one.inode), TREND, most).rjust(TREND), 6),
        order=lambda one: -sum(trends.of(one.inode)),
    )
    return Table(
        [],
        [*rows.segments(snapshot), trend],
        snapshot.segments,
        lambda one: one.inode,
        rows.name_of,
        lambda one: View("segment", one.inode),
        "RESIDENT",
        "no segments: nobody has made a file here",
    )


def _processes(snapshot: Snapshot) -> Table:
    def name(one: ProcessRow) -> str:
        return f"{clean(one.command)} {one.pid}"

    return Table(
        [],
        rows.processes(snapshot),
        snapshot.processes,
        lambda one: one.pid,
        name,
        lambda one: View("process", one.pid),
        "PSS",
        "no process that may be looked at maps a file here",
    )


def _process(snapshot: Snapshot, pid: int) -> Table:
    names = {one.inode: rows.name_of(one) for one in snapshot.segments}
    process = next((one for one in snapshot.processes if one.pid == pid), None)
    title: list[Cell] = [
        (clean(process.command) or "pid" if process else "process", "title"),
        (f" {pid}", "title"),
    ]
    if process is None:
        title.append(("  maps nothing here any more", "warn"))
    else:
        title.append((f"  {plural(process.segments, 'segment')}, {size(process.mapped)} mapped, ", ""))
        title.append((f"PSS {size(process.pss)}, USS {size(process.uss)}", ""))
    return Table(
        title,
        rows.shares(columns.SEGMENT, lambda one: names.get(one.inode, "")),
        [one for one in snapshot.shares if one.pid == pid],
        lambda one: one.inode,
        lambda one: names.get(one.inode, ""),
        lambda one: View("segment", one.inode),
        "PRESENT",
        "it maps nothing here any more",
    )


def _about(inode: int, segment: SegmentRow | None, matrix: Matrix) -> list[Cell]:
    if segment is None:
        name = clean(matrix.path) or f"inode {inode}"
        return [(name, "title"), ("  is gone", "warn")]
    shared = len(matrix.shared())
    title = [
        (rows.name_of(segment), "title"),
        (f"  {plural(-(-segment.size // PAGE), 'page')}", ""),
        (f", {shared} shared", "shared" if shared else "dim"),
    ]
    if segment.resident is not None:
        title.append((f", {segment.resident} resident", ""))
    title.append((f", {size(segment.size)}", ""))
    if segment.unlinked:
        title.append((", unlinked", "warn"))
    if segment.refused:
        title.append((f", {segment.refused} refused", "bad"))
    return title


def _segment(snapshot: Snapshot, inode: int, segment: SegmentRow | None, matrix: Matrix) -> Table:
    names = _names(snapshot)
    placed = rows.shares(columns.PROCESS, lambda one: names.get(one.pid, str(one.pid)))
    width = max(12, min(24, max((len(name) for name in names.values()), default=0)))
    drawing = partial(_strip, matrix, segment.size if segment else 0)
    pages = Placed[Share](columns.PAGES, 0, lambda one: one.pages, drawn=drawing)
    placed[:1] = [placed[0]._replace(width=width), pages]
    return Table(
        _about(inode, segment, matrix),
        placed,
        [one for one in snapshot.shares if one.inode == inode],
        lambda one: one.pid,
        lambda one: names.get(one.pid, ""),
        lambda one: View("process", one.pid),
        "PRESENT",
        "nobody maps it, or nobody who may be looked at",
    )


def _strip(matrix: Matrix, length: int, share: Share, cells: int) -> list[Cell]:
    at = next((at for at, one in enumerate(matrix.processes) if one.pid == share.pid), None)
    if at is None:
        return []
    strip = draw(matrix, length, cells).strips[at]
    turns = np.flatnonzero(np.diff(strip)) + 1
    starts = [0, *turns.tolist()] if len(strip) else []
    return [
        (GLYPHS[Kind(int(strip[start]))][0] * (end - start), GLYPHS[Kind(int(strip[start]))][1])
        for start, end in zip(starts, [*starts[1:], len(strip)], strict=True)
    ]


def legend(matrix: Matrix | None, length: int, cells: int) -> list[Cell]:
    """What the cells of a strip stand for."""
    if matrix is None or not matrix.processes:
        return []
    picture = draw(matrix, length, cells)
    parts: list[Cell] = [(f"a cell: {plural(picture.per_cell, 'page')}", "dim")]
    for kind, meaning in picture.meanings():
        glyph, style = GLYPHS[kind]
        parts.append((f"  {glyph} {meaning}", style))
    return parts


def _pages(snapshot: Snapshot, inode: int, segment: SegmentRow | None, matrix: Matrix) -> Table:
    names = _names(snapshot)
    frames = _frames(matrix) if matrix.frames_visible else {}

    def holders(one: Range) -> str:
        return one.present_in(names)

    def had_by(one: Range) -> Cell:
        return holders(one), GLYPHS[max(kind for _, kind in one.holders)][1]

    placed: list[Placed[Range]] = [
        Placed(columns.PAGE_RANGE, 17, lambda one: one.pages, order=lambda one: one.first, rising=True),
        Placed(columns.PAGE_COUNT, 8, lambda one: one.last - one.first + 1, 2),
        Placed(columns.FRAME, 10, lambda one: frames.get(one.first), 3, lambda one: frames.get(one.first, 0)),
        Placed(columns.HAD_BY, 7, lambda one: len(one.holders), 1),
        Placed(columns.PRESENT_IN, 0, had_by, order=holders),
    ]
    return Table(
        _about(inode, segment, matrix),
        placed,
        ranges(matrix),
        lambda one: one.first,
        holders,
        lambda one: None,
        "PAGES",
        "nobody has a page of it present",
    )


def _names(snapshot: Snapshot) -> dict[int, str]:
    return {one.pid: clean(process_name(one)) for one in snapshot.processes}


def _frames(matrix: Matrix) -> dict[int, int]:
    """The frame of each page of the file itself."""
    found: dict[int, int] = {}
    for one in matrix.processes:
        found.update(zip(one.pages.tolist(), one.frames.tolist(), strict=True))
    return found
