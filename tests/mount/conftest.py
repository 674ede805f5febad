"""Mounts, processes on them, and what runs the cases of conformance."""

import ast
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.conformance.known import STORES
from shmfs.conformance.messages import Configuration
from shmfs.conformance.runner import Runner, running
from shmfs.errors import ShmfsError

HERE = Path(__file__).parent


class Actor:
    """A process of its own on a mount, told what to do; never this one touches a mount that may hang."""

    def __init__(self, directory: Path | str) -> None:
        command = [sys.executable, str(HERE / "actor.py"), str(directory)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.pid = self.process.pid
        self.pending = b""
        assert self._line(30) == b"ready\n"

    def __call__(self, code: str, patience: float = 60) -> Any:
        """The value of the last expression, an errno's name, or the name of the signal that killed it."""
        self.order(code)
        return self.answer(patience)

    def order(self, code: str) -> None:
        """Have it begin."""
        assert self.process.stdin
        self.process.stdin.write(repr(code).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, patience: float = 60) -> Any:
        line = self._line(patience)
        if not line:
            status = self.process.wait(10)
            return signal.Signals(-status).name if status < 0 else f"ended with status {status}"
        kind, value = ast.literal_eval(line.decode())
        assert kind == "value", value
        return value

    def answers_within(self, patience: float) -> bool:
        """Whether it has something to say before the time is over."""
        return bool(self.pending) or bool(select.select([self.process.stdout], [], [], patience)[0])

    def _line(self, patience: float) -> bytes:
        assert self.process.stdout
        while b"\n" not in self.pending:
            assert self.answers_within(patience), f"process {self.pid} does not answer"
            part = os.read(self.process.stdout.fileno(), 1 << 20)
            if not part:
                return b""
            self.pending += part
        line, newline, self.pending = self.pending.partition(b"\n")
        return line + newline

    def kill(self) -> None:
        """End it, and its children with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close() if self.process.stdin else None
        self.process.stdout.close() if self.process.stdout else None
        self.process.wait(30)


@pytest.fixture
def options() -> str:
    """Mount options beside `pages`; parametrised directly by a test that wants others."""
    return "size=64m"


@pytest.fixture(params=["managed", "native"])
def store(request: pytest.FixtureRequest) -> str:
    """Whose the pages are."""
    return str(request.param)


@pytest.fixture
def shmfs(options: str, store: str, shmfs_mount: Any) -> Any:
    """A private mount, with each of the stores."""
    try:
        return shmfs_mount(options=f"{options},pages={store}")
    except ShmfsError as failure:
        if store == "native":
            pytest.skip(str(failure))
        raise


MakeActor = Callable[[Path | str], Actor]


@pytest.fixture
def actor() -> Iterator[MakeActor]:
    """Makes processes that work in a directory."""
    actors: list[Actor] = []

    def make(directory: Path | str) -> Actor:
        actors.append(Actor(directory))
        return actors[-1]

    yield make
    for one in actors:
        one.kill()


def eventually(look: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true value of `look`; fails after a while."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


@pytest.fixture(scope="session", params=STORES)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Runs cases on the kernel's tmpfs and on shmfs, with each store."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs of the kernel beside shmfs")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs FUSE: there is no /dev/fuse")
    options = "pages=native" if request.param == "native" else "pages=managed"
    with running(Configuration("", options, extension=request.param != "no extension")) as runner:
        try:
            runner.start()
        except ShmfsError as failure:
            if request.param == "native":
                pytest.skip(str(failure))
            raise
        yield runner
