"""Who has a segment attached: /proc/PID/maps of every process.

Waits for the mmap_lock of other processes, which a fault on the mount may hold: never to be called by what
serves the mount, but in a thread of its own.
"""

from collections import Counter
from typing import NamedTuple

from shmfs.errors import ShmfsError
from shmfs.system import maps
from shmfs.system.syscalls import syscall

_KCMP_VM = 1


class Attaches(NamedTuple):
    """How often a file is mapped."""

    number: int
    """Shared mappings in all address spaces."""
    hidden: int
    """Processes that may not be looked at."""


def count(device: str, inode: int) -> Attaches:
    """Count the shared mappings of an inode; `device` is "0:57" as in mountinfo.

    A mapping is a VMA, as shm_open and shm_close count them: a hole unmapped in the middle makes two of one.
    """
    found, hidden = mappings(device, inode)
    return Attaches(found[inode], hidden)


def mappings(device: str, inode: int | None = None) -> tuple["Counter[int]", int]:
    """Count the shared mappings of each inode, or of one, and the processes that may not be looked at."""
    found = maps.processes_mapping(device, inode=inode)
    alike: dict[tuple[maps.Vma, ...], list[int]] = {}
    for pid, vmas in found.mappings.items():
        alike.setdefault(tuple(vma for vma in vmas if vma.is_shared), []).append(pid)
    total: Counter[int] = Counter()
    for shared, pids in alike.items():
        spaces = _address_spaces(pids) if shared else 0
        for vma in shared:
            total[vma.inode] += spaces
    return total, found.hidden


def _address_spaces(pids: list[int]) -> int:
    """How many address spaces the processes have: vfork(2) lends the parent's to the child."""
    distinct: list[int] = []
    for pid in pids:
        if not any(_same_memory(pid, other) for other in distinct):
            distinct.append(pid)
    return len(distinct)


def _same_memory(one: int, other: int) -> bool:
    try:
        return syscall("kcmp", one, other, _KCMP_VM, 0, 0) == 0
    except (OSError, ShmfsError):
        return False
