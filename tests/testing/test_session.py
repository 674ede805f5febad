"""The markers shm_limit and shm_no_leaks, and `pytest --shmfs`, in pytest runs of their own."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmfs.system import mounts
from shmfs.testing import plugin
from tests.unprivileged import as_nobody

pytestmark = pytest.mark.mount

ROOM = Path(__file__).parents[2]
PRELUDE = """
import mmap, os, signal, subprocess, sys
import pytest

def store(path, pages, unlink=False):
    with open(path, "w+b") as file:
        file.truncate(pages * 4096)
        with mmap.mmap(file.fileno(), pages * 4096) as memory:
            for page in range(pages):
                memory[page * 4096] = 1
    if unlink:
        os.unlink(path)
"""


class Inner:
    """Runs pytest on a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.user: list[str] = []
        self.python = sys.executable

    def __call__(self, text: str, *arguments: str) -> tuple[int, str]:
        (self.directory / "test_inner.py").write_text(PRELUDE + text)
        command = [*self.user, self.python, "-P", "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider"]
        command += ["-rA", "--rootdir", str(self.directory), f"--basetemp={self.directory}/tmp"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        result = subprocess.run(
            [*command, *arguments, str(self.directory / "test_inner.py")],
            env=environment | {"PYTHONPATH": f"{ROOM}:{self.directory}", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        return result.returncode, result.stdout


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[Inner]:
    reason = plugin.why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    before = set(os.listdir("/dev/shm"))
    ours = {mount.device for mount in mounts.shmfs_mounts() if mount.mountpoint == "/dev/shm"}
    yield Inner(tmp_path)
    after = {mount.device for mount in mounts.shmfs_mounts() if mount.mountpoint == "/dev/shm"}
    assert after <= ours
    assert {name for name in os.listdir("/dev/shm") if name.startswith("inner-")} <= before


def outcome(output: str) -> dict[str, int]:
    """Of the last line: {"passed": 3, "errors": 1}."""
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped|warnings?)", output.splitlines()[-1])
    return {what.rstrip("s") if what != "passed" else what: int(count) for count, what in counts}


def test_the_limit_of_the_fixture(inner: Inner) -> None:
    status, output = inner("""
@pytest.mark.parametrize("size, blocks", [pytest.param(s, b, marks=pytest.mark.shm_limit(s)) for s, b in [
    ("64 MB", 15625), ("64 MiB", 16384), ("1m", 256), ("8k", 2), (8192, 2)]])
def test_it(shmfs, size, blocks):
    assert os.statvfs(shmfs.path).f_blocks == blocks

@pytest.mark.shm_limit("8k")
@pytest.mark.parametrize("shmfs", ["mode=700"], indirect=True)
def test_with_options(shmfs):
    assert os.statvfs(shmfs.path).f_blocks == 2
    assert os.stat(shmfs.path).st_mode & 0o777 == 0o700
    with pytest.raises(OSError):
        (shmfs.path / "large").write_bytes(bytes(10000))
""")
    assert status == 0, output
    assert outcome(output) == {"passed": 6}


def test_a_limit_that_is_none(inner: Inner) -> None:
    status, output = inner("""
@pytest.mark.shm_limit("much")
def test_one(shmfs): pass
@pytest.mark.shm_limit()
def test_two(shmfs): pass
""")
    assert status == 1
    assert outcome(output) == {"error": 2}
    assert "'much' is no size: give one as in 64m" in output
    assert "takes one size" in output


def test_leaks_in_the_fixture(inner: Inner) -> None:
    status, output = inner("""
pytestmark = pytest.mark.shm_no_leaks
def test_clean(shmfs): store(shmfs.path / "gone", 2, unlink=True)
def test_leak(shmfs): store(shmfs.path / "left", 2)
def test_late(shmfs):
    store(shmfs.path / "soon", 1)
    subprocess.Popen(["sh", "-c", f"sleep 0.3; rm {shmfs.path}/soon"])
@pytest.fixture
def cleaning(shmfs):
    yield
    os.unlink(shmfs.path / "mine")
def test_cleaned_by_a_fixture(shmfs, cleaning): store(shmfs.path / "mine", 1)
def test_ended(shmfs): shmfs.stop()
""")
    assert status == 1
    assert outcome(output) == {"passed": 5, "error": 1}, output
    assert re.search(r"the test left a name behind in \S+/shm: /left \(8 KiB, made by \w+ \d+\)", output)


def test_a_marker_for_nothing_is_told(inner: Inner) -> None:
    text = "@pytest.mark.shm_no_leaks\n@pytest.mark.shm_limit('1m')\ndef test_it(): pass"
    status, output = inner(text, "--strict-markers")
    assert status == 0
    assert outcome(output) == {"passed": 1, "warning": 2}
    assert "shm_limit takes the fixture shmfs, or the option --shmfs, to work" in output


SESSION = """
@pytest.fixture(scope="module")
def module():
    store("/dev/shm/inner-module", 1)
    yield
    os.unlink("/dev/shm/inner-module")

def test_private():
    assert os.statvfs("/dev/shm").f_blocks == 16384
    assert not [name for name in os.listdir("/dev/shm") if not name.startswith("inner-")]
    assert " fuse.shmfs " in open("/proc/self/mountinfo").read()

def test_kept():
    store("/dev/shm/inner-kept", 3)

@pytest.mark.shm_no_leaks
def test_no_leak(module):
    store("/dev/shm/inner-gone", 1, unlink=True)

@pytest.mark.shm_no_leaks
def test_leak():
    store("/dev/shm/inner-left", 2)

@pytest.mark.shm_limit("8k")
def test_too_small_a_limit(): pass

def test_clean():
    for name in ("kept", "left"): os.unlink(f"/dev/shm/inner-{name}")

@pytest.mark.shm_limit("16k")
def test_limit():
    assert os.statvfs("/dev/shm").f_blocks == 4
    child = os.fork()
    if child == 0:
        import faulthandler
        faulthandler.disable()
        store("/dev/shm/inner-full", 5)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGBUS
    os.unlink("/dev/shm/inner-full")

def test_after():
    assert os.statvfs("/dev/shm").f_blocks == 16384
    store("/dev/shm/inner-last", 3)
"""


def test_a_whole_run(inner: Inner) -> None:
    status, output = inner(SESSION, "--shmfs", "--shmfs-size=64m")
    assert status == 1
    assert outcome(output) == {"passed": 7, "error": 2}, output
    assert "/dev/shm cannot be limited to 8 KiB: size=8192: more than 8192 bytes are in use" in output
    assert "the test left a name behind in /dev/shm: /inner-left (8 KiB, made by" in output
    summary = output.partition("= shmfs =")[2]
    assert re.search(r"/dev/shm: 6 segments · peak \d+ KiB of 64 MiB · \d refused", summary)
    assert re.search(r" · \d+ page faults \(\d+ major\)\n", summary)
    assert "left behind: /inner-last (12 KiB, made by" in summary
    assert re.search(r"SIGBUS: python\S* \(pid \d+\) touched page 3 of /inner-full", summary)
    assert "shmfs itself failed" not in output


def test_a_whole_run_of_several_workers(inner: Inner) -> None:
    text = (
        SESSION.partition("@pytest.mark.shm_no_leaks")[0]
        + """
@pytest.mark.shm_no_leaks
@pytest.mark.parametrize("number", range(8))
def test_same_name(number, worker_id):
    with open("/dev/shm/inner-same", "x"): pass
    os.unlink("/dev/shm/inner-same")
"""
    )
    status, output = inner(text, "--shmfs", "--shmfs-size", "64 MiB", "-n", "2")
    assert status == 0, output
    assert outcome(output) == {"passed": 10}
    summary = output.partition("= shmfs =")[2]
    assert re.search(r"gw0: \d segments? · peak .* of 64 MiB", summary)
    assert re.search(r"gw1: \d segments? · peak .* of 64 MiB", summary)
    assert summary.count("left behind: /inner-kept (12 KiB") == 1


def test_a_worker_that_crashes(inner: Inner) -> None:
    text = """
def test_crash():
    store("/dev/shm/inner-full", 5)
def test_other(): store("/dev/shm/inner-other", 1, unlink=True)
"""
    status, output = inner(text, "--shmfs", "--shmfs-size=16k", "-n", "1", "-p", "no:faulthandler")
    assert status == 1, output
    assert outcome(output) == {"passed": 1, "failed": 1}
    assert "gw0: 1 segment · peak 16 KiB of 16 KiB" in output
    assert "gw1: 1 segment · peak 4 KiB of 16 KiB" in output
    assert re.search(r"SIGBUS: python\S* \(pid \d+\) touched page 4 of /inner-full", output)
    assert "= shmfs =" in output


@pytest.mark.parametrize(
    ("text", "status"), [("def test_it(): pass", 0), ("def test_it(): 1/0", 1), ("", 5), ("import no", 2)]
)
def test_exit_status(inner: Inner, text: str, status: int) -> None:
    plain, _ = inner(text)
    with_shmfs, output = inner(text, "--shmfs")
    assert (plain, with_shmfs) == (status, status), output
    assert "Traceback" not in output.partition("= shmfs =")[2]


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]])
def test_why_not(inner: Inner, arguments: list[str]) -> None:
    """Where it cannot be had, it is not silently the kernel's."""
    text = "def test_it(): pass"
    (inner.directory / "away.py").write_text(
        "from shmfs.errors import ShmfsError\nfrom shmfs.client import launch\n"
        "def start(*_, **__): raise ShmfsError('there is no /dev/fuse')\nlaunch.start = start"
    )
    status, output = inner(text, "--shmfs", "-p", "away", *arguments)
    assert status == 4, output
    assert "--shmfs: there is no /dev/fuse" in output


