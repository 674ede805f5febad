"""The columns of all tables of text, each declared once: heading, source, unit and style.

A table is a sequence of columns, and for each row a sequence of values. None and "" are values that are not
known. Styles are names in STYLES; `shmfs top` draws the same names in the colours of its palette.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shmfs.events.amounts import age, quantity, size
from shmfs.report.text import clean, clip

Cell = tuple[str, str]
"""Text and style."""

UNKNOWN: Cell = ("-", "dim")
STYLES = {
    "": "",
    "dim": "dim",
    "name": "cyan",
    "kind": "magenta",
    "warn": "yellow",
    "good": "green",
    "title": "bold",
    "bad": "bold red",
    "used": "blue",
    "shared": "bold green",
    "alone": "cyan",
    "copy": "magenta",
    "faults": "magenta",
}

count = "{:,}".format
SHORTEST = 14
"""Cells to which names may be clipped where there is no room."""


class Column(NamedTuple):
    """One column."""

    heading: str
    source: str = ""
    """The instrument; "" for a name, or where there are several. pagemap samples; the others are exact."""
    unit: Callable[[Any], str] = clean
    """Formats a value. Words are on the left of the column, all other values on the right."""
    style: str = ""
    """Of a value other than 0."""
    about: str = ""
    """What it is, where the heading does not say that."""
    name: str = ""
    """How sentences call it, where not by its heading."""

    @property
    def left(self) -> bool:
        """Whether values are aligned on the left."""
        return self.unit is clean

    def cell(self, value: Any) -> Cell:
        """Format a value; one with a style of its own is a `Cell`."""
        if isinstance(value, tuple):
            return clean(value[0]), value[1]
        if value is None or value == "":
            return UNKNOWN
        return self.unit(value), self.style if value else "dim"

    def text(self, value: Any) -> Text:
        """Format a value for rich; one that has several styles is a `Text`."""
        if isinstance(value, Text):
            return value
        text, style = self.cell(value)
        return Text(text, STYLES[style])


# Segments.

SEGMENT = Column("SEGMENT", style="name")
KIND = Column("KIND", "fuse")
SIZE = Column("SIZE", "fuse", size)
PEAK = Column("PEAK", "mm", size)
PEAK_PAGES = Column("PAGES", "mm", count, name="pages (at peak)")
RESIDENT = Column("RESIDENT", "mm", size, about="memory that is charged to the segment")
RESIDENT_PAGES = Column("PAGES", "mm", count)
FILLED = Column("FILLED", "mm", style="used")
PAGE_INS = Column("PAGE-INS", "fuse", count)
CREATED_BY = Column("CREATED BY", "fuse", name="creator")
OPENED_BY = Column("OPENED BY", "fuse")
CREATED, UNLINKED, END = Column("CREATED", "fuse"), Column("UNLINKED", "fuse"), Column("END")
OWNER, AGE, HOLDS = Column("OWNER", "fuse"), Column("AGE", "fuse", age), Column("HOLDS", "mm", size)
REFUSED = Column(
    "REFUSED", "mm", count, "bad", "charges that a limit refused: ENOSPC to a call, SIGBUS to a touch"
)
PAGE_INS_RATE = Column(
    "PAGE-INS/S", "fuse", quantity, about="pages that the kernel asked shmfs for, on a fault or a read"
)

# What processes have of them.

PROCESS, OF_PROCESS = Column("PROCESS", style="name"), Column("PROCESS")
PARENT, START = Column("PARENT", "perf"), Column("START", "perf", str)
SEGMENTS, PROCESSES = Column("SEGMENTS", unit=count), Column("PROCESSES", unit=count)
PROCS = PROCESSES._replace(heading="PROCS")
MAPPED_BY, EVER_MAPPED_BY = Column("MAPPED BY", "pagemap"), Column("MAPPED BY", "perf")
ATTACHES = Column("ATTACHES", "pagemap", count)
SHARED = Column("SHARED", "pagemap", count, "shared")
SHARED_SIZE = SHARED._replace(
    unit=size, about="memory of it that two or more processes have mapped in at once"
)
MAPPED = Column("MAPPED", unit=size)
PRESENT = Column("PRESENT", "pagemap", size, about="memory that the process has mapped in")
PSS = Column("PSS", "pagemap", size, about="its share of that, each page divided by those who have it")
USS = Column("USS", "pagemap", size, about="what it has alone")

# Faults and calls.

FAULTS, MINOR, MAJOR = (Column(heading, "perf", count) for heading in ("FAULTS", "MINOR", "MAJOR"))
FAILED = Column("FAILED", "perf", count, "bad")
READS, WRITES = Column("READS", "perf", count), Column("WRITES", "perf", count)
AROUND = Column("AROUND", "filemap", count)
FAULT_RATE = Column(
    *("FAULTS/S", "perf", quantity, "faults"),
    about="page faults a second, red if one ended in SIGBUS; told when the thread has gone on",
)
MAJOR_RATE = Column("MAJOR/S", "perf", quantity)
TOUCHED = Column("PAGES", "perf", count)
TOUCHED_BY = [Column(f"BY {processes}", "perf", count) for processes in ("1", "2", "3", "4+")]
TOUCHED_BY_SEVERAL = SHARED._replace(source="perf")
AT_ONCE = Column("AT ONCE", "pagemap", count)
OF_ITS_PAGES, SHARE = Column("OF ITS PAGES", "perf"), Column("SHARE", "perf", str)
FIRST_TOUCH, OVER_TIME = Column("FIRST TOUCH", "perf"), Column("OVER TIME", "perf")
FIRST, LAST = Column("FIRST", "perf", str), Column("LAST", "perf", str)
TREND = Column("TREND", "", str, "faults", "faults (or page-ins) of the last looks, all by one scale")
READ_CALLS, WRITE_CALLS = Column("READ()", "fuse", count), Column("WRITE()", "fuse", count)
BYTES_READ, WRITTEN = Column("BYTES READ", "fuse", size), Column("WRITTEN", "fuse", size)
CALLS = (READ_CALLS, BYTES_READ, WRITE_CALLS, WRITTEN)

# Pages of one segment.

PAGES = Column("PAGES", "pagemap", about="who has which; a cell of several shows the most shared of them")
PAGE_RANGE = Column("PAGES", unit=str, style="name")
PAGE_COUNT, PAGE = Column("COUNT", unit=count), Column("PAGE", unit=count, style="name")
FRAME, HAD_BY = Column("FRAME", "pagemap", "{:#x}".format), Column("HAD BY", "pagemap", count)
PRESENT_IN = Column("PRESENT IN", "pagemap")

# Mounts, and cases of `conform`.

MOUNTS = (
    *(Column("MOUNT", style="name"), Column("DEVICE"), Column("PID", unit=str), SIZE),
    *(Column("USED", "mm", size), PEAK, Column("STORE"), Column("READAHEAD", unit=count), Column("OPTIONS")),
)
CASES = (
    *(Column("SECTION"), Column("CASES", unit=count), Column("AGREE", unit=count, style="good")),
    *(Column("KNOWN", unit=count, style="warn"), Column("DIFFER", unit=count, style="bad")),
    Column("NOT RUN", unit=count),
)


def kind(name: str) -> Cell:
    """Return the cell of KIND."""
    return name, "dim" if name == "posix" else "kind"


def people_room(width: int) -> int:
    """Return the most cells of a cell that names processes."""
    return 24 if width >= 100 else 14


def figures(columns: Iterable[Column], *sources: str) -> str:
    """Return the names of the columns whose values are from one of `sources`."""
    return ", ".join(one.name or one.heading.lower() for one in columns if one.source in sources)


def listing(
    columns: Sequence[Column], rows: Iterable[Sequence[Any]], width: int, shortest: int | None = None
) -> list[RenderableType]:
    """Return one line a row; a paragraph a row if that is too wide. The first column is the name.

    Names are clipped where that makes room, if they can keep `shortest` cells.
    """
    cells = [[column.text(value) for column, value in zip(columns, row, strict=True)] for row in rows]
    widths = [
        max(cell_len(column.heading), *(row[i].cell_len for row in cells)) for i, column in enumerate(columns)
    ]
    room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    if shortest is not None and shortest <= room < widths[0]:
        widths[0] = room
        for row in cells:
            row[0] = Text(clip(row[0].plain, widths[0]), row[0].style)
    if widths[0] > room:
        return [one for row in cells for one in _paragraph(columns, row)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.heading, no_wrap=True, justify="left" if column.left else "right")
    for row in cells:
        table.add_row(*row)
    return [table]


def _paragraph(columns: Sequence[Column], row: Sequence[Text]) -> Iterable[RenderableType]:
    yield Text(row[0].plain, row[0].style or "bold", overflow="fold")
    fields = Text(overflow="fold")
    for column, cell in zip(columns[1:], row[1:], strict=True):
        if cell.plain not in ("", "-"):
            fields.append(" · " if fields else "").append(f"{column.heading.lower()} ", "dim").append(cell)
    yield Padding(fields, (0, 0, 0, 2))
