"""`shmfs export`."""

from typing import IO, TYPE_CHECKING

import click

from shmfs.cli import output
from shmfs.errors import ShmfsError

if TYPE_CHECKING:
    from shmfs.tracefile.stream import Trace

BINARY = {"parquet": "Parquet", "perfetto": "A Perfetto trace"}

LONG = 16
"""Chunks of a trace, of up to 65536 faults each, from which on a bar shows how far it is."""

_EPILOG = """\b
JSON lines are everything in the trace, one event a line, and a fault is
  {"event": "fault", "time": …, "pid": …, "path": …, "page": …, …}
CSV and Parquet are the faults, a row each. All say host and boot_id, so
that the traces of many machines can be put together. Times are
nanoseconds since the epoch. Perfetto is a picture of all of it, for
https://ui.perfetto.dev.

\b
Examples:
  shmfs export run.shmtrace | jq 'select(.event == "fault")'
  shmfs export -f csv run.shmtrace > faults.csv
  shmfs export -f parquet -o faults.parquet run.shmtrace
  shmfs export -f perfetto -o run.pftrace run.shmtrace
  duckdb -c "select path, pid, count(*) from 'faults.parquet' group by all"
"""


@click.command(
    "export", epilog=_EPILOG, short_help="Write a trace as JSON lines, CSV, Parquet or for Perfetto."
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "parquet", "perfetto"]),
    default="jsonl",
    show_default=True,
    help="What to write.",
)
@click.option(
    "-o", "--output", "out", metavar="OUT", type=output.FILE, help="Write to OUT instead of standard output."
)
@click.argument("file", metavar="FILE", type=output.FILE)
def export(form: str, out: str | None, file: str) -> None:
    """Write the trace FILE in a format that other programs read.

    FILE may still grow, or be what a recorder left that was killed: what is there is written.
    """
    import os
    import sys

    from shmfs.export import perfetto, tables
    from shmfs.tracefile import stream

    if form == "parquet":
        tables.import_arrow()
    elif form == "perfetto":
        perfetto.import_perfetto()
    with stream.open(file) as trace:
        if out is None:
            if sys.stdout is None:
                raise ShmfsError("standard output is closed: name a file with -o", 2)
            if form in BINARY and sys.stdout.isatty():
                raise ShmfsError(f"{BINARY[form]} is no text for a terminal: name a file with -o", 2)
            _write(trace, form, sys.stdout.buffer, bar=not sys.stdout.isatty())
        elif os.path.exists(out) and os.path.samefile(out, file):
            raise ShmfsError(f"{out} is the trace itself: name another file with -o", 2)
        else:
            _write_file(trace, form, out)
        _tell(trace)


def _write(trace: "Trace", form: str, file: IO[bytes], *, bar: bool = True) -> None:
    from shmfs.export import perfetto, tables

    write = {
        "jsonl": tables.jsonl,
        "csv": tables.csv,
        "parquet": tables.parquet,
        "perfetto": perfetto.write,
    }[form]
    if bar and trace.count >= LONG:
        from rich.progress import track

        console = output.console(stderr=True)
        parts = track(
            trace.chunks(),
            "exporting",
            total=trace.count,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    else:
        parts = trace.chunks()
    for note in write(trace, parts, file) or ():
        output.complain(f"note: {note}")
    file.flush()


def _write_file(trace: "Trace", form: str, out: str) -> None:
    """Write a file; a regular one that cannot be finished does not stay."""
    import os

    try:
        with open(out, "wb") as file:
            _write(trace, form, file)
    except BaseException as error:
        if os.path.isfile(out):
            os.unlink(out)
        if isinstance(error, OSError):
            raise ShmfsError(f"{out} cannot be written: {error.strerror or error}") from error
        raise


def _tell(trace: "Trace") -> None:
    """Say on standard error what is not in the trace, so that nobody takes it for everything."""
    done = trace.done
    if trace.damage:
        output.complain(f"note: {trace.path}: {trace.damage}")
    elif done is None:
        why = "the recorder still runs" if trace.growing else "the recorder was killed"
        output.complain(f"note: {trace.path} has no end: {why}")
    elif done.lost or done.dropped:
        output.complain(
            f"note: {trace.path} lacks {done.lost} records that were lost, and {done.dropped} faults that "
            "had no room in it"
        )