def test_a_size_that_is_none(inner: Inner) -> None:
    status, output = inner("def test_it(): pass", "--shmfs", "--shmfs-size=much")
    assert status == 4
    assert "--shmfs-size: 'much' is no size" in output


@pytest.fixture
def unprivileged(inner: Inner) -> Iterator[Inner]:
    """A run as nobody, who sees a /dev/fuse that may be opened."""
    with tempfile.TemporaryDirectory() as hidden, tempfile.TemporaryDirectory() as directory:
        inner.user = as_nobody(Path(hidden))
        inner.directory = Path(directory)
        os.chmod(directory, 0o777)
        program = "from shmfs.system.namespaces import enter_private as e; e()"
        check = subprocess.run(
            [*inner.user, inner.python, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOM)},
            cwd="/",
            capture_output=True,
            text=True,
        )
        if check.returncode:
            pytest.skip(f"somebody else can make no namespaces here: {check.stderr.strip()[-200:]}")
        yield inner


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]])
def test_without_root(unprivileged: Inner, arguments: list[str]) -> None:
    text = """
def test_it():
    assert os.geteuid() == 65534
    assert os.statvfs("/dev/shm").f_blocks == 256
    store("/dev/shm/inner-left", 2)
@pytest.mark.shm_no_leaks
@pytest.mark.shm_limit("512k")
def test_limit(): assert os.statvfs("/dev/shm").f_blocks == 128
def test_fixture(shmfs): pass
"""
    status, output = unprivileged(text, "--shmfs", "--shmfs-size=1m", *arguments)
    assert status == 0, output
    assert outcome(output) == {"passed": 2, "skipped": 1}
    assert "left behind: /inner-left" in output
    assert "no further mount is possible" in output
