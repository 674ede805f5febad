"""The pytest plugin: a private mount for a test, and what happened on it.

    def test_frames(shmfs):
        assert shmfs.run(["./render", "--workers", "4"]).returncode == 0
        frames = [segment for segment in shmfs.segments() if segment.path == "/frames"]
        assert frames[0].peak_resident == 300

    @pytest.mark.parametrize("shmfs", ["size=1m"], indirect=True)
    def test_full(shmfs): ...

pytest loads this module in every run, so it imports nothing else of shmfs until a fixture is used.
"""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shmfs.fuse.launch import Server
    from shmfs.trace.records import Segment, Sharing, Statistics

DEFAULT_OPTIONS = "size=64m"


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

    def sharing(self, name: str) -> "Sharing":
        """Which process has which page of a file present now, with frame numbers as root; sampled once.

        Raises FileNotFoundError.
        """
        from shmfs.trace import pagemap

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


def why_absent() -> str | None:
    """Say why this process cannot mount FUSE at all, None if nothing is known to stand against it."""
    import shutil

    try:
        if not stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
            return "/dev/fuse is not a device"
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "there is no /dev/fuse; run `modprobe fuse`, or give the container --device /dev/fuse"
    except OSError as error:
        return f"/dev/fuse may not be opened ({error.strerror})"
    if _may_mount() or (os.geteuid() != 0 and shutil.which("fusermount3")):
        return None
    if os.geteuid() == 0:
        return "the right to mount is missing; give the container --cap-add SYS_ADMIN"
    return "fusermount3 is missing; install the package fuse3"


def _may_mount() -> bool:
    """Say whether this process has CAP_SYS_ADMIN (21)."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split(None, 1)[0], 16) >> 21 & 1)


def _mount(directory: Path, options: str) -> PrivateMount:
    from shmfs.fuse import launch

    path, log = directory / "shm", directory / "daemon.log"
    path.mkdir()
    with log.open("wb") as stderr:
        server = launch.start(str(path), options, exact=True, stderr=stderr)
    return PrivateMount(path, server, log)


@pytest.fixture
def shmfs_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountFactory]:
    """Return a function that makes a private mount: `shmfs_mount(options="size=64m")`.

    All of them end with the test. Skips where FUSE is absent. What a daemon wrote to its log (a failure
    of shmfs itself) fails the test.
    """
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    mounts: list[PrivateMount] = []

    def mount(options: str = DEFAULT_OPTIONS) -> PrivateMount:
        mounts.append(_mount(tmp_path_factory.mktemp("shmfs"), options))
        return mounts[-1]

    try:
        yield mount
    finally:
        for one in reversed(mounts):
            one.stop()
    complaints = "".join(one.complaints() for one in mounts)
    if complaints:
        pytest.fail(f"shmfs itself failed:\n{complaints}", pytrace=False)


@pytest.fixture
def shmfs(request: pytest.FixtureRequest, shmfs_mount: MountFactory) -> PrivateMount:
    """Return a private mount of 64 MiB served from another process: `.path`, `.run([...])`, `.segments()`.

    Parametrised indirectly it takes mount options: `@pytest.mark.parametrize("shmfs", ["size=1m"],
    indirect=True)`. See PrivateMount.
    """
    return shmfs_mount(options=getattr(request, "param", DEFAULT_OPTIONS))
