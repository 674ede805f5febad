"""A supervised command in a subprocess, for tests of signals, terminals and ids."""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("driver.py")
ROOM = Path(__file__).parents[2]


def eventually(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Return the first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Say whether `pid` runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Sandbox:
    """Starts drivers and looks at what they leave."""

    eventually = staticmethod(eventually)
    alive = staticmethod(alive)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "out"
        self.processes: list[subprocess.Popen[str]] = []

    def argv(self, *command: str, **configuration: Any) -> list[str]:
        options = {"command": command, "out": str(self.out), **configuration}
        return [sys.executable, str(DRIVER), json.dumps(options)]

    def start(
        self, *command: str, options: dict[str, Any] | None = None, **popen: Any
    ) -> subprocess.Popen[str]:
        popen = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "process_group": 0,
        } | popen
        popen["env"] = popen.get("env", dict(os.environ)) | {"PYTHONPATH": str(ROOM)}
        process = subprocess.Popen(self.argv(*command, **(options or {})), **popen)
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for `process` and return its Outcome as a dict, with what it printed."""
        stdout, stderr = process.communicate(timeout=60)
        result: dict[str, Any] = json.loads(self.out.read_text())
        assert process.returncode == result["status"], stderr
        assert result["mask_kept"]
        assert "Traceback" not in stderr or "broken sampler" in stderr, stderr
        return result | {"stdout": stdout, "stderr": stderr}

    def run(self, *command: str, options: dict[str, Any] | None = None, **popen: Any) -> dict[str, Any]:
        return self.finish(self.start(*command, options=options, **popen))

    def pids(self) -> tuple[int, int]:
        """Return the pids of the supervisor and of the server, when they are up."""
        path = Path(f"{self.out}.pids")
        supervisor, server = eventually(lambda: path.exists() and path.read_text().split())
        return int(supervisor), int(server)


@pytest.fixture(scope="session")
def namespaces_work() -> None:
    """Skip where this user may make no mount namespace."""
    program = "from shmfs.system.namespaces import enter_private as e; e()"
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOM)}
    check = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    if check.returncode:
        pytest.skip("no private namespaces here: " + check.stderr.strip().splitlines()[-1])


@pytest.fixture
def sandbox(namespaces_work: None) -> Iterator[Sandbox]:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # for drivers that run as somebody else
        sandbox = Sandbox(Path(name))
        yield sandbox
        for process in sandbox.processes:
            if process.poll() is None:
                process.kill()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
            process.wait()


@pytest.fixture
def nobody(namespaces_work: None) -> int:
    """Return a uid that owns nothing; skips where we may not become it, or it may make no namespaces."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    libc = ctypes.CDLL(None)

    def try_it() -> None:
        os.setuid(65534)
        if libc.unshare(0x10000000):
            os._exit(1)

    if subprocess.run(["/bin/true"], preexec_fn=try_it).returncode:
        pytest.skip("user namespaces are switched off")
    return 65534
