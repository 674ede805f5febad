"""Leases: fcntl(2) with F_SETLEASE."""

import fcntl
import os
import signal
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Channel, new, opened, process, tried, unprivileged

RDLCK, WRLCK, UNLCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SETLEASE, GETLEASE = fcntl.F_SETLEASE, fcntl.F_GETLEASE


@case()
def a_read_lease_and_a_writer(d: Path) -> Any:
    fd = new("f")
    reader = os.open("f", os.O_RDONLY)
    seen = [tried(fcntl.fcntl, reader, fcntl.F_GETLEASE), tried(fcntl.fcntl, reader, fcntl.F_SETLEASE, RDLCK)]
    os.close(fd)
    return [*seen, opened("f", os.O_RDONLY)]


@case()
def a_read_lease(d: Path) -> Any:
    os.close(new("f"))
    fd = os.open("f", os.O_RDONLY)
    return [
        tried(fcntl.fcntl, fd, SETLEASE, RDLCK),
        tried(fcntl.fcntl, fd, GETLEASE),
        tried(fcntl.fcntl, fd, SETLEASE, UNLCK),
    ]


@case()
def a_read_lease_on_a_writer(d: Path) -> Any:
    return tried(fcntl.fcntl, new("f"), SETLEASE, RDLCK)


@case()
def a_write_lease(d: Path) -> Any:
    fd = new("f")
    return [tried(fcntl.fcntl, fd, SETLEASE, WRLCK), tried(fcntl.fcntl, fd, GETLEASE)]


@case()
def a_write_lease_on_a_file_opened_twice(d: Path) -> Any:
    fd = new("f")
    other = os.open("f", os.O_RDONLY)
    return [tried(fcntl.fcntl, fd, SETLEASE, WRLCK), os.close(other), tried(fcntl.fcntl, fd, SETLEASE, WRLCK)]


@case()
def a_lease_by_another_user(d: Path) -> Any:
    os.close(new("f", mode=0o666))
    return unprivileged(lambda: tried(fcntl.fcntl, os.open("f", os.O_RDONLY), SETLEASE, RDLCK))


@case()
def a_lease_on_a_directory(d: Path) -> Any:
    return tried(fcntl.fcntl, os.open(".", os.O_RDONLY), SETLEASE, RDLCK)


@case()
def a_lease_is_broken_by_open(d: Path) -> Any:
    os.close(new("f"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    fd = os.open("f", os.O_RDONLY)
    seen = [tried(fcntl.fcntl, fd, SETLEASE, RDLCK), opened("f", os.O_WRONLY | os.O_NONBLOCK)]
    told = signal.SIGIO in signal.sigpending()
    return [*seen, told, tried(fcntl.fcntl, fd, SETLEASE, UNLCK), opened("f", os.O_WRONLY | os.O_NONBLOCK)]


@case()
def a_lease_is_broken_by_truncate(d: Path) -> Any:
    os.close(new("f", b"x"))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    fd = os.open("f", os.O_RDONLY)
    fcntl.fcntl(fd, SETLEASE, RDLCK)

    def cut(channel: Channel) -> None:
        channel.send("ready")
        os.truncate("f", 0)
        channel.send("done")

    with process(cut) as other:
        seen = [other.receive(), int(signal.sigwait([signal.SIGIO])) == signal.SIGIO]
        fcntl.fcntl(fd, SETLEASE, UNLCK)
        return [*seen, other.receive()]
