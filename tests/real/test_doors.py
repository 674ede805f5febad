"""Programs with System V and shared anonymous memory under `shmfs run`, which preloads the library."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmfs.ipc import library
from tests.real.support import PATIENCE, REAL, as_nobody, needs
from tests.real.test_postgresql import programs

pytestmark = REAL

POSTGRESQL = Path(__file__).with_name("postgresql_memory.sh").read_text()


class Ran(NamedTuple):
    """What a program printed, and the segments of the report."""

    said: str
    segments: list[dict[str, Any]]

    def of(self, word: str) -> list[dict[str, Any]]:
        """The segments whose names have a word."""
        return [one for one in self.segments if word in one["path"]]


def under_run(store: str, report: Path, *command: str | Path, **environment: str) -> Ran:
    """Run a program to its end, which must be a good one."""
    options = ["-o", f"size=512m,pages={store}", "--json", "--report", str(report)]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "shmfs", "run", *options, "--", *map(str, command)],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        cwd="/",  # which nobody may enter too
    )
    assert result.returncode == 0, result.stdout[-8000:]
    return Ran(result.stdout, [one["segment"] for one in json.loads(report.read_text())["segments"]])


@pytest.fixture(scope="session")
def sysv_ipc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of sysv_ipc, with its tests, built where it lies."""
    where = tmp_path_factory.mktemp("sysv_ipc")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for words in (
        ["download", "--no-deps", "--no-binary", ":all:", "--dest", where, "sysv_ipc"],
        ["install", "--no-deps", "--no-binary", ":all:", "--target", where / "built", "sysv_ipc"],
    ):
        done = subprocess.run([*pip, *words], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot build sysv_ipc: {done.stderr.strip()[-300:]}")
    with tarfile.open(next(where.glob("*.tar.gz"))) as archive:
        archive.extractall(where, filter="data")
    tests = next(where.glob("sysv_ipc-*/tests"))
    tests.rename(where / "built" / "tests")
    return where / "built"


def test_sysv_ipc(store: str, sysv_ipc: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unittest", "tests.test_memory"]
    ran = under_run(store, tmp_path / "report", *command, PYTHONPATH=str(sysv_ipc))
    assert "\nOK" in ran.said
    assert len(ran.of("/SYSV")) > 20


def test_stress_ng(store: str, tmp_path: Path) -> None:
    command = [needs("stress-ng"), "--shm-sysv", "2", "--timeout", "3", "--verify"]
    ran = under_run(store, tmp_path / "report", *command)
    assert "successful run completed" in ran.said
    assert ran.of("/SYSV")
    assert ran.of("/dev/zero")  # in which its processes count


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word"), [("sysv", "/SYSV"), ("mmap", "/dev/zero")])
def test_postgresql(kind: str, word: str, store: str, tmp_path: Path) -> None:
    programs_path = f"{programs()}:/usr/bin:/bin"
    command = as_nobody("bash", "-c", POSTGRESQL, "sh", kind)
    if command[0] == "setpriv":
        found = library.path() or ""
        readable = subprocess.run([*as_nobody("test", "-r", found)], check=False)
        if readable.returncode:
            pytest.skip(f"nobody may read {found}")
    ran = under_run(store, tmp_path / "report", *command, PATH=programs_path, TMPDIR="/tmp")
    assert ran.said.splitlines() == [kind, "number of failed transactions: 0 (0.000%)", "t|t", "t"]
    assert max(one["size"] for one in ran.of(word)) > 32 << 20
