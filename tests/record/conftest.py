"""Files of the kernel's own tmpfs, and children that map them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmfs.record.outcomes import MINOR
from shmfs.record.recording import Recording, Subject
from shmfs.system import mounts
from shmfs.tracefile import stream
from shmfs.tracing import perf
from tests.record.touching import PRELUDE

SHM = "/dev/shm"

CHILD = """
import mmap, os, sys
maps = []
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""

MAP = (
    "fd = os.open({path!r}, os.O_RDWR); "
    "maps.append(mmap.mmap(fd, {length}, mmap.{flags}, offset={offset})); os.close(fd)"
)


class Child:
    """A process that maps files and touches pages when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def do(self, code: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def map(self, path: Path, length: int, flags: str = "MAP_SHARED", offset: int = 0) -> None:
        self.do(MAP.format(path=str(path), length=length, flags=flags, offset=offset))

    def read(self, page: int, which: int = 0) -> None:
        self.do(f"maps[{which}][{page * 4096}]")

    def store(self, page: int, which: int = 0) -> None:
        self.do(f"maps[{which}][{page * 4096}] = 1")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Callable[[], Child]]:
    children: list[Child] = []

    def start() -> Child:
        children.append(Child())
        return children[-1]

    yield start
    for one in children:
        one.end()


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory of its own under /dev/shm."""
    with tempfile.TemporaryDirectory(prefix="shmfs-test-", dir="/dev/shm") as name:
        yield Path(name)


Traced = Callable[..., tuple[stream.Trace, dict[int, list[tuple[str, int]]]]]


@pytest.fixture
def directory() -> Iterator[Path]:
    if mounts.containing(SHM) is None or mounts.containing(SHM).fstype != "tmpfs":
        pytest.skip("needs a tmpfs of the kernel on /dev/shm")
    with tempfile.TemporaryDirectory(prefix="shmfs-test-", dir=SHM) as path:
        yield Path(path)


@pytest.fixture(params=["tracepoints", "software"])
def traced(
    request: pytest.FixtureRequest, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Traced:
    """Runs a program under the recorder: its trace, and what each process says that it touched."""
    if request.param == "software":
        monkeypatch.setattr(perf.Perf, "_by_tracepoints", staticmethod(refuse))
    elif os.geteuid() != 0:
        pytest.skip("tracepoints need root")

    def run(program: str, *arguments: str) -> tuple[stream.Trace, dict[int, list[tuple[str, int]]]]:
        status = os.stat(directory)
        subject = Subject(SHM, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "tmpfs")
        gate, opener = os.pipe()
        command = [sys.executable, "-S", "-c", PRELUDE + program, str(directory), *arguments]
        wait = f"import os, sys; os.read({gate}, 1) and os.execv(sys.argv[1], sys.argv[1:])"
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", wait, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=(gate,),
        )
        os.close(gate)
        with child as process, contextlib.ExitStack() as ends:
            ends.callback(process.kill)
            ends.callback(os.close, opener)
            recording = Recording(str(tmp_path / "trace"), subject, pid=process.pid)
            ends.callback(recording.stop)
            if request.param == "tracepoints" and not recording._perf.tracepoints:
                pytest.skip(f"the kernel permits no tracepoints: {recording._perf.notes}")
            recording.start()
            os.write(opener, b"x")
            said, _ = process.communicate(timeout=60)
        assert recording.recorder.lost == 0
        told: dict[int, list[tuple[str, int]]] = {}
        for line in said.splitlines():
            pid, touched = json.loads(line)
            told.setdefault(pid, []).extend((name, page) for name, page in touched)
        return stream.Trace(tmp_path / "trace"), told

    return run


def refuse(tracing: str) -> Any:
    raise PermissionError


def seen(trace: stream.Trace, kind: int = MINOR) -> dict[int, list[tuple[str, int]]]:
    """The faults by pid, in order."""
    pids = {one["process"]: one["pid"] for one in trace.processes}
    names = {one["segment"]: os.path.basename(one["path"]) for one in trace.segments}
    found: dict[int, list[tuple[str, int]]] = {}
    faults = trace.fault_array()
    for fault in np.sort(faults[faults["kind"] == kind], order="time"):
        found.setdefault(pids[int(fault["process"])], []).append(
            (names[int(fault["segment"])], int(fault["page"]))
        )
    return found
