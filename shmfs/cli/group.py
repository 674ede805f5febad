"""`shmfs` itself: finds the command, and turns expected failures into a sentence and an exit status."""

import difflib
import os
import sys
from typing import Any

import click

import shmfs
from shmfs.cli import (
    conform,
    doctor,
    env,
    explain,
    export,
    gc,
    helper,
    mount,
    output,
    ps,
    record,
    report,
    rm,
    run,
    top,
    umount,
)
from shmfs.cli import map as map_module

GROUPS = {
    "Mount": ("run", "mount", "umount", "env"),
    "Look": ("ps", "map", "top", "explain"),
    "Clear away": ("rm", "gc"),
    "Record": ("record", "report", "export"),
    "Check": ("doctor", "conform"),
}
"""The headings of the help, with the commands below them, those that there are."""

_EPILOG = """\b
Examples:
  shmfs run -o size=64m -- python train.py
  shmfs mount -o size=64m /mnt/shm
  shmfs ps /mnt/shm
  shmfs map /mnt/shm/frames

\b
Exit status:
  0    it worked
  1    it failed; standard error says why and what to do
  2    wrong usage
  130  interrupted
  shmfs run: the command's own, 128+N when signal N killed it;
  127 no such command, 126 it may not be run, 125 shmfs itself failed

\b
Completion (bash; zsh_source and fish_source as well):
  eval "$(_SHMFS_COMPLETE=bash_source shmfs)"
"""


class Commands(click.Group):
    """The group of commands, which is a mount helper for mount(8) too: `shmfs SOURCE DIR -o OPTIONS`."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, also where not even the help can be written."""
        output.name_standard_output()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            output.complain(output.sentence(error))
            sys.exit(1)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line; click itself would end with 1 where that is interrupted."""
        with output.expected():
            return super().make_context(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their importance."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in groups."""
        width = max(map(len, self.commands))
        for heading, names in GROUPS.items():
            found = [self.commands[name] for name in names if name in self.commands]
            with formatter.section(heading):
                formatter.write_dl([(f"{one.name:{width}}", one.get_short_help_str()) for one in found])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected failure ends in a sentence and an exit status."""
        with output.expected():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest one that is spelled nearly so."""
        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, self.commands, n=1, cutoff=0.8)
        if not close and _is_mount(args):
            return helper.mount_helper.name, helper.mount_helper, args
        hint = f"did you mean {close[0]!r}?" if close else f"it is one of {', '.join(self.commands)}."
        raise click.UsageError(f"no such command {name!r}; {hint}", ctx)


def _is_mount(args: list[str]) -> bool:
    """Say whether these are the arguments of a mount helper; a dead mount is no directory for stat(2)."""
    return len(args) >= 2 and ("/" in args[1] or os.path.isdir(args[1]))


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(shmfs.__version__, "-V", "--version", message="shmfs %(version)s")
def main() -> None:
    """Share memory with the lights on: a tmpfs for /dev/shm that shows who has which page."""


for _command in (
    *(run.run, mount.mount, umount.umount, env.env),
    *(ps.ps, map_module.map_, top.top, explain.explain),
    *(rm.rm, gc.gc),
    *(record.record, report.report, export.export),
    *(doctor.doctor, conform.conform),
):
    main.add_command(_command)
