"""A mount of one test's own, as the fixtures `shmfs` and `shmfs_mount` give it."""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shmfs.client.launch import Server
    from shmfs.events.records import Segment, Sharing, Statistics
    from shmfs.testing.faults import Faults

PATIENCE = 2.0
"""Seconds for which a name may stay that somebody is about to remove: multiprocessing's resource tracker."""


class PrivateMount:
    """A shmfs mount of one test's own, served from another process until the test has ended."""

    path: Path
    """Where it is mounted."""
    server: "Server"
    """The daemon: its `pid`, the mount's `device` ("0:57") and the `notes` of what was not permitted."""

    def __init__(self, path: Path, server: "Server", log: Path) -> None:
        self.path = path
        self.server = server
        self._log = log
        self._faults: Faults | None = None

    def __repr__(self) -> str:
        return f"<shmfs on {self.path} served by {self.server.pid}>"

    def run(
        self, command: "Sequence[str | os.PathLike[str]]", **options: Any
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a command that has this mount as its /dev/shm; returns its CompletedProcess.

        `options` are those of subprocess.run. The command sees a mount namespace of its own (not root: in a
        user namespace too) and ends with status 127 or 126 when it does not exist or may not be run, 125
        when no such namespace could be made. Raises what subprocess.run does.
        """
        enter = [sys.executable, "-P", "-m", "shmfs.sandbox.bind", str(self.path)]
        words = [os.fspath(word) for word in command]
        check = options.pop("check", False)
        result = subprocess.run([*enter, *words], check=False, **options)
        result.args = words
        if check:
            result.check_returncode()
        return result

    def statistics(self) -> "Statistics":
        """What the daemon knows now: limits, use, peaks; exact. Raises ShmfsError."""
        return self.server.statistics()

    def segments(self) -> "list[Segment]":
        """All regular files there were, also those that are gone (`evicted`); exact. Raises ShmfsError."""
        return self.statistics().segments

    def segment(self, name: str) -> "Segment":
        """The newest segment of that name, given as for shm_open ("/frames" or "frames"); may be gone.

        Raises LookupError.
        """
        path = "/" + name.lstrip("/")
        found = [segment for segment in self.segments() if segment.path == path]
        if not found:
            raise LookupError(f"there never was a segment {path} on {self.path}")
        return max(found, key=lambda segment: (not segment.evicted, segment.created))

    @property
    def serves(self) -> bool:
        """Whether it is still mounted and its daemon lives."""
        return self.server.process.poll() is None

    def leaks(self) -> "list[Segment]":
        """The segments that have a name, once who is still about to remove some has done so."""
        return settled(self.server.device, set())

    @contextmanager
    def record(self) -> "Iterator[None]":
        """Record the page faults on this mount, of this process and all that it starts meanwhile.

        Afterwards they are in `faults`. Processes and threads that were there before are not followed. The
        test is skipped where the kernel does not let faults be seen.
        """
        from shmfs.analysis.wording import unfollowed
        from shmfs.sandbox.bind import SHM
        from shmfs.sandbox.follow import Follower
        from shmfs.testing.faults import Faults
        from shmfs.tracefile import stream

        trace = self._log.with_name("faults.shmtrace")
        self._faults = None
        follower = Follower(self.server.device, str(self.path), str(trace))
        try:
            yield
        finally:
            followed = follower.stop()
            with stream.open(trace) as recorded:
                self._faults = Faults.of(recorded, str(self.path), SHM)
            trace.unlink()
        if not followed.seen:
            pytest.skip(f"no page faults can be seen here: {followed.note}")
        if followed.unfollowed:
            warnings.warn(f"not recorded: {unfollowed(followed.unfollowed)}", stacklevel=2)
        if followed.lost > len(followed.unfollowed):
            pytest.fail(f"{followed.lost} records of page faults were lost: the machine was too busy")

    @property
    def faults(self) -> "Faults":
        """The page faults of the last `with shmfs.record():`; `shmfs.faults(kind=…)` filters."""
        if self._faults is None:
            raise RuntimeError(
                "no faults were recorded: make them in `with shmfs.record():`, and look after it"
            )
        return self._faults

    def sharing(self, name: str) -> "Sharing":
        """Which process has which page of a file present now, with frame numbers as root; sampled once.

        Raises FileNotFoundError.
        """
        from shmfs.system import pagemap

        path = "/" + name.lstrip("/")
        status = os.stat(f"{self.path}{path}")
        return pagemap.matrix(self.server.device, status.st_ino).sharing(path, status.st_size)

    def stop(self) -> None:
        """Unmount, detaching what is busy, and wait for the daemon; once is enough."""
        self.server.stop()

    def complaints(self) -> str:
        """What the daemon wrote to its log: empty unless something went wrong."""
        return self._log.read_text(errors="replace")


MountFactory = Callable[..., PrivateMount]
"""`shmfs_mount(options="size=64m")`: mount another one. Raises ShmfsError or OptionError."""


def mount(directory: Path, options: str) -> PrivateMount:
    """Mount below an empty directory; raises ShmfsError or OptionError."""
    from shmfs.client import launch

    path, log = directory / "shm", directory / "daemon.log"
    path.mkdir()
    with log.open("wb") as stderr:
        server = launch.start(str(path), options, exact=True, stderr=stderr)
    return PrivateMount(path, server, log)


def named(device: str) -> "list[Segment]":
    """The segments of a mount that have a name now. Raises ShmfsError."""
    from shmfs.analysis.budgets import left
    from shmfs.client import control

    return left(control.statistics(device))


def settled(device: str, known: "set[int]") -> "list[Segment]":
    """The segments that have a name, but for the inodes `known`; waits a moment for them to go."""
    deadline = time.monotonic() + PATIENCE
    while True:
        left = [segment for segment in named(device) if segment.inode not in known]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def complaint(segments: "list[Segment]", where: str) -> str:
    """What a test is failed with that left them behind."""
    from shmfs.analysis.budgets import describe

    names = "a name" if len(segments) == 1 else f"{len(segments)} names"
    return f"the test left {names} behind in {where}: {describe(segments)}"
