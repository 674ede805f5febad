"""The pytest plugin: its fixtures here, and their ends in pytest runs of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmfs.errors import ShmfsError
from shmfs.fs.options import OptionError
from shmfs.system import mounts, proc
from shmfs.testing import MountFactory, PrivateMount, plugin

pytestmark = pytest.mark.mount


def test_a_mount_of_the_tests_own(shmfs: PrivateMount, tmp_path_factory: pytest.TempPathFactory) -> None:
    mount = mounts.find(str(shmfs.path))
    assert mount
    assert mount.device == shmfs.server.device
    assert shmfs.path.is_relative_to(tmp_path_factory.getbasetemp())
    assert shmfs.server.pid != os.getpid()
    assert os.listdir(shmfs.path) == []
    assert shmfs.statistics().size_limit == 64 << 20
    assert os.statvfs(shmfs.path).f_blocks * 4096 == 64 << 20


def test_run(shmfs: PrivateMount) -> None:
    (shmfs.path / "before").write_text("data")
    result = shmfs.run(
        ["sh", "-c", "cat /dev/shm/before; echo $A >/dev/shm/after; pwd; exit 3"],
        capture_output=True,
        text=True,
        env=os.environ | {"A": "environment"},
        cwd="/",
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "data/\n", "")
    assert result.args[0] == "sh"
    assert (shmfs.path / "after").read_text() == "environment\n"
    with pytest.raises(subprocess.CalledProcessError, match="'false'"):
        shmfs.run(["false"], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        shmfs.run(["sleep", "100"], timeout=0.5)
    assert not [mount for mount in mounts.shmfs_mounts() if mount.mountpoint == "/dev/shm"]


@pytest.mark.parametrize(("command", "status"), [("no-such-command", 127), ("/", 126), ("/etc/passwd", 126)])
def test_run_of_what_cannot_run(shmfs: PrivateMount, command: str, status: int) -> None:
    result = shmfs.run([command], stderr=subprocess.PIPE, text=True)
    assert result.returncode == status
    assert result.stderr.startswith("shmfs: cannot run ")


@pytest.mark.parametrize("shmfs", ["size=64m,pages=managed"], indirect=True)
def test_segments(shmfs: PrivateMount) -> None:
    program = """
from multiprocessing import shared_memory
one = shared_memory.SharedMemory("one", create=True, size=3 * 4096)
one.buf[0] = one.buf[8192] = 1
one.close()
one.unlink()
two = open("/dev/shm/two", "w").write("x")
"""
    assert shmfs.run([sys.executable, "-c", program]).returncode == 0
    one, two = shmfs.segment("one"), shmfs.segment("/two")
    assert (one.size, one.peak_resident, one.page_ins) == (3 * 4096, 2, 2)
    assert (two.size, two.resident, two.nlink) == (1, 1, 1)
    assert {segment.path for segment in shmfs.segments()} == {"/one", "/two"}
    with pytest.raises(LookupError, match="there never was a segment /three"):
        shmfs.segment("three")


def test_sharing(shmfs: PrivateMount) -> None:
    program = """
import mmap, os, sys
m = mmap.mmap(os.open("/dev/shm/seg", os.O_RDWR), 8192)
m[int(sys.argv[1]) * 4096]; m[0]
print("ready", flush=True)
sys.stdin.read()
"""
    with open(shmfs.path / "seg", "wb") as file:
        file.truncate(8192)
    enter = [sys.executable, "-P", "-m", "shmfs.sandbox.bind", str(shmfs.path)]
    children = []
    try:
        for page in "01":  # one after the other: a fault maps also the pages around it that are there
            command = [*enter, sys.executable, "-c", program, page]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            children.append(child)
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
        sharing = shmfs.sharing("seg")
    finally:
        for child in children:
            child.communicate()
    assert sharing.path == "/seg"
    assert sharing.size == 8192
    assert {one.pid: one.pages for one in sharing.processes} == {children[0].pid: 1, children[1].pid: 2}
    assert sharing.shared == 1
    if os.geteuid() == 0:
        assert len({holder.frame for holder in sharing.pages[0].processes}) == 1
    assert shmfs.sharing("/seg").processes == []
    with pytest.raises(FileNotFoundError):
        shmfs.sharing("missing")


@pytest.mark.parametrize("shmfs", ["size=1m,mode=700"], indirect=True)
def test_options_by_parametrisation(shmfs: PrivateMount) -> None:
    assert shmfs.statistics().size_limit == 1 << 20
    assert os.stat(shmfs.path).st_mode & 0o7777 == 0o700


def test_several_mounts(shmfs_mount: MountFactory) -> None:
    one, two = shmfs_mount(options="size=1m"), shmfs_mount("size=2m")
    assert one.path != two.path
    assert one.server.device != two.server.device
    assert [mount.statistics().size_limit for mount in (one, two)] == [1 << 20, 2 << 20]
    (one.path / "file").touch()
    assert os.listdir(two.path) == []
    one.stop()
    assert mounts.find(str(one.path)) is None


def test_a_bad_option(shmfs_mount: MountFactory) -> None:
    with pytest.raises(OptionError, match="unknown mount option 'bogus'"):
        shmfs_mount(options="bogus")


def test_after_the_end(shmfs: PrivateMount) -> None:
    shmfs.stop()
    with pytest.raises(ShmfsError, match="ended with status 0"):
        shmfs.statistics()


def test_why_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: type[OSError]) -> Callable[..., int]:
        def fail(*arguments: object, **options: object) -> int:
            raise error(1, "Refused")

        return fail

    assert plugin.why_absent() is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse(FileNotFoundError))
        assert "there is no /dev/fuse" in str(plugin.why_absent())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse(PermissionError))
        assert "may not be opened (Refused)" in str(plugin.why_absent())
    monkeypatch.setattr(proc, "has_capability", lambda number: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--cap-add SYS_ADMIN" in str(plugin.why_absent())


# ---- in a pytest run of its own

TELL = """
import json, os, signal, sys, time
import pytest

