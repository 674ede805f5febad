"""The matrix of pages and processes as a picture: a strip of cells for each process."""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.system.pagemap import PAGE, Matrix, Pages


class Kind(IntEnum):
    """What a process has of the pages of a cell; the highest that one of them is."""

    ABSENT = 0
    COPY = 1
    """Its own copy (MAP_PRIVATE after a store)."""
    ALONE = 2
    """The file's page, which no other process has present."""
    SHARED = 3
    """The file's page, which another process has present too."""


GLYPHS = {
    Kind.SHARED: ("█", "shared"),
    Kind.ALONE: ("▒", "alone"),
    Kind.COPY: ("c", "copy"),
    Kind.ABSENT: ("·", "dim"),
}
"""How a cell is drawn: text, and style as in `columns.STYLES`."""
MEANINGS = {
    Kind.SHARED: "shared",
    Kind.ALONE: "only here",
    Kind.COPY: "own copy",
    Kind.ABSENT: "not present",
}


class Picture(NamedTuple):
    """One strip a process, in the order of `Matrix.processes`."""

    pages: int
    """Pages of the file, or up to the last that somebody has."""
    per_cell: int
    """Pages that each cell stands for; the last one may stand for less."""
    strips: list[NDArray[np.uint8]]

    def meanings(self) -> list[tuple[Kind, str]]:
        """Return the kinds of cells that there are, and what they mean."""
        used = {kind for strip in self.strips for kind in np.unique(strip).tolist()}
        return [(kind, meaning) for kind, meaning in MEANINGS.items() if kind in used]


class Range(NamedTuple):
    """Consecutive pages that the same processes have in the same way."""

    first: int
    last: int
    holders: list[tuple[int, Kind]]
    """Pids, in the order of `Matrix.processes`."""

    @property
    def pages(self) -> str:
        """The first page and the last one."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"  # noqa: RUF001

    def present_in(self, names: Mapping[int, str]) -> str:
        """Return the names of the holders."""
        return ", ".join(
            names.get(pid, str(pid)) + (" (own copy)" if kind is Kind.COPY else "")
            for pid, kind in self.holders
        )


def draw(matrix: Matrix, size: int, cells: int) -> Picture:
    """Draw a file of `size` bytes in at most `cells` cells."""
    last = max(
        (int(pages[-1]) for one in matrix.processes for pages in (one.pages, one.copies) if len(pages)),
        default=-1,
    )
    pages = max(-(-size // PAGE), last + 1)
    per_cell = max(1, -(-pages // cells))
    width = -(-pages // per_cell)
    shared = matrix.shared()
    strips = []
    for one in matrix.processes:
        strip = np.zeros(width, np.uint8)
        strip[one.copies // per_cell] = Kind.COPY
        strip[one.pages // per_cell] = Kind.ALONE
        strip[np.intersect1d(one.pages, shared, assume_unique=True) // per_cell] = Kind.SHARED
        strips.append(strip)
    return Picture(pages, per_cell, strips)


def ranges(matrix: Matrix) -> list[Range]:
    """Return the pages that somebody has present, as ranges by who has them."""
    everything = [pages for one in matrix.processes for pages in (one.pages, one.copies)]
    present: Pages = np.unique(np.concatenate([*everything, np.empty(0, np.int64)]))
    if not len(present):
        return []
    shared = matrix.shared()
    kinds = np.zeros((len(present), len(matrix.processes)), np.uint8)
    for column, one in enumerate(matrix.processes):
        kinds[np.searchsorted(present, one.copies), column] = Kind.COPY
        kinds[np.searchsorted(present, one.pages), column] = Kind.ALONE
        both = np.intersect1d(one.pages, shared, assume_unique=True)
        kinds[np.searchsorted(present, both), column] = Kind.SHARED
    follows = (np.diff(present) == 1) & (kinds[1:] == kinds[:-1]).all(axis=1)
    starts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    ends = np.concatenate([starts[1:], [len(present)]]) - 1
    found = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        holders = [
            (one.pid, Kind(kind))
            for one, kind in zip(matrix.processes, kinds[start].tolist(), strict=True)
            if kind
        ]
        found.append(Range(int(present[start]), int(present[end]), holders))
    return found
