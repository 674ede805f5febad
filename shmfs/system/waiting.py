"""Which system call a thread waits in."""

from shmfs.system import proc
from shmfs.system.syscall_table import NAMES, family

FAULT = "page fault"
POPULATING = {"mmap", "mremap", "madvise", "mlock", "mlockall"}
"""Calls that bring pages in, and nothing else with them."""


def blocked_in(tid: int) -> str:
    """Return the system call in which a thread waits for us, FAULT if it is none, "" where it cannot be seen.

    /proc/TID/syscall takes no lock that a page fault holds; "-1" is a fault, and "running" a thread that does
    not wait (lib/syscall.c). Yama and other users' processes hide it.
    """
    try:
        first = proc.read(tid, "syscall").split(None, 1)[0]
        number = int(first)
    except (OSError, ValueError, IndexError):
        return ""
    return FAULT if number == -1 else family(NAMES.get(number, f"system call {number}"))
