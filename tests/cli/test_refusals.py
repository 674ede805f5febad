"""What limits refuse under `shmfs run`: the same call has the same name, errno and file on both stores."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from shmfs.system import syscall_table
from shmfs.testing.plugin import why_absent
from shmfs.tracing import probe
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


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        ("libc.mlock, address, LIMIT * PAGE", "ENOMEM", "mlock"),
        ("libc.syscall, MLOCK2, ctypes.c_void_p(address), ctypes.c_long(LIMIT * PAGE), 0", "ENOMEM", "mlock"),
        ("libc.madvise, address, LIMIT * PAGE, 22", "EFAULT", "madvise"),
        ("libc.madvise, address, LIMIT * PAGE, 23", "EFAULT", "madvise"),
    ],
    ids=["mlock", "mlock2", "populate read", "populate write"],
)
def test_pages_that_could_not_be_brought_in(
    cli: Cli, pages: str, tmp_path: Path, call: str, error: str, name: str
) -> None:
    """Three times, which is one refusal; the error is what the program gets."""
    mlock2 = next((number for number, known in syscall_table.NAMES.items() if known == "mlock2"), 0)
    program = f"""
MLOCK2 = {mlock2}
fd = new('f', LIMIT)
address = mapped(fd, LIMIT)
fill(LIMIT // 2)
for attempt in range(3): tried({call})
"""
    found = Reported(cli, pages, tmp_path, program, "--fail-on", "refused")
    assert found.printed == [error] * 3
    assert found.kinds() == [(error, name, "/f")]
    [refusal] = found.refusals
    assert (refusal["limit_name"], refusal["limit"]) == ("size", LIMIT * PAGE)
    assert {one["path"] for one in refusal["holders"]} == {"/f", "/filler"}
    assert found.status == 1
    assert "--fail-on refused:" in found.errors
    if pages == "native":
        assert (refusal["asked"], refusal["count"]) == (LIMIT * PAGE, 3)


@pytest.mark.parametrize(
    "program",
    [
        "address = mapped(new('f', 1), 2); tried(libc.madvise, address, 2 * PAGE, 23)",  # behind the end
        "new('f', 1); fill(); tried(libc.madvise, PAGE, PAGE, 23)",  # not mapped
        "fd = new('f', 1); os.write(fd, bytes(PAGE)); fill(LIMIT - 1); address = mapped(fd, 2)\n"
        "tried(libc.madvise, address, 2 * PAGE, 23)",  # full, but the file lacks no page
    ],
)
def test_a_failure_that_is_not_about_space(cli: Cli, pages: str, tmp_path: Path, program: str) -> None:
    found = Reported(cli, pages, tmp_path, program, "--fail-on", "refused")
    assert found.printed in (["EFAULT"], ["ENOMEM"])
    assert found.refusals == []
    assert found.status == 0, found.errors


def test_memory_that_a_process_may_not_lock(cli: Cli, pages: str, tmp_path: Path) -> None:
    """The mount is full, but RLIMIT_MEMLOCK refuses first."""
    if os.geteuid() != 0:
        pytest.skip("takes root, to become somebody else")
    program = """
address = mapped(new('f', LIMIT), LIMIT)
fill(LIMIT // 2)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 * PAGE, 8 * PAGE))
os.setresuid(65534, 65534, 65534)
tried(libc.mlock, address, 16 * PAGE)
"""
    found = Reported(cli, pages, tmp_path, program)
    assert found.printed == ["ENOMEM"]
    if pages == "managed":
        assert found.refusals == []
        return
    assert found.kinds() == [("ENOMEM", "mlock", "/f")]
    assert (found.refusals[0]["limit_name"], found.refusals[0]["limit"]) == ("RLIMIT_MEMLOCK", 8 * PAGE)


def test_a_sigbus_of_a_full_mount_is_one_refusal(cli: Cli, pages: str, tmp_path: Path) -> None:
    """Of three processes, one each."""
    program = """
address = mapped(new('f', 8), 8)
fill()
for page in range(3):
    if os.fork() == 0:
        ctypes.memset(address + page * PAGE, 1, 1)
    assert os.wait()[1] & 127 == 7
"""
    budgets = "--fail-on", "refused", "--fail-on", "refused>3"
    found = Reported(cli, pages, tmp_path, program, *budgets)
    assert [death["count"] for death in found.report["deaths"]] == [1, 1, 1]
    assert (found.report["refused"], found.status) == (3, 1)
    assert "--fail-on refused: 3 allocations that a limit refused" in found.errors
    assert "--fail-on refused>3" not in found.errors


def test_a_page_behind_the_end_is_no_refusal(cli: Cli, pages: str, tmp_path: Path) -> None:
    program = "ctypes.memset(mapped(new('f', 1), 2) + PAGE, 1, 1)"
    found = Reported(cli, pages, tmp_path, program, "--fail-on", "refused")
    assert (found.report["refused"], found.status) == (0, 135)
    assert "touched page 1 of /f, but that is beyond the end" in found.errors
    assert "--fail-on" not in found.errors


def test_an_anonymous_mapping_that_was_refused_is_no_segment(cli: Cli, pages: str, tmp_path: Path) -> None:
    program = "import mmap; kept = mmap.mmap(-1, 8 * PAGE); tried(mmap.mmap, -1, LIMIT * PAGE)"
    trace = tmp_path / "trace"
    found = Reported(cli, pages, tmp_path, program, "--trace", trace)
    assert found.printed == ["ENOMEM"]
    assert found.kinds() == [("ENOMEM", "mmap", "/dev/zero")]
    assert [(one["segment"]["path"], one["segment"]["size"]) for one in found.report["segments"]] == [
        ("/dev/zero", 8 * PAGE)
    ]
    recorded = json.loads(cli("report", "--json", trace).stdout)
    assert [(one["path"], one["size"]) for one in recorded["segments"]] == [("/dev/zero", 8 * PAGE)]
    assert [one["call"] for one in recorded["refusals"]] == ["mmap"]
