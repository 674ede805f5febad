"""Become a command in the sandbox of a server: `python -m shmfs.sandbox.join PID COMMAND…`.

Exit statuses as of `shmfs run`: 125 when the namespaces could not be joined.
"""

import sys

from shmfs.errors import ShmfsError
from shmfs.sandbox import command
from shmfs.system import namespaces

FAILED = 125


def main(arguments: list[str]) -> int:
    """Return only when the command could not be executed."""
    server, *words = arguments
    try:
        namespaces.join(int(server))
        command.execute(words, command.original_environment(), {}, ())
    except ShmfsError as error:
        print(f"shmfs: {error}", file=sys.stderr)
        return error.status if error.status in (command.NOT_FOUND, command.NOT_RUNNABLE) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
