"""Fifos, sockets, devices; locks, leases and inotify: the kernel's, on inodes of ours."""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Channel, call, mode, new, opened, process, tried, unprivileged

RDLCK, WRLCK, UNLCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK = 36, 37


@case()
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


@case()
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


@case()
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


@case()
def statx(d: Path) -> Any:
    os.close(new("f", b"x" * 5000)), os.symlink("f", "s"), os.mkdir("d")
    seen: dict[Any, Any] = {}
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


@case()
def birth_time(d: Path) -> Any:
    os.close(new("f"))
    before = os.stat("f")
    os.utime("f", (1, 2))
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, "f", 0, 0xFFF, buffer)
    seconds, nanoseconds = struct.unpack_from("<qI", buffer.raw, 0x50)
    return {"kept": (seconds, nanoseconds) == divmod(before.st_ctime_ns, 10**9)}
