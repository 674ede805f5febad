"""The file systems that scripts/bench compares: mounts that go away whatever happens, and their daemons."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_data import DATA, PAGE, BenchError, Sizes, fresh

from shmfs.client.launch import start
from shmfs.system import mounts

RESIDENT_EXTRA = 60 * 10**6  # bytes that a daemon may hold beside the data that is stored in it
ROUND_TRIP = 2e-6  # seconds of a daemon's CPU time that answering a request takes at the very least
STATS = 20_000


@dataclass(frozen=True)
class Side:
    """A mounted file system."""

    path: Path
    pid: int = 0  # of its daemon, 0 for the kernel's tmpfs


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put SIGINT and SIGTERM off until the block is over: nothing is left half mounted or unmounted."""
    late: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: late.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if late:
        raise KeyboardInterrupt


def run(*command: str) -> None:
    """Run a command, out of the reach of Ctrl-C."""
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True
    )
    if done.returncode != 0:
        raise BenchError(
            f"`{' '.join(command)}` ended with exit status {done.returncode}: {done.stderr.strip()}"
        )


@contextmanager
def kernel_tmpfs() -> Iterator[Side]:
    """Give a directory of the kernel's tmpfs: as root a mount of its own, else in /dev/shm."""
    if os.geteuid() != 0:
        with tempfile.TemporaryDirectory(prefix="shmfs-bench-", dir="/dev/shm") as directory:
            yield Side(Path(directory))
        return
    ends = ExitStack()
    try:
        with uninterrupted():
            directory = mount_point(ends)
            run("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", directory)
        yield Side(Path(directory))
    finally:
        with uninterrupted():
            ends.close()


@contextmanager
def shmfs(options: str) -> Iterator[Side]:
    """Mount a fresh shmfs of 2 GiB; its daemon ends with this process even when that is killed."""
    ends = ExitStack()
    try:
        with uninterrupted():
            directory = mount_point(ends)
            server = start(directory, f"size=2g,{options}")
            ends.callback(server.stop)
        for note in server.notes:
            print(f"bench: {options}: {note}", file=sys.stderr)
        yield Side(Path(directory), server.pid)
    finally:
        with uninterrupted():
            ends.close()


def mount_point(ends: ExitStack) -> str:
    """Make a directory; in the end what is still mounted there, maybe dead or busy, is detached."""
    directory = tempfile.mkdtemp(prefix="shmfs-bench-")
    ends.callback(os.rmdir, directory)

    def detach() -> None:
        if mounts.find(directory):
            mounts.unmount(directory, lazy=True)

    ends.callback(detach)
    return directory


@contextmanager
def pinned(side: Side, core: int) -> Iterator[None]:
    """Keep all threads of a daemon, if there is one, on one processor."""
    threads = [int(name) for name in os.listdir(f"/proc/{side.pid}/task")] if side.pid else []
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        for thread in threads:
            os.sched_setaffinity(thread, {core})
        yield
    finally:
        for thread, processors in before.items():
            os.sched_setaffinity(thread, processors)


# ---- the daemon


def resident(pid: int) -> int:
    """Read a process's resident memory, in bytes (VmRSS in proc(5))."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def cpu_time(pid: int) -> float:
    """Read a process's CPU time, in seconds (utime and stime in proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Daemon:
    """What the daemon of one mount costs."""

    store: str
    idle: int  # bytes resident when nothing is stored
    stored: int  # bytes stored
    resident: int  # bytes resident then
    stat_cpu: float  # seconds of its CPU time for a stat of a known name

    @property
    def lean(self) -> bool:
        """Whether its memory keeps to the target."""
        return self.resident <= self.stored + RESIDENT_EXTRA

    @property
    def unasked(self) -> bool:
        """Whether those stats made no round trips."""
        return self.stat_cpu < ROUND_TRIP


def daemon(store: str, sizes: Sizes) -> Daemon:
    """Measure the daemon of a fresh mount."""
    with shmfs(f"pages={store}") as side:
        idle = resident(side.pid)
        known = side.path / "known"
        known.touch()
        os.stat(known)
        before = cpu_time(side.pid)
        for _ in range(STATS):
            os.stat(known)
        stat_cpu = (cpu_time(side.pid) - before) / STATS
        known.write_bytes(DATA[:PAGE])
        with fresh(side.path / "stored", sizes.stored, written=True):
            return Daemon(store, idle, sizes.stored, resident(side.pid), stat_cpu)
