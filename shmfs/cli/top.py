"""`shmfs top`."""

from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from shmfs.live.watch import Watch

DEFAULT = 2.0
"""Seconds between two looks."""

_EPILOG = """\b
DIR is on a mount of shmfs or on a tmpfs of the kernel, or the device
number of a sandbox (see `shmfs ps`). Without it: /dev/shm if that is one
of shmfs, else the only mount there is, else the kernel's /dev/shm. Root
sees every process and its page faults.

\b
Examples:
  shmfs top
  shmfs top --interval 0.5 /mnt/shm
  shmfs top --once /dev/shm
  shmfs top --once --json | jq '.segments[] | {path, resident, shared}'
"""


@click.command(epilog=_EPILOG, short_help="Watch segments, processes and faults, live.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="Look so often.",
)
@click.option("--once", is_flag=True, help="Print one table and end, as where output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print each look as a line of JSON.")
@click.argument("target", metavar="[DIR]", required=False, type=output.DIRECTORY)
def top(interval: float, once: bool, as_json: bool, target: str | None) -> None:
    """Watch the segments of DIR: who maps, shares and faults which, and how much room is left.

    Keys are shown at the bottom; ? explains them.
    """
    import math
    import sys

    from shmfs.live.watch import Watch

    if math.isnan(interval):
        raise click.BadParameter("'nan' is no number of seconds.", param_hint="'--interval'")
    watch = Watch(target)
    try:
        if as_json:
            _print_json(watch, interval, once=once)
        elif once or not all(one and one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr)):
            _print_once(watch, interval)
        else:
            from shmfs.live.app import Top

            app = Top(watch, interval)
            app.run()
            if app.return_code:  # it failed, and has said so
                raise click.exceptions.Exit(app.return_code)
    finally:
        watch.close()


def _print_once(watch: "Watch", interval: float) -> None:
    import time

    from shmfs.live import once

    watch.look()
    time.sleep(interval)
    console = output.console()
    output.emit(console, *once.render(watch.look(), console))


def _print_json(watch: "Watch", interval: float, *, once: bool) -> None:
    import time

    watch.look()
    while True:
        time.sleep(interval)
        output.print_json(watch.look())
        if once:
            return
