"""Programs that start with other rights: the kernel ends perf's monitoring there, not the process."""

import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmfs.analysis.analysis import analyse
from shmfs.record import gaps, recording
from shmfs.record.outcomes import UNKNOWN
from shmfs.record.recording import Recording, Subject
from shmfs.record.tasks import Life
from shmfs.tracefile import stream
from shmfs.tracing import perf
from shmfs.tracing.changes import Exec, Exit, Fork, Mmap
from tests.record.conftest import SHM, seen
from tests.record.test_recorder import DEVICE, FAULT, GONE, Explained, Session, session

__all__ = ["session"]

CUT = (Fork(1, GONE, os.getpid(), GONE), Exec(2, GONE, b"program"), Exit(3, GONE, GONE))
PROGRAM = Mmap(4, GONE, 1 << 40, 4096, 0, (8, 1), 1, 5, 2, b"/bin/program")
MAPPED = Mmap(5, GONE, 0, 1 << 30, 0, DEVICE, 1, 3, 1, b"/nowhere/a")


def lost(one: Session) -> list[dict[str, Any]]:
    return [event for event in stream.Trace(one.path).events() if event["event"] == "lost"]


def test_it_is_followed_again(session: Any) -> None:
    """Its faults are written and it ends when it ends; what is missing between is marked."""
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.round(*CUT, MAPPED)
    fault = [(time.monotonic_ns() - one.start, GONE, FAULT, 7, 9)]
    one.round(faults=fault)
    one.statuses[GONE] = 5
    del one.lives[GONE]
    ended = time.monotonic_ns() - one.start
    one.round(Exit(ended, GONE, GONE))
    assert one.kinds() == {7: [UNKNOWN]}
    assert len(one.perf.followed) == 1
    (process,) = stream.Trace(one.path).processes
    assert (process["command"], process["status"]) == ("program", 5)
    assert process["exit"] == ended + one.start + one.recorder._offset
    (gap,) = lost(one)
    assert (gap["of"], gap["process"], gap["count"], gap["reason"]) == ("perf", 0, 1, "")
    assert gap["until"] > gap["time"]
    assert one.recorder.lost == 1


def test_it_is_named_where_it_cannot_be_followed_again(session: Any) -> None:
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.perf.refusal = PermissionError(errno.EACCES, "Permission denied")
    one.round(*CUT)
    one.end()
    (gap,) = lost(one)
    assert (gap["until"], gap["reason"]) == (None, "Permission denied")
    assert stream.Trace(one.path).processes[0].get("exit") is None
    analysis = analyse(stream.Trace(one.path))
    assert analysis.losses.unfollowed == [f"program (pid {GONE})"]


def test_the_end_of_one_that_is_not_followed_is_found_in_proc(session: Any) -> None:
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.perf.refusal = PermissionError(errno.EACCES, "Permission denied")
    one.round(*CUT)
    alive = time.time_ns()
    one.statuses[GONE] = 5
    del one.lives[GONE]
    one.round()
    one.end()
    (process,) = stream.Trace(one.path).processes
    assert process["status"] == 5
    assert process["exit"] >= alive


def test_events_of_everybody_are_not_removed(session: Any) -> None:
    one = session(everybody=True)
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.round(*CUT, PROGRAM, MAPPED)
    one.round(faults=[(time.monotonic_ns() - one.start, GONE, FAULT, 7, 9)])
    assert one.kinds() == {7: [UNKNOWN]}
    assert not one.perf.followed
    assert not lost(one)
    assert stream.Trace(one.path).processes[0].get("exit") is None


def test_a_program_that_ran_has_ended(session: Any) -> None:
    one = session()
    one.round(*CUT[:2], PROGRAM, Exit(6, GONE, GONE))
    one.end()
    assert not one.perf.followed
    assert not lost(one)
    assert stream.Trace(one.path).processes[0]["exit"] == 6 + one.start + one.recorder._offset


PROGRAM_OF_TESTS = """
import mmap, os, sys, threading

path, how = sys.argv[1:3]
if os.getuid() == 0:
    os.setresuid(65534, 0, 0)
    os.execv(sys.executable, [sys.executable, "-S", "-c", sys.argv[3], *sys.argv[1:]])
fd = os.open(path, os.O_RDWR)
memory = mmap.mmap(fd, 64 * 4096)
gate, opener = os.pipe()

def touch(first):
    os.read(gate, 1)
    for page in range(first, first + 10):
        memory[page * 4096] = 1

thread = threading.Thread(target=touch, args=(10,))
child = os.fork() if how == "touch" else -1
if child == 0:
    touch(20)
    os._exit(0)
if how == "touch":
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
if how == "touch":
    os.write(opener, b"xx")
    os.waitpid(child, 0)
    thread.join()
os.write(opener, b"x")
touch(0)
if how == "die":
    os.truncate(path, 4096)
    memory[5 * 4096] = 1
later = os.fork()
if later == 0:
    os.write(opener, b"x")
    touch(30)
    os._exit(0)
os.waitpid(later, 0)
os._exit(5)
"""


