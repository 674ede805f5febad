"""Deaths and refusals of real programs: what is said at once, and the reports, are the same and true."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmfs.system import syscalls
from shmfs.tracing import btf, probe
from tests.cli.conftest import SHMFS, Cli
from tests.unprivileged import as_nobody

pytestmark = pytest.mark.mount
TIMEOUT = 100
"""Seconds; the machine may be busy."""
KILLED = 128 + signal.SIGBUS

FILL = r"""
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static sigjmp_buf back;
static void handle(int number) { siglongjmp(back, 1); }
/* Touch every page of a new file: its path, MiB, and whether to go on after SIGBUS. */
int main(int argc, char **argv) {
  long bytes = atol(argv[2]) << 20;
  volatile long times = 0, at = 0;
  if (argc > 3) signal(SIGBUS, handle);
  int fd = open(argv[1], O_CREAT | O_RDWR, 0600);
  ftruncate(fd, bytes);
  char *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  for (; at < bytes; at += 4096) {
    if (sigsetjmp(back, 1)) times++;
    else p[at] = 1;
  }
  printf("%ld\n", times);
  return 0;
}
"""
SHRINK = r"""
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
  int fd = open(argv[1], O_CREAT | O_RDWR | O_TRUNC, 0600);
  ftruncate(fd, 8192);
  volatile char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  p[0] = 1;
  ftruncate(fd, 4096);
  return p[4096] = 1;
}
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    place = tmp_path_factory.mktemp("programs")
    for name, source in (("fill", FILL), ("shrink", SHRINK)):
        (place / f"{name}.c").write_text(source)
        subprocess.run(
            ["gcc", "-O1", "-w", "-o", place / name, place / f"{name}.c"], check=True, timeout=TIMEOUT
        )
    return place


