"""`shmfs report`."""

import click

from shmfs.cli import output

_EPILOG = """\b
Examples:
  shmfs report run.shmtrace
  shmfs report --json run.shmtrace | jq .sizing
"""


@click.command(epilog=_EPILOG, short_help="Say what a trace tells.")
@output.json_option("all that was found")
@click.argument("file", metavar="FILE", type=output.FILE)
def report(as_json: bool, file: str) -> None:
    """Say what the trace FILE tells: segments, processes, faults, sharing, lives, deaths, the size needed.

    FILE may still be growing, or be what a recorder left that was killed.
    """
    from shmfs import trace
    from shmfs.trace.analysis import analyse
    from shmfs.trace.trace_report import render

    with trace.open(file) as opened:
        found = analyse(opened)
    if as_json:
        output.print_json(found)
    else:
        render(found, output.console())
