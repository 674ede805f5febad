"""One snapshot as a table on standard output."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from shmfs.events.amounts import quantity
from shmfs.live import rows
from shmfs.live.model import Snapshot
from shmfs.report.columns import listing
from shmfs.report.text import clean, plural, size


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
        parts.append(f"{quantity(snapshot.faults.all)} faults/s")
    return ", ".join([*parts, f"store {snapshot.store}, device {snapshot.device}"])


def _table(
    placed: Sequence[rows.Placed[rows.Row]], ones: Sequence[rows.Row], width: int
) -> list[RenderableType]:
    cells = [[one.cell(row) for one in placed] for row in sorted(ones, key=placed[2].key)]
    return listing([one.column for one in placed], cells, width)