def tell(shmfs):
    with open(os.environ["TOLD"], "a") as file:
        print(json.dumps([str(shmfs.path), shmfs.server.pid]), file=file)
"""


class Inner:
    """A pytest run on one file, which appends path and pid of its mounts to `told`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told = directory / "told"

    def start(self, text: str, *arguments: str) -> "subprocess.Popen[str]":
        (self.directory / "test_inner.py").write_text(TELL + text)
        command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(self.directory)]
        command += ["-p", "no:cacheprovider", "-W", "error", "-rA", f"--basetemp={self.directory}/tmp"]
        return subprocess.Popen(
            [*command, *arguments, str(self.directory / "test_inner.py")],
            env=os.environ | {"TOLD": str(self.told), "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, text: str, *arguments: str) -> tuple[int, str]:
        return self.finish(self.start(text, *arguments))

    @staticmethod
    def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
        with process:
            try:
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        return process.returncode, output

    def mounts(self) -> list[tuple[str, int]]:
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    def assert_nothing_left(self, count: int) -> None:
        found = self.mounts()
        assert len(found) == count
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for _, pid in found))
        assert not [path for path, _ in found if mounts.find(path)]


def eventually(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


@pytest.fixture
def inner(tmp_path: Path) -> Inner:
    reason = plugin.why_absent()
    if reason:
        pytest.skip(reason)
    return Inner(tmp_path)


def test_a_failing_test_ends_its_mount(inner: Inner) -> None:
    status, output = inner.run(
        "def test_it(shmfs):\n    tell(shmfs); assert 0\ndef test_two(shmfs): tell(shmfs)"
    )
    assert status == 1
    assert "1 failed, 1 passed" in output
    inner.assert_nothing_left(2)


def test_several_workers(inner: Inner) -> None:
    text = "@pytest.mark.parametrize('n', range(6))\ndef test_it(shmfs, n): tell(shmfs)"
    status, output = inner.run(text, "-n", "2", "-W", "default")
    assert "6 passed" in output
    assert status == 0
    inner.assert_nothing_left(6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run(inner: Inner, number: signal.Signals) -> None:
    text = "def test_it(shmfs):\n    (shmfs.path / 'file').touch()\n    tell(shmfs)\n    signal.pause()"
    process = inner.start(text)
    eventually(inner.mounts)
    process.send_signal(number)
    inner.finish(process)
    inner.assert_nothing_left(1)


def test_absence_is_skipped_with_the_reason(inner: Inner) -> None:
    text = (
        "from shmfs.testing import plugin\nplugin.why_absent = lambda: 'it is away'\ndef test_it(shmfs): pass"
    )
    status, output = inner.run(text)
    assert status == 0
    assert "no FUSE here: it is away" in output


def test_a_daemon_that_fails_fails_the_test(inner: Inner) -> None:
    text = (
        "def test_it(shmfs):\n    tell(shmfs); os.kill(shmfs.server.pid, signal.SIGABRT); shmfs.server.wait()"
    )
    status, output = inner.run(text)
    assert status == 1
    assert "shmfs itself failed" in output
    assert "Fatal Python error: Aborted" in output
    inner.assert_nothing_left(1)


def test_loading_is_light() -> None:
    text = (
        "import sys, shmfs.testing.plugin; print(*(n for n in sys.modules if n in sys.argv or 'shmfs.' in n))"
    )
    command = [sys.executable, "-c", text, "numpy", "rich", "trio", "msgspec", "click"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(loaded) == ["shmfs.testing", "shmfs.testing.mount", "shmfs.testing.plugin"]
