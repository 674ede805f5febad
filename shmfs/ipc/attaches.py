"""Who has a segment attached: /proc/PID/maps of every process.

Waits for the mmap_lock of other processes, which a fault on the mount may hold: never to be called by what
serves the mount, but in a thread of its own.
"""

import ctypes
import os
import re
from collections import Counter
from typing import NamedTuple

from shmfs.system import calls

_KCMP_VM = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Attaches(NamedTuple):
    """How often a file is mapped."""

    number: int
    """Shared mappings in all address spaces."""
    hidden: int
    """Processes that may not be looked at."""


def count(device: str, inode: int, proc: str = "/proc") -> Attaches:
    """Count the shared mappings of an inode; `device` is "0:57" as in mountinfo.

    A mapping is a VMA, as shm_open and shm_close count them: a hole unmapped in the middle makes two of one.
    """
    found, hidden = mappings(device, inode, proc=proc)
    return Attaches(found[inode], hidden)


def mappings(device: str, inode: int | None = None, *, proc: str = "/proc") -> tuple["Counter[int]", int]:
    """Count the shared mappings of each inode, or of one, and the processes that may not be looked at."""
    file = b" %02x:%02x " % tuple(int(part) for part in device.split(":"))
    file += b"" if inode is None else b"%d " % inode
    which = rb"(\d+) " if inode is None else b""
    line = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ...s [0-9a-f]+" + re.escape(file) + which, re.MULTILINE)
    hidden = 0
    found: dict[tuple[bytes, ...], list[int]] = {}
    for name in os.listdir(proc):
        if not name.isdecimal():
            continue
        try:
            with open(f"{proc}/{name}/maps", "rb", buffering=0) as maps:
                data = maps.readall() or b""
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue  # it is gone
        if file in data and (seen := tuple(match[0] for match in line.finditer(data))):
            found.setdefault(seen, []).append(int(name))
    total: Counter[int] = Counter()
    for seen, pids in found.items():
        spaces = _address_spaces(pids)
        for one in seen:
            total[int(one.split()[-1])] += spaces
    return total, hidden


def _address_spaces(pids: list[int]) -> int:
    """How many address spaces the processes have: vfork(2) lends the parent's to the child."""
    distinct: list[int] = []
    for pid in pids:
        if not any(_same_memory(pid, other) for other in distinct):
            distinct.append(pid)
    return len(distinct)


def _same_memory(one: int, other: int) -> bool:
    number = calls.find("kcmp")
    return number is not None and _libc.syscall(number, one, other, _KCMP_VM, 0, 0) == 0
