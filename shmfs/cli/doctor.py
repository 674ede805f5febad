"""`shmfs doctor`."""

from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from rich.text import Text

    from shmfs.client.doctor import Finding, Findings

WIDE = 80
"""Columns from which on the names have a column of their own."""
NAMES = 14
"""Columns that the longest name takes."""

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

    from shmfs.client.doctor import examine

    found = examine()
    if as_json:
        output.print_json(msgspec.to_builtins(found))
    else:
        _print(found)
    if not found.works:
        raise click.exceptions.Exit(1)


def _print(found: "Findings") -> None:
    """One line a check where it fits; continuations are indented."""
    console = output.console()
    for check in found.checks:
        output.emit(console, _line(check, console.width, ascii_only=console.options.ascii_only))
    output.emit(console, _wrapped(found.summary, console.width, 0))


def _line(check: "Finding", width: int, *, ascii_only: bool) -> "Text":

    sign, plain, style = _SIGNS[check.state]
    if ascii_only:
        sign = plain
    indent = len(sign) + 1
    name = f"{check.name}:"
    if width >= WIDE:
        name = name.ljust(NAMES)
        indent += NAMES + 1
    text = _wrapped(f"{sign} {name} {check.message}", width, indent)
    text.stylize(style, 0, len(sign))
    text.stylize("bold", len(sign) + 1, len(sign) + 1 + len(check.name))
    return text


def _wrapped(sentence: str, width: int, indent: int) -> "Text":
    from textwrap import fill

    from rich.text import Text

    from shmfs.report.text import clean

    text = fill(clean(sentence), width, subsequent_indent=" " * indent, break_on_hyphens=False)
    return Text(text, no_wrap=True, overflow="ignore")
