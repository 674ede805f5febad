"""Become a command that sees a directory as its /dev/shm: `python -m shmfs.sandbox.bind DIRECTORY COMMAND…`.

The command gets a mount namespace of its own (without rights with a user namespace, see
`namespaces.enter_private`). Exit statuses as of `shmfs run`: 125 when the namespace could not be made.
"""

import os
import sys

from shmfs.errors import ShmfsError
from shmfs.sandbox import command
from shmfs.system import namespaces, syscalls

FAILED = 125
SHM = "/dev/shm"  # noqa: S108  # the name is the point
_MS_BIND = 0x1000


def main(arguments: list[str]) -> int:
    """Return only when the command could not be executed."""
    directory, *words = arguments
    working = os.getcwd()
    try:
        namespaces.enter_private()
        syscalls.mount(directory, os.path.realpath(SHM), None, _MS_BIND)
        os.chdir(working)
        command.execute(words, command.original_environment(), {}, ())
    except ShmfsError as error:
        status = error.status if error.status in (command.NOT_FOUND, command.NOT_RUNNABLE) else FAILED
        print(f"shmfs: {error}", file=sys.stderr)
        return status
    except OSError as error:
        print(f"shmfs: cannot put {directory} on {SHM}: {error.strerror}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
