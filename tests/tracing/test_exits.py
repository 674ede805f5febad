"""How a process ended, where nobody reports it: from the zombie, and from a pidfd."""

import contextlib
import os
import select
import subprocess
import time

import pytest

from shmfs.tracing.exits import Execs, Exits, Statuses


@pytest.mark.parametrize(
    ("threads", "status"),
    [
        ([(7, 3 << 8)], 3),
        ([(7, 3 << 8), (8, 0)], 3),  # a thread that had begun to end by itself is the last
        ([(8, 0), (7, 9)], 128 + 9),
        ([(7, 0), (8, 3 << 8)], 3),  # the leader had ended before
        ([(7, 0), (8, 0), (9, 7)], 128 + 7),
        ([(7, 0), (8, 0)], 0),
        ([(8, 0)], None),  # the leader's end may be reported later
    ],
)
def test_of_processes_with_threads(threads: list[tuple[int, int]], status: int | None) -> None:
    try:
        exits = Exits()
    except OSError:
        pytest.skip("the process connector takes root")
    for thread, code in threads:
        exits.take(thread, 7, code)
    assert exits.status(7) == status
    exits.forget(7)
    assert exits.status(7) is None
    exits.close()


def wait_without_reaping(process: "subprocess.Popen[bytes]") -> None:
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def statuses() -> "Statuses":
    return Statuses(None)


@pytest.mark.parametrize(("code", "status"), [("exit 7", 7), ("kill -9 $$", 128 + 9), ("true", 0)])
def test_of_a_zombie_and_after_it(statuses: Statuses, code: str, status: int) -> None:
    process = subprocess.Popen(["sh", "-c", f"read x; {code}"], stdin=subprocess.PIPE)
    statuses.follow(process.pid)
    assert statuses.of(process.pid) is None
    assert process.stdin is not None
    process.stdin.close()
    wait_without_reaping(process)
    assert statuses.of(process.pid) == status
    process.wait()
    found = statuses.of(process.pid)
    statuses.close()
    if found is None:
        pytest.skip("PIDFD_GET_INFO has no exit codes before Linux 6.15")
    assert found == status


def test_what_was_not_followed_stays_unknown(statuses: Statuses) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert statuses.of(process.pid) is None
    statuses.follow(process.pid)  # it is gone
    assert statuses.of(process.pid) is None


def test_descriptors_are_bounded_and_given_back(statuses: Statuses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmfs.tracing.exits._PIDFDS", 3)
    before = len(os.listdir("/proc/self/fd"))
    several = [subprocess.Popen(["sleep", "60"]) for _ in range(5)]
    for one in several:
        statuses.follow(one.pid)
        statuses.follow(one.pid)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    statuses.forget(several[0].pid)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    statuses.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for one in several:
        one.kill()
        one.wait()


def test_an_exec_is_reported_at_once() -> None:
    try:
        exits, execs = Exits(), Execs()
    except OSError:
        pytest.skip("the process connector takes root")
    with contextlib.closing(exits), contextlib.closing(execs):
        process = subprocess.Popen(["sh", "-c", "exit 3"])
        process.wait()
        exits.read()
        if not exits.works:
            pytest.skip("the kernel does not answer from within a container")
        found: list[int] = []
        while select.select([execs], [], [], 10)[0] and process.pid not in found:
            found += execs.read()
        assert process.pid in found
        ended = exits.time(process.pid)
        assert ended is not None
        assert 0 < time.monotonic_ns() - ended < 60 * 1_000_000_000
