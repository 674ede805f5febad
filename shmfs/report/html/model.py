"""What the page is made of; `page.js` draws it.

Times are seconds since `Page.start`, sizes bytes, pages those of `Page.page_size`. A process or segment is
named by its place in `Page.processes` or `Page.segments`. Names have no control characters. Counts over time
are of `Page.bins` equal parts of `Page.seconds`.
"""

from msgspec import Struct

Fact = tuple[str, str]
"""A label and a sentence."""


class Heat(Struct):
    """The pages of a segment by time, and by process.

    A touch is a fault that did not fail, or a page that was mapped around one.
    The arrays are of those cells only in which there was a touch.
    """

    pages: int
    """Up to the last that was touched; the rows are these."""
    rows: int
    per_row: int
    """Pages of a row; the last one may have fewer."""
    columns: int
    """Parts of the time."""
    start: float
    """When the first part begins."""
    seconds: float
    """How long all of them are."""
    people: list[int]
    """Processes, most touches first; -1 is all others."""
    steps: list[int]
    """From the cell before to this one; the cells are counted row by row."""
    counts: list[int]
    """Touches."""
    who: list[int]
    """Index in `people` of who had most touches."""
    several: list[int]
    """How many of `people` had some."""
    strips: list[list[int]]
    """For each of `people` the distinct pages that it touched, by row."""
    first: list[int]
    """Index in `people` of who touched most pages first, by row; -1 is nobody."""


class User(Struct):
    """What a process did with a segment."""

    process: int
    faults: int
    minor: int
    major: int
    failed: int
    around: int
    pages: int
    pss: int | None
    """The most that was sampled, as `uss`."""
    uss: int | None


class SegmentRecord(Struct):
    """A segment that is shown by itself."""

    name: str
    size: int | None
    resident: int | None
    """Pages at the end."""
    peak: int | None
    """Pages."""
    pages: int
    shared: int
    faults: int
    minor: int
    major: int
    failed: int
    around: int
    refused: int
    seen: float
    created: float | None
    created_by: str
    unlinked: float | None
    unlinked_by: str
    evicted: float | None
    end: str
    users: list[User]
    others: int
    """Users beyond these."""
    level: list[int] | None
    """Most pages charged, by part of the time; None is not known."""
    touched: list[int] | None
    """Distinct pages touched so far, the same way."""
    sharing: dict[int, int]
    """Pages by how many processes touched them."""
    heat: Heat | None


class ProcessRecord(Struct):
    """A process; they are in the order of their tree."""

    name: str
    depth: int
    parent: int | None
    start: float | None
    end: float | None
    outcome: str
    bad: bool
    """Whether a signal or a status other than 0 ended it."""
    faults: int
    major: int
    failed: int
    pages: int
    segments: list[int]
    """Those that are shown."""
    others: int
    """Segments beyond these."""


class Matrix(Struct):
    """Pages that both of two processes touched, at any time."""

    people: list[int]
    counts: list[list[int]]


class DeathRecord(Struct):
    """A SIGBUS."""

    text: str
    time: float
    segment: int | None
    page: int | None
    process: int | None


class Rest(Struct):
    """What is not shown by itself, summed."""

    number: int
    faults: int
    pages: int


class Page(Struct):
    """All of it."""

    title: str
    outcome: str
    bad: bool
    facts: list[Fact]
    warnings: list[Fact]
    start: int
    """Nanoseconds since the epoch."""
    seconds: float
    """From the beginning to the last thing that is known."""
    duration: float | None
    """As recorded; None is not known."""
    bins: int
    page_size: int
    limit: int
    """Bytes; 0 is unlimited."""
    peak: int | None
    faults: int
    minor: int
    major: int
    failed: int
    around: int
    number_of_segments: int
    number_of_processes: int
    kinds: list[list[int]]
    """Faults over time: minor, major, failed, unknown."""
    level: list[int] | None
    """Pages charged over time, of all segments."""
    level_source: str
    peak_source: str
    perf: bool
    """Whether faults were seen."""
    fault_source: str
    deaths: list[DeathRecord]
    refusals: list[Fact]
    segments: list[SegmentRecord]
    rest: Rest
    processes: list[ProcessRecord]
    rest_of_processes: Rest
    matrix: Matrix | None
    lives: list[Fact]
    sizing: list[Fact]
    sources: list[Fact]
    notes: list[str]
    """What is binned or left out."""
