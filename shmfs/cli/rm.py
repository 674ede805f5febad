"""`shmfs rm`."""

import click

from shmfs.cli import output

_EPILOG = """\b
Examples:
  shmfs rm /dev/shm/psm_1234
  shmfs rm -m 65538
  shmfs rm --mount /mnt/shm -M 0x1234
"""


@click.command(epilog=_EPILOG, short_help="Remove segments by name, System V key or id.")
@click.option("-m", "--id", "ids", metavar="ID", multiple=True, help="System V segment with this id.")
@click.option("-M", "--key", "keys", metavar="KEY", multiple=True, help="System V segment with this key.")
@click.option(
    "--mount",
    "mount",
    metavar="DIR",
    type=output.DIRECTORY,
    help="The mount of -m and -M; the default is the one there is, or the one on /dev/shm.",
)
@output.json_option("what was removed")
@click.argument("paths", metavar="[FILE]...", nargs=-1, type=output.FILE)
def rm(
    ids: tuple[str, ...], keys: tuple[str, ...], mount: str | None, as_json: bool, paths: tuple[str, ...]
) -> None:
    """Remove segments, as rm(1) and ipcrm(1) do, with the rights of the caller.

    Who has a segment mapped keeps it: it is gone with its last mapping.
    """
    from shmfs.client import removal

    if not (ids or keys or paths):
        raise click.UsageError("name a FILE, or give -m ID or -M KEY")
    removed = removal.remove(list(paths), list(map(_number, ids)), list(map(_number, keys)), mount)
    if as_json:
        output.print_json(removed)


def _number(text: str) -> int:
    """An id or a key, in decimal, hexadecimal or octal as ipcrm(1) takes them."""
    try:
        return int(text, 8 if text.startswith("0") and text.isdecimal() else 0)
    except ValueError:
        raise click.UsageError(f"{text!r} is no number; give one such as 65538 or 0x1234") from None
