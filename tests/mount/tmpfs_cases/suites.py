"""What third-party suites of conformance tests and random calls by several users came upon."""

import os
from pathlib import Path
from typing import Any

from tmpfs_cases import case
from tmpfs_cases.tools import NOBODY, child, mode, new

OTHER = 65533


@case
def set_group_id_without_execution(d: Path) -> Any:
    """The bit of a file that its group may not execute goes where the caller is not of that group."""
    actions = {
        "write": lambda: os.pwrite(os.open("f", os.O_WRONLY), b"x", 0),
        "truncate": lambda: os.truncate("f", 10),
        "open": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
        "allocate": lambda: os.posix_fallocate(os.open("f", os.O_WRONLY), 0, 100),
        "chown": lambda: os.chown("f", -1, -1),
    }
    callers: dict[str, tuple[int, int, tuple[int, ...]]] = {
        "root": (0, 0, ()),
        "group": (NOBODY, NOBODY, ()),
        "supplementary": (NOBODY, OTHER, (NOBODY, 1)),
        "neither": (NOBODY, OTHER, (1,)),
    }
    seen = {}
    for what, action in actions.items():
        for who, (uid, gid, groups) in callers.items():
            os.close(new("f", b"content"))
            os.chown("f", NOBODY, NOBODY)
            os.chmod("f", 0o6666)
            child(action, uid=uid, gid=gid, groups=groups)
            seen[f"{what}, {who}"] = mode("f")
            os.unlink("f")
    return seen
