"""`shmfs conform`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from shmfs.conformance.messages import Outcome
    from shmfs.conformance.report import Count, Report

_EPILOG = """\b
AGREE    both file systems gave the same answers
KNOWN    shmfs differs as documented, and FUSE can do no better
DIFFER   they gave other answers; both are shown
NOT RUN  the case takes what is not there; the reason is shown

\b
Exit status: 0 when all that were run agree or are known, 1 otherwise.

\b
Examples:
  shmfs conform
  shmfs conform -o pages=managed -k mmap -k times.
  shmfs conform /dev/shm
  shmfs conform --against /dev/shm /mnt/shm
  shmfs conform --json | jq '.outcomes[] | select(.state == "differs")'
"""

_NAMED = 6
"""Cases that a reason names."""
PLACES = 8
"""Differences of a case that are shown."""


@click.command(epilog=_EPILOG, short_help="Compare a mount with the kernel's tmpfs, case by case.")
@output.mount_options
@click.option(
    "-k", "patterns", metavar="PATTERN", multiple=True, help="Run cases whose name has it (names.*)."
)
@click.option("--against", metavar="DIR2", type=output.DIRECTORY, help="Compare with DIR2, not with a tmpfs.")
@output.json_option("every case and its outcome")
@click.argument("directory", metavar="[DIR]", required=False, type=output.DIRECTORY)
def conform(
    options: tuple[str, ...],
    patterns: tuple[str, ...],
    against: str | None,
    as_json: bool,
    directory: str | None,
) -> None:
    """Run some hundred small cases on a mount and on the kernel's tmpfs, and compare.

    Without DIR they run on mounts of shmfs, made for the purpose with the options each case takes and those
    of -o. With DIR, a directory of any file system, they run in a new directory there, and on a tmpfs of the
    same size and flags; cases that take a mount of their own are listed as not run. Nothing is left behind.
    """
    import signal
    import sys

    from shmfs import conformance
    from shmfs.conformance import report, runner
    from shmfs.conformance.messages import Configuration
    from shmfs.fs.options import parse

    if against is not None and directory is None:
        raise click.UsageError("--against takes a DIR to compare with it")
    if options and directory is not None:
        raise click.UsageError("-o is for the mounts that are made where no DIR is given")
    parse(",".join(options))
    cases = conformance.load()
    names = report.chosen(cases, patterns)
    if not names:
        raise click.UsageError(f"no case has {' or '.join(map(repr, patterns))} in its name")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # mounts are ended in order
    configuration = Configuration("", ",".join(options), directory, against)
    with runner.running(configuration) as running, _progress(len(names)) as advance:
        running.start()
        outcomes = []
        for name in names:
            advance(name)
            outcomes.append(running.run(name))
            outcomes[-1].options = cases[name].options
    total = report.count("all", outcomes)
    found = report.Report(
        directory, against, running.target.store, total, report.sections(outcomes), outcomes
    )
    if as_json:
        output.print_json(found)
    else:
        _print(found)
    if total.differ:
        raise click.exceptions.Exit(1)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show on a terminal how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = output.console(stderr=True)
    columns = MofNCompleteColumn(), BarColumn(20), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        done = -1

        def advance(name: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, completed=done, description=name)

        yield advance


def _print(found: "Report") -> None:
    from rich.text import Text

    from shmfs.report import columns

    console = output.console()
    rows = [_values(one) for one in found.sections]
    if len(rows) > 1:
        rows.append(_values(found.total, "title"))
    output.listing(console, columns.CASES, rows)
    sides = found.against or "tmpfs", found.directory or "shmfs"
    for one in found.outcomes:
        if one.state == "differs":
            _print_difference(console, one, sides)
    _print_groups(console, found)
    from shmfs.report.text import plural

    total = found.total
    run = plural(total.cases - total.not_run, "case")
    text = (
        f"{total.differ} of {run} differ from {sides[0]}"
        if total.differ
        else f"{run} run, all as on {sides[0]}"
    )
    text += f", {total.known} but for known differences" if total.known else ""
    text += f"; {total.not_run} not run" if total.not_run else ""
    output.emit(console, Text(f"\n{text}", "bold red" if total.differ else "bold green"))


def _values(count: "Count", style: str = "name") -> list[Any]:
    outcomes = count.agree, count.known, count.differ, count.not_run
    return [(count.section, style), count.cases, *(number or None for number in outcomes)]


def _print_difference(console: "Console", outcome: "Outcome", sides: tuple[str, str]) -> None:
    """The places of a case that differ, with both answers."""
    from rich.text import Text

    from shmfs.report.text import clean

    output.emit(console, Text(f"\n{outcome.name}", "bold red"))
    if outcome.note:
        _emit(console, clean(outcome.note), 2, "")
    found = [one for one in outcome.differences if not one.reason]
    for one in found[:PLACES]:
        if one.where:
            _emit(console, clean(one.where), 2, "cyan")
        for side, answer in zip(sides, (one.expected, one.answered), strict=True):
            _emit(console, f"{side}: {clean(answer)}", 4, "")
    if len(found) > PLACES:
        text = f"… and {len(found) - PLACES} places more; --json lists all"
        _emit(console, text, 2, "dim")


def _print_groups(console: "Console", found: "Report") -> None:
    """Why cases differ as is known, and why others were not run."""
    from rich.text import Text

    from shmfs.conformance import report
    from shmfs.events.names import some

    gone = report.by_note(found.outcomes, "agrees") | report.by_note(found.outcomes, "known")
    groups = [
        ("known differences", report.by_reason(found.outcomes)),
        ("known differences that are no more", gone),
        ("not run", report.by_note(found.outcomes, "not run")),
    ]
    for heading, reasons in groups:
        if reasons:
            output.emit(console, Text(f"\n{heading}", "bold"))
        for reason, names in reasons.items():
            _emit(console, reason, 2, "")
            _emit(console, some(names, _NAMED), 4, "dim")


def _emit(console: "Console", text: str, columns: int, style: str) -> None:
    """Print, wrapped and indented."""
    from textwrap import fill

    from rich.text import Text

    indent = " " * columns
    lines = fill(text, console.width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    output.emit(console, Text(lines, style, no_wrap=True, overflow="ignore"))
