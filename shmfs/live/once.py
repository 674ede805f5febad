"""One snapshot as a table on standard output."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from shmfs.live import rows
from shmfs.live.model import Snapshot
from shmfs.report.text import clean, listing, plural, size

STYLES = {
    "": "",
    "dim": "dim",
    "name": "cyan",
    "warn": "yellow",
    "bad": "bold red",
    "used": "blue",
    "shared": "bold green",
    "faults": "magenta",
}


def render(snapshot: Snapshot, console: Console) -> list[RenderableType]:
    """What to print."""
    what: list[RenderableType] = [Text(heading(snapshot), "bold")]
    for columns, ones in (
        (rows.segments(snapshot), snapshot.segments),
        (rows.processes(snapshot), snapshot.processes),
    ):
        if ones:
            what += ["", *_table(columns, ones, console.width)]  # type: ignore[arg-type]
    what += ["", Text(" · ".join(rows.footer(snapshot)), "dim")]
    return what


def heading(snapshot: Snapshot) -> str:
    """What is watched, and what it holds."""
    limits = snapshot.limits
    limit = f"{size(limits.used)} of {size(limits.size)}" if limits.size else f"{size(limits.used)}, no limit"
    parts = [f"{clean(snapshot.mount)}: {limit}", plural(len(snapshot.segments), "segment")]
    parts.append(plural(len(snapshot.processes), "process"))
    if snapshot.faults is not None:
        parts.append(f"{rows.quantity(snapshot.faults.all)} faults/s")
    return ", ".join([*parts, f"store {snapshot.store}, device {snapshot.device}"])


def _table(
    columns: Sequence[rows.Column[rows.Row]], ones: Sequence[rows.Row], width: int
) -> list[RenderableType]:
    order = sorted(ones, key=columns[2].key)
    cells = [[_text(column.cell(one)) for column in columns] for one in order]
    right = [column.heading for column in columns if not column.left]
    return listing([column.heading for column in columns], cells, width, right)


def _text(cell: rows.Cell) -> Text:
    return Text(cell[0], STYLES[cell[1]])
