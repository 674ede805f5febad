"""`shmfs env`."""

import click

from shmfs.cli import output

_EPILOG = """\b
Example:
  shmfs env /dev/shm
  eval "$(shmfs env /dev/shm)"; ./server
"""


@click.command(epilog=_EPILOG, short_help="Print what has programs use the System V memory of a mount.")
@output.preload_option
@output.json_option("the variables")
@click.argument("directory", metavar="DIR", type=output.DIRECTORY)
def env(doors: tuple[str, ...], as_json: bool, directory: str) -> None:
    """Print commands for a shell, by which programs started from it have DIR serve what has no name.

    These are System V shared memory (shmget, shmat …), and shared anonymous mappings. Programs that are
    static, set-user-ID, or make their system calls themselves are not reached, and use the kernel's own.
    """
    import shlex

    from shmfs.ipc import library
    from shmfs.system import mounts

    variables = library.variables(mounts.served(directory).mountpoint, doors)
    if as_json:
        output.print_json(variables)
        return
    for name, text in variables.items():
        click.echo(f"export {name}={shlex.quote(text)}")
