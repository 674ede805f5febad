"""Files of the kernel's own tmpfs, and children that map them."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
