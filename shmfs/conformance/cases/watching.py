"""Who is told of changes: leases, inotify, fanotify, dnotify, and locks that end with their owners."""

import ctypes
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Channel, Mapping, call, new, opened, process, tried, unprivileged

RDLCK, WRLCK, UNLCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SETLEASE, GETLEASE = fcntl.F_SETLEASE, fcntl.F_GETLEASE
OFD_GETLK, OFD_SETLK = 36, 37
NOW = fcntl.LOCK_NB


# ---- leases


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


# ---- inotify


def events_of(action: Callable[[], Any], mask: int = 0xFFF, path: str = "d") -> list[tuple[str, bytes]]:
    """What inotify tells of an action."""
    watch = call("inotify_init1", os.O_NONBLOCK)
    call("inotify_add_watch", watch, path, mask)
    action()
    found: list[tuple[str, bytes]] = []
    while select.select([watch], [], [], 0)[0]:
        data = os.read(watch, 1 << 16)
        position = 0
        while position < len(data):
            _, kind, _, length = struct.unpack_from("iIII", data, position)
            found.append((hex(kind), data[position + 16 : position + 16 + length].rstrip(b"\0")))
            position += 16 + length
    os.close(watch)
    return found


@case()
def inotify_of_creation(d: Path) -> Any:
    os.mkdir("d")
    return events_of(
        lambda: (os.close(new("d/f")), os.mkdir("d/s"), os.symlink("x", "d/l"), os.mkfifo("d/p"))
    )


@case()
def inotify_of_o_tmpfile(d: Path) -> Any:
    os.mkdir("d")
    found = events_of(lambda: tried(os.open, "d", os.O_TMPFILE | os.O_RDWR))
    return {"events": [kind for kind, _ in found], "by number": [name[:1] == b"#" for _, name in found]}


