"""Text for terminals, as all reports print it: any width, with or without colour, in ASCII where it must be.

Only Text goes to rich, never markup: names are anybody's.
"""

import signal
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shmfs.events.amounts import age as age
from shmfs.events.amounts import clock as clock
from shmfs.events.amounts import plural as plural
from shmfs.events.amounts import size as size

LEVELS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans(
    {"·": "-", "×": "x", "…": "~", "–": "-"}  # noqa: RUF001
    | dict(zip(LEVELS + "░", ".:-=+*#@.", strict=True))
    | dict(zip("─│┌┐└┘▶◀→✓✗", "-|++++><>vx", strict=True))
)

Fact = tuple[str, Text]
"""A label and what it is about."""


def show(console: Console, *what: RenderableType) -> None:
    """Print, in ASCII where the terminal knows no more."""
    for one in what:
        if not console.options.ascii_only:
            console.print(one)
            continue
        with console.capture() as capture:
            console.print(one)
        plain = capture.get().translate(ASCII).encode("ascii", "backslashreplace").decode()
        console.out(plain, end="", highlight=False)


def labelled(rows: Sequence[Fact], width: int) -> Table:
    """Return labels and texts; the texts wrap beside their labels."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=5)
    grid.add_column(overflow="fold", max_width=max(20, min(width, 120) - 7))
    for label, text in rows:
        grid.add_row(label, text)
    return grid


def listing(
    headings: Sequence[str], rows: Sequence[Sequence[Text]], width: int, right: Sequence[str] = ()
) -> list[RenderableType]:
    """Return one line a row; a paragraph a row if that is too wide. The first column is the name."""
    widths = [
        max(cell_len(heading), *(row[i].cell_len for row in rows)) for i, heading in enumerate(headings)
    ]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for heading in headings:
            table.add_column(heading, no_wrap=True, justify="right" if heading in right else "left")
        for row in rows:
            table.add_row(*row)
        return [table]
    return [one for row in rows for one in _paragraph(headings, row)]


def _paragraph(headings: Sequence[str], row: Sequence[Text]) -> Iterable[RenderableType]:
    yield Text(row[0].plain, row[0].style or "bold", overflow="fold")
    fields = Text(overflow="fold")
    for heading, cell in zip(headings[1:], row[1:], strict=True):
        if cell.plain not in ("", "-"):
            fields.append(" · " if fields else "").append(f"{heading.lower()} ", "dim").append(cell)
    yield Padding(fields, (0, 0, 0, 2))


def sparkline(counts: Sequence[int], cells: int) -> str:
    """Return a line of bars, the highest of them full; what is not 0 is seen."""
    each = max(1, -(-len(counts) // cells))
    sums = [sum(counts[at : at + each]) for at in range(0, len(counts), each)]
    most = max(sums, default=0)
    return "".join(LEVELS[-(-count * len(LEVELS) // most) - 1] if count else " " for count in sums).rstrip()


def strong(text: str, style: str) -> Text:
    """Return the beginning of a sentence; what is appended does not have its style."""
    return Text().append(text, style)


def exit_status(status: int) -> Text:
    """Return how a command ended, whose status is as a shell counts it: 128+N for signal N."""
    if status == 0:
        return strong("exit 0", "green")
    if status > 128:
        try:
            return strong(f"{signal.Signals(status - 128).name} (exit {status})", "bold red")
        except ValueError:
            pass
    return strong(f"exit {status}", "bold red")


def clean(text: str) -> str:
    """Return `text` with everything escaped that could move the cursor or deceive: controls, bidi marks."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def clip(text: str, width: int) -> str:
    """Return `text` in at most `width` cells, without its middle: both ends of a path tell something."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    end = ""
    for char in reversed(text):
        if cell_len(char + end) > tail:
            break
        end = char + end
    return set_cell_size(text, width - 1 - cell_len(end)).rstrip() + "…" + end
