"""The commands as a user runs them, on mount points of the test's own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.client import launch
from shmfs.system import mounts
from shmfs.testing.plugin import why_absent

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
SHMFS = [sys.executable, "-P", "-m", "shmfs"]


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


@pytest.fixture
def cli() -> Cli:
    """Run `shmfs ARGUMENTS` and return its CompletedProcess."""

    def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        environment |= {"NO_COLOR": "1"} | options.pop("env", {})
        defaults = {"capture_output": True, "text": True, "timeout": 60, "stdin": subprocess.DEVNULL}
        command = [*SHMFS, *map(str, arguments)]
        return subprocess.run(command, env=environment, check=False, **defaults | options)

    return run


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; the test fails if something is still mounted there at its end."""
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    path = tmp_path / "mount point"
    path.mkdir()
    yield path
    left = mounts.find(str(path))
    if left:
        launch.umount(str(path))
        pytest.fail(f"{left} was left mounted")


@pytest.fixture
def mounted(cli: Cli, directory: Path) -> Iterator[dict[str, Any]]:
    """What `shmfs mount --json` says of a mount in the background; ended if the test did not."""
    result = cli("mount", "--json", "-o", "size=4m", directory)
    assert (result.returncode, result.stderr) == (0, "")
    mount = json.loads(result.stdout)
    yield mount
    if mounts.find(str(directory)):
        launch.umount(str(directory))
    eventually(lambda: not alive(mount["pid"]))
