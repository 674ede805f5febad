"""What the kernel says of a page of a process: maps, pagemap, and as root kpageflags and kpagecount.

See Documentation/admin-guide/mm/pagemap.rst. Never called in the process that serves the mount.
"""

import os
import struct

from shmfs.explain.records import Page, Vma
from shmfs.system import maps

PAGE = os.sysconf("SC_PAGE_SIZE")

_PRESENT, _SWAPPED, _FILE, _EXCLUSIVE, _SOFT_DIRTY = 63, 62, 61, 56, 55
_FRAME = (1 << 55) - 1
_FLAGS = {
    3: "uptodate",
    4: "dirty",
    5: "lru",
    2: "referenced",
    6: "active",
    8: "writeback",
    11: "mmap",
    12: "anon",
    13: "swapcache",
    14: "swapbacked",
}
"""include/uapi/linux/kernel-page-flags.h, those that tell something here."""


def vma(pid: int, address: int) -> Vma | None:
    """The line of /proc/PID/maps with that address."""
    for one in maps.mappings(pid):
        if one.start <= address < one.end:
            path = one.path + " (deleted)" * one.deleted
            return Vma(one.start, one.end, one.permissions, one.offset, one.device, one.inode, path)
    return None


def page(pid: int, address: int, index: int) -> Page:
    """The entry of /proc/PID/pagemap, and what is known of the frame; `index` is the page's in the file."""
    entry = _word(f"/proc/{pid}/pagemap", address // PAGE)
    if entry is None or not entry >> _PRESENT & 1:
        return Page(index, False, bool(entry and entry >> _SWAPPED & 1))
    frame = entry & _FRAME or None
    mapped = flags = None
    if frame:
        mapped = _word("/proc/kpagecount", frame)
        word = _word("/proc/kpageflags", frame)
        flags = None if word is None else [name for bit, name in _FLAGS.items() if word >> bit & 1]
    return Page(
        index,
        True,
        of_file=bool(entry >> _FILE & 1),
        alone=bool(entry >> _EXCLUSIVE & 1),
        soft_dirty=bool(entry >> _SOFT_DIRTY & 1),
        frame=frame,
        mappings=mapped,
        flags=flags,
    )


def _word(path: str, index: int) -> int | None:
    """One of the 64-bit words of the file; None where it may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.pread(fd, 8, index * 8)
    except OSError:
        return None
    finally:
        os.close(fd)
    return int(struct.unpack("Q", data)[0]) if len(data) == 8 else None


def swapped(pid: int, address: int) -> int:
    """Bytes of the mapping at that address that are in swap, by /proc/PID/smaps."""
    inside = False
    with open(f"/proc/{pid}/smaps", errors="backslashreplace") as lines:
        for line in lines:
            word, _, rest = line.partition(" ")
            if "-" in word:
                start, end = (int(one, 16) for one in word.split("-"))
                inside = start <= address < end
            elif inside and word == "Swap:":
                return int(rest.split()[0]) * 1024
    return 0


def swaps() -> list[str]:
    """The swap areas that are in use; see proc(5)."""
    try:
        with open("/proc/swaps") as lines:
            return [line.split()[0] for line in list(lines)[1:]]
    except OSError:
        return []
