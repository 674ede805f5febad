"""The mappings of processes: /proc/PID/maps.

Everything here waits for the mmap_lock of other processes, so it must never run in a thread that serves them
(a fault on the mount may hold that lock). Standard library only.
"""

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

from shmfs.system import proc

FRAME = (1 << 55) - 1
"""The bits of an entry of pagemap that number the frame; 0 where the kernel hides it."""


class Vma(NamedTuple):
    """One mapping of a file: a line of /proc/PID/maps. Addresses and the offset are in bytes."""

    start: int
    end: int
    permissions: str
    """As in "rw-s": the last one is s for MAP_SHARED, p for MAP_PRIVATE."""
    offset: int
    device: str
    """Decimal, as everywhere else in shmfs: "0:57"."""
    inode: int
    path: str
    deleted: bool

    @property
    def is_shared(self) -> bool:
        """MAP_SHARED."""
        return self.permissions.endswith("s")


class Found(NamedTuple):
    """The processes that map files of a device."""

    mappings: dict[int, list[Vma]]
    """By pid; only processes that map something."""
    hidden: int
    """Processes that could not be looked at for lack of rights."""


def mappings(pid: proc.Pid, device: str | None = None, inode: int | None = None) -> list[Vma]:
    r"""Return the mappings of a process by address: of a file of a device ("0:57"), of its files, or all.

    Raises FileNotFoundError or ProcessLookupError if the process is gone, PermissionError if it may not be
    looked at. A name that contains the four characters `\012` cannot be told from one with a newline.
    """
    maps = proc.read(pid, "maps")
    file = rb"[0-9a-f]+:[0-9a-f]+ [0-9]+"
    if device is not None:
        file = b"%02x:%02x " % tuple(int(part) for part in device.split(":"))
        file += b"" if inode is None else b"%d " % inode
        if b" " + file not in maps:
            return []
        file = (file + b"[1-9][0-9]*") if inode is None else file.rstrip()
    # Compare fs/proc/task_mmu.c:show_map_vma. The cache of `re` keeps the compiled pattern.
    line = rb"^([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) ([0-9a-f]+) (%s) +(.*)$" % file
    return [_vma(match) for match in re.finditer(line, maps, re.MULTILINE)]


def processes_mapping(device: str, pids: Iterable[int] | None = None, inode: int | None = None) -> Found:
    """Return who of `pids` (all processes if None) maps files of the device, or one of them, and what."""
    found: dict[int, list[Vma]] = {}
    hidden = 0
    for pid in proc.pids() if pids is None else pids:
        try:
            vmas = mappings(pid, device, inode)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            hidden += not _is_kernel_thread(pid)
            continue
        if vmas:
            found[pid] = vmas
    return Found(found, hidden)


def frames_visible() -> bool:
    """Tell whether the kernel shows frame numbers to this process (CAP_SYS_ADMIN in the first namespace).

    Compare fs/proc/task_mmu.c:pagemap_read.
    """
    memory = ctypes.create_string_buffer(b"x")
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(ctypes.addressof(memory) // mmap.PAGESIZE * 8)
        return bool(int.from_bytes(file.read(8), sys.byteorder) & FRAME)


def _vma(match: "re.Match[bytes]") -> Vma:
    start, end, permissions, offset, file, name = match.groups()
    device, inode = file.split()
    major, minor = device.split(b":")
    deleted = name.endswith(b" (deleted)")
    return Vma(
        int(start, 16),
        int(end, 16),
        permissions.decode(),
        int(offset, 16),
        f"{int(major, 16)}:{int(minor, 16)}",
        int(inode),
        os.fsdecode(name.removesuffix(b" (deleted)").replace(rb"\012", b"\n")),
        deleted,
    )


def _is_kernel_thread(pid: int) -> bool:
    """A process that is gone counts as one, one that is hidden does not."""
    try:
        return proc.stat(pid).is_kernel_thread
    except OSError as error:
        return not isinstance(error, PermissionError)
