"""System calls whose failure is reported: their numbers, and one name for all variants of a call.

The daemon knows a call by its FUSE request, the kernel's records know it by its number. Both take the name
from here, so that a call has the same name on each store: pwrite64(2) and writev(2) are "write".
"""

import platform
from typing import NamedTuple

_NUMBERS: dict[str, tuple[int, int]] = {
    "read": (0, 63), "pread64": (17, 67), "readv": (19, 65), "preadv": (295, 69), "preadv2": (327, 286),
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70), "pwritev2": (328, 287),
    "sendfile": (40, 71), "splice": (275, 76), "copy_file_range": (326, 285),
    "ftruncate": (77, 46), "fallocate": (285, 47),
    "mmap": (9, 222), "mremap": (25, 216), "madvise": (28, 233),
    "mlock": (149, 228), "mlock2": (325, 284), "mlockall": (151, 230),
    "ioctl": (16, 29), "futex": (202, 98), "sendto": (44, 206), "recvfrom": (45, 207),
    "sendmsg": (46, 211), "recvmsg": (47, 212),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
}  # fmt: skip
"""On x86-64 and on aarch64."""
_MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine())

NAMES: dict[int, str] = (
    {} if _MACHINE is None else {numbers[_MACHINE]: name for name, numbers in _NUMBERS.items()}
)
"""The calls of this machine by number; empty where their numbers are not known."""
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
