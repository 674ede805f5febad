"""`shmfs run`: what passes through, the report, and that nothing is left."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import shmfs.trace
from shmfs.daemon import runtime
from shmfs.system import mounts
from shmfs.testing.plugin import why_absent
from tests.cli.conftest import SHMFS, Cli, alive, eventually

pytestmark = pytest.mark.mount

WORKERS = """
import multiprocessing, os, sys
from multiprocessing import shared_memory

def work(name, number, barrier):
    memory = shared_memory.SharedMemory(name)
    for page in range(64):
        memory.buf[page * 4096 + number] = number
    barrier.wait()  # all have it mapped
    barrier.wait()  # and have been looked at
    memory.close()

if __name__ == "__main__":
    memory = shared_memory.SharedMemory(create=True, size=64 * 4096)
    barrier = multiprocessing.Barrier(3)
    workers = [multiprocessing.Process(target=work, args=(memory.name, n, barrier)) for n in (1, 2)]
    for worker in workers: worker.start()
    barrier.wait()
    import time; time.sleep(float(sys.argv[1]))
    barrier.wait()
    for worker in workers: worker.join()
    print(sum(memory.buf[:3]), memory.name)
    memory.close()
    memory.unlink()
    open("/dev/shm/left behind", "w").write("x")
"""

KILL_THE_DAEMON = """
import os, signal, sys
own = os.readlink("/proc/self/ns/mnt")
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        command = open(f"/proc/{pid}/cmdline", errors="replace").read()
        if int(pid) == os.getpid() or os.readlink(f"/proc/{pid}/ns/mnt") != own:
            continue
        if "shmfs.daemon.serve" in command:
            os.kill(int(pid), signal.SIGKILL)
            while os.path.exists(f"/proc/{pid}/exe"): pass
    except OSError:
        pass
try:
    open("/dev/shm/file", "w")
except OSError as error:
    sys.exit(error.errno if sys.argv[1] == "fail" else 0)
"""


@pytest.fixture(autouse=True)
def _fuse() -> None:
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")


def test_soft_limits_of_the_shell_are_not_the_daemon_s(cli: Cli) -> None:
    """All pages are in one file of the daemon's, and it lives for as long as there is a mount."""

    def limit() -> None:
        for which, soft in ((resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_CPU, 1)):
            resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))

    work = """
for file in 1 2 3 4; do head -c 500000 /dev/zero > /dev/shm/$file || exit; done
ulimit -St unlimited
exec "$0" -c 'import os, time
end = time.monotonic() + 3
while time.monotonic() < end:
    os.close(os.open("/dev/shm/new", os.O_CREAT))
    os.unlink("/dev/shm/new")'
"""
    command = ["sh", "-c", work, sys.executable]
    result = cli("run", "-q", "-o", "pages=managed", "--", *command, preexec_fn=limit)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "prepare", ["mount -t tmpfs -o ro none /run", "mkdir -m 700 /run/shmfs; mount -o remount,ro /run"]
)
def test_read_only_directories(cli: Cli, prepare: str) -> None:
    """Nothing is written to the temporary directory, and that there is no socket is told in a sentence."""
    if os.geteuid():
        pytest.skip("mounts take root")
    refuse = (
        "for one in /tmp /var/tmp /; do mount --rbind $one $one; mount -o remount,bind,ro $one; done; cd /"
    )
    # What is mounted over / is not seen from the root that a process has already: the file is the machine's.
    write = "echo kept > /dev/shm/file; cat /dev/shm/file; rm /dev/shm/file"
    run = [*SHMFS, "run", "-q", "--", "sh", "-c", write]

    def inside(*first: str) -> "subprocess.CompletedProcess[str]":
        script = "; ".join([*first, refuse, 'exec "$@"'])
        return subprocess.run(
            ["unshare", "-m", "sh", "-ec", script, "sh", *run],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    result = inside("mount -t tmpfs none /run")
    assert (result.returncode, result.stdout, result.stderr) == (0, "kept\n", "")
    result = inside("mount -t tmpfs none /run", prepare)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("shmfs: cannot make ")
    assert result.stderr.endswith("Read-only file system\n")
    assert result.stderr.count("\n") == 1


def test_a_private_dev_shm(cli: Cli) -> None:
    name = f"private-{os.getpid()}"
    result = cli(
        "run",
        "-o",
        "size=3m",
        "--",
        "sh",
        "-c",
        f"ls -A /dev/shm; stat -f -c '%b' /dev/shm; echo x >/dev/shm/{name}; pwd",
    )
    assert result.returncode == 0
    assert result.stdout == f"768\n{os.getcwd()}\n"
    assert f"/{name}" in result.stderr
    assert "1 segment still linked" in result.stderr
    assert name not in os.listdir("/dev/shm")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit 125"], 125),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["./no-such-file"], 127),
        (["/etc/passwd"], 126),
        (["/"], 126),
    ],
)
def test_exit_status(cli: Cli, command: list[str], status: int) -> None:
    result = cli("run", "-q", "--", *command)
    assert result.returncode == status
    assert result.stdout == ""
    if status in (126, 127):
        assert result.stderr.startswith(f"shmfs: cannot run {command[0]!r}"[:18])
        assert result.stderr.count("\n") == 1
    else:
        assert result.stderr == ""


