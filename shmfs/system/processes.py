"""Who a pid is, from /proc.

The daemon uses this while its client waits for an answer, so only files are read that never take the
client's mmap_lock: status and stat, not maps, cmdline or environ (a fault on the mount may hold that lock).
"""

import os
import time

from shmfs.events.names import printable
from shmfs.events.records import Process

RECHECK = 0.1
"""Seconds for which a cached answer is believed. A pid cannot come round again that fast, but the process
may exec, and then has another command."""

MAX_CACHED = 4096


def read_file(path: str) -> bytes:
    """Read the whole of a small file of /proc."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def line_of(text: bytes, name: bytes) -> list[bytes]:
    """The words after the name of a line of /proc/PID/status or limits; raises IndexError without it."""
    return text.split(b"\n" + name, 1)[1].split(b"\n", 1)[0].split()


def stat_fields(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the state on, the third in proc(5); raises OSError.

    The command before them is in parentheses and may contain some itself.
    """
    return read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def groups(pid: int) -> list[int]:
    """Supplementary groups; none of a process that is gone."""
    try:
        return [int(group) for group in line_of(read_file(f"/proc/{pid}/status"), b"Groups:")]
    except (OSError, IndexError):
        return []


class Processes:
    """Processes by pid, or by the pid of one of their threads, which is what FUSE gives."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._cache: dict[int, tuple[float, Process]] = {}

    def get(self, pid: int) -> Process | None:
        """Return the process; None for pid 0, and one without a command if it is gone and was never seen."""
        if pid <= 0:
            return None
        now = time.monotonic()
        cached = self._cache.get(pid)
        if cached is not None and now - cached[0] < RECHECK:
            return cached[1]
        process = self._read(pid)
        if cached is not None and process in (None, cached[1]):
            process = cached[1]  # the same object, so that thousands of segments share it
        if process is None:
            process = Process(pid, "", 0)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[pid] = (now, process)
        return process

    def _read(self, pid: int) -> Process | None:
        try:
            status = read_file(f"{self._proc}/{pid}/status")
            group = int(line_of(status, b"Tgid:")[0])
            return _parse_stat(read_file(f"{self._proc}/{group}/stat"))
        except (OSError, ValueError, IndexError):
            return None


def _parse_stat(line: bytes) -> Process:
    """Compare fs/proc/array.c:do_task_stat: the command is in parentheses and may contain some itself."""
    start, end = line.index(b"("), line.rindex(b")")
    command = printable(line[start + 1 : end].decode("utf-8", "surrogateescape"))
    return Process(int(line[:start]), command, int(line[end + 2 :].split()[19]))


def everybody() -> list[int]:
    """The pids there are."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
