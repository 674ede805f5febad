"""What mount(8) calls for type fuse.shmfs: `shmfs SOURCE DIR -o OPTIONS`, `mount.fuse.shmfs SOURCE DIR …`.

See mount(8), EXTERNAL HELPERS; mount.fuse(8) is libfuse's, which calls the first form.
"""

from typing import Any

import click

from shmfs.cli import mount, output

FAILED = 32
"""mount(8): mount failure; 1 is incorrect invocation."""

FUSE_OPTIONS = frozenset(
    {"fd", "rootmode", "user_id", "group_id", "default_permissions", "max_read", "blksize"}
    | {"fsname", "subtype"}
)
"""What mountinfo shows of a FUSE mount, and mount(8) gives back at a remount."""


class Helper(output.OwnUsageStatus):
    """A command with mount(8)'s exit statuses."""

    usage_status = 1

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with output.expected(FAILED):
            return super().invoke(ctx)


@click.command("mount.fuse.shmfs", cls=Helper, epilog="Called by mount(8); see `shmfs mount --help`.")
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help="Mount options.")
@click.option("-f", "fake", is_flag=True, help="Do everything but mount.")
@click.option("-s", "sloppy", is_flag=True, help="Accepted and ignored.")
@click.option("-n", "no_mtab", is_flag=True, help="Accepted and ignored.")
@click.option("-v", "verbose", is_flag=True, help="Accepted and ignored.")
@click.option("-t", "fstype", metavar="TYPE", help="Accepted and ignored.")
@click.argument("source")
@click.argument("directory", metavar="DIR", type=output.DIRECTORY)
def mount_helper(options: tuple[str, ...], fake: bool, source: str, directory: str, **ignored: Any) -> None:
    """Mount on DIR for mount(8); SOURCE is only a name."""
    from shmfs.fs.options import parse

    items = [item for item in ",".join(options).split(",") if item.partition("=")[0] not in FUSE_OPTIONS]
    parse(",".join(items))
    if not fake:
        mount.serve(directory, ",".join(items), whole=True)
