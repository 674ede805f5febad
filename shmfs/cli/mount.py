"""`shmfs mount`."""

import functools
from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from shmfs.client.launch import Server

_EPILOG = f"""{output.MOUNT_OPTIONS}
\b
Examples:
  shmfs mount -o size=64m,mode=700 /mnt/shm
  shmfs mount --foreground -o size=64m /mnt/shm
  shmfs mount -o remount,size=128m /mnt/shm
"""


@click.command(epilog=_EPILOG, short_help="Mount on a directory.")
@output.mount_options
@click.option("-f", "--foreground", is_flag=True, help="Stay, and unmount on Ctrl-C or SIGTERM.")
@output.json_option("mountpoint, device and the daemon's pid")
@click.argument("directory", metavar="DIR", type=output.DIRECTORY)
def mount(options: tuple[str, ...], foreground: bool, as_json: bool, directory: str) -> None:
    """Mount on DIR, and return when the mount can be used.

    The daemon stays until the mount is unmounted. What goes wrong in it later is told by `shmfs ps`.
    """
    serve(directory, ",".join(options), foreground=foreground, as_json=as_json)


def serve(
    directory: str, options: str, *, foreground: bool = False, as_json: bool = False, whole: bool = False
) -> None:
    """Mount or remount, and say so; `whole` is `service.remount`'s."""
    from shmfs.client import service
    from shmfs.fs.options import parse

    if "remount" in parse(options).seen:
        mount = service.remount(directory, options, whole=whole)
        if as_json:
            output.print_json({"mountpoint": mount.mountpoint, "device": mount.device})
        return
    tell = functools.partial(_tell, as_json=as_json, foreground=foreground)
    if foreground:
        service.serve(directory, options, tell)
    else:
        tell(service.start_in_background(directory, options))


def _tell(server: "Server", *, as_json: bool, foreground: bool) -> None:
    for note in server.notes:
        output.complain(f"note: {note}")
    if as_json:
        output.print_json(
            {
                "mountpoint": server.mountpoint,
                "device": server.device,
                "pid": server.pid,
                "notes": server.notes,
            }
        )
    elif foreground:
        output.complain(f"serving {server.mountpoint}, device {server.device}; Ctrl-C unmounts it")
