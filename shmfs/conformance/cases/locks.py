"""File locks: flock(2), POSIX locks and open file description locks. `polling` is of select(2) and epoll."""

import fcntl
import os
import select
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Channel, ask, new, process, tried

RDLCK, WRLCK, UNLCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK = 36, 37
NOW = fcntl.LOCK_NB


def locking(channel: Channel, path: str) -> None:
    """The main loop of a process that locks on request."""
    fd = os.open(path, os.O_RDWR)
    channel.send("ready")
    while (order := channel.receive()) != "gone":
        kind, *arguments = order
        if kind == "flock":
            channel.send(tried(fcntl.flock, fd, *arguments))
        elif kind == "lockf":
            channel.send(tried(fcntl.lockf, fd, *arguments))
        elif kind == "ofd":
            lock_type, start, length = arguments
            answer = tried(fcntl.fcntl, fd, OFD_SETLK, struct.pack("hhqqi4x", lock_type, 0, start, length, 0))
            channel.send(answer if isinstance(answer, str) else "done")
        elif kind == "close":
            channel.send(os.close(fd))
        elif kind == "closing another":
            channel.send(os.close(os.open(path, os.O_RDWR)))


@case()
def flock(d: Path) -> Any:
    os.close(new("f"))
    with process(locking, "f") as one, process(locking, "f") as two:
        one.receive(), two.receive()
        seen = [
            ask(one, "flock", fcntl.LOCK_SH | NOW),
            ask(two, "flock", fcntl.LOCK_SH | NOW),
            ask(two, "flock", fcntl.LOCK_EX | NOW),
            ask(one, "flock", fcntl.LOCK_UN),
            ask(two, "flock", fcntl.LOCK_EX | NOW),
            ask(one, "flock", fcntl.LOCK_SH | NOW),
            ask(two, "close"),
            ask(one, "flock", fcntl.LOCK_EX | NOW),
        ]
    return [seen, tried(fcntl.flock, os.open(".", os.O_RDONLY), fcntl.LOCK_EX | NOW)]


@case()
def posix_locks(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    with process(locking, "f") as one, process(locking, "f") as two:
        one.receive(), two.receive()
        seen = [
            ask(one, "lockf", fcntl.LOCK_EX | NOW, 10, 0),
            ask(two, "lockf", fcntl.LOCK_EX | NOW, 10, 10),
            ask(two, "lockf", fcntl.LOCK_EX | NOW, 10, 5),
            ask(two, "lockf", fcntl.LOCK_SH | NOW, 0, 20),
            ask(one, "lockf", fcntl.LOCK_SH | NOW, 1, 1 << 60),
        ]
        probe = struct.pack("hhqqi4x", WRLCK, 0, 0, 0, 0)
        kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, probe))
        seen += [kind, start, length, pid == one.pid]  # type: ignore[attr-defined]
        seen += [ask(one, "closing another"), ask(two, "lockf", fcntl.LOCK_EX | NOW, 10, 0)]
    kind = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, probe))[0]
    return [seen, kind]


@case()
def open_file_description_locks(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    other = os.open("f", os.O_RDWR)

    def lock(fd: int, kind: int, start: int, length: int) -> str:
        answer = tried(fcntl.fcntl, fd, OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))
        return answer if isinstance(answer, str) else "done"

    seen = [
        lock(fd, WRLCK, 0, 10),
        lock(other, RDLCK, 5, 10),
        lock(other, WRLCK, 10, 10),
        lock(fd, UNLCK, 0, 0),
    ]
    os.close(os.open("f", os.O_RDWR))
    seen += [lock(fd, WRLCK, 15, 1), lock(other, RDLCK, 5, 3)]
    duplicate = os.dup(other)
    os.close(other)
    seen += [lock(fd, WRLCK, 15, 1)]
    os.close(duplicate)
    return [seen, lock(fd, WRLCK, 15, 1)]


@case()
def a_blocking_lock(d: Path) -> Any:
    fd = new("f")
    fcntl.lockf(fd, fcntl.LOCK_EX)

    def waiter(channel: Channel) -> None:
        own = os.open("f", os.O_RDWR)
        channel.send(tried(fcntl.lockf, own, fcntl.LOCK_EX | NOW))
        fcntl.lockf(own, fcntl.LOCK_EX)
        channel.send("got it")

    with process(waiter) as other:
        seen = [other.receive()]
        fcntl.lockf(fd, fcntl.LOCK_UN)
        seen.append(other.receive())
    return seen


