"""`shmfs run`, the main job."""

from typing import IO, TYPE_CHECKING

import click

from shmfs.cli import output
from shmfs.errors import ShmfsError

if TYPE_CHECKING:
    from shmfs.analysis.budgets import Budget
    from shmfs.report.run_report import RunReport

FAILED = 125
"""As env(1), timeout(1) and docker(1): the tool itself failed, not the command."""
KEPT = (126, 127)

_EPILOG = f"""{output.MOUNT_OPTIONS}
\b
Budgets (--fail-on, may be repeated):
  leak                 a segment with a name is left behind
  refused              a limit refused something: ENOSPC, ENOMEM, SIGBUS;
                       as root EFBIG of RLIMIT_FSIZE too
  sigbus               a touched page ended in SIGBUS
  NAME>N               also >= < <= ==, of these figures:
      faults, faults.major, faults.minor, faults.failed, lost (of perf)
      segments, page_ins, peak (bytes, or as in 64m), leak, refused, sigbus

\b
Exit status: the command's, 128+N when signal N killed it; 127 no such
command, 126 it may not be run, 125 shmfs itself failed; 1 when the
command ended with 0 and a budget is exceeded or cannot be measured.

\b
Examples:
  shmfs run -o size=64m -- python train.py --workers 4
  shmfs run --trace faults.shmtrace -- ./render; shmfs report faults.shmtrace
  shmfs run --fail-on leak --fail-on 'faults.major>100' -- pytest
  shmfs run --json --report report.json -- make test
"""


class Run(output.OwnUsageStatus):
    """A command that tells wrong usage of its own from the exit statuses of the command it runs."""

    usage_status = FAILED


def _budgets(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> "list[Budget]":
    if not given:
        return []
    from shmfs.analysis.budgets import parse

    try:
        return [parse(text) for text in given]
    except ShmfsError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command(
    cls=Run,
    epilog=_EPILOG,
    short_help="Run a command with a private /dev/shm, and report on it.",
    context_settings={"allow_interspersed_args": False},
)
@output.mount_options
@output.trace_options
@click.option("--trace-io", is_flag=True, help="Have calls of read and write in the trace, too; needs root.")
@click.option(
    "--report",
    "report_file",
    metavar="FILE",
    type=click.File("w", encoding="utf-8", lazy=False),
    help="Write the report to FILE instead of standard error.",
)
@click.option(
    "--fail-on",
    "budgets",
    metavar="EXPR",
    multiple=True,
    callback=_budgets,
    help="Exit with 1 if this comes true, see below: leak, 'faults.major>100' … May be repeated.",
)
@output.preload_option
@click.option("--no-preload", is_flag=True, help="Preload nothing: only what has a name is shared on shmfs.")
@click.option("-q", "--quiet", is_flag=True, help="Make no report.")
@output.json_option("the report")
@click.argument("command", metavar="[--] COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    options: tuple[str, ...],
    trace: str | None,
    max_size: int,
    trace_io: bool,
    report_file: IO[str] | None,
    budgets: "list[Budget]",
    doors: tuple[str, ...],
    no_preload: bool,
    quiet: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND with a private, empty /dev/shm, and report what it did there.

    The report is printed on standard error when COMMAND has ended. Terminal, signals, environment and exit
    status pass through. What COMMAND leaves behind is ended; no mount, process or file stays.
    """
    from shmfs.fs.options import parse
    from shmfs.sandbox import observed

    with output.expected(FAILED, KEPT):
        parse(",".join(options))  # before a file is truncated for nothing
        if trace_io and not trace:
            raise ShmfsError("--trace-io writes into a trace; name its file with --trace FILE")
        wanted = None
        if trace or any(budget.recorded for budget in budgets):
            wanted = observed.Trace(
                trace or "",
                max_size,
                io=trace_io,
                exact=bool(budgets),
            )
        observe = bool(budgets) or not quiet
        result = observed.run(
            list(command),
            ",".join(options),
            trace=wanted,
            observe=observe,
            say=output.complain,
            doors=() if no_preload else doors,
        )
        if result.report is not None and not quiet:
            _print(result.report, report_file, as_json=as_json)
    if result.failure:
        output.complain(result.failure)
    broken = [budget.broken(result.ended) for budget in budgets] if result.ended else []
    sentences = list(filter(None, broken))
    for sentence in sentences:
        output.complain(sentence)
    raise click.exceptions.Exit(result.status or (FAILED if result.failure else bool(sentences)))


def _print(report: "RunReport", file: IO[str] | None, *, as_json: bool) -> None:
    from rich.console import Console

    from shmfs.report.run_report import render, report_json

    try:
        if as_json:
            click.echo(report_json(report).decode(), file=file, err=True, nl=False)
        elif file is not None:
            render(report, Console(file=file, width=120, highlight=False))
        else:
            render(report, output.console(stderr=True))
    except OSError as error:
        error.filename = file.name if file else "standard error"
        raise
