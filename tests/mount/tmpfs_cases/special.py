"""Fifos, sockets, devices; locks, leases and inotify: the kernel's, on inodes of ours."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from tmpfs_cases import case
from tmpfs_cases.tools import Channel, call, mode, new, opened, process, tried, unprivileged

RDLCK, WRLCK, UNLCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK = 36, 37


@case
def fifos(d: Path) -> Any:
    os.mkfifo("p", 0o640)

    def writer(channel: Channel) -> None:
        fd = os.open("p", os.O_WRONLY)
        channel.send(os.write(fd, b"through the fifo"))

    with process(writer) as other:
        fd = os.open("p", os.O_RDONLY)
        seen = [other.receive(), os.read(fd, 100), os.read(fd, 100)]
    status = os.stat("p")
    return [
        seen,
        mode("p"),
        status.st_size,
        status.st_nlink,
        tried(os.lseek, fd, 0, 0),
        tried(os.truncate, "p", 0),
    ]


@case
def sockets(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")
        accepted = server.accept()[0]
        client.sendall(b"hello")
        seen = [accepted.recv(10), mode("s"), opened("s"), tried(server.getsockname)]
        with socket.socket(socket.AF_UNIX) as second:
            seen.append(tried(second.bind, "s"))
        os.rename("s", "moved")
        with socket.socket(socket.AF_UNIX) as late:
            late.connect("moved")
        os.unlink("moved")
        with socket.socket(socket.AF_UNIX) as late:
            seen.append(tried(late.connect, "moved"))
        accepted.close()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, 2) as sender,
    ):
        receiver.bind("dgram")
        sender.sendto(b"datagram", "dgram")
        seen.append(receiver.recv(100))
    with socket.socket(socket.AF_UNIX) as dead:
        seen.append(tried(dead.connect, "dgram"))
    return seen


@case
def devices(d: Path) -> Any:
    os.mknod("null", 0o20666, os.makedev(1, 3)), os.mknod("zero", 0o20666, os.makedev(1, 5))
    os.mknod("block", 0o60600, os.makedev(253, 77)), os.mknod("big", 0o20600, os.makedev(4095, 1048575))
    os.mknod("sock", 0o140600), os.mknod("file", 0o100640), os.mknod("notype", 0o640)
    fd = os.open("zero", os.O_RDWR)
    return {
        "zero": os.read(fd, 3),
        "null": os.write(os.open("null", os.O_WRONLY), b"gone"),
        "numbers": [os.stat(name).st_rdev for name in ("null", "zero", "block", "big")],
        "modes": [mode(name) for name in ("null", "block", "sock", "file", "notype")],
        "socket": opened("sock"),
        "no device": opened("big"),
        "by nobody": unprivileged(lambda: tried(os.mknod, "x", 0o20666, os.makedev(1, 3))),
        "directory": tried(os.mknod, "x", 0o40755),
        "bad type": tried(os.mknod, "x", 0o70666),
        "existing": tried(os.mknod, "null", 0o20666, os.makedev(1, 3)),
    }


@case(options="size=1m,nodev")
def nodev(d: Path) -> Any:
    os.mknod("null", 0o20666, os.makedev(1, 3))
    return [opened("null"), mode("null"), tried(os.mkfifo, "p"), opened("p", os.O_RDWR)]


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


NOW = fcntl.LOCK_NB


@case
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


@case
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


@case
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


@case
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


@case
def leases(d: Path) -> Any:
    fd = new("f")
    reader = os.open("f", os.O_RDONLY)
    seen = [tried(fcntl.fcntl, reader, fcntl.F_GETLEASE), tried(fcntl.fcntl, reader, fcntl.F_SETLEASE, RDLCK)]
    os.close(fd)
    return [*seen, opened("f", os.O_RDONLY)]


@case
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


@case
def polling(d: Path) -> Any:
    fd = new("f")
    epoll = select.epoll()
    return {
        "select": select.select([fd], [fd], [], 0) == ([fd], [fd], []),
        "epoll": tried(epoll.register, fd),
    }


@case
def statx(d: Path) -> Any:
    os.close(new("f", b"x" * 5000)), os.symlink("f", "s"), os.mkdir("d")
    seen = {}
    for name in ("f", "s", "d"):
        buffer = ctypes.create_string_buffer(256)
        call("statx", -100, name, 0x100, 0x17FF, buffer)
        figures = struct.unpack_from("<IIQIIIHHQQQ", buffer.raw)
        mask, blksize, attributes, nlink, _, _, bits, _, _, size, blocks = figures
        seen[name] = {
            "basic": hex(mask & 0x7FF),
            "btime": bool(mask & 0x800),
            "blksize": blksize,
            "attributes": hex(attributes & ~0x2000),
            "nlink": nlink,
            "mode": oct(bits),
            "size": size,
            "blocks": blocks,
        }
    buffer = ctypes.create_string_buffer(256)
    seen["flags"] = [
        tried(call, "statx", -100, "f", flag, 0x7FF, buffer) for flag in (0x2000, 0x4000, 0x6000)
    ]
    seen["empty path"] = tried(call, "statx", os.open("f", os.O_PATH), "", 0x1000, 0x7FF, buffer)
    return seen


@case
def birth_time(d: Path) -> Any:
    os.close(new("f"))
    before = os.stat("f")
    os.utime("f", (1, 2))
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, "f", 0, 0xFFF, buffer)
    seconds, nanoseconds = struct.unpack_from("<qI", buffer.raw, 0x50)
    return {"kept": (seconds, nanoseconds) == divmod(before.st_ctime_ns, 10**9)}


@case(options="size=1m,nosuid")
def nosuid(d: Path) -> Any:
    Path("id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod(".", 0o755), os.chmod("id", 0o6755)
    return [_identity(), mode("id")]


@case
def set_id_programs_run_so(d: Path) -> Any:
    Path("id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod("id", 0o6755)
    return _identity()


def _identity() -> bytes:
    """The effective user id of a set-id program that user 1000 starts."""
    command = ["./id", "-u"]
    return subprocess.run(
        command, user=1000, group=1000, extra_groups=[], capture_output=True, check=True
    ).stdout


@case(options="size=1m,ro")
def read_only(d: Path) -> Any:
    return {
        "create": tried(new, "f"),
        "mkdir": tried(os.mkdir, "d"),
        "symlink": tried(os.symlink, "a", "b"),
        "mkfifo": tried(os.mkfifo, "p"),
        "chmod": tried(os.chmod, ".", 0o700),
        "utime": tried(os.utime, "."),
        "setxattr": tried(os.setxattr, ".", "user.a", b"1"),
        "unlink": tried(os.unlink, "none"),
        "rename": tried(os.rename, "none", "other"),
        "access": [os.access(".", os.W_OK), os.access(".", os.R_OK)],
        "list": os.listdir("."),
        "open for writing": tried(os.open, "none", os.O_RDWR),
    }


@case(options="size=1m,mode=0750,uid=1000,gid=2000")
def mode_and_owner_of_the_root(d: Path) -> Any:
    status = os.stat("..")
    return [mode(".."), status.st_uid, status.st_gid, status.st_nlink, status.st_size, status.st_blocks]


@case(options="")
def the_root(d: Path) -> Any:
    status = os.stat("..")
    return [
        mode(".."),
        status.st_uid,
        status.st_nlink,
        status.st_size,
        tried(os.rmdir, ".."),
        tried(os.rename, "..", "x"),
    ]


@case(options="size=1m,inode32")
def inode32(d: Path) -> Any:
    os.close(new("f"))
    return os.stat("f").st_ino < 1 << 32


@case(options="size=1m,sync,dirsync")
def sync_options(d: Path) -> Any:
    fd = new("f", b"x" * 5000)
    os.mkdir("d")
    return [os.fsync(fd), os.pread(fd, 3, 4998), os.statvfs(".").f_flag & os.ST_SYNCHRONOUS]