@pytest.fixture(params=["managed", "native"])
def store(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and os.geteuid() != 0:
        pytest.skip("native pages need root")
    return str(request.param)


@pytest.fixture(params=["plain", "trace"])
def traced(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    return ["--trace", str(tmp_path / "x.shmtrace")] if request.param == "trace" else []


def needs_bpf() -> None:
    if why := probe.why_not():
        pytest.skip(why)
    if not os.path.exists(btf.VMLINUX):
        pytest.skip("the kernel does not describe its types")


class Ran(NamedTuple):
    status: int
    text: str
    """Standard error without the report."""
    report: dict[str, Any]
    trace: dict[str, Any] | None

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [*self.report["deaths"], *self.report["refusals"]]

    def lines(self, kind: str = "") -> list[str]:
        """What was said at once."""
        found = [line.partition("shmfs: ")[2] for line in self.text.splitlines()]
        return [line for line in found if line.startswith(kind) and not line.startswith("--fail-on")]


@pytest.fixture
def run(cli: Cli, store: str, traced: list[str], tmp_path: Path) -> Callable[..., Ran]:
    def call(options: str, *command: object, more: tuple[str, ...] = ()) -> Ran:
        report = tmp_path / "report.json"
        result = cli(
            *("run", "-o", f"{options},pages={store}", "--json", "--report", report, *traced, *more),
            *("--", *command),
            timeout=TIMEOUT,
        )
        read = cli("report", "--json", traced[1], timeout=TIMEOUT) if traced else None
        return Ran(
            result.returncode,
            result.stderr,
            json.loads(report.read_text()),
            json.loads(read.stdout) if read else None,
        )

    return call


def same(ran: Ran) -> None:
    """The report of the trace says of each death and refusal what the run said."""
    if ran.trace is None:
        return
    names = (
        "pid",
        "tid",
        "path",
        "page",
        "limit",
        "enough",
        "held_after",
        "more_holders",
        "fatal",
        "reason",
        "kind",
    )
    for mine, theirs in zip(ran.report["deaths"], ran.trace["deaths"], strict=True):
        assert {name: mine[name] for name in names} == {name: theirs[name] for name in names}
        assert mine["process"] == theirs["command"]
        shown = [{key: holder[key] for key in ("path", "bytes", "pid")} for holder in theirs["holders"]]
        assert [{key: holder[key] for key in ("path", "bytes", "pid")} for holder in mine["holders"]] == shown
    key = lambda one: one["time"]  # noqa: E731
    assert sorted(ran.report["refusals"], key=key) == sorted(ran.trace["refusals"], key=key)


def honest(ran: Ran, limit: int) -> None:
    """No size that is known to be too small is promised to be enough."""
    assert ran.report["enough"] is None
    for size in re.findall(r"size=(\d+)m", ran.text):
        assert int(size) <= limit or f"At least size={size}m is needed" in ran.text


def test_sigbus_ends_the_process(run: Callable[..., Ran], programs: Path) -> None:
    ran = run("size=8m", programs / "fill", "/dev/shm/sparse", 32)
    [death] = ran.report["deaths"]
    assert (death["kind"], death["process"], death["path"], death["page"]) == (
        "sigbus",
        "fill",
        "/sparse",
        2048,
    )
    assert (death["limit"], death["enough"], death["fatal"], death["count"]) == (8 << 20, "32m", True, 1)
    assert [(one["path"], one["bytes"], one["pid"]) for one in death["holders"]] == [
        ("/sparse", 8 << 20, death["pid"])
    ]
    [line] = ran.lines()
    name = f"fill (pid {death['pid']})"
    assert line.startswith(
        f"SIGBUS: {name} touched page 2048 of /sparse, but the mount is full (size=8m). Held "
    )
    assert "At least size=32m is needed" in line
    assert ran.status == KILLED
    assert ran.report["refusals"] == []
    honest(ran, 8)
    same(ran)


@pytest.mark.parametrize("through", ["sh", "make", "pytest"])
def test_it_is_said_while_the_command_lives_on(
    store: str, traced: list[str], programs: Path, tmp_path: Path, through: str
) -> None:
    """Whatever runs the program: the command waits for a line that is written when the sentence has come."""
    fill = f"{programs / 'fill'} /dev/shm/sparse 32"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    if through == "make":
        if shutil.which("make") is None:
            pytest.skip("make is missing")
        (tmp_path / "Makefile").write_text(f"all:\n\t-{fill}\n\tread line <{gate}; echo END\n")
        command = ["make", "-s", "-C", str(tmp_path)]
    elif through == "pytest":
        (tmp_path / "test_it.py").write_text(
            f"import subprocess\ndef test_it():\n    assert subprocess.run({fill.split()}).returncode == -7\n"
            f"    open({str(gate)!r}).readline()\n    print('END')\n"
        )
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-c", os.devnull]
        command += ["--rootdir", str(tmp_path), str(tmp_path / "test_it.py")]
    else:
        command = ["sh", "-c", f"{fill}; read line <{gate}; echo END"]
    report = ["--report", str(tmp_path / "report")]
    whole = [*SHMFS, "run", *report, "-o", f"size=8m,pages={store}", *traced, "--", *command]
    process = subprocess.Popen(
        whole, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    fd = process.stderr.fileno()
    said = ""
    deadline = time.monotonic() + TIMEOUT
    try:
        while "SIGBUS: fill (pid " not in said:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"it was not said: {said}"
            piece = os.read(fd, 1 << 16)
            assert piece, f"the command has ended: {said}"
            said += piece.decode()
        assert process.poll() is None
        gate.write_text("go\n")
        out, rest = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()
    assert b"END" in out
    assert "touched page 2048 of /sparse, but the mount is full (size=8m). Held " in said
    assert b"SIGBUS: " not in rest


def test_four_that_do_not_fit(run: Callable[..., Ran], programs: Path) -> None:
    fill = programs / "fill"
    ran = run("size=16m", "sh", "-c", f"for i in 1 2 3 4; do {fill} /dev/shm/f$i 6; done; true")
    assert [(one["path"], one["page"]) for one in ran.report["deaths"]] == [("/f3", 1024), ("/f4", 0)]
    for death in ran.report["deaths"]:
        assert {one["path"]: one["bytes"] >> 20 for one in death["holders"]} == {"/f1": 6, "/f2": 6, "/f3": 4}
        assert all(one["command"] == "fill" for one in death["holders"])
    assert len(ran.lines("SIGBUS: ")) == 2
    assert ran.report["needed"] == "24m"
    assert ran.status == 0
    honest(ran, 16)
    same(ran)


def test_who_holds_the_space_of_a_refused_fallocate(run: Callable[..., Ran]) -> None:
    script = (
        "import os\n"
        "def make(name, size):\n"
        "    fd = os.open('/dev/shm/' + name, os.O_CREAT | os.O_RDWR); os.posix_fallocate(fd, 0, size)\n"
        "make('small', 4096); make('big', 7 << 20)\n"
        "for i in range(2):\n"
        "    try: make('second', 2 << 20)\n"
        "    except OSError as error: pass\n"
    )
    ran = run("size=8m", sys.executable, "-S", "-c", script, more=("--fail-on", "refused"))
    [refusal] = ran.report["refusals"]
    assert (refusal["errno"], refusal["call"], refusal["path"], refusal["asked"]) == (
        *("ENOSPC", "fallocate", "/second", 2 << 20),
    )
    assert (refusal["limit_name"], refusal["limit"], refusal["enough"], refusal["count"]) == (
        *("size", 8 << 20, "10m", 2),
    )
    assert [(one["path"], one["bytes"]) for one in refusal["holders"]] == [
        ("/big", 7 << 20),
        ("/small", 4096),
    ]
    assert len(ran.lines()) == 1
    assert ran.status == 1
    assert "--fail-on refused: 2 allocations that a limit refused: " in ran.text
    assert "asked for 2 MiB for /second (fallocate), beyond size=8m" in ran.text
    honest(ran, 8)
    same(ran)


def test_too_many_segments(run: Callable[..., Ran]) -> None:
    script = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "while libc.shmget(0, 4096, 0o1600) >= 0: pass\nlibc.shmget(0, 1, 0o1600)"
    )
    ran = run("size=64m,shmmni=50", sys.executable, "-S", "-c", script, more=("--fail-on", "refused"))
    [refusal] = ran.report["refusals"]
    assert (refusal["errno"], refusal["call"], refusal["limit_name"], refusal["limit"], refusal["asked"]) == (
        *("ENOSPC", "shmget", "shmmni", 50, 1),
    )
    assert (refusal["enough"], refusal["count"]) == ("51", 2)
    assert [(one["path"], one["pid"]) for one in refusal["holders"]] == [("50 segments", refusal["pid"])]
    assert ran.status == 1
    assert "asked for 1 segment for /SYSV00000000 (shmget), beyond shmmni=50" in ran.text
    same(ran)


@pytest.mark.parametrize(
    ("options", "script", "expected"),
    [
        ("shmmax=64k", "libc.shmget(0, 65 << 10, 0o1600)", ("EINVAL", "shmget", "shmmax")),
        (
            "shmall=16",
            "[libc.shmget(0, 40 << 10, 0o1600) for i in range(2)]",
            ("ENOSPC", "shmget", "shmall"),
        ),
        ("nr_inodes=3", "[os.mkdir(f'/dev/shm/{i}') for i in range(9)]", ("ENOSPC", "mkdir", "nr_inodes")),
        ("size=64k", "os.symlink('x' * 300, '/dev/shm/s')", None),
    ],
)
def test_other_limits(
    run: Callable[..., Ran], options: str, script: str, expected: tuple[str, ...] | None
) -> None:
    begin = "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
    ran = run(options, sys.executable, "-S", "-c", begin + script, more=("--fail-on", "refused"))
    if expected is None:
        assert (ran.status, ran.report["refusals"], ran.lines()) == (0, [], [])
        return
    [refusal] = ran.report["refusals"]
    assert (refusal["errno"], refusal["call"], refusal["limit_name"]) == expected
    assert ran.status == 1
    assert f"beyond {expected[2]}=" in ran.text
    same(ran)


def test_a_write_that_does_not_fit(run: Callable[..., Ran]) -> None:
    """Of a process that ends at once, so that nothing of it can be looked up later."""
    needs_bpf()
    script = (
        "import os\nfd = os.open('/dev/shm/x', os.O_CREAT | os.O_RDWR)\nos.write(fd, bytes(8 << 20))\n"
        "try: os.write(fd, bytes(1 << 20))\nexcept OSError: os._exit(0)"
    )
    ran = run("size=8m", sys.executable, "-S", "-c", script, more=("--fail-on", "refused"))
    [refusal] = ran.report["refusals"]
    assert (refusal["errno"], refusal["call"], refusal["path"]) == ("ENOSPC", "write", "/x")
    assert 0 < refusal["asked"] <= 1 << 20  # the kernel hands a write to the daemon in pieces
    assert (refusal["limit"], refusal["enough"]) == (8 << 20, "9m")
    assert [(one["path"], one["bytes"]) for one in refusal["holders"]] == [("/x", 8 << 20)]
    assert refusal["process"].startswith("python")
    assert (ran.status, len(ran.lines("ENOSPC: "))) == (1, 1)
    honest(ran, 8)
    same(ran)


def assert_enough(ran: "Ran", size: str) -> None:
    """The size of the peak, which is exact with managed pages only."""
    expected = (None, size) if ran.report["store"] == "native" else (size, None)
    assert (ran.report["enough"], ran.report["needed"]) == expected


@pytest.mark.parametrize("action", ["SIG_DFL", "SIG_IGN"])
def test_a_file_that_may_not_be_so_large(run: Callable[..., Ran], action: str) -> None:
    needs_bpf()
    script = (
        "import os, resource, signal, sys\nfd = os.open('/dev/shm/x', os.O_CREAT | os.O_RDWR)\n"
        f"signal.signal(signal.SIGXFSZ, signal.{action})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\nos.write(fd, bytes(8192))\n"
        "try: os.write(fd, bytes(100))\nexcept OSError: pass\n"
        "try: os.ftruncate(fd, 1 << 20)\nexcept OSError: pass\n"
    )
    ran = run("size=8m", sys.executable, "-S", "-c", script, more=("--fail-on", "refused"))
    found = [
        (one["errno"], one["call"], one["limit_name"], one["limit"], one["asked"], one["path"])
        for one in ran.report["refusals"]
    ]
    expected = [("EFBIG", "write", "RLIMIT_FSIZE", 8192, 100, "/x")]
    if action == "SIG_IGN":
        expected.append(("EFBIG", "ftruncate", "RLIMIT_FSIZE", 8192, 1 << 20, "/x"))
    assert found == expected
    assert ran.status == (1 if action == "SIG_IGN" else 128 + signal.SIGXFSZ)
    assert "beyond RLIMIT_FSIZE of 8 KiB" in ran.text
    assert_enough(ran, "1m")  # size= was not the reason
    same(ran)


def test_a_program_that_handles_sigbus(run: Callable[..., Ran], programs: Path) -> None:
    more = "--fail-on", "sigbus", "--fail-on", "refused"
    ran = run("size=8m", programs / "fill", "/dev/shm/h", 9, "on", more=more)
    [death] = ran.report["deaths"]
    assert (death["page"], death["count"], death["fatal"]) == (2048, 256, False)
    assert (ran.status, len(ran.lines())) == (1, 1)
    assert "--fail-on sigbus: 256 touched pages that ended in SIGBUS: fill (pid " in ran.text
    assert "--fail-on refused: 256 allocations that a limit refused: fill (pid " in ran.text
    same(ran)


def test_a_page_beyond_the_end(run: Callable[..., Ran], programs: Path) -> None:
    ran = run("size=8m", programs / "shrink", "/dev/shm/t", more=("--fail-on", "refused"))
    [death] = ran.report["deaths"]
    if os.geteuid() == 0 and not probe.why_not():
        assert (death["path"], death["page"], death["limit"], death["holders"]) == ("/t", 1, 0, [])
        assert "beyond the end of the file, whose size is 4 KiB" in death["reason"]
    assert ran.status == KILLED
    assert "--fail-on" not in ran.text
    assert_enough(ran, "1m")
    same(ran)


def test_a_file_of_another_file_system_is_not_blamed_on_the_mount(
    run: Callable[..., Ran], programs: Path, tmp_path: Path
) -> None:
    shrink = programs / "shrink"
    ran = run(
        "size=8m", "sh", "-c", f": >/dev/shm/x; {shrink} {tmp_path / 't'}; true", more=("--fail-on", "sigbus")
    )
    [death] = ran.report["deaths"] or [None]
    assert death is not None
    assert (death["path"], death["page"], death["limit"], death["holders"]) == ("", None, 0, [])
    assert death["process"] == "shrink"
    if not probe.why_not():
        assert "where no file of this mount is mapped" in death["reason"]
    assert ran.status == 1
    assert "full" not in ran.text
    assert_enough(ran, "1m")
    same(ran)


@pytest.mark.parametrize("sender", ["$$", "$child"])
def test_a_signal_that_somebody_sent(run: Callable[..., Ran], sender: str) -> None:
    needs_bpf()
    script = (
        "kill -7 $$"
        if sender == "$$"
        else "sh -c 'read x </dev/null; exec sleep 100' & kill -7 $!; wait; true"
    )
    ran = run("size=8m", "sh", "-c", script, more=("--fail-on", "sigbus"))
    [death] = ran.report["deaths"]
    assert (death["path"], death["page"], death["limit"], death["fatal"]) == ("", None, 0, True)
    assert re.fullmatch(r"(the process itself|process \d+) sent it", death["reason"])
    assert ran.status == (KILLED if sender == "$$" else 0)
    assert "--fail-on sigbus" not in ran.text  # it is no touched page
    same(ran)


def test_html_and_text_of_a_trace(cli: Cli, programs: Path, tmp_path: Path) -> None:
    trace, page = tmp_path / "x.shmtrace", tmp_path / "x.html"
    cli("run", "-q", "-o", "size=8m", "--trace", trace, "--", programs / "fill", "/dev/shm/sparse", 32)
    found = json.loads(cli("report", "--json", trace).stdout)["deaths"][0]
    text = " ".join(cli("report", trace, env={"COLUMNS": "200"}).stdout.split())
    cli("report", "--html", page, trace)
    html = page.read_text()
    for shown in (f"fill {found['pid']}", "/sparse", "size=8m", "At least size=32m is needed"):
        assert shown in text
    for shown in ("/sparse", "size=8m", "At least size=32m is needed"):
        assert shown in html


def test_record_on_a_tmpfs(cli: Cli, programs: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount and to record a tmpfs")
    needs_bpf()
    place, trace = tmp_path / "tmpfs", tmp_path / "x.shmtrace"
    place.mkdir()
    syscalls.mount("tmpfs", str(place), "tmpfs", 0, "size=16m")
    recorder = subprocess.Popen(
        [*SHMFS, "record", "--trace", str(trace), str(place)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_recorded(trace, place)
        for number in range(1, 5):
            subprocess.run([programs / "fill", place / f"f{number}", "6"], check=False, timeout=TIMEOUT)
        with pytest.raises(OSError, match="No space left"), (place / "x").open("wb", buffering=0) as file:
            file.write(b"x" * 5000)
        recorder.send_signal(signal.SIGINT)
        _, said = recorder.communicate(timeout=TIMEOUT)
    finally:
        recorder.kill()
        recorder.communicate()
        syscalls.umount(str(place))
    found = json.loads(cli("report", "--json", trace).stdout)
    assert [(one["path"], one["page"], one["command"]) for one in found["deaths"]] == [
        ("/f3", 1024, "fill"),
        ("/f4", 0, "fill"),
    ]
    for death in found["deaths"]:
        assert {one["path"]: one["bytes"] >> 20 for one in death["holders"]} == {"/f1": 6, "/f2": 6, "/f3": 4}
        assert death["limit"] == 16 << 20
    # The files are looked at after the first death: /f4 may be there already.
    assert found["deaths"][0]["enough"] in ("18m", "24m")
    assert found["deaths"][1]["enough"] == "24m"
    [refusal] = found["refusals"]
    assert (refusal["path"], refusal["pid"], refusal["call"], refusal["asked"]) == (
        "/x",
        os.getpid(),
        "write",
        5000,
    )
    assert said.count("shmfs: SIGBUS: fill (pid ") == 2
    assert said.count("shmfs: ENOSPC: ") == 1


def wait_until_recorded(trace: Path, place: Path) -> None:
    """Until a mapping of this process is seen: then everything after it is."""
    deadline = time.monotonic() + TIMEOUT
    while not trace.exists() or trace.stat().st_size == 0:
        assert time.monotonic() < deadline, "the recorder did not begin"
        time.sleep(0.01)
    assert place.is_dir()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("{programs}/fill /dev/shm/a 32; echo END", ("fill", "/a", 2048)),
        ("exec {programs}/fill /dev/shm/a 32", ("fill", "/a", 2048)),
        ("kill -7 $$", ("sh", "", None)),
    ],
)
def test_without_root(tmp_path: Path, programs: Path, command: str, expected: tuple[Any, ...]) -> None:
    """Refused page-ins of managed pages are exact; of other deaths the page is not known."""
    place = Path("/tmp") / f"shmfs-test-{os.getpid()}"  # which others may search
    shutil.copytree(programs, place)
    place.chmod(0o755)
    try:
        script = command.format(programs=place)
        run = [
            sys.executable,
            "-P",
            "-m",
            "shmfs",
            "run",
            "--json",
            "-o",
            "size=8m",
            "--",
            "sh",
            "-c",
            script,
        ]
        result = subprocess.run(
            as_nobody(tmp_path, *run), capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    finally:
        shutil.rmtree(place)
    line = next((one for one in result.stderr.splitlines() if one.startswith("{")), None)
    if line is None:
        pytest.skip(f"no sandbox without root here: {result.stderr}")
    [death] = json.loads(line)["deaths"]
    assert (death["process"], death["path"], death["page"]) == expected
    if expected[1]:
        assert (death["limit"], death["enough"]) == (8 << 20, "32m")
        assert [(one["path"], one["bytes"]) for one in death["holders"]] == [("/a", 8 << 20)]
    else:
        assert death["reason"] == "page unknown (needs root)"
