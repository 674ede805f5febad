"""System calls by number, on every machine that shmfs knows: those it makes so, and those it reports.

Sources: include/uapi/asm-generic/unistd.h, which aarch64, riscv64 and loongarch64 follow, and
arch/*/{entry,kernel}/syscalls/syscall*.tbl. A process of 32 bits has other numbers than its kernel's machine,
so none is known there.

The daemon knows a call by its FUSE request, the kernel's records know it by its number. Both take the name
from here, so that a call has the same name on each store: pwrite64(2) and writev(2) are "write".
"""

import platform
import struct
from typing import NamedTuple

from shmfs.errors import ShmfsError

_COLUMNS = {
    "x86_64": 0, "aarch64": 1, "riscv64": 1, "loongarch64": 1, "ppc64le": 2, "s390x": 3,
}  # fmt: skip
_NUMBERS: dict[str, tuple[int, ...]] = {
    "perf_event_open": (298, 241, 319, 331), "kcmp": (312, 272, 354, 343), "bpf": (321, 280, 361, 351),
    "futex": (202, 98, 221, 238), "io_setup": (206, 0, 227, 243), "io_getevents": (208, 4, 229, 245),
    "io_submit": (209, 2, 230, 246), "mbind": (237, 235, 259, 268), "get_mempolicy": (239, 236, 260, 269),
    "userfaultfd": (323, 282, 364, 355),
    # Reported, and not known on every machine:
    "read": (0, 63), "pread64": (17, 67), "readv": (19, 65), "preadv": (295, 69), "preadv2": (327, 286),
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70), "pwritev2": (328, 287),
    "sendfile": (40, 71), "splice": (275, 76), "copy_file_range": (326, 285),
    "ftruncate": (77, 46), "fallocate": (285, 47),
    "mmap": (9, 222), "mremap": (25, 216), "madvise": (28, 233),
    "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    "ioctl": (16, 29), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
}  # fmt: skip
"""By the columns of the machines."""
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
    column, numbers = _COLUMNS.get(here), _NUMBERS[name]
    return None if column is None or column >= len(numbers) else numbers[column]


def number(name: str) -> int:
    """Return the number of a call on this machine; raises ShmfsError where it is not known."""
    found = find(name)
    if found is None:
        raise ShmfsError(f"{name}(2) cannot be called: its number on {machine()} is not known to shmfs")
    return found


def missing() -> list[str]:
    """What does not work because the number of a call is not known, a clause each."""
    return [f"{cost} ({name}(2))" for name, cost in FEATURES.items() if find(name) is None]


NAMES = {found: name for name in _NUMBERS if (found := find(name)) is not None}
"""The calls of this machine by number."""
FAMILIES = {
    **dict.fromkeys(("pread64", "readv", "preadv", "preadv2"), "read"),
    **dict.fromkeys(("pwrite64", "writev", "pwritev", "pwritev2"), "write"),
    "mlock2": "mlock",
}
"""What variants are called in reports; every other call has its own name there."""


class Writer(NamedTuple):
    """A call that writes to a file: its name in reports, and the places of two of its arguments."""

    name: str
    amount: int | None
    """Of the bytes that it asks for; None where they are not among the first three."""
    descriptor: int


_WRITERS = {
    "write": Writer("write", 2, 0),
    "pwrite64": Writer("write", 2, 0),
    "writev": Writer("write", None, 0),
    "pwritev": Writer("write", None, 0),
    "pwritev2": Writer("write", None, 0),
    "sendfile": Writer("write", None, 0),  # which reach a file system as writes
    "splice": Writer("write", None, 2),
    "copy_file_range": Writer("copy_file_range", None, 2),
    "ftruncate": Writer("ftruncate", 1, 0),
    "fallocate": Writer("fallocate", None, 0),
}
WRITERS = {number: _WRITERS[name] for number, name in NAMES.items() if name in _WRITERS}
"""By number."""
THIRD = tuple(number for number, writer in WRITERS.items() if writer.descriptor == 2)
"""Those that write to their third argument, by number; all others write to their first."""

LOCKING = tuple(number for number, name in NAMES.items() if name in ("mlock", "mlock2"))
"""mlock(2) and mlock2(2). mlockall(2) returns success where pages cannot be brought in."""
MADVISE = next((number for number, name in NAMES.items() if name == "madvise"), -1)
POPULATE = 22, 23
"""The advice MADV_POPULATE_READ and MADV_POPULATE_WRITE."""


def family(name: str) -> str:
    """Return the name of a call in reports."""
    return FAMILIES.get(name, name)