@case()
def inotify_of_content(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    return events_of(lambda: (os.pread(fd, 1, 0), os.pwrite(fd, b"y", 0), os.ftruncate(fd, 5)), path="f")


@case()
def inotify_of_nothing_written(d: Path) -> Any:
    fd = new("f", b"x")
    return events_of(lambda: (os.pwrite(fd, b"", 0), os.pread(fd, 0, 0), os.fsync(fd)), path="f")


@case()
def inotify_of_allocation(d: Path) -> Any:
    fd = new("f")
    return events_of(lambda: tried(call, "fallocate", fd, 0, 0, 4096), path="f")


@case()
def inotify_of_mappings(d: Path) -> Any:
    """Stores are told to nobody."""
    fd = new("f", b"x" * 4096)
    return events_of(lambda: (m := Mapping(fd), m.load(), m.store(b"y"), m.sync(4)), path="f")


@case()
def inotify_of_attributes(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f"))
    return events_of(
        lambda: (
            os.chmod("d/f", 0o600),
            os.chown("d/f", -1, -1),
            os.utime("d/f"),
            os.setxattr("d/f", "user.x", b"1"),
        )
    )


@case()
def inotify_of_removal(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f")), os.link("d/f", "d/g")
    return [events_of(lambda: os.unlink("d/g"), path="d/f"), events_of(lambda: os.unlink("d/f"))]


@case()
def inotify_of_a_removed_directory(d: Path) -> Any:
    os.mkdir("d")
    return events_of(lambda: os.rmdir("d"))


@case()
def inotify_of_an_open_file_that_is_removed(d: Path) -> Any:
    fd = new("f")
    return [events_of(lambda: os.unlink("f"), path="f"), os.close(fd)]


@case()
def inotify_of_renames(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f")), os.close(new("d/g")), os.close(new("out"))
    return events_of(
        lambda: (
            os.rename("d/f", "d/h"),
            os.rename("d/h", "d/g"),
            os.rename("d/g", "away"),
            os.rename("out", "d/in"),
        )
    )


@case()
def inotify_of_a_mount_that_ends_is_not_asked(d: Path) -> Any:
    watch = call("inotify_init1", os.O_NONBLOCK)
    return [
        tried(call, "inotify_add_watch", watch, "none", 0xFFF),
        tried(call, "inotify_add_watch", watch, ".", 0),
    ]


# ---- fanotify, dnotify


@case()
def fanotify_of_a_file(d: Path) -> Any:
    watch = tried(call, "fanotify_init", 0x2, os.O_RDONLY)  # FAN_NONBLOCK
    if isinstance(watch, str):
        return watch
    fd = new("f", b"x")
    answer = tried(call, "fanotify_mark", watch, 1, ctypes.c_ulonglong(0x2 | 0x8 | 0x20), -100, "f")
    os.pwrite(fd, b"y", 0)
    os.close(fd)
    os.close(os.open("f", os.O_RDONLY))
    found = []
    while select.select([watch], [], [], 0)[0]:
        data = os.read(watch, 4096)
        for position in range(0, len(data), 24):
            _, _, _, _, mask, source, _ = struct.unpack_from("IBBHQii", data, position)
            found.append((hex(mask), os.fstat(source).st_ino == os.stat("f").st_ino))
    return [answer, found]


@case()
def fanotify_by_handles(d: Path) -> Any:
    watch = tried(call, "fanotify_init", 0x2 | 0xC00, os.O_RDONLY)  # FAN_REPORT_DFID_NAME
    if isinstance(watch, str):
        return watch
    os.mkdir("d")
    answer = tried(call, "fanotify_mark", watch, 1, ctypes.c_ulonglong(0x100 | 0x200), -100, "d")
    os.close(new("d/f")), os.unlink("d/f")
    return [answer, len(os.read(watch, 4096)) > 0 if answer == 0 else None]


@case()
def fanotify_of_the_whole_file_system(d: Path) -> Any:
    watch = tried(call, "fanotify_init", 0x2, os.O_RDONLY)
    if isinstance(watch, str):
        return watch
    return [
        tried(call, "fanotify_mark", watch, 1 | kind, ctypes.c_ulonglong(0x20), -100, ".")
        for kind in (0x10, 0x100)
    ]


@case()
def dnotify(d: Path) -> Any:
    os.mkdir("d")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
    answer = tried(fcntl.fcntl, os.open("d", os.O_RDONLY), fcntl.F_NOTIFY, 0x4)  # DN_CREATE
    os.close(new("d/f"))
    return [answer, signal.SIGIO in signal.sigpending()]


# ---- locks


def lock_word(kind: int, start: int = 0, length: int = 0) -> bytes:
    return struct.pack("hhqqi4x", kind, 0, start, length, 0)


def ofd(fd: int, kind: int, start: int = 0, length: int = 0) -> str:
    answer = tried(fcntl.fcntl, fd, OFD_SETLK, lock_word(kind, start, length))
    return answer if isinstance(answer, str) else "done"


@case()
def an_ofd_lock_is_the_descriptions(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    again = os.dup(one)
    seen = [ofd(one, WRLCK), ofd(again, WRLCK), ofd(other, WRLCK), ofd(other, RDLCK)]
    os.close(one)
    seen.append(ofd(other, RDLCK))
    os.close(again)
    return [*seen, ofd(other, RDLCK)]


@case()
def an_ofd_lock_that_is_asked_for(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    ofd(one, WRLCK, 10, 5)
    answer = struct.unpack("hhqqi4x", fcntl.fcntl(other, OFD_GETLK, lock_word(RDLCK)))
    return [answer, tried(fcntl.fcntl, one, OFD_SETLK, struct.pack("hhqqi4x", WRLCK, 0, 0, 0, 5))]


@case()
def an_ofd_lock_without_rights(d: Path) -> Any:
    os.close(new("f"))
    return [ofd(os.open("f", os.O_RDONLY), WRLCK), ofd(os.open("f", os.O_WRONLY), RDLCK)]


@case()
def ofd_and_posix_locks_exclude_each_other(d: Path) -> Any:
    one, other = new("f"), os.open("f", os.O_RDWR)
    seen = [ofd(one, WRLCK), tried(fcntl.lockf, other, fcntl.LOCK_EX | NOW)]
    ofd(one, UNLCK)
    return [*seen, tried(fcntl.lockf, other, fcntl.LOCK_EX | NOW), ofd(one, WRLCK)]


@case()
def flock_and_posix_locks_do_not(d: Path) -> Any:
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
def posix_locks_that_wait_for_each_other(d: Path) -> Any:
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
