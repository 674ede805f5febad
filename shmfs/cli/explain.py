"""`shmfs explain`."""

import os
import select
import signal
import sys
from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from shmfs.explain.records import Telling
    from shmfs.explain.story import Teller

WIDEST = 110
"""Columns; longer lines are hard to read."""

_EPILOG = """\b
Chapters:
  map     the life of a shared mapping of a file
  full    the mount runs out of room: SIGBUS
  refuse  what mmap refuses, and why
  shm     shm_open
  sysv    shmget and shmat
  anon    shared anonymous memory and fork
  swap    the page that was away

\b
Examples:
  shmfs explain
  shmfs explain --pause map full
  shmfs explain --pages native --json
"""


@click.command("explain", epilog=_EPILOG, short_help="Show what mmap does, live, step by step.")
@click.option("--pause", is_flag=True, help="Wait for Enter after each step.")
@click.option(
    "--pages",
    type=click.Choice(["managed", "native", "both"]),
    default="both",
    show_default=True,
    help="The store; of both, native is told where it differs, if it is possible here.",
)
@output.json_option("all steps, figures and claims")
@click.argument("chapters", metavar="[CHAPTER]...", nargs=-1)
def explain(pause: bool, pages: str, as_json: bool, chapters: tuple[str, ...]) -> None:
    """Show what becomes of shared memory, live: VMAs, page tables, frames, faults, and what shmfs logs.

    Two processes map, touch, store and unmap in a private mount; nothing of it stays. All figures are
    measured while you look, and each claim (✓) is checked: the exit status is 1 if one does not hold.
    """
    from shmfs.explain import story

    if pause and as_json:
        raise click.UsageError("--pause and --json do not go together: JSON comes in one piece")
    first = story.Teller("managed" if pages == "both" else pages, chapters)
    second = story.Teller("native", chapters) if pages == "both" else None
    if as_json:
        _finish(first)
        tellings = [first.telling] + ([second.tell()] if second else [])
        output.print_json(story.story(tellings))
    else:
        console = output.console()
        console.width = min(console.width, WIDEST)
        _print(console, first, pause=pause)
        tellings = [first.telling] + ([_compare(console, first.telling, second)] if second else [])
    raise click.exceptions.Exit(1 if story.story(tellings).failed else 0)


def _finish(teller: "Teller") -> None:
    for _ in teller.steps():
        pass


def _print(console: "Console", teller: "Teller", *, pause: bool) -> None:
    from contextlib import closing

    from shmfs.explain import render

    number = 0
    with closing(teller.steps()) as steps:
        for chapter, step in steps:
            if step is None:
                output.emit(console, *(render.skipped(chapter) if chapter.skipped else ()))
                continue
            number += 1
            output.emit(console, *(render.terms(teller.telling, console.width) if number == 1 else ()))
            output.emit(console, *(render.heading(chapter) if len(chapter.steps) == 1 else ()))
            output.emit(console, *render.step(step, number, console.width))
            if pause:
                _wait()
    output.emit(console, "", render.verdict(teller.telling))


def _wait() -> None:
    """Until Enter is pressed; no longer once there is no more input."""
    if sys.stdin is None:
        return  # it was closed
    terminal = sys.stdin.isatty()
    if terminal:
        click.echo("\n   Enter goes on, Ctrl-C ends. ", nl=False, err=True)
    try:
        if terminal:
            _ready()
        sys.stdin.readline()
    except KeyboardInterrupt:
        click.echo(err=True)
        raise


def _ready() -> None:
    """Wait for a line of the terminal. A Ctrl-C right before a read(2) would be seen only after it."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(writer)
    try:
        select.select([sys.stdin, reader], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _compare(console: "Console", told: "Telling", teller: "Teller") -> "Telling":
    """Tell what differs with the other store."""
    from rich.text import Text

    from shmfs.explain import render

    other = teller.tell()
    if other.impossible:
        output.emit(console, "", Text(f"{other.store} pages are not shown: {other.impossible}"))
    else:
        output.emit(console, *render.differences(told, other, console.width), "", render.verdict(other))
    return other
