"""The process that runs the cases on both file systems."""

import ast
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Zygote:
    """Asks zygote.py; a new one is started where one was given up."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.count = 0
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, name: str) -> dict[str, Any]:
        """The answers of both file systems to a case, and what else was seen."""
        if self.process is None:
            self.count += 1
            command = [sys.executable, str(HERE / "zygote.py"), str(self.base / str(self.count))]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(name.encode() + b"\n")
        self.process.stdin.flush()
        line = b""
        while not line.endswith(b"\n"):
            ready = select.select([self.process.stdout], [], [], 100)[0]
            part = os.read(self.process.stdout.fileno(), 1 << 20) if ready else b""
            line += part
            if not part:
                self.end()
                pytest.fail("the process that runs the cases hangs or has died")
        said: dict[str, Any] = ast.literal_eval(line.decode())
        assert "zygote" not in said, said["zygote"]
        return said

    def end(self) -> None:
        """End it; its mounts and daemons go with it."""
        if self.process is None:
            return
        try:
            self.process.communicate(timeout=20)
        except (subprocess.TimeoutExpired, ValueError):
            self.process.kill()
            self.process.wait()
        self.process = None


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs of the kernel beside shmfs")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs FUSE: there is no /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="shmfs-cases-", ignore_cleanup_errors=True) as base:
        zygote = Zygote(Path(base))
        try:
            yield zygote
        finally:
            zygote.end()
