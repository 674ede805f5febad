"""`shmfs report`."""

import click

from shmfs.cli import output

_EPILOG = """\b
Examples:
  shmfs report run.shmtrace
  shmfs report --html run.html run.shmtrace
  shmfs report --json run.shmtrace | jq .sizing
"""


@click.command(epilog=_EPILOG, short_help="Say what a trace tells.")
@output.json_option("all that was found")
@click.option(
    "--html",
    "out",
    metavar="OUT",
    type=output.FILE,
    help="Draw it: write one HTML file, which needs no network, to OUT (- is standard output).",
)
@click.argument("file", metavar="FILE", type=output.FILE)
def report(as_json: bool, out: str | None, file: str) -> None:
    """Say what the trace FILE tells: segments, processes, faults, sharing, lives, deaths, the size needed.

    FILE may still be growing, or be what a recorder left that was killed.
    """
    if out is not None:
        if as_json:
            raise click.UsageError("--json and --html are two reports: ask for one")
        return _html(out, file)
    from shmfs import trace
    from shmfs.analysis.analysis import analyse
    from shmfs.report.trace_report import render

    with trace.open(file) as opened:
        found = analyse(opened)
    if as_json:
        output.print_json(found)
    else:
        render(found, output.console())
    return None


def _html(out: str, file: str) -> None:
    import os

    from shmfs import trace
    from shmfs.errors import ShmfsError
    from shmfs.report.html.extract import extract
    from shmfs.report.html.render import render, write
    from shmfs.report.text import clean

    if out != "-" and os.path.exists(out) and os.path.exists(file) and os.path.samefile(out, file):
        raise ShmfsError(f"{out} is the trace itself: name another file with --html", 2)
    with trace.open(file) as opened, output.console(stderr=True).status(f"reading {clean(file)}"):
        data = render(extract(opened))
    if out == "-":
        click.echo(data, nl=False)
    else:
        write(data, out)
