"""Who has a segment attached: /proc/PID/maps of every process.

Waits for the mmap_lock of other processes, which a fault on the mount may hold: never to be called by what
serves the mount, but in a thread of its own.
"""

import ctypes
import os
import re
from typing import NamedTuple

_SYS_KCMP = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine, -1)
_KCMP_VM = 1


class Attaches(NamedTuple):
    """How often a file is mapped."""

    number: int
    """Shared mappings in all address spaces."""
    refused: int
    """Processes that may not be looked at."""


def count(device: str, inode: int, proc: str = "/proc") -> Attaches:
    """Count the shared mappings of an inode; `device` is "0:57" as in mountinfo.

    A mapping is a VMA, as shm_open and shm_close count them: a hole unmapped in the middle makes two of one.
    """
    major, minor = (int(part) for part in device.split(":"))
    file = b" %02x:%02x %d " % (major, minor, inode)
    line = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ...s [0-9a-f]+" + re.escape(file), re.MULTILINE)
    refused = 0
    found: dict[tuple[bytes, ...], list[int]] = {}
    for name in os.listdir(proc):
        if not name.isdecimal():
            continue
        try:
            with open(f"{proc}/{name}/maps", "rb", buffering=0) as maps:
                data = maps.readall() or b""
        except PermissionError:
            refused += 1
            continue
        except OSError:
            continue  # it is gone
        if file in data and (mappings := tuple(line.findall(data))):
            found.setdefault(mappings, []).append(int(name))
    return Attaches(sum(len(one) * _address_spaces(pids) for one, pids in found.items()), refused)


def _address_spaces(pids: list[int]) -> int:
    """How many address spaces the processes have: vfork(2) lends the parent's to the child."""
    distinct: list[int] = []
    for pid in pids:
        if not any(_same_memory(pid, other) for other in distinct):
            distinct.append(pid)
    return len(distinct)


def _same_memory(one: int, other: int) -> bool:
    return _SYS_KCMP > 0 and _libc.syscall(_SYS_KCMP, one, other, _KCMP_VM, 0, 0) == 0


_libc = ctypes.CDLL(None, use_errno=True)
