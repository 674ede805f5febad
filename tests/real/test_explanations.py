"""`shmfs run` explains each failure of programs with many signals and threads, and invents none."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.real.support import PATIENCE, REAL, needs

pytestmark = [*REAL, pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to see each failure")]

HERE = Path(__file__).parent
MIB = 1 << 20


class Ran(NamedTuple):
    """How a program ended, and what was reported of it."""

    status: int
    said: str
    report: dict[str, Any]
    trace: dict[str, Any]
    """The report on its trace."""

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [*self.report["deaths"], *self.report["refusals"]]


def shmfs(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "shmfs", *map(str, words)]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )


def under_run(where: Path, store: str, size: str, *command: str | Path) -> Ran:
    """Run a program with a /dev/shm of `size`, recorded; run and report must agree."""
    report, trace = where / "report", where / "trace"
    options = ["-o", f"size={size},pages={store}", "--json", "--report", report, "--trace", trace]
    budgets = ["--fail-on", "sigbus", "--fail-on", "refused"]
    done = shmfs("run", *options, *budgets, "--", *command)
    assert report.exists(), done.stderr
    told = shmfs("report", "--json", trace)
    assert told.returncode == 0, told.stderr
    ran = Ran(
        done.returncode, done.stdout + done.stderr, json.loads(report.read_text()), json.loads(told.stdout)
    )
    for kind in ("deaths", "refusals"):
        same = ("path", "page", "reason", "limit", "enough", "kind")
        pairs = [
            [{name: one.get(name) for name in same} for one in found[kind]]
            for found in (ran.report, ran.trace)
        ]
        assert sorted(map(str, pairs[0])) == sorted(map(str, pairs[1]))
    if ran.failures:
        assert not ran.report["enough"]  # no size is promised
        assert "At least size=" in ran.said
    return ran


def check_nothing_failed(ran: Ran, status: int = 0) -> None:
    assert (ran.failures, ran.trace["faults"]["failed"], ran.trace["faults"]["unknown"]) == ([], 0, 0)
    assert "shmfs: " not in ran.said, ran.said
    assert ran.status == status, ran.said


def check_full(failure: dict[str, Any], limit: int, process: str, path: str) -> None:
    """The mount was full: who was refused, and who held all of it."""
    assert (failure["limit"], failure["process"]) == (limit, process)
    assert failure["path"].startswith(path)
    assert limit * 0.9 <= sum(holder["bytes"] for holder in failure["holders"]) <= limit
    assert failure["pid"]
    assert failure["tid"]


@pytest.fixture(scope="session")
def go_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("go")
    environment = os.environ | {"GO111MODULE": "off", "GOCACHE": str(where / "cache"), "GOTOOLCHAIN": "local"}
    program = where / "go_maps"
    command = [needs("go", "golang-go"), "build", "-o", program, HERE / "go_maps.go"]
    subprocess.run(command, env=environment, check=True, timeout=PATIENCE)
    return program


def test_go(go_maps: Path, store: str, tmp_path: Path) -> None:
    check_nothing_failed(under_run(tmp_path, store, "64m", go_maps, "8", "4"))
    ran = under_run(tmp_path, store, "12m", go_maps, "8", "4")
    assert ran.status == 2
    for death in ran.report["deaths"]:
        check_full(death, 12 * MIB, "go_maps", "/go")
    assert ran.report["deaths"]


def test_java(store: str, tmp_path: Path) -> None:
    needs("javac", "default-jdk-headless")
    java = [needs("java"), "-Xmx64m", HERE / "Maps.java", "4", "2"]
    ran = under_run(tmp_path, store, "64m", *java)
    check_nothing_failed(ran)
    assert ran.trace["faults"]["total"] == 2048
    ran = under_run(tmp_path, store, "6m", *java)
    assert ran.status == 3
    for death in ran.report["deaths"]:  # which the virtual machine survives, as an InternalError
        check_full(death, 6 * MIB, "java", "/java")
        assert (death["fatal"], death["enough"]) == (False, "8m")
    assert ran.trace["faults"]["failed"] == sum(death["count"] for death in ran.report["deaths"]) > 0
    assert under_run(tmp_path, store, "8m", *java).status == 0


PHP = """
$refused = 0;
for ($number = 0; $number < 8; $number++)
    $refused += @file_put_contents("/dev/shm/php$number", str_repeat("x", 1 << 20)) !== 1 << 20;
exit($refused);
"""


def test_php(store: str, tmp_path: Path) -> None:
    php = [needs("php", "php-cli"), "-d", "opcache.enable_cli=1", "-r", PHP]
    check_nothing_failed(under_run(tmp_path, store, "8m", *php))
    ran = under_run(tmp_path, store, "5m", *php)
    assert ran.status == 3
    assert [one["path"] for one in ran.report["refusals"]] == ["/php5", "/php6", "/php7"]
    for refusal in ran.report["refusals"]:
        check_full(refusal, 5 * MIB, "php", "/php")
        assert (refusal["errno"], refusal["asked"]) == ("ENOSPC", MIB)


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    where = tmp_path_factory.mktemp("qemu")
    qemu = needs("qemu-system-x86_64", "qemu-system-x86")
    if os.uname().machine != "x86_64":
        pytest.skip("the kernel is built for x86")
    needs("gcc")
    subprocess.run(["gcc", "-c", "-m32", HERE / "qemu_kernel.S", "-o", where / "kernel.o"], check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext", "0x100000", "-o", where / "kernel", where / "kernel.o"]
    subprocess.run(link, check=True)
    return [
        *(qemu, "-display", "none", "-serial", "none", "-monitor", "none", "-nodefaults", "-no-reboot"),
        *("-m", "48", "-machine", "pc,memory-backend=memory,accel=tcg", "-kernel", where / "kernel"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-object"),
    ]


MEMORY = "memory-backend-file,id=memory,size=48M,share=on,mem-path=/dev/shm/guest"


def test_qemu(qemu: list[str | Path], store: str, tmp_path: Path) -> None:
    check_nothing_failed(under_run(tmp_path, store, "64m", *qemu, MEMORY), status=33)
    ran = under_run(tmp_path, store, "24m", *qemu, MEMORY)
    assert ran.status == 128 + 7
    (death,) = ran.report["deaths"]
    check_full(death, 24 * MIB, "qemu-system-x86", "/guest")
    assert (death["fatal"], death["enough"]) == (True, "48m")


def test_qemu_that_allocates_all_at_once(qemu: list[str | Path], store: str, tmp_path: Path) -> None:
    check_nothing_failed(under_run(tmp_path, store, "64m", *qemu, MEMORY + ",prealloc=on"), status=33)


JACKD = ["--no-realtime", "--name", "shmfs", "-d", "dummy", "-r", "48000", "-p", "256"]


def test_jackd(store: str, tmp_path: Path) -> None:
    """It locks some 100 MiB in memory, goes on without that, and touches all."""
    jackd = [needs("jackd", "jackd2"), *JACKD]
    check_nothing_failed(under_run(tmp_path, store, "256m", "timeout", "-s", "INT", "8", *jackd), status=124)
    ran = under_run(tmp_path, store, "1m", *jackd)
    assert ran.status == 128 + 7
    (death,) = ran.report["deaths"]
    check_full(death, MIB, "jackd", "/jack")
    assert death["enough"] == "104m"


def test_squid(store: str, tmp_path: Path) -> None:
    needs("squid")
    ran = under_run(tmp_path, store, "64m", "bash", HERE / "squid.sh")
    check_nothing_failed(ran)
    assert ran.said.splitlines() == ["403"]
    assert len(ran.report["segments"]) == 12
