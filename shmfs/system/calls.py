"""The numbers of system calls that are made by number, by machine: those that the C library does not wrap.

Sources: include/uapi/asm-generic/unistd.h, which aarch64, riscv64 and loongarch64 follow, and
arch/*/{entry,kernel}/syscalls/syscall*.tbl. A process of 32 bits has other numbers than its kernel's machine,
so none is known there.
"""

import platform
import struct
from collections.abc import Mapping

from shmfs.errors import ShmfsError

_MACHINES: Mapping[str, tuple[int, ...]] = {
    "x86_64": (298, 312, 321, 202, 206, 208, 209, 237, 239, 323),
    "ppc64le": (319, 354, 361, 221, 227, 229, 230, 259, 260, 364),
    "s390x": (331, 343, 351, 238, 243, 245, 246, 268, 269, 355),
} | dict.fromkeys(
    ("aarch64", "riscv64", "loongarch64"),
    (241, 272, 280, 98, 0, 4, 2, 235, 236, 282),
)
_NAMES = (
    *("perf_event_open", "kcmp", "bpf", "futex", "io_setup", "io_getevents", "io_submit", "mbind"),
    *("get_mempolicy", "userfaultfd"),
)
_SHARED = {
    "io_uring_setup": 425,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "openat2": 437,
    "mount_setattr": 442,
    "cachestat": 451,
}
"""Calls since Linux 5.1: every machine has the same number, but for an offset of some."""
_OFFSETS = {"alpha": 110, "mips64": 5000}

FEATURES = {
    "perf_event_open": "page faults cannot be recorded",
    "bpf": "which page a process died of is not known unless its faults are recorded",
    "kcmp": "a process made by vfork(2) counts as an attach of its own",
}
"""What is missing where the number of a call is not known, for `shmfs doctor`."""


def machine() -> str:
    """The machine by whose numbers this process makes system calls."""
    name = platform.machine()
    return name if struct.calcsize("P") == 8 else f"{name} (32-bit process)"


def find(name: str) -> int | None:
    """Return the number of a call on this machine, or None where it is not known."""
    here = machine()
    if name in _SHARED:
        return _SHARED[name] + _OFFSETS.get(here, 0)
    numbers = _MACHINES.get(here)
    return numbers[_NAMES.index(name)] if numbers else None


def number(name: str) -> int:
    """Return the number of a call on this machine; raises ShmfsError where it is not known."""
    found = find(name)
    if found is None:
        raise ShmfsError(f"{name}(2) cannot be called: its number on {machine()} is not known to shmfs")
    return found


def missing() -> list[str]:
    """What does not work because the number of a call is not known, a clause each."""
    return [f"{cost} ({name}(2))" for name, cost in FEATURES.items() if find(name) is None]
