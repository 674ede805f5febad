"""`shmfs run --fail-on`: what is measured, said and answered."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shmfs.testing.plugin import why_absent
from shmfs.tracefile import stream
from tests.cli.conftest import Cli

pytestmark = pytest.mark.mount

TOUCH = """
import mmap, os, sys
pages, sparse = int(sys.argv[1]), int(sys.argv[2])
file = os.open("/dev/shm/frames", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, sparse * 4096)
memory = mmap.mmap(file, sparse * 4096)
for page in range(pages):
    memory[page * 4096] = 1
if "unlink" in sys.argv:
    os.unlink("/dev/shm/frames")
"""


@pytest.fixture(autouse=True)
def _fuse() -> None:
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")


def touch(pages: int, sparse: int = 0, *more: str) -> list[str]:
    return [sys.executable, "-S", "-c", TOUCH, str(pages), str(sparse or pages), *more]


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ("leak", "1 segment left behind with a name: /frames (20 KiB, made by python"),
        ("faults>4", "5 page faults (perf, "),
        ("faults.major<6", "5 major page faults (perf, "),
        ("peak>=20k", "20 KiB (20480 bytes in use at once) (mm, exact)"),
        ("page_ins==5", "5 page-ins (fuse, exact)"),
        ("segments>0", "1 segment (fuse, exact)"),
        ("lost==0", "0 lost records"),
        ("leak>1", None),
        ("faults>5", None),
        ("peak>20k", None),
        ("refused", None),
        ("sigbus", None),
    ],
)
def test_budgets(cli: Cli, budget: str, sentence: str | None) -> None:
    result = cli("run", "-q", "--fail-on", budget, "--", *touch(5))
    assert result.returncode == (1 if sentence else 0), result.stderr
    if sentence is None:
        assert result.stderr == ""
    else:
        assert result.stderr.startswith(f"shmfs: --fail-on {budget}: {sentence}")
        assert result.stderr.count("\n") == 1


def test_several_with_a_report(cli: Cli, tmp_path: Path) -> None:
    report = tmp_path / "report"
    arguments = ["--fail-on", "leak", "--fail-on", "peak>1g", "--fail-on", "faults > 1", "--report", report]
    result = cli("run", *arguments, "--", *touch(2))
    assert result.returncode == 1
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == [
        " --fail-on leak",
        " --fail-on faults > 1",
    ]
    assert "/frames" in report.read_text()
    assert cli("run", *arguments, "--", *touch(1, 0, "unlink")).returncode == 0


def test_the_commands_own_status_stays(cli: Cli) -> None:
    result = cli("run", "-q", "--fail-on", "leak", "--", "sh", "-c", ": >/dev/shm/x; exit 3")
    assert result.returncode == 3
    assert "--fail-on leak: 1 segment" in result.stderr


def test_sigbus_and_refused(cli: Cli) -> None:
    arguments = ["-q", "-o", "size=16k", "--fail-on", "sigbus", "--fail-on", "refused"]
    result = cli("run", *arguments, "--", "sh", "-c", '"$@"; true', "sh", *touch(5))
    assert result.returncode == 1
    assert re.search(r"shmfs: SIGBUS: python\S* \(pid \d+\) touched page 4 of /frames, but", result.stderr)
    touched = r"python\S* \(pid \d+\) touched page 4 of /frames"
    assert re.search(
        rf"--fail-on sigbus: 1 touched page that ended in SIGBUS: {touched} \(perf, exact", result.stderr
    )
    assert re.search(rf"1 allocation that a limit refused: {touched}, beyond size=16k", result.stderr)
    result = cli("run", *arguments, "--", "sh", "-c", "head -c 20000 /dev/zero >/dev/shm/x; true")
    assert result.returncode == 1
    assert "--fail-on refused" in result.stderr
    assert "--fail-on sigbus" not in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to see who sends a signal")
def test_a_signal_that_was_sent_is_no_touched_page_but_a_death(cli: Cli, tmp_path: Path) -> None:
    trace = tmp_path / "sent.shmtrace"
    shell = ["sh", "-c", "sh -c 'kill -BUS $$'; exit 0"]
    result = cli("run", "-q", "--trace", str(trace), "--fail-on", "sigbus", "--", *shell)
    assert result.returncode == 0, result.stderr
    assert "was killed by signal 7: the process itself sent it" in result.stderr
    died = json.loads(cli("report", "--json", str(trace)).stdout)["deaths"]
    assert [(death["reason"], death["page"]) for death in died] == [("the process itself sent it", None)]


def test_refused_inodes_count(cli: Cli) -> None:
    script = "for i in 1 2 3 4 5; do true >/dev/shm/$i; done; true"
    result = cli("run", "-q", "-o", "nr_inodes=3", "--fail-on", "refused", "--", "sh", "-c", script)
    assert result.returncode == 1
    counted = r"3 allocations that a limit refused: sh \(pid \d+\) asked for 1 inode for / \(open\), beyond "
    assert re.search(counted + r"nr_inodes=3 \(mm, exact\)", result.stderr)


def test_the_trace_stays_where_one_is_wanted(cli: Cli, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    result = cli("run", "-q", "--trace", trace, "--fail-on", "faults>2", "--", *touch(3))
    assert result.returncode == 1
    assert len(stream.open(trace).fault_array()) == 3


def test_no_file_stays_and_none_is_large(cli: Cli, tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    result = cli("run", "-q", "--fail-on", "faults<4", "--", "sh", "-c", "ls -A $TMPDIR", env=environment)
    assert (result.stdout, os.listdir(tmp_path)) == ("", [])
    assert result.returncode == 1
    result = cli("run", "-q", "--fail-on", "faults>1", "--", *touch(2), env=environment)
    assert result.returncode == 1
    assert os.listdir(tmp_path) == []


def test_wrong_usage(cli: Cli) -> None:
    for budget, complaint in (("leek", "it is leak, refused, sigbus, or a comparison"), ("peak", "peak>64m")):
        result = cli("run", "--fail-on", budget, "--", "touch", "/never")
        assert result.returncode == 125
        assert "Usage: " in result.stderr
        assert complaint in result.stderr
    assert not os.path.exists("/never")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else and native pages")
def test_what_cannot_be_measured_fails(cli: Cli) -> None:
    result = cli("run", "-q", "-o", "pages=native", "--fail-on", "page_ins>0", "--", "true")
    if "native pages cannot be had" in result.stderr:
        pytest.skip("no native pages here")
    assert result.returncode == 1
    assert "page-ins could not be measured: with native pages" in result.stderr


def test_without_perf(tmp_path: Path) -> None:
    """As where kernel.perf_event_paranoid forbids it: said, and failed."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom shmfs.errors import ShmfsError\nfrom shmfs.tracing import perf\n"
        "def refuse(self, *arguments, **options): raise ShmfsError('perf is forbidden here')\n"
        "perf.Perf.__init__ = refuse\nfrom shmfs.cli import main\nmain()"
    )
    command = [sys.executable, str(program), "run", "-q", "--fail-on", "faults>0", "--", "true"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "--fail-on faults>0: page faults could not be measured: perf is forbidden here" in result.stderr
