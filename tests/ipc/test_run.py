"""`shmfs run` and `shmfs env`: both doors by default, either, or none; all kinds of memory in one log."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmfs.ipc import library
from shmfs.testing.plugin import why_absent
from tests.ipc.preloaded import PREAMBLE

pytestmark = pytest.mark.mount
SHMFS = [sys.executable, "-P", "-m", "shmfs"]
PROGRAM = (
    PREAMBLE
    + """
import mmap
from multiprocessing import shared_memory
one = doors.get(KEY, 8 * PAGE)
address = doors.at(one)
anonymous_memory, named = mmap.mmap(-1, 4 * PAGE), shared_memory.SharedMemory("named", create=True, size=PAGE)
if os.fork() == 0:
    ctypes.memset(address, 1, 3 * PAGE)
    anonymous_memory[PAGE] = named.buf[0] = 1
    os._exit(0)
os.wait()
ctypes.memset(address, 1, 2 * PAGE)
anonymous_memory[0] = 1
doors.remove(one), named.unlink()
"""
)


@pytest.fixture(autouse=True)
def fit() -> None:
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    if library.path() is None:
        pytest.skip("the library could not be built here")


def shmfs(*arguments: str | Path) -> str:
    """What the command says, which succeeds."""
    words = [os.fspath(word) for word in arguments]
    done = subprocess.run(
        [*SHMFS, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def segments(report: Path) -> dict[str, Any]:
    return {one["segment"]["path"]: one["segment"] for one in json.loads(report.read_text())["segments"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"/SYSV000005ec (id 0)", "/dev/zero", "/named"}),
        (["--preload=anon"], {"/dev/zero", "/named"}),
        (["--preload=sysv"], {"/SYSV000005ec (id 0)", "/named"}),
        (["--no-preload"], {"/named"}),
    ],
    ids=["both", "anon", "sysv", "none"],
)
def test_what_is_preloaded(options: list[str], expected: set[str], tmp_path: Path) -> None:
    report = tmp_path / "report"
    shmfs("run", "--json", "--report", report, *options, "--", sys.executable, "-c", PROGRAM)
    assert segments(report).keys() == expected


@pytest.mark.parametrize("store", ["managed", "native"])
def test_one_log(store: str, tmp_path: Path) -> None:
    if store == "native" and os.geteuid() != 0:
        pytest.skip("native pages need root")
    trace = tmp_path / "trace"
    shmfs("run", "-q", "-o", f"pages={store}", "--trace", trace, "--", sys.executable, "-c", PROGRAM)
    told = json.loads(shmfs("report", "--json", trace))
    pages = {one["path"]: one["pages"] for one in told["segments"]}
    assert pages == {"/SYSV000005ec (id 0)": 3, "/dev/zero": 2, "/named": 1}


@pytest.mark.skipif(shutil.which("lsipc") is None, reason="needs util-linux")
def test_ipcs_ipcrm_and_lsipc() -> None:
    script = """
ipcmk -M 5000 -p 640 | sed s/[^0-9]*//
ipcs -m | awk '$2 == 0 { print $3, $4, $5, $6 }'
lsipc -m --noheadings -o SIZE,NATTCH,PERMS -b
ipcs -mu | grep "segments allocated"
ipcrm -m 0 && ipcs -m | grep -c 640
"""
    said = shmfs("run", "-q", "--", "sh", "-c", f"{script}\ntrue").splitlines()
    owner = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert said[:2] == ["0", f"{owner} 640 5000 0"]
    assert said[2].split() == ["5000", "0", "rw-r-----"]
    assert said[3].split()[-1] == "1"
    assert said[-1] == "0"


def test_segments_of_the_host_are_not_seen() -> None:
    script = "import ctypes; print(ctypes.CDLL(None).shmget(0x5EC1, 0, 0))"
    libc = __import__("ctypes").CDLL(None)
    one = libc.shmget(0x5EC1, 4096, 0o1600)
    try:
        for options in ([], ["--preload=sysv"]):
            assert shmfs("run", "-q", *options, "--", sys.executable, "-c", script) == "-1\n"
        assert shmfs("run", "-q", "--no-preload", "--", sys.executable, "-c", script) == f"{one}\n"
    finally:
        libc.shmctl(one, 0, None)


def test_env(shmfs_mount: Any) -> None:
    mount = shmfs_mount(options="size=4m")
    lines = shmfs("env", str(mount.path))
    program = "import mmap; mmap.mmap(-1, 8192)"
    subprocess.run(["sh", "-ec", f'{lines}\n"$0" -c "$1"', sys.executable, program], check=True, timeout=60)
    assert [(one.path, one.size) for one in mount.segments()] == [("/dev/zero", 8192)]
    assert json.loads(shmfs("env", "--json", "--preload=anon", str(mount.path)))["SHMFS_PRELOAD"] == "anon"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["env", "/"], "/ is not a shmfs mount"),
        (["env", "--preload=semaphores", "/"], "there is no 'semaphores': name some of sysv, anon"),
        (["run", "--preload=all", "true"], "there is no 'all'"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str) -> None:
    done = subprocess.run([*SHMFS, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, -6)
    assert words in done.stderr


@pytest.mark.parametrize("pages", ["managed", "auto"])
@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("/SYSV00000000", "doors.get(0, 2 << 20)"),
        ("/dev/zero", "mmap.mmap(-1, 2 << 20)"),
        ("/x", "os.posix_fallocate(os.open('/dev/shm/x', os.O_RDWR | os.O_CREAT), 0, 2 << 20)"),
    ],
)
def test_what_never_fits_is_reported_and_no_size_is_promised(
    pages: str, name: str, ask: str, tmp_path: Path
) -> None:
    program = PREAMBLE + f"import mmap\ntry:\n    {ask}\nexcept OSError:\n    pass\n"
    report = tmp_path / "report"
    command = [sys.executable, "-c", program]
    shmfs("run", "-o", f"size=1m,pages={pages}", "--json", "--report", report, "--", *command)
    told = json.loads(report.read_text())
    assert (told["refused"], told["enough"]) == (1, None)
    if name == "/dev/zero":  # never was a segment
        assert name not in segments(report)
    else:
        assert segments(report)[name]["refused"] == 1
    assert [one["path"] for one in told["refusals"]] == [name]
    assert len(told["linked"]) == (name == "/x")
