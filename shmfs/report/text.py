"""Text for terminals, as all reports print it: any width, with or without colour, in ASCII where it must be.

Only Text goes to rich, never markup: names are anybody's.
"""

import signal
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from shmfs.analysis.wording import refusal_lines
from shmfs.events.amounts import plural as plural
from shmfs.events.amounts import size as size
from shmfs.events.names import some
from shmfs.events.records import Refusal

LEVELS = "▁▂▃▄▅▆▇█"
ASCII = str.maketrans(
    {"·": "-", "×": "x", "…": "~", "–": "-"}  # noqa: RUF001
    | dict(zip(LEVELS + "░", ".:-=+*#@.", strict=True))
    | dict(zip("─│┌┐└┘▶◀→✓✗", "-|++++><>vx", strict=True))
)

NAMED = 3
"""Segments that are named in a sentence about several."""

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


def sparkline(counts: Sequence[int], cells: int) -> str:
    """Return a line of bars, the highest of them full; what is not 0 is seen."""
    each = max(1, -(-len(counts) // cells))
    sums = [sum(counts[at : at + each]) for at in range(0, len(counts), each)]
    most = max(sums, default=0)
    return "".join(LEVELS[-(-count * len(LEVELS) // most) - 1] if count else " " for count in sums).rstrip()


def strong(text: str, style: str) -> Text:
    """Return the beginning of a sentence; what is appended does not have its style."""
    return Text().append(text, style)


def capped(facts: Sequence[Fact], most: int, number: int | None = None) -> list[Fact]:
    """Return the first facts, and how many more there are: `number` in all where `facts` are not all."""
    more = (number or len(facts)) - most
    return [*facts[:most], *([("", Text(f"… and {more} more", "dim"))] if more > 0 else [])]


def refusal_facts(refusals: Sequence[Refusal]) -> list[Fact]:
    """Return a sentence for each kind of refusal and file."""
    return [(errno, Text(clean(sentence))) for errno, sentence in refusal_lines(refusals)]


def names_of(segments: Iterable[str]) -> str:
    """Return the names of the first segments, and the number of the others."""
    return some([clip(clean(one), 40) for one in segments], NAMED)


def exit_status(status: int) -> Text:
    """Return how a command ended; `status` is 128+N or -N for signal N."""
    status = status if status >= 0 else 128 - status
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
