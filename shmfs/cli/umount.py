"""`shmfs umount`."""

import click

from shmfs.cli import output

_EPILOG = """\b
Example:
  shmfs umount /mnt/shm
"""


@click.command(epilog=_EPILOG, short_help="Unmount; clear away a dead mount.")
@output.json_option("mountpoint, device and the daemon's pid")
@click.argument("directory", metavar="DIR", type=output.DIRECTORY)
def umount(as_json: bool, directory: str) -> None:
    """Unmount DIR, and return when its daemon has ended; its files are gone then.

    A dead mount, whose daemon was killed, is cleared away. Where another mount
    namespace has a copy (`unshare -m`, a container), it says who is in it.
    """
    from shmfs.client import launch

    ended = launch.umount(directory)
    if ended.kept:
        output.complain(
            f"{ended.mountpoint} is unmounted here, but seen in another mount namespace by {ended.kept}: "
            "its daemon goes on, with its memory, until they end"
        )
    if as_json:
        output.print_json({"mountpoint": ended.mountpoint, "device": ended.device, "pid": ended.pid})