@case()
def polling(d: Path) -> Any:
    fd = new("f")
    epoll = select.epoll()
    return {
        "select": select.select([fd], [fd], [], 0) == ([fd], [fd], []),
        "epoll": tried(epoll.register, fd),
    }


# ---- open file description locks


def lock_word(kind: int, start: int = 0, length: int = 0) -> bytes:
    return struct.pack("hhqqi4x", kind, 0, start, length, 0)


def ofd(fd: int, kind: int, start: int = 0, length: int = 0) -> str:
    answer = tried(fcntl.fcntl, fd, OFD_SETLK, lock_word(kind, start, length))
    return answer if isinstance(answer, str) else "done"


@case()
def an_ofd_lock_of_duplicates(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    again = os.dup(one)
    seen = [ofd(one, WRLCK), ofd(again, WRLCK), ofd(other, WRLCK), ofd(other, RDLCK)]
    os.close(one)
    seen.append(ofd(other, RDLCK))
    os.close(again)
    return [*seen, ofd(other, RDLCK)]


@case()
def f_ofd_getlk(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    ofd(one, WRLCK, 10, 5)
    answer = struct.unpack("hhqqi4x", fcntl.fcntl(other, OFD_GETLK, lock_word(RDLCK)))
    return [answer, tried(fcntl.fcntl, one, OFD_SETLK, struct.pack("hhqqi4x", WRLCK, 0, 0, 0, 5))]


@case()
def an_ofd_lock_without_rights(d: Path) -> Any:
    os.close(new("f"))
    return [ofd(os.open("f", os.O_RDONLY), WRLCK), ofd(os.open("f", os.O_WRONLY), RDLCK)]


# ---- several kinds, and the end of their owners


@case()
def ofd_and_posix_locks_exclude_each_other(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    seen = [ofd(one, WRLCK), tried(fcntl.lockf, other, fcntl.LOCK_EX | NOW)]
    ofd(one, UNLCK)
    return [*seen, tried(fcntl.lockf, other, fcntl.LOCK_EX | NOW), ofd(one, WRLCK)]


@case()
def flock_and_posix_locks_are_independent(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    return [tried(fcntl.flock, one, fcntl.LOCK_EX | NOW), tried(fcntl.lockf, other, fcntl.LOCK_EX | NOW)]


@case()
def flock_is_kept_over_fork(d: Path) -> Any:
    fd = new("f")
    fcntl.flock(fd, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return [
        tried(fcntl.flock, os.open("f", os.O_RDWR), fcntl.LOCK_EX | NOW),
        tried(fcntl.flock, fd, fcntl.LOCK_SH | NOW),
    ]


@case()
def a_posix_lock_ends_with_its_process(d: Path) -> Any:
    fd = new("f")

    def hold(channel: Channel) -> None:
        fcntl.lockf(os.open("f", os.O_RDWR), fcntl.LOCK_EX)
        channel.send("held")
        channel.receive()

    with process(hold) as other:
        seen = [other.receive(), tried(fcntl.lockf, fd, fcntl.LOCK_EX | NOW)]
    return [*seen, tried(fcntl.lockf, fd, fcntl.LOCK_EX | NOW)]


@case()
def a_deadlock_of_posix_locks(d: Path) -> Any:
    fd = new("f")
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)

    def other_way(channel: Channel) -> None:
        own = os.open("f", os.O_RDWR)
        fcntl.lockf(own, fcntl.LOCK_EX, 1, 1)
        channel.send("held")
        fcntl.lockf(own, fcntl.LOCK_EX, 1, 0)
        channel.send("both")

    with process(other_way) as other:
        other.receive()
        waits = f" {other.pid} "  # type: ignore[attr-defined]
        while not any(
            "->" in line and waits in line for line in Path("/proc/locks").read_text().splitlines()
        ):
            os.sched_yield()
        seen = [tried(fcntl.lockf, fd, fcntl.LOCK_EX, 1, 1)]
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, 0)
        return [*seen, other.receive()]


@case()
def locks_outlive_the_name(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    os.unlink("f")
    return [tried(fcntl.flock, other, fcntl.LOCK_SH | NOW), tried(fcntl.flock, new("f"), fcntl.LOCK_EX | NOW)]