def test_wrong_usage_is_not_the_commands(cli: Cli) -> None:
    for arguments in ([], ["--bogus", "true"], ["-o"]):
        result = cli("run", *arguments)
        assert result.returncode == 125
        assert "Usage: " in result.stderr


def test_options_of_the_command_are_its_own(cli: Cli) -> None:
    for separator in ([], ["--"]):
        result = cli("run", "-q", *separator, "sh", "-c", 'echo "$@"', "--", "--json", "-o", "--", "--help")
        assert result.stdout == "--json -o -- --help\n"


def test_the_report(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "workers.py").write_text(WORKERS)
    for seconds in ("0.3", "1", "3", "9"):  # until a sample was taken meanwhile
        command = [sys.executable, "workers.py", seconds]
        result = cli("run", "-o", "size=8m,pages=managed", "--json", "--", *command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        total, name = result.stdout.split()
        assert total == "3"
        report = json.loads(result.stderr)
        rows = {row["segment"]["path"]: row for row in report["segments"]}
        shared = rows[f"/{name}"]
        if shared["shared"] == 64:
            break
    assert shared["shared"] == 64
    assert len(shared["mapped_by"]) >= 3  # who is seen between fork and exec maps what its parent does
    assert shared["segment"]["evicted"]
    assert shared["segment"]["peak_resident"] == 64
    assert shared["segment"]["page_ins"] == 64
    assert shared["segment"]["created_by"]["command"].startswith("python")
    assert report["status"] == 0
    assert report["command"] == command
    assert report["options"].startswith("size=8m")
    assert report["linked"] == [rows["/left behind"]["segment"]["inode"]]
    assert report["unlinked"] == []
    assert report["peak"] >= 64 * 4096
    assert report["enough"] == "1m"
    assert report["processes"] >= 3
    assert not any(
        mount.device == report["device"] and mount.mountpoint == "/dev/shm" for mount in mounts.mounts()
    )


def test_the_report_as_text(cli: Cli, tmp_path: Path) -> None:
    script = "exec 3>'/dev/shm/[red]\x1b[31mevil'; echo data >&3; sleep 100 & rm /dev/shm/*; exec 3>&-"
    for columns in ("40", "80", "200"):
        script = script if columns == "40" else script.replace("sleep 100", "true")
        result = cli("run", "-o", "size=1m", "sh", "-c", script, env={"COLUMNS": columns})
        assert result.returncode == 0
        assert result.stdout == ""
        assert "\x1b" not in result.stderr
        assert "[red]\\x1b[31mevil" in result.stderr.replace("\n", "")
        assert ("killed: sleep" in " ".join(result.stderr.split())) == (columns == "40")
        assert max(map(len, result.stderr.splitlines())) <= int(columns)
    file = tmp_path / "report"
    result = cli("run", "--report", file, "--", "true")
    assert (result.stdout, result.stderr) == ("", "")
    assert "exit 0" in file.read_text()
    result = cli("run", "--report", file, "--json", "--", "true")
    assert (result.stdout, result.stderr) == ("", "")
    assert json.loads(file.read_text())["status"] == 0
    result = cli("run", "--report", tmp_path / "missing" / "report", "true")
    assert result.returncode == 125


def test_nothing_is_held_after_the_end(cli: Cli) -> None:
    """What an ended process held open or mapped is not told as left behind."""
    script = (
        "import mmap, os; f = os.open('/dev/shm/x', 66); os.ftruncate(f, 1 << 20); os.unlink('/dev/shm/x')\n"
    )
    script += "m = mmap.mmap(f, 1 << 20); m[:] = bytes(1 << 20)"
    report = json.loads(cli("run", "--json", sys.executable, "-c", script).stderr)
    assert report["unlinked"] == []
    assert report["segments"][0]["segment"]["evicted"]


@pytest.mark.parametrize(("then", "status"), [("fail", None), ("succeed", 125)])
def test_a_daemon_that_dies(cli: Cli, then: str, status: int) -> None:
    result = cli("run", "--", sys.executable, "-c", KILL_THE_DAEMON, then)
    assert result.returncode == (status or result.returncode or -1)
    assert "was killed by SIGKILL" in result.stderr
    assert "run it again" in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_stays_when_it_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = [
        *SHMFS,
        "run",
        "--",
        "sh",
        "-c",
        f"sleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait",
    ]
    with subprocess.Popen(command) as process:
        eventually(pids.exists)
        children = [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(pid) == process.pid
        ]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    everyone = {*children, *map(int, pids.read_text().split())}
    assert len(everyone) == 3
    eventually(lambda: not any(map(alive, everyone)))
    assert not [mount for mount in mounts.shmfs_mounts() if mount.mountpoint == "/dev/shm"]


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_ps_sees_the_sandbox(cli: Cli, tmp_path: Path) -> None:
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f"echo x >/dev/shm/seen; echo >{ready}; until [ -e {go} ]; do sleep 0.05; done"
    with subprocess.Popen([*SHMFS, "run", "-q", "-o", "size=1234k", "--", "sh", "-c", script]) as process:
        try:
            eventually(ready.exists)
            found: list[dict[str, Any]] = [
                mount
                for mount in json.loads(cli("ps", "--json").stdout)
                if mount["sandbox"] and mount["options"] == "size=1234k"
            ]
            assert len(found) == 1
            sandbox = json.loads(cli("ps", "--json", found[0]["device"]).stdout)
            assert [segment["path"] for segment in sandbox["segments"]] == ["/seen"]
            file = f"/proc/{sandbox['pid']}/root/dev/shm/seen"
            if os.geteuid() == 0:
                assert json.loads(cli("map", "--json", file).stdout)["device"] == sandbox["device"]
        finally:
            go.touch()
    assert process.returncode == 0
    assert not runtime.socket_path(sandbox["device"]).exists() or found[0] not in json.loads(
        cli("ps", "--json").stdout
    )


AROUND = """
import json, mmap, os, sys
fd = os.open("/dev/shm/a", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 70 * 4096)
written = mmap.mmap(fd, 70 * 4096)
for page in range(40): written[page * 4096] = 1
if os.fork() == 0:
    seen = mmap.mmap(fd, 70 * 4096, prot=mmap.PROT_READ)
    for page in (5, 20, 60): seen[page * 4096]
    maps = [line for line in open("/proc/self/maps") if line.rstrip().endswith("/a")]
    (start,) = [int(line.split("-")[0], 16) for line in maps if "r--s" in line]
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(start // 4096 * 8)
        entries = memoryview(file.read(70 * 8)).cast("Q")
    print(json.dumps([os.getpid(), [page for page in range(70) if entries[page] >> 63]]), flush=True)
    os._exit(0)
os.wait()
"""


def faults_of_the_child(
    cli: Cli, tmp_path: Path, pages: str, program: str
) -> tuple[Any, list[int], list[str]]:
    """Run a program that prints a pid and which pages it has; returns its faults, these pages, all paths."""
    path = tmp_path / "trace"
    result = cli("run", "-q", "-o", f"pages={pages}", "--trace", path, "--", sys.executable, "-c", program)
    if "cannot be had" in result.stderr:
        pytest.skip(result.stderr)
    with shmfs.trace.open(path) as trace:
        if not any(source.source == "filemap" for source in trace.meta.sources):
            pytest.skip("the kernel permits no tracepoints here")
        faults = trace.fault_array()
        pids = [one["pid"] for one in trace.processes]
        paths = [one["path"] for one in trace.segments]
    pid, present = json.loads(result.stdout)
    return faults[[pids[process] == pid for process in faults["process"]]], present, paths


@pytest.mark.skipif(os.geteuid() != 0, reason="tracepoints take root")
@pytest.mark.parametrize("pages", ["managed", "native"])
def test_pages_mapped_around_a_fault_are_in_the_trace(cli: Cli, tmp_path: Path, pages: str) -> None:
    """By source filemap, once each, as /proc/PID/pagemap has them."""
    faults, present, _ = faults_of_the_child(cli, tmp_path, pages, AROUND)
    own, around = (faults["page"][faults["source"] == source].tolist() for source in (0, 1))
    assert sorted(own + around) == present
    assert {5, 60} <= set(own) <= {5, 20, 60}


POPULATE = """
import ctypes, json, mmap, os
PAGE = 4096
files = []
for name in ("a", "b"):
    fd = os.open("/dev/shm/" + name, os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 32 * PAGE)
    files.append((fd, mmap.mmap(fd, 32 * PAGE)))
    for page in range(32): files[-1][1][page * PAGE] = 1
if os.fork() == 0:
    (a, _), (b, _) = files
    whole = mmap.mmap(a, 32 * PAGE)
    one = mmap.mmap(a, PAGE, offset=3 * PAGE)
    whole[20 * PAGE], one[0]
    other = mmap.mmap(b, 32 * PAGE, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(start // PAGE * 8)
        entries = memoryview(file.read(32 * 8)).cast("Q")
    print(json.dumps([os.getpid(), [page for page in range(32) if entries[page] >> 63]]), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="tracepoints take root")
@pytest.mark.parametrize("pages", ["managed", "native"])
def test_pages_that_a_call_maps_are_not_those_of_another_file(cli: Cli, tmp_path: Path, pages: str) -> None:
    """MAP_POPULATE maps pages of b; the last fault of the thread was on a, at an index among them."""
    faults, present, paths = faults_of_the_child(cli, tmp_path, pages, POPULATE)
    assert len(present) > 1
    assert {paths[segment] for segment in faults["segment"]} == {"/a"}
    assert sorted(faults["page"].tolist()) == [3, *present]
