"""What limits refuse under `shmfs run`: the same call has the same name, errno and file on both stores."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from shmfs.system import probe
from shmfs.testing.plugin import why_absent
from tests.cli.conftest import Cli

pytestmark = pytest.mark.mount

PAGE = 4096
LIMIT = 64
"""Pages of the mount."""
PRELUDE = f"""
import contextlib, ctypes, errno, os, resource
PAGE, LIMIT = {PAGE}, {LIMIT}
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
for name in ("mlock", "madvise"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * (name == "madvise")

def tried(call, *arguments):
    try:
        result = call(*arguments)
    except OSError as error:
        result = errno.errorcode[error.errno]
    else:
        result = errno.errorcode[ctypes.get_errno()] if result == -1 else ""
    print(result, flush=True)

def new(name, pages):
    fd = os.open("/dev/shm/" + name, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, pages * PAGE)
    return fd

def mapped(fd, pages):
    return libc.mmap(None, pages * PAGE, 3, 1, fd, 0)

def fill(pages=LIMIT):
    os.write(new("filler", 0), bytes(pages * PAGE))
"""


@pytest.fixture(params=["managed", "native"])
def pages(request: pytest.FixtureRequest) -> str:
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    if request.param == "native" and os.geteuid() != 0:
        pytest.skip("native pages need root")
    if request.param == "native" and (reason := probe.why_not()):
        pytest.skip(reason)
    return str(request.param)


class Reported:
    """What a program printed, and what was reported of it."""

    def __init__(self, cli: Cli, pages: str, directory: Path, program: str, *arguments: object) -> None:
        report = directory / "report.json"
        command = [sys.executable, "-S", "-c", PRELUDE + program]
        options = ["-o", f"size={LIMIT * PAGE},pages={pages}", "--json", "--report", report, *arguments]
        done = cli("run", *options, "--", *command)
        if "native pages cannot be had" in done.stderr:
            pytest.skip("no native pages here")
        self.status, self.errors = done.returncode, done.stderr
        self.printed = done.stdout.split()
        self.report: dict[str, Any] = json.loads(report.read_text())
        self.refusals: list[dict[str, Any]] = self.report["refusals"]

    def kinds(self) -> list[tuple[str, str, str]]:
        """Errno, call and path of each refusal."""
        return [(one["errno"], one["call"], one["path"]) for one in self.refusals]


@pytest.mark.parametrize(
    "call",
    [
        "os.write(fd, bytes(PAGE))",
        "os.pwrite(fd, bytes(PAGE), 0)",
        "os.writev(fd, [bytes(PAGE), bytes(PAGE)])",
        "os.pwritev(fd, [bytes(PAGE)], 0)",
        "os.sendfile(fd, os.open('/proc/self/exe', os.O_RDONLY), 0, PAGE)",
    ],
)
def test_each_way_to_write_is_a_write(cli: Cli, pages: str, tmp_path: Path, call: str) -> None:
    found = Reported(cli, pages, tmp_path, f"fd = new('f', 1); fill(); tried(lambda: {call})")
    assert found.printed == ["ENOSPC"]
    assert found.kinds() == [("ENOSPC", "write", "/f")]
