"""What a process has mapped, as /proc/PID/maps shows it: for mappings that are older than the recording.

It takes the mmap_lock of the process, so never in the thread that serves a mount.
"""

from collections.abc import Callable

from shmfs.trace.attribution import ELSEWHERE, Area
from shmfs.trace.processes import read_file

_PROTECTION = ((1, b"r"), (2, b"w"), (4, b"x"))


def areas(pid: int, device: tuple[int, int], segment_of: Callable[[int, bytes], int]) -> list[Area] | None:
    """Return all mappings of a process; None if it is gone or may not be looked at.

    `segment_of` gives the id of a file of `device` (major, minor), by inode and path.
    """
    try:
        lines = read_file(f"/proc/{pid}/maps").splitlines()
    except OSError:
        return None
    wanted = b"%02x:%02x" % device
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in fields[0].split(b"-"))
        segment = ELSEWHERE
        if fields[3] == wanted:
            segment = segment_of(int(fields[4]), fields[5] if len(fields) > 5 else b"")
        protection = sum(bit for bit, letter in _PROTECTION if letter in fields[1])
        found.append(Area(start, end, int(fields[2], 16) >> 12, segment, protection, b"s" in fields[1]))
    return found
