"""Runs cases in a worker, and gives up on one that hangs."""

import ast
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from shmfs.conformance.isolation import PATIENCE
from shmfs.conformance.judge import judge
from shmfs.conformance.messages import Configuration, Outcome, Target
from shmfs.errors import ShmfsError

_PATIENCE = 3 * PATIENCE
"""Seconds for a case on both file systems, and for mounting them."""


class Runner:
    """Asks a worker; a new one is started where one was given up."""

    def __init__(self, base: Path, configuration: Configuration) -> None:
        self.base = base
        self.configuration = configuration
        self.count = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.target = Target()

    def run(self, name: str) -> Outcome:
        """What a case comes to; raises ShmfsError where nothing can be run at all."""
        if self.process is None:
            self.start()
        line = self._ask(name.encode() + b"\n")
        if not line:
            self.end()
            text = "the process that runs the cases hangs or has died"
            return Outcome(name, name.partition(".")[0], "differs", note=text)
        said: dict[str, Any] = ast.literal_eval(line.decode())
        if "worker" in said:
            return Outcome(name, name.partition(".")[0], "differs", note=said["worker"])
        return judge(name, said)

    def start(self) -> None:
        """Start a worker; raises ShmfsError with the reason why not."""
        self.count += 1
        base = self.base / str(self.count)
        base.mkdir()
        configuration = msgspec.structs.replace(self.configuration, base=str(base))
        command = [sys.executable, "-P", "-m", "shmfs.conformance.worker"]
        self.process = subprocess.Popen(
            [*command, msgspec.json.encode(configuration).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "SHMFS_EXTENSION": str(int(self.configuration.extension))},
            start_new_session=True,  # Ctrl-C is for the runner, which ends it in order
        )
        line = self._ask(b"")
        self.target = msgspec.json.decode(line, type=Target) if line else Target(failure="it has died")
        if self.target.failure:
            self.end()
            raise ShmfsError(f"no case can be run: {self.target.failure}")

    def end(self) -> None:
        """End the worker; its mounts and daemons go with it."""
        if self.process is None:
            return
        try:
            self.process.communicate(timeout=20)
        except (subprocess.TimeoutExpired, ValueError):
            self.process.kill()
            self.process.wait()
        self.process = None

    def _ask(self, question: bytes) -> bytes:
        """A line; nothing where none comes."""
        process = self.process
        if process is None or process.stdin is None or process.stdout is None:
            return b""
        line = b""
        try:
            process.stdin.write(question)
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        while not line.endswith(b"\n"):
            ready = select.select([process.stdout], [], [], _PATIENCE)[0]
            part = os.read(process.stdout.fileno(), 1 << 20) if ready else b""
            if not part:
                return b""
            line += part
        return line


@contextmanager
def running(configuration: Configuration) -> Iterator[Runner]:
    """A runner with a temporary directory, that leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="shmfs-conform-", ignore_cleanup_errors=True) as base:
        os.chmod(base, 0o755)  # cases that are run as another user
        runner = Runner(Path(base), configuration)
        try:
            yield runner
        finally:
            runner.end()
