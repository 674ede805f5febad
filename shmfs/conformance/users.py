"""Two unprivileged users for the cases: run a function as one of them, and show who owns a file."""

import os
from collections.abc import Callable
from typing import Any

from shmfs.conformance.tools import child

ALICE, BOB = 1000, 2000


def alice(function: Callable[..., Any], *arguments: Any, groups: tuple[int, ...] = ()) -> Any:
    """Run a function as ALICE; see `tools.child`."""
    return child(function, *arguments, uid=ALICE, gid=ALICE, groups=groups)


def bob(function: Callable[..., Any], *arguments: Any, groups: tuple[int, ...] = ()) -> Any:
    """Run a function as BOB; see `tools.child`."""
    return child(function, *arguments, uid=BOB, gid=BOB, groups=groups)


def owner(path: str) -> list[int]:
    """User and group of a file; symbolic links are not followed."""
    status = os.lstat(path)
    return [status.st_uid, status.st_gid]


def shared_directory(bits: int = 0o777) -> None:
    """Create the directory "d" with exactly this mode."""
    os.mkdir("d")
    os.chmod("d", bits)
