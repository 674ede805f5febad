"""`shmfs top` as a user runs it: on a terminal, on none, and where it cannot be."""

import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from shmfs.testing import PrivateMount
from tests.cli.conftest import SHMFS, Cli

PAGE = 4096
HELD = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
memory[0] = 1
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """Have a process map a file."""
    processes = []

    def start(path: Path) -> int:
        command = [sys.executable, "-S", "-c", HELD, str(path)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"\n"
        return processes[-1].pid

    yield start
    for process in processes:
        process.communicate()


@pytest.mark.mount
@pytest.mark.parametrize("shmfs", ["size=8m,pages=managed"], indirect=True)
def test_one_table(cli: Cli, shmfs: PrivateMount, held):
    path = shmfs.path / "frames\x1b[2J"
    path.write_bytes(bytes(3 * PAGE))
    pid = held(path)
    done = cli("top", "--interval", "0.1", shmfs.path)  # standard output is no terminal
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{shmfs.path}: 12 KiB of 8 MiB, 1 segment, 1 process, ")
    row = next(line for line in lines if "/frames" in line)
    assert row.split()[:5] == ["/frames\\x1b[2J", "12", "KiB", "12", "KiB"]
    assert any(f" {pid} " in line for line in lines)
    assert "size, resident, page-ins, refused, peak, creator, limits: exact (fuse, mm)" in lines[-1]
    narrow = cli("top", "--once", "--interval", "0.1", shmfs.path, env={"COLUMNS": "40"})
    assert max(len(line) for line in narrow.stdout.splitlines()) <= 40


@pytest.mark.mount
@pytest.mark.parametrize("shmfs", ["size=8m"], indirect=True)
def test_json(cli: Cli, shmfs: PrivateMount, held):
    (shmfs.path / "frames").write_bytes(bytes(3 * PAGE))
    pid = held(shmfs.path / "frames")
    done = cli("top", "--once", "--json", "--interval", "0.1", shmfs.path)
    seen = json.loads(done.stdout)
    assert done.stderr == ""
    assert (seen["mount"], seen["limits"]["size"]) == (str(shmfs.path), 8 << 20)
    assert [(one["path"], one["resident"], one["processes"]) for one in seen["segments"]] == [
        ("/frames", 3, 1)
    ]
    assert [(one["pid"], one["mapped"]) for one in seen["shares"]] == [(pid, 3 * PAGE)]


def test_lines_of_json_until_nobody_reads(cli: Cli):
    command = [*SHMFS, "top", "--json", "--interval", "0.1", "/dev/shm"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert lines[0]["time"] < lines[1]["time"]
    process.stdout.close()
    assert process.wait(60) in (0, 1)
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (
            ["/proc"],
            1,
            "shmfs: /proc is on proc, whose files are no shared memory; name a directory on a mount",
        ),
        (
            ["/nowhere"],
            1,
            "shmfs: /nowhere does not exist; name a directory on a mount of shmfs or on a tmpfs",
        ),
        (["--interval", "0"], 2, "Invalid value for '--interval'"),
        (["--interval", "nan"], 2, "Invalid value for '--interval'"),
    ],
)
def test_what_cannot_be(cli: Cli, arguments, status, sentence):
    done = cli("top", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert sentence in done.stderr


def on_a_terminal(target: Path, wanted: bytes, *, color: bool) -> tuple[bytes, int]:
    """Run it, wait until it shows `wanted`, press q; what it wrote, and how it ended."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ.pop("NO_COLOR", None)
        os.environ.pop("COLORTERM", None)
        os.environ |= {"TERM": "xterm-256color"} | ({} if color else {"NO_COLOR": "1"})
        os.execv(SHMFS[0], [*SHMFS, "top", "--interval", "0.2", str(target)])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    written, asked, deadline = b"", False, time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                written += os.read(terminal, 1 << 16)
            if wanted in written and not asked:
                asked = True
                os.write(terminal, b"q")
    except OSError:  # EIO: it has ended
        pass
    if time.monotonic() >= deadline:
        os.kill(pid, 9)
    os.close(terminal)
    return written, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.mount
@pytest.mark.parametrize("shmfs", ["size=8m"], indirect=True)
def test_on_a_terminal(shmfs: PrivateMount):
    (shmfs.path / "frames").write_bytes(bytes(PAGE))
    written, status = on_a_terminal(shmfs.path, b"/frames", color=True)
    assert status == 0
    assert b"\x1b[38;5;" in written or b";38;5;" in written  # one of 256 colours
    assert b"38;2;" not in written  # none that such a terminal has not
    assert b"Traceback" not in written


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a /dev/shm to write to")
def test_on_a_terminal_the_kernels_tmpfs(tmp_path):
    name = Path(f"/dev/shm/shmfs-top-{os.getpid()}")
    name.write_bytes(bytes(1 << 20))
    try:
        written, status = on_a_terminal(Path("/dev/shm"), name.name.encode(), color=False)
    finally:
        name.unlink()
    assert status == 0
    assert b"Traceback" not in written


@pytest.mark.mount
def test_in_a_sandbox_it_looks_at_the_dev_shm_there(cli: Cli):
    """Also beside other mounts, of which no other is meant."""
    done = cli("run", "-q", "--", *SHMFS, "top", "--once", "--json")
    assert json.loads(done.stdout)["mount"] == "/dev/shm", done.stderr
