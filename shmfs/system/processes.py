"""Who a pid is, from files of /proc that take no lock of the process; see `proc`."""

import os
import time

from shmfs.events.names import printable
from shmfs.events.records import Process
from shmfs.system import proc

RECHECK = 0.1
"""Seconds for which a cached answer is believed. A pid cannot come round again that fast, but the process
may exec, and then has another command."""

MAX_CACHED = 4096


def groups(pid: int) -> list[int]:
    """Supplementary groups; none of a process that is gone."""
    try:
        return [int(group) for group in proc.status(pid, b"Groups:")]
    except OSError:
        return []


class Processes:
    """Processes by pid, or by the pid of one of their threads, which is what FUSE gives."""

    def __init__(self, root: str = "/proc") -> None:
        self._proc = root
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
            found = proc.stat(int(proc.status(pid, b"Tgid:", self._proc)[0]), self._proc)
        except (OSError, ValueError, IndexError):
            return None
        return Process(found.pid, printable(os.fsdecode(found.command)), found.start_time)
