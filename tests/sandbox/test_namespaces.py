"""Private namespaces by themselves: made, joined, emptied. Each test enters them in a subprocess."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shmfs.errors import ShmfsError
from shmfs.system import namespaces, proc

Program = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def program(namespaces_work: None) -> Program:
    """Return a function that runs a Python program in which `n` is the module."""

    def run(text: str) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2])}
        text = "import os, signal, sys, time\nfrom shmfs.system import namespaces as n\n" + text
        command = [sys.executable, "-c", text]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    return run


def test_no_mount_propagates_out(program: Program) -> None:
    result = program(
        "n.enter_private()\n"
        "n.mount('only-there', '/dev/shm', 'tmpfs', 0, 'size=1m')\n"
        "print(open('/proc/self/mountinfo').read())\n"
        "input_ = sys.stdin.read()\n"
    )
    assert result.returncode == 0, result.stderr
    assert "only-there" in result.stdout
    assert "shared:" not in result.stdout
    assert "only-there" not in Path("/proc/self/mountinfo").read_text()


def test_joining_keeps_the_directory(program: Program, tmp_path: Path) -> None:
    result = program(
        f"os.chdir({str(tmp_path)!r})\n"
        "ready, tell = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    n.enter_private(); os.write(tell, b'x'); signal.pause()\n"
        "os.read(ready, 1)\n"
        "n.join(pid)\n"
        "n.join(pid)\n"
        "print(os.getcwd(), n.mount_namespace(pid) == n.mount_namespace('self'), os.getuid(), os.getgid())\n"
        "os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)\n"
    )
    assert result.stdout == f"{tmp_path} True {os.getuid()} {os.getgid()}\n", result.stderr


def test_joining_nobody() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ShmfsError, match=f"process {process.pid} .*has it ended"):
        namespaces.join(process.pid)


def test_kill_namespace_refuses_outside() -> None:
    with pytest.raises(ShmfsError, match="outside of a private mount namespace"):
        namespaces.kill_namespace()


def test_kill_namespace_refuses_after_leaving(program: Program) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can go back")
    result = program(
        "home = os.open('/proc/self/ns/mnt', os.O_RDONLY)\n"
        "n.enter_private(); n.setns(home)\n"
        "try: n.kill_namespace()\n"
        "except n.ShmfsError: print('refused')\n"
    )
    assert result.stdout == "refused\n", result.stderr


def test_kill_namespace_finds_all(program: Program) -> None:
    """Children, orphans, sessions of their own, namespaces below, behind a foreign /proc; and nobody else."""
    bystander = subprocess.Popen(["sleep", "1000"])
    nested = "unshare -m" if os.geteuid() == 0 else "unshare -Um"
    script = (
        f"sleep 1000 & setsid sleep 1000 & {nested} sleep 1000 & (sh -c 'sleep 1000 & exec sleep 1000' &)"
    )
    result = program(
        "n.enter_private()\n"
        "read, write = os.pipe()\n"
        "os.set_inheritable(write, True)\n"
        "n.mount('tmpfs', '/dev/shm', 'tmpfs', 0)\n"
        "number = os.stat('/dev/shm').st_dev\n"
        f"os.system({script!r})\n"
        "os.close(write)\n"
        "n.mount('tmpfs', '/proc', 'tmpfs', 0)\n"
        "print(n.kill_namespace(f'{os.major(number)}:{os.minor(number)}', 20), len(os.read(read, 1)))\n"
    )
    try:
        assert result.stdout == "0 0\n", result.stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    ("error", "switch", "words"),
    [
        (errno.EPERM, ("kernel.ostype", "Linux", "Plan9"), "the sysctl kernel.ostype is Linux.*run as root"),
        (errno.EPERM, None, "Operation not permitted.*run as root"),
        (errno.ENOSPC, None, "user.max_user_namespaces"),
        (errno.EINVAL, None, "single thread"),
    ],
)
def test_reasons(
    monkeypatch: pytest.MonkeyPatch, error: int, switch: tuple[str, str, str] | None, words: str
) -> None:
    monkeypatch.setattr(namespaces, "SWITCHES", (switch,) if switch else ())
    message = namespaces._why_not(OSError(error, os.strerror(error)))
    assert re.search(words, message)
    assert "\n" not in message


def test_parents_and_descendants() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        grandchild = int(process.stdout.readline())
        table = proc.parents()
        assert table[grandchild] == process.pid
        assert proc.descendants({process.pid}, table) == {grandchild}
        assert {process.pid, grandchild} <= proc.descendants({os.getpid()}, table)
        os.kill(grandchild, 9)
        process.wait()


def test_zombies_only_on_request() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process.pid not in proc.parents()
    assert proc.parents(zombies=True)[process.pid] == os.getpid()
    process.wait()
