"""The processes of the story, as their director sees them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from shmfs.errors import ShmfsError
from shmfs.explain.records import Touch
from shmfs.ipc import library

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 1, 2, 0x20
MAP_LOCKED, MAP_FIXED_NOREPLACE = 0x2000, 0x100000
SHM = "/dev/shm"  # noqa: S108  # the name is the point


class Failed(OSError):  # noqa: N818  # an answer rather than an error
    """A call of an actor failed; `errno` is what it got."""


class Actor:
    """A process that does what it is told. `name` is A, B or C."""

    def __init__(self, name: str, pid: int, orders: int, answers: int) -> None:
        self.name, self.pid = name, pid
        self._orders, self._answers = os.fdopen(orders, "wb", 0), os.fdopen(answers, "rb")

    def ask(self, what: str, *arguments: Any) -> Any:
        """Have an order carried out; raises Failed with the errno, ShmfsError if the process is gone."""
        try:
            self._orders.write(json.dumps([what, *arguments]).encode() + b"\n")
            answer = self._hear()
        except BrokenPipeError:
            raise self._gone() from None
        if "errno" in answer:
            raise Failed(answer["errno"], os.strerror(answer["errno"]))
        return answer

    def call(self, name: str, *arguments: int | str) -> int:
        """Call libc; raises Failed."""
        return int(self.ask("call", name, *arguments)["value"])

    def touch(self, address: int, page: int, value: str | None = None, *, child: bool = False) -> Touch:
        """Load a byte of the page, or store `value`; in a child of its own if that may die of it."""
        answer = self.ask("touch in child" if child else "touch", address, value)
        what = "load" if value is None else "store"
        return Touch(self.name, what, page, answer.get("minor", 0), answer.get("major", 0), answer["value"])

    def figures(self, name: str, *arguments: Any) -> dict[str, int]:
        """`os.stat` or `os.statvfs` as the process sees it; raises Failed."""
        found: dict[str, int] = self.ask("figures", name, *arguments)
        return found

    def buffer(self, name: str, size: int, *arguments: Any) -> bytes:
        """Call libc with a buffer where the arguments have "BUFFER"; returns its content. Raises Failed."""
        return bytes.fromhex(self.ask("buffer", name, size, *arguments)["value"])

    def close(self) -> None:
        """Let it end."""
        self._orders.close()
        self._answers.close()

    def _hear(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise self._gone()
        return json.loads(line)

    def _gone(self) -> ShmfsError:
        return ShmfsError(f"process {self.name} ({self.pid}) of the story has ended; was it killed?")


class Process(Actor):
    """An actor that is a child of ours; `spare` is the one that it may fork."""

    def __init__(self, name: str, daemon: int) -> None:
        (self._spare_in, ours), (its, self._spare_out) = os.pipe(), os.pipe()
        self._spare = (ours, its)
        spare = (self._spare_in, self._spare_out)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "shmfs.explain.worker", str(daemon), *map(str, spare)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=spare,
            env={**os.environb, **library.environment(os.environb, SHM, library.DOORS)},
            start_new_session=True,  # Ctrl-C is for the director
        )
        for fd in spare:
            os.close(fd)
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError
        super().__init__(name, self.process.pid, *(os.dup(one.fileno()) for one in self._pipes()))
        for pipe in self._pipes():
            pipe.close()
        self._child: Actor | None = None

    def ready(self) -> Self:
        """Wait until it is in the sandbox; raises ShmfsError."""
        self._hear()
        return self

    def fork(self, name: str) -> Actor:
        """Have it fork a child that takes orders too; once."""
        pid = int(self.ask("fork")["value"])
        child = Actor(name, pid, *self._spare)
        self._child = child
        if child._hear()["value"] != 0:
            raise AssertionError
        return child

    def end(self) -> None:
        """Let it end, with its child, and wait; one that does not end is killed."""
        if self._child is not None:
            self._child.close()
        else:
            for fd in self._spare:
                os.close(fd)
        self.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _pipes(self) -> Iterator[Any]:
        yield from (self.process.stdin, self.process.stdout)


@contextmanager
def two(daemon: int) -> Iterator[tuple[Process, Process]]:
    """A and B in the sandbox of that daemon; ended afterwards."""
    started: list[Process] = []
    try:
        for name in "AB":
            started.append(Process(name, daemon))  # noqa: PERF401  # one by one: the second may fail
        a, b = (one.ready() for one in started)
        yield a, b
    finally:
        for one in started:
            one.end()
