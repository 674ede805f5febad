"""`shmfs gc`."""

from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from shmfs.client.collect import Collected

_EPILOG = """\b
Examples:
  shmfs gc --dry-run
  shmfs gc /mnt/shm
"""


@click.command(epilog=_EPILOG, short_help="Remove segments whose makers are dead.")
@click.option("-n", "--dry-run", is_flag=True, help="List them, and remove nothing.")
@output.json_option("them")
@click.argument("target", metavar="[DIR]", default="/dev/shm", type=output.DIRECTORY)  # noqa: S108
def gc(dry_run: bool, as_json: bool, target: str) -> None:
    """Remove the segments of the mount that holds DIR (/dev/shm) which nobody is left to remove.

    Those are files in its root directory and System V segments whose makers are dead and which nobody has
    open or mapped.
    """
    from shmfs.client.collect import collect

    found = collect(target, dry_run=dry_run)
    if as_json:
        output.print_json([{**_fields(one), "removed": one.inode in found.removed} for one in found.orphans])
    else:
        _print(found, dry_run=dry_run)
    output.tell_hidden(found.hidden)


def _fields(orphan: object) -> dict[str, object]:
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(orphan)
    return fields


def _print(found: "Collected", *, dry_run: bool) -> None:
    import pwd
    import time

    from rich.text import Text

    from shmfs.events.names import process_name
    from shmfs.report import columns
    from shmfs.report.text import clean, plural, size

    def owner(uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    console = output.console()
    done = [one for one in found.orphans if dry_run or one.inode in found.removed]
    what = f"{plural(len(done), 'segment')} of {size(sum(one.bytes for one in done))}"
    verb = "would be removed" if dry_run else "removed"
    output.emit(console, Text(clean(f"{found.mountpoint}: {what} {verb}"), "bold"))
    if not done:
        return
    now = time.time_ns()
    rows = [
        [
            one.path,
            columns.kind(one.kind),
            owner(one.uid),
            now - one.created,
            one.size,
            one.bytes,
            process_name(one.created_by),
        ]
        for one in done
    ]
    shown = [columns.SEGMENT, columns.KIND, columns.OWNER, columns.AGE, columns.SIZE, columns.HOLDS]
    output.listing(console, [*shown, columns.CREATED_BY], rows)
