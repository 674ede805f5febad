"""CPython's own tests, with their temporary directory and /dev/shm on the mount."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real.support import PATIENCE, SHM, run_as_on_tmpfs

pytestmark = pytest.mark.mount


def python_with(module: str) -> str:
    """An interpreter that came with a module; skips where none did."""
    for python in (sys.executable, "/usr/bin/python3"):
        look = [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"]
        if Path(python).exists() and subprocess.run(look, check=False).returncode == 0:
            return python
    pytest.skip(f"no Python here came with {module}; `./scripts/test --real` installs libpython3.*-testsuite")


def regrtest(shmfs: Any, module: str) -> None:
    """Run a module of CPython's regression tests in a directory of the mount."""
    command = [python_with(f"test.{module}"), "-E", "-m", "test", "--tempdir", SHM, "-q", module]
    run_as_on_tmpfs(shmfs, *command, cwd=shmfs.path, env={"TMPDIR": str(SHM)})


@pytest.mark.parametrize("module", ["test_mmap", "test_fcntl", "test_fileio", "test_shutil", "test_tempfile"])
def test_files(module: str, shmfs: Any) -> None:
    regrtest(shmfs, module)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["test_os", "test_posix"])
def test_system_calls(module: str, shmfs: Any) -> None:
    regrtest(shmfs, module)


@pytest.mark.real
@pytest.mark.timeout(PATIENCE + 100)
@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["test_sqlite3", "test_io", "test_glob", "test_tarfile", "test_mailbox", "test_dbm"]
)
def test_libraries(module: str, shmfs: Any) -> None:
    regrtest(shmfs, module)


@pytest.mark.real
@pytest.mark.timeout(PATIENCE + 100)
@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, shmfs: Any) -> None:
    """Shared memory, and the named semaphores that locks are made of."""
    module = f"test.test_multiprocessing_{method}"
    names = ["SharedMemory", "TestHeap", *(["Semaphore", "Lock"] if method == "fork" else [])]
    patterns = [f"-k{name}" for name in names]
    command = [python_with(module), "-E", "-m", "unittest", "-q", *patterns, module]
    said = run_as_on_tmpfs(shmfs, *command, cwd=shmfs.path)
    assert "OK" in said.splitlines()[-1]
    paths = [segment.path for segment in shmfs.segments()]
    assert any(path.startswith("/psm_") for path in paths)
    assert all(segment.evicted for segment in shmfs.segments())
