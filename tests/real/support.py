"""Runs programs on a mount, and looks at what they leave."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shmfs.system import mounts, proc

T = TypeVar("T")

SHM = Path("/dev/shm")
"""Where a program started by `run` finds the mount."""

PATIENCE = 400
"""Seconds after which a program hangs; none takes a tenth of it on a machine that is not busy."""

REAL = [pytest.mark.mount, pytest.mark.real, pytest.mark.timeout(PATIENCE + 100)]

_PR_SET_CHILD_SUBREAPER = 36


def needs(program: str, package: str | None = None) -> str:
    """The path of a program; skips where it is absent."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(
            f"{program} is not installed: `./scripts/test --real` installs the package {package or program} "
            "where there is one, given the rights"
        )
    return path


def outcome(
    where: Any, *command: str | Path, env: dict[str, str] | None = None, **options: Any
) -> tuple[int, str]:
    """The status and the words of a program that has the mount as its /dev/shm and ends in time."""
    try:
        result = where.run(
            command,
            timeout=PATIENCE,
            env=os.environ | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            **options,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.output or b"").decode(errors="replace")
        pytest.fail(f"{Path(command[0]).name} did not end in {PATIENCE} s:\n{said[-8000:]}", pytrace=False)
    return result.returncode, str(result.stdout)


def run(where: Any, *command: str | Path, **options: Any) -> str:
    """What a program printed that has the mount as its /dev/shm, and succeeded; options of `outcome`."""
    status, said = outcome(where, *command, **options)
    if status:
        pytest.fail(f"{Path(command[0]).name} ended with {status}:\n{said[-8000:]}", pytrace=False)
    return said


def run_as_on_tmpfs(where: Any, *command: str | Path, **options: Any) -> str:
    """What a program printed; where it fails on the kernel's tmpfs too, the test is skipped."""
    status, said = outcome(where, *command, **options)
    if not status:
        return said
    there, said_there = outcome(Tmpfs(), *command, **options)
    if there:
        pytest.skip(f"fails on the kernel's tmpfs too: {' '.join(said_there[-400:].split())}")
    pytest.fail(f"ended with {status}, and succeeds on the kernel's tmpfs:\n{said[-8000:]}", pytrace=False)


class Tmpfs:
    """Runs programs as PrivateMount does, with a tmpfs of the kernel's as their /dev/shm."""

    def run(self, command: Sequence[str | Path], **options: Any) -> "subprocess.CompletedProcess[Any]":
        rights = "-m" if os.geteuid() == 0 else "-Urm"
        inner = 'mount -t tmpfs -o size=1g tmpfs /dev/shm && cd . && exec "$@"'
        return subprocess.run(["unshare", rights, "sh", "-c", inner, "sh", *command], check=False, **options)


def as_nobody(*command: str | Path) -> list[str]:
    """The command, for programs that refuse to run as root, as somebody else."""
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", *words]


def eventually(look: Callable[[], T], seconds: float = 30) -> T:
    """The first true value of `look`, or its last one when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


# ---- what is left


def _describe(pid: int) -> str:
    """State, kernel function and command of a process; D is one that sleeps where no signal reaches it."""
    said = []
    for name in ("stat", "wchan", "cmdline"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/{name}").read_text(errors="replace")
            said.append(text[text.rfind(")") + 2 :][:1] if name == "stat" else text.replace("\0", " "))
    return f"{pid}: " + " ".join(said)


@contextmanager
def adopting() -> Iterator[Callable[[], set[int]]]:
    """Have processes that outlive their parents become this one's children; yields who lives of them.

    See PR_SET_CHILD_SUBREAPER in prctl(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def living() -> set[int]:
        return proc.descendants({os.getpid()}, proc.parents())

    before = living()
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield lambda: living() - before
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def check_over(shmfs: Any, living: Callable[[], set[int]]) -> None:
    """No process is left, and the mount, which nobody holds, goes when told to, and its daemon."""

    def left() -> set[int]:
        return living() - {shmfs.server.pid}

    if not eventually(lambda: not left(), seconds=10):
        said = [_describe(pid) for pid in sorted(left())]
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail("the test left processes behind:\n" + "\n".join(said))
    daemon, device = shmfs.server.process, shmfs.server.device
    mounts.unmount(str(shmfs.path))
    if not eventually(lambda: daemon.poll() is not None or _is_elsewhere(device)):
        pytest.fail(f"the daemon {_describe(daemon.pid)} did not end with its mount")
    if daemon.poll() is None:
        daemon.kill()
        daemon.wait(20)
    else:
        assert daemon.returncode == 0


def _is_elsewhere(device: str) -> bool:
    """Whether a mount namespace made meanwhile has a copy of the mount, which keeps it alive."""
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            if f" {device} " in path.read_text(errors="replace"):
                return True
    return False
