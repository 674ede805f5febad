"""When a process has ended: by the records of its threads, and by /proc where those are not all."""

import os
import subprocess
import sys
import time

from shmfs.record.attribution import Area, Attribution, Space
from shmfs.record.tasks import Life, Tasks, life
from shmfs.tracing.changes import Change, Exec, Exit, Fork, Mmap
from shmfs.tracing.decode import in_order

LATER = 10**9


class World:
    """The processes that /proc has, and an Attribution that follows them."""

    def __init__(self, everybody: bool = False) -> None:
        self.lives: dict[int, Life] = {}
        self.told: list[Change] = []
        self.written: set[int] = set()
        self.everybody = everybody
        self.attribution = Attribution(
            lambda mapped: 0 if mapped.inode == 1 else -1,
            None,
            lambda pid: pid,
            self.tell,
            written=self.written.__contains__,
            tasks=Tasks(self.lives.get),
        )

    def tell(self, change: Change, areas: list[Area]) -> None:
        self.told.append(change)
        if isinstance(change, Exit):
            self.written.discard(change.pid)
        elif areas or not self.everybody:
            self.written.add(change.pid)

    def alive(self, pid: int, *threads: int, started: int = 0) -> None:
        self.lives[pid] = Life(started, frozenset(threads))

    def feed(self, *changes: Change, now: int = LATER) -> None:
        self.attribution.feed(in_order([]), list(changes))
        self.attribution.end(now)

    @property
    def ends(self) -> list[tuple[int, int]]:
        return [(one.pid, one.time) for one in self.told if isinstance(one, Exit)]


def mapped(time: int, pid: int) -> Mmap:
    return Mmap(time, pid, 0x1000, 0x1000, 0, (0, 1), 1, 3, 1, b"/a")


def test_a_process_that_was_there_before_has_the_threads_of_proc() -> None:
    world = World(everybody=True)
    world.alive(7, 7, 8, 9)
    world.feed(mapped(1, 7), Exit(2, 7, 8))
    world.feed(Exit(3, 7, 9))
    assert not world.ends
    assert 7 in world.attribution.spaces
    del world.lives[7]
    world.feed(Exit(4, 7, 7))
    assert world.ends == [(7, 4)]
    assert 7 not in world.attribution.spaces


def test_a_lost_fork_ends_nobody() -> None:
    world = World()
    world.alive(7, 7, 8)
    world.feed(Fork(1, 7, 1, 7), Exit(3, 7, 7))  # and that of thread 8 was lost
    world.alive(7, 8)  # the leader is a zombie
    world.feed()
    assert not world.ends
    del world.lives[7]
    world.feed(Exit(5, 7, 8))
    assert world.ends == [(7, 5)]


def test_a_lost_exit_is_found_out() -> None:
    world = World()
    world.alive(7, 7)
    world.feed(Fork(1, 7, 1, 7))
    assert world.attribution.tasks.recheck(5) == []
    del world.lives[7]
    world.feed(*world.attribution.tasks.recheck(6))
    assert world.ends == [(7, 6)]


def test_a_lost_exit_of_a_thread_ends_with_its_process() -> None:
    world = World()
    world.alive(7, 7)
    world.feed(Fork(1, 7, 1, 7), Fork(2, 7, 7, 8))
    del world.lives[7]
    world.feed(Exit(5, 7, 7))
    assert world.ends == [(7, 5)]


def test_a_leader_that_exits_before_its_threads() -> None:
    world = World()
    world.alive(7, 8)
    world.feed(Fork(1, 7, 1, 7), Fork(2, 7, 7, 8), Exit(3, 7, 7))
    assert not world.ends
    del world.lives[7]
    world.feed(Exit(4, 7, 8))
    assert world.ends == [(7, 4)]


def test_a_thread_that_execs_becomes_the_leader() -> None:
    world = World()
    world.alive(7, 7)
    world.feed(Fork(1, 7, 1, 7), Fork(2, 7, 7, 8), Exit(3, 7, 7), Exec(4, 7, b"x"))
    assert not world.ends
    del world.lives[7]
    world.feed(Exit(6, 7, 7))
    assert world.ends == [(7, 6)]


def test_a_thread_that_proc_still_shows_for_a_moment() -> None:
    world = World()
    world.alive(7, 7)
    world.feed(Fork(1, 7, 1, 7), Exit(3, 7, 7), now=4)
    assert not world.ends
    del world.lives[7]
    world.feed(now=5)
    assert world.ends == [(7, 3)]


def test_a_pid_that_is_used_again() -> None:
    world = World()
    world.alive(7, 7, started=50)
    world.feed(Fork(1, 7, 1, 7), Exit(3, 7, 7))  # /proc has the next process already
    assert world.ends == [(7, 3)]
    world.feed(Fork(50, 7, 1, 7))
    world.feed(Fork(90, 7, 1, 7))  # the EXIT before it was lost
    assert world.ends == [(7, 3), (7, 90)]
    assert world.written == {7}


def test_a_fork_that_is_read_after_its_process_was_found() -> None:
    world = World(everybody=True)
    world.alive(7, 7)
    world.attribution.spaces[7] = space = Space()
    space.put(Area(0x1000, 0x2000, 0, 0))
    world.written.add(7)
    world.attribution.tasks.found(7, 20)
    world.feed(Fork(10, 7, 1, 7))
    assert not world.ends
    assert world.attribution.spaces[7] is space


def test_nobody_looks_at_those_that_map_nothing() -> None:
    looked: list[int] = []
    world = World(everybody=True)
    world.attribution.tasks._look = looked.append  # type: ignore[assignment, func-returns-value]
    for pid in range(100, 200):
        world.feed(Fork(pid, pid, 1, pid), Exec(pid, pid, b"x"), Exit(pid, pid, pid))
    assert not looked
    assert not world.attribution.spaces
    assert not world.attribution.tasks.followed


THREADS = """
import ctypes, os, threading, time, sys
threading.Thread(target=lambda: (sys.stdin.readline(), os._exit(3))).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall(60, 0)
"""


def test_what_proc_has() -> None:
    before = time.monotonic_ns()
    command = [sys.executable, "-S", "-c", THREADS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        while (found := life(process.pid)) and process.pid in found.threads:
            time.sleep(0.01)  # until the leader is a zombie
        assert found is not None
        assert len(found.threads) == 1
        assert before - 20_000_000 <= found.started <= time.monotonic_ns()
        process.stdin.write("\n")
        process.stdin.flush()
        while life(process.pid):
            time.sleep(0.01)
        assert os.path.exists(f"/proc/{process.pid}")  # nobody has waited for it
        assert process.wait() == 3
        assert life(process.pid) is None
