"""`shmfs doctor`."""

from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from rich.text import Text

    from shmfs.fuse.doctor import Finding, Findings

WIDE = 80
"""Columns from which on the names have a column of their own."""

_SIGNS = {"ok": ("✓", "ok", "green"), "warning": ("!", "! ", "yellow"), "failure": ("✗", "X ", "bold red")}
"""How a state is shown: its sign, that in ASCII, its style."""

_EPILOG = """\b
✓ (or ok)  it is there
!          something is missing, or slower; the sentence says what to do
✗ (or X)   a command of shmfs cannot work because of it

\b
Exit status: 0 when shmfs can mount, 1 otherwise.

\b
Examples:
  shmfs doctor
  shmfs doctor --json | jq '.checks[] | select(.state != "ok")'
"""


@click.command(epilog=_EPILOG, short_help="Check what this system offers to shmfs.")
@output.json_option("the checks")
def doctor(as_json: bool) -> None:
    """Check what this system offers to shmfs, and say what to do about what is missing.

    Mounts are tried for a moment, in a directory of their own; nothing is changed.
    """
    import msgspec

    from shmfs.fuse.doctor import examine

    found = examine()
    if as_json:
        output.print_json(msgspec.to_builtins(found))
    else:
        _print(found)
    if not found.works:
        raise click.exceptions.Exit(1)


def _print(found: "Findings") -> None:
    """One line a check, its continuations indented."""
    from rich.table import Table
    from rich.text import Text

    from shmfs.trace.report import clean

    console = output.console()
    wide = console.width >= WIDE
    table = Table.grid(padding=(0, 1, 0, 0))
    for _ in range(3 if wide else 2):
        table.add_column(overflow="fold")
    for check in found.checks:
        name, message = Text(check.name, "bold"), Text(clean(check.message))
        cells = [name, message] if wide else [Text.assemble(name, ": ", message)]
        table.add_row(_sign(check, ascii_only=console.options.ascii_only), *cells)
    output.emit(console, table)
    output.emit(console, Text(clean(found.summary)))


def _sign(check: "Finding", *, ascii_only: bool) -> "Text":
    from rich.text import Text

    sign, plain, style = _SIGNS[check.state]
    return Text(plain if ascii_only else sign, style)
