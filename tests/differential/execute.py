"""Run a program on a file system: mounts, processes, and the transcript of what they saw."""

import ctypes
import itertools
import multiprocessing
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from shmfs.client import launch
from shmfs.system import syscalls
from tests.differential import actor, files, memory, names  # noqa: F401  they fill the table
from tests.differential.actor import Answer, Figures
from tests.differential.program import ACTORS, Program, Step

PATIENCE = 30.0
"""Seconds after which a step hangs."""
PR_SET_PDEATHSIG = 1
KERNEL = "tmpfs"


def script(program: Program, mount: str) -> list[Step]:
    """The steps of a program with what comes before and after them."""
    room = f"{mount}/room"
    everybody = range(len(ACTORS))
    used = tuple(sorted({step.name for step in program.steps}))
    return [
        *(Step(number, "leave", (mount,)) for number in everybody),
        Step(0, "make_room", (room,)),
        *(Step(number, "enter", (room, used)) for number in everybody),
        *program.steps,
        Step(0, "check", ()),
        *(Step(number, "exit", ()) for number in everybody),
        Step(0, "check", (True,)),
        *(Step(number, "leave", (mount,)) for number in everybody),
        Step(0, "remove_room", (room,)),
    ]


class Hung(Exception):  # noqa: N818  it is a result
    """A process does not answer, or has died."""


class Transcript(NamedTuple):
    """What was seen, and what the daemon wrote on standard error."""

    answers: list[Answer]
    complaints: str = ""


Wanted = Figures | bool | None
"""Figures of statfs that are expected after a step; True where none are, None where nobody looks."""


def _to_look_at(index: int, last: int, expected: list[Answer] | None) -> Wanted:
    """What to expect of the figures after a step: looking costs a request, so only where they should change.

    And after the `last` of some steps of one process.
    """
    if not expected or index >= len(expected):
        return True
    changed = index == 0 or expected[index][1] != expected[index - 1][1]
    return expected[index][1] if changed or index == last else None


class Process:
    """A process that serves as an actor."""

    def __init__(self, number: int, store: str) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        arguments = theirs, store, ACTORS[number]
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def run(self, steps: list[tuple[Step, Wanted]]) -> list[Answer]:
        """Carry out some steps; raises Hung."""
        try:
            self.connection.send([(step.name, step.arguments, wanted) for step, wanted in steps])
            if not self.connection.poll(PATIENCE):
                raise Hung("hangs")
            answers: list[Answer] = self.connection.recv()
        except (EOFError, ConnectionError):
            raise Hung("has died") from None
        return answers

    def kill(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join(10)
        self.connection.close()


def _serve(connection: Connection, store: str, user: int) -> None:
    actor.become(user)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    actor.serve(connection, store)


class Side:
    """A kind of file system, mounted with every set of options that programs ask for, and its processes.

    To be used in a mount namespace of its own (`namespaces.enter_private`), by a single thread.
    """

    def __init__(self, base: Path, kind: str, store: str) -> None:
        """`kind` is "tmpfs" or a store; `store` is what is compared, whose masks hold on both sides."""
        self.base = base
        self.kind = kind
        self.store = store
        self._count = itertools.count()
        self._mounts: dict[str, Path] = {}
        self._servers: dict[str, launch.Server] = {}
        self._processes: list[Process] = []

    def run(self, program: Program, expected: list[Answer] | None = None) -> Transcript:
        """Run it in a fresh directory; the figures of statfs are given time to become the expected ones."""
        mount = self._mounts.get(program.options) or self._mount(program.options)
        if not self._processes:
            self._processes = [Process(number, self.store) for number in range(len(ACTORS))]
        steps = script(program, str(mount / "mount"))
        answers: list[Answer] = []
        try:
            for number, part in itertools.groupby(range(len(steps)), key=lambda index: steps[index].actor):
                indexes = list(part)
                orders = [(steps[i], _to_look_at(i, indexes[-1], expected)) for i in indexes]
                seen = self._processes[number].run(orders)
                answers += [
                    (answer, expected[i][1] if expected and figures is None else figures)
                    for i, (answer, figures) in zip(indexes, seen, strict=True)
                ]
        except Hung as hung:
            answers.append((str(hung), (0, 0)))
            complaints = self._complaints(mount)
            self.close()
            return Transcript(answers, complaints)
        return Transcript(answers, self._complaints(mount))

    def _mount(self, options: str) -> Path:
        base = self.base / f"{self.kind}-{next(self._count)}"
        directory = base / "mount"
        directory.mkdir(parents=True)
        if self.kind == KERNEL:
            syscalls.mount("tmpfs", str(directory), "tmpfs", 0, options)
        else:
            with (base / "stderr").open("wb") as stderr:
                server = launch.start(str(directory), f"{options},pages={self.kind}", stderr=stderr)
            self._servers[options] = server
        self._mounts[options] = base
        return base

    def _complaints(self, base: Path) -> str:
        path = base / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End daemons, mounts and processes; new ones are made when they are needed."""
        for server in self._servers.values():
            server.process.kill()  # before the processes: they may wait for it
        for process in self._processes:
            process.kill()
        for server in self._servers.values():
            server.stop()
        if self.kind == KERNEL:
            for base in self._mounts.values():
                syscalls.umount(str(base / "mount"), lazy=True)
        self._processes.clear()
        self._servers.clear()
        self._mounts.clear()
