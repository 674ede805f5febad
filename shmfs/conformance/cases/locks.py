"""Locks, leases and inotify: the kernel's, on inodes of ours."""

import fcntl
import os
import select
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Channel, call, new, opened, process, tried

RDLCK, WRLCK, UNLCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_SETLK = 37
NOW = fcntl.LOCK_NB


def locking(channel: Channel, path: str) -> None:
    """A process that locks as it is told."""
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


def ask(channel: Channel, *order: Any) -> Any:
    channel.send(order)
    return channel.receive()


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
def a_lock_is_waited_for(d: Path) -> Any:
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
def leases(d: Path) -> Any:
    fd = new("f")
    reader = os.open("f", os.O_RDONLY)
    seen = [tried(fcntl.fcntl, reader, fcntl.F_GETLEASE), tried(fcntl.fcntl, reader, fcntl.F_SETLEASE, RDLCK)]
    os.close(fd)
    return [*seen, opened("f", os.O_RDONLY)]


@case()
def inotify(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/old"))
    watch = call("inotify_init1", os.O_NONBLOCK)
    call("inotify_add_watch", watch, "d", 0xFFF)
    fd = new("d/f", b"x")
    os.close(fd)
    os.read(os.open("d/f", os.O_RDONLY), 1)
    os.chmod("d/f", 0o600), os.truncate("d/f", 0), os.setxattr("d/f", "user.a", b"1"), os.utime("d/f", (1, 2))
    os.rename("d/f", "d/g"), os.link("d/g", "d/h"), os.unlink("d/h"), os.mkdir("d/s"), os.rmdir("d/s")
    os.rename("d/old", "d/g"), os.symlink("x", "d/y"), os.listdir("d"), os.unlink("d/g")
    events = []
    while select.select([watch], [], [], 0)[0]:
        data = os.read(watch, 1 << 16)
        position = 0
        while position < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, position)
            name = data[position + 16 : position + 16 + length].rstrip(b"\0")
            events.append((hex(mask), name))
            position += 16 + length
    return events


@case()
def polling(d: Path) -> Any:
    fd = new("f")
    epoll = select.epoll()
    return {
        "select": select.select([fd], [fd], [], 0) == ([fd], [fd], []),
        "epoll": tried(epoll.register, fd),
    }