class Run:
    """The program of tests, recorded: it waits after its exec until the recorder has read all records."""

    def __init__(
        self,
        directory: Path,
        path: Path,
        how: str,
        monkeypatch: pytest.MonkeyPatch,
        *,
        at_once: bool,
        faults: bool,
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root may change its user")
        if not at_once:
            monkeypatch.setattr(recording, "Execs", unavailable)
        segment = directory / "s"
        segment.write_bytes(bytes(0))
        os.truncate(segment, 64 * 4096)
        status = os.stat(segment)
        subject = Subject(SHM, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "tmpfs")
        start = "import os, sys; os.read(0, 1) and os.execv(sys.argv[1], sys.argv[1:])"
        program = [sys.executable, "-S", "-c", PROGRAM_OF_TESTS, str(segment), how, PROGRAM_OF_TESTS]
        command = [sys.executable, "-S", "-c", start, *program]
        self.explained = Explained()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            self.pid = process.pid
            recorded = Recording(str(path), subject, pid=process.pid, faults=faults)
            self.signals = recorded._perf is not None and recorded._perf.signals
            try:
                recorded.recorder.deaths = self.explained  # type: ignore[assignment]
                recorded.start()
                process.stdin.write(b"x")
                process.stdin.flush()
                assert process.stdout.readline() == b"ready\n"
                assert recorded.catch_up() is None
                process.stdin.write(b"\n")
                process.stdin.flush()
                self.status = process.wait(60)
            finally:
                process.kill()
                recorded.stop()
        self.counts = recorded.counts()
        self.trace = stream.Trace(path)


def unavailable() -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("at_once", [True, False])
def test_threads_and_children_of_a_process_that_changed_its_user(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    run = Run(directory, tmp_path / "trace", "touch", monkeypatch, at_once=at_once, faults=True)
    assert run.status == 5
    pages = sorted(page for touched in seen(run.trace).values() for _, page in touched)
    assert pages == list(range(40))
    assert len(seen(run.trace)) == 3
    assert run.counts.lost == 1
    (named,) = run.counts.unfollowed
    assert named.endswith(f" (pid {run.pid})")
    (process,) = [one for one in run.trace.processes if one["pid"] == run.pid]
    assert process["exit"] > int(np.max(run.trace.fault_array()["time"]))


def test_the_page_that_such_a_process_died_at(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(directory, tmp_path / "trace", "die", monkeypatch, at_once=False, faults=False)
    if not run.signals:
        pytest.skip("the kernel permits no BPF programs here")
    assert run.status == -7
    assert [(one.pid, one.page, Path(one.path).name) for one in run.explained.faults] == [(run.pid, 5, "s")]


def test_no_descriptor_stays_open(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    Run(directory, tmp_path / "trace", "touch", monkeypatch, at_once=True, faults=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_that_begin_meanwhile(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have a record of their beginning are followed already."""
    found = [[GONE], [GONE, GONE + 1, GONE + 2]]
    monkeypatch.setattr(gaps, "tids_of", lambda pid: found.pop(0))
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.round(*CUT)
    one.round(Fork(time.monotonic_ns() - one.start, GONE, GONE, GONE + 1))
    one.round()
    one.round()
    assert one.perf.followed == [[GONE], [GONE + 2]]


def test_the_page_is_known_without_signals(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the last fault of the process, see `last_faults`."""
    monkeypatch.setattr(perf.Perf, "_open_signals", lambda watch, *, calls: None)
    run = Run(directory, tmp_path / "trace", "die", monkeypatch, at_once=True, faults=False)
    assert run.status == -7
    assert [(one.pid, one.page, Path(one.path).name) for one in run.explained.faults] == [(run.pid, 5, "s")]


@contextmanager
def waiting(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has printed an empty line and reads its input."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process


def test_events_of_what_has_ended_are_closed() -> None:
    """And the descriptor for poll(2) is not ready for ever."""
    wait = "import os, sys; os.fork(); print(flush=True); sys.stdin.read()"
    with waiting(wait) as process:
        watch = perf.Perf(process.pid)
        try:
            before = len(os.listdir("/proc/self/fd"))
            watch.follow(gaps.tids_of(process.pid))
            watch.tidy()
            assert len(os.listdir("/proc/self/fd")) > before
            process.communicate(timeout=60)  # also until the child has closed its output
            while len(os.listdir("/proc/self/fd")) > before - 2:
                watch.tidy()
            for ring in watch.rings:
                ring.read()
            assert not select.select([watch], [], [], 0)[0]
            with pytest.raises(ProcessLookupError):
                watch.follow([process.pid])
        finally:
            watch.close()


def test_descriptors_are_left_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf.resource, "getrlimit", lambda which: (2, 2))
    watch = perf.Perf(os.getpid())
    try:
        with pytest.raises(OSError, match="Too many open files"):
            watch.follow([os.getpid()])
    finally:
        watch.close()


def test_which_processes_may_have_been_given_up() -> None:
    """Those are looked at at once; all others are not, as any process of the machine may execute."""
    assert not gaps.may_be_unfollowed([os.getpid(), GONE])
    if os.geteuid() != 0:
        pytest.skip("only root may change its user")
    changed = "import os, sys; os.setresuid(65534, 0, 0); print(flush=True); sys.stdin.read()"
    with waiting(changed) as process:
        assert gaps.may_be_unfollowed([os.getpid(), process.pid])
        process.communicate(timeout=60)
