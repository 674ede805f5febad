"""The commands: arguments in, text out, no logic.

Starting must be quick: modules of this package import click at the top and
all else in the function that needs it.
"""

from shmfs.cli.group import main
from shmfs.cli.helper import mount_helper

__all__ = ["main", "mount_helper"]
