"""Commands under supervision: what passes through, and that nothing is left."""

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

COUNTER = """
import os, signal, sys
counts = {}
for name in sys.argv[1].split():
    def count(number, frame, name=name):
        counts[name] = counts.get(name, 0) + 1
    signal.signal(getattr(signal, name), count)
def tell(number, frame):
    print(sorted(counts.items()), flush=True)
    os._exit(7)
signal.signal(signal.SIGRTMAX, tell)
exec(sys.argv[2])
print("ready", flush=True)
while True:
    signal.pause()
"""
"""Counts the signals that argv[1] names; on SIGRTMAX, the last in any order, tells and ends with status 7."""


def counter(names: str, then: str = "") -> tuple[str, ...]:
    return ("/usr/bin/env", "python3", "-c", COUNTER, names, then)


def taken(pid: int, number: int) -> bool:
    """Say whether no signal `number` waits for the process `pid`."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = [
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("ShdPnd", "SigPnd"))
    ]
    return not any(mask >> (number - 1) & 1 for mask in pending)


@pytest.mark.parametrize(
    ("script", "status", "number"),
    [("exit 0", 0, 0), ("exit 3", 3, 0), ("exit 255", 255, 0)]
    + [(f"kill -{n} $$", 128 + n, int(n)) for n in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)],
)
def test_exit_status(sandbox: Any, script: str, status: int, number: int) -> None:
    result = sandbox.run("sh", "-c", script)
    assert (result["status"], result["signal"], result["left"]) == (status, number, [])
    assert result["duration"] > 0


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("no-such-command", 127, "no such command in PATH"),
        ("./no-such-file", 127, "no such file"),
        ("", 127, "no such command in PATH"),
        ("/", 126, "directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("./binary", 126, "Exec format"),
        ("./orphan", 127, "interpreter"),
    ],
)
def test_command_that_cannot_run(sandbox: Any, name: str, status: int, words: str) -> None:
    for file, content in (("binary", b"\x7fELF\0\0"), ("orphan", b"#!/no/such/interpreter\n")):
        (sandbox.directory / file).write_bytes(content)
        (sandbox.directory / file).chmod(0o755)
    result = sandbox.run(name, cwd=sandbox.directory)
    assert result["status"] == status
    assert words in result["error"]
    assert result["stdout"] == ""


def test_script_without_interpreter_line(sandbox: Any) -> None:
    script = sandbox.directory / "script"
    script.write_text('echo "$0" "$@"\n')
    script.chmod(0o755)
    assert sandbox.run("./script", "a b", cwd=sandbox.directory)["stdout"] == "./script a b\n"


def test_private_shm(sandbox: Any) -> None:
    name = f"/dev/shm/shmfs-test-{os.getpid()}"
    Path(name).touch()
    try:
        result = sandbox.run("sh", "-c", f"ls -A /dev/shm; echo private > {name}; cat {name}; df -P /dev/shm")
        assert result["stdout"].startswith("private\n")
        assert " 1024 " in result["stdout"]
        assert Path(name).read_text() == ""
    finally:
        Path(name).unlink()


def test_standard_streams(sandbox: Any) -> None:
    process = sandbox.start("sh", "-c", "cat; echo err >&2", stdin=subprocess.PIPE)
    process.stdin.write("through")
    process.stdin.close()
    process.stdin = None
    result = sandbox.finish(process)
    assert result["stdout"] == "through"
    assert result["stderr"] == "err\n"


def test_surroundings_are_kept(sandbox: Any) -> None:
    """The same command prints the same with and without shmfs."""
    look = """
        pwd; umask; ulimit -a; nice
        env -0 | tr '\\0' '\\n' | sort
        ls -l /proc/self/fd | sed 's/.* \\([0-9]* ->\\)/\\1/'
        grep -E '^(Sig[BCIP]|Shd|Groups|Uid|Gid|Seccomp|NoNewPrivs)' /proc/self/status
    """
    read, write = os.pipe()

    def surroundings() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.umask(0o027)
        os.nice(3)

    options: dict[str, Any] = {
        "env": {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "X": "a=b\nc",
            "LANG": "C",
        },
        "cwd": "/usr/lib",
        "preexec_fn": surroundings,
        "pass_fds": (read,),
        "stdin": subprocess.DEVNULL,
    }
    plain = subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=True, **options)
    inside = sandbox.run("sh", "-c", look, **options)
    for descriptor in (read, write):
        os.close(descriptor)

    def without_names(text: str) -> str:
        return re.sub(r"pipe:\[\d+\]|/proc/\d+/fd", "-", text)

    assert without_names(inside["stdout"]) == without_names(plain.stdout)
    assert "LC_CTYPE" not in inside["stdout"]


def test_working_directory_that_only_exists_outside(sandbox: Any) -> None:
    directory = Path(f"/dev/shm/shmfs-test-{os.getpid()}")
    directory.mkdir()
    try:
        result = sandbox.run("pwd", cwd=directory)
    finally:
        directory.rmdir()
    assert result["status"] == 1
    assert f"the working directory {directory} does not exist in the sandbox" in result["error"]


def test_deleted_working_directory(sandbox: Any) -> None:
    gone = sandbox.directory / "gone"
    gone.mkdir()
    assert sandbox.run("true", cwd=gone, preexec_fn=gone.rmdir)["status"] == 0


@pytest.mark.parametrize(
    "name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGWINCH", "SIGALRM", "SIGRTMIN"]
)
def test_signals_are_forwarded_once(sandbox: Any, name: str) -> None:
    process = sandbox.start(*counter(name))
    assert process.stdout.readline() == "ready\n"
    number = getattr(signal, name)
    process.send_signal(number)
    sandbox.eventually(lambda: taken(process.pid, number))
    process.send_signal(signal.SIGRTMAX)
    result = sandbox.finish(process)
    assert result["stdout"] == f"[('{name}', 1)]\n"
    assert result["status"] == 7


def test_unhandled_signal_ends_both(sandbox: Any) -> None:
    process = sandbox.start("sh", "-c", "echo ready; exec sleep 1000")
    process.stdout.readline()
    process.terminate()
    assert sandbox.finish(process)["status"] == 128 + signal.SIGTERM


def test_signal_to_the_own_group_comes_once(sandbox: Any) -> None:
    process = sandbox.start(*counter("SIGUSR1", "os.kill(0, signal.SIGUSR1)"))
    assert process.stdout.readline() == "ready\n"
    sandbox.eventually(lambda: taken(process.pid, signal.SIGUSR1))
    process.send_signal(signal.SIGRTMAX)
    assert sandbox.finish(process)["stdout"] == "[('SIGUSR1', 1)]\n"


def test_stopped_and_continued(sandbox: Any) -> None:
    process = sandbox.start("sh", "-c", "kill -STOP $$; exit 5")
    pid, status = os.waitpid(process.pid, os.WUNTRACED)
    assert pid == process.pid
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert sandbox.finish(process)["status"] == 5


def test_stopped_without_a_shell_stays_awake(sandbox: Any) -> None:
    """In an orphaned process group nobody could continue the supervisor: it must not stop."""
    process = sandbox.start(
        "sh", "-c", "echo $$; kill -STOP $$; exit 5", process_group=None, start_new_session=True
    )
    child = int(process.stdout.readline())
    sandbox.eventually(lambda: " T " in Path(f"/proc/{child}/stat").read_text())
    os.kill(child, signal.SIGCONT)
    assert sandbox.finish(process)["status"] == 5


def test_orphans_are_reaped_while_the_command_runs(sandbox: Any) -> None:
    orphan = "sh -c '(sh -c \"echo \\$\\$ > pid\" &)'"
    gone = "until [ -s pid ]; do sleep 0.01; done; while [ -d /proc/$(cat pid) ]; do sleep 0.01; done"
    assert sandbox.run("sh", "-c", f"{orphan}; {gone}", cwd=sandbox.directory)["status"] == 0


def test_orphans_that_end_by_themselves(sandbox: Any) -> None:
    result = sandbox.run("sh", "-c", "(sleep 0.2; touch done) & exit 0", cwd=sandbox.directory)
    assert result["left"] == []
    assert (sandbox.directory / "done").exists()


@pytest.mark.parametrize(
    "leave",
    [
        "sleep 1000 &",
        "setsid sleep 1000 &",
        "(setsid sh -c 'sleep 1000 & exec sleep 1000' &)",
        "sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' &",
        "sh -c 'kill -STOP $$; sleep 1000' &",
        "unshare -m sleep 1000 &",
    ],
)
def test_leftovers_are_killed(sandbox: Any, leave: str) -> None:
    if "unshare" in leave and os.geteuid() != 0:
        leave = leave.replace("-m", "-Um")
    result = sandbox.run("sh", "-c", f"{leave}\necho $!; exit 4", options={"grace": 0.3})
    assert result["status"] == 4
    assert result["left"]
    assert not any(sandbox.alive(pid) for pid, _ in result["left"])
    assert {name for _, name in result["left"]} <= {"sleep", "sh", "setsid", "unshare"}


def test_ctrl_c_cuts_the_grace_short(sandbox: Any) -> None:
    process = sandbox.start(
        "sh",
        "-c",
        "trap '' INT TERM; (sleep 1000; sleep 1000) & echo $$; exit 0",
        options={"grace": 1000, "deaf": True},
    )
    child = int(process.stdout.readline())
    sandbox.eventually(lambda: not sandbox.alive(child))

    def ended() -> bool:
        if not sandbox.out.exists():
            process.send_signal(signal.SIGINT)
        return process.poll() is not None

    sandbox.eventually(ended)
    result = sandbox.finish(process)
    assert result["status"] == 0
    assert result["left"]


@pytest.mark.parametrize("moment", ["at work", "in the grace"])
def test_killed_supervisor_leaves_nothing(sandbox: Any, moment: str) -> None:
    script = "sleep 1000 & a=$!; setsid sleep 1000 & echo $$ $a $!; " + (
        "wait" if moment == "at work" else ""
    )
    process = sandbox.start("sh", "-c", script, options={"grace": 1000})
    pids = [int(word) for word in process.stdout.readline().split()]
    _, server = sandbox.pids()
    if moment == "in the grace":
        sandbox.eventually(lambda: not sandbox.alive(pids[0]))
    process.kill()
    sandbox.eventually(lambda: not any(sandbox.alive(pid) for pid in (*pids, server)))


def test_children_from_before_are_left_alone(sandbox: Any) -> None:
    """What the shell that became shmfs had started is neither waited for nor killed."""
    driver = shlex.join(sandbox.argv("true", grace=0.2))
    script = f"sleep 1000 >&- & echo $!; (sleep 0.1 &); sh -c 'sleep 1000 >&- & echo $!'; exec {driver}"
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, env=environment, timeout=60
    )
    pids = [int(line) for line in result.stdout.split()]
    assert result.returncode == 0
    assert len(pids) == 2
    for pid in pids:
        assert sandbox.alive(pid)
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["keep", "raise"])
def test_sampler(sandbox: Any, kind: str) -> None:
    process = sandbox.start("sh", "-c", "echo $$; read line", options={"sample": kind}, stdin=subprocess.PIPE)
    child = int(process.stdout.readline())
    _, server = sandbox.pids()
    time.sleep(0.2)
    process.stdin.close()
    process.stdin = None
    result = sandbox.finish(process)
    samples = result["samples"]
    assert [child] in samples or kind == "raise"
    assert not any(server in pids or process.pid in pids for pids in samples)
    if kind == "raise":
        assert len(samples) == 1
        assert "sampling failed" in result["stderr"]
        assert result["stale"]["figures"] == ["mapped_by", "shared", "sample"]
    else:
        assert result["stale"] is None


class TestUnprivileged:
    """As somebody who is not root: a user namespace in which he is himself."""

    def test_ids_are_kept(self, sandbox: Any, nobody: int) -> None:
        script = (
            "id -u; id -g; cat /proc/self/uid_map; df -P /dev/shm | tail -n 1; grep CapEff /proc/self/status"
        )
        result = sandbox.run("sh", "-c", script, options={"uid": nobody}, cwd="/")
        uid, gid, uid_map, shm, capabilities = result["stdout"].splitlines()
        assert (uid, gid, uid_map.split()) == (str(nobody), str(nobody), [str(nobody), str(nobody), "1"])
        assert " 1024 " in shm
        assert int(capabilities.split()[1], 16) == 0

    def test_directory_that_cannot_be_reached_by_path(self, sandbox: Any, nobody: int) -> None:
        closed = sandbox.directory / "closed"
        (closed / "inside").mkdir(parents=True)
        closed.chmod(0o700)
        (closed / "inside").chmod(0o777)
        result = sandbox.run("sh", "-c", "echo here > file", options={"uid": nobody}, cwd=closed / "inside")
        assert result["status"] == 0
        assert (closed / "inside" / "file").read_text() == "here\n"

    def test_leftovers_and_status(self, sandbox: Any, nobody: int) -> None:
        script = "sleep 1000 & setsid sleep 1000 & exit 9"
        result = sandbox.run("sh", "-c", script, options={"uid": nobody, "grace": 0.2}, cwd="/")
        assert result["status"] == 9
        assert [name for _, name in result["left"]] == ["sleep", "sleep"]

    def test_killed_supervisor_leaves_nothing(self, sandbox: Any, nobody: int) -> None:
        script = "setsid sleep 1000 & echo $$ $!; wait"
        process = sandbox.start("sh", "-c", script, options={"uid": nobody}, cwd="/")
        pids = [int(word) for word in process.stdout.readline().split()]
        process.kill()
        sandbox.eventually(lambda: not any(sandbox.alive(pid) for pid in (*pids, sandbox.pids()[1])))


class Terminal:
    """An interactive shell with job control on a terminal."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PS1": "$ ",
            "TERM": "dumb",
        }
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for output that matches and return the match; what came before is forgotten."""
        while not (match := re.search(pattern, self.seen)):
            readable, _, _ = select.select([self.descriptor], [], [], 20)
            assert readable, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.descriptor, 4096).decode()
        self.seen = self.seen[match.end() :]
        return match

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.descriptor)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(sandbox: Any) -> Any:
    terminal = Terminal()
    yield terminal
    terminal.close()


class TestTerminal:
    """Job control in a shell on a pseudo-terminal."""

    def test_ctrl_c_reaches_the_command_once(self, sandbox: Any, terminal: Terminal) -> None:
        terminal.type(shlex.join(sandbox.argv(*counter("SIGINT"))).replace("\n", "'$'\\n''") + "\n")
        terminal.expect("ready\r\n")
        supervisor, _ = sandbox.pids()
        terminal.type("\x03")
        terminal.expect(r"\^C")
        sandbox.eventually(lambda: taken(supervisor, signal.SIGINT))
        os.kill(supervisor, signal.SIGRTMAX)
        assert terminal.expect(r"\[.*\]").group() == "[('SIGINT', 1)]"
        terminal.type("echo status $?\n")
        terminal.expect("status 7\r\n")

    def test_ctrl_z_and_fg(self, sandbox: Any, terminal: Terminal) -> None:
        terminal.type(
            shlex.join(sandbox.argv("sh", "-c", "echo re''ady; read x; echo got $x; exit 6")) + "\n"
        )
        terminal.expect("ready\r\n")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.type("fg\n")
        terminal.type("word\n")
        terminal.expect("got word\r\n")
        terminal.type("echo status $?\n")
        terminal.expect("status 6\r\n")

    def test_default_ctrl_c(self, sandbox: Any, terminal: Terminal) -> None:
        terminal.type(shlex.join(sandbox.argv("sh", "-c", "echo re''ady; exec sleep 1000")) + "\n")
        terminal.expect("ready\r\n")
        terminal.type("\x03")
        terminal.type("echo status $?\n")
        assert "Traceback" not in terminal.expect(r"(?s).*status 130\r\n").group()

    def test_background_read_stops_the_job(self, sandbox: Any, terminal: Terminal) -> None:
        terminal.type(shlex.join(sandbox.argv("sh", "-c", "read x; echo got $x")) + " &\n")
        supervisor, _ = sandbox.pids()
        sandbox.eventually(lambda: " T " in Path(f"/proc/{supervisor}/stat").read_text())
        terminal.type("fg\n")
        terminal.type("word\n")
        terminal.expect("got word\r\n")
