"""What is told of a file: stat, statx, statfs, and files of other kinds."""

import ctypes
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    allocate,
    blocks,
    call,
    child,
    mode,
    new,
    opened,
    tried,
    unprivileged,
)

BTIME, BASIC = 0x800, 0x7FF
KINDS = {"fifo": 0o10000, "character": 0o20000, "block": 0o60000, "socket": 0o140000, "file": 0o100000}


def statx(path: str, mask: int = BASIC | BTIME, flags: int = 0x100, at: int = -100) -> Any:
    """See statx(2): mask, blksize, attributes, nlink, mode, size, blocks, or the name of the errno."""
    buffer = ctypes.create_string_buffer(256)
    answer = tried(call, "statx", at, path, flags, mask, buffer)
    if answer != 0:
        return answer
    figures = struct.unpack_from("<IIQIIIHHQQQ", buffer.raw)
    told, blksize, attributes, nlink, _, _, bits, _, _, size, blocks = figures
    return [hex(told & (BASIC | BTIME)), blksize, hex(attributes & ~0x2000), nlink, oct(bits), size, blocks]


def birth(path: str) -> tuple[int, int]:
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, path, 0x100, BTIME, buffer)
    found: tuple[int, int] = struct.unpack_from("<qI", buffer.raw, 0x50)
    return found


@case()
def statx_of_every_kind(d: Path) -> Any:
    os.close(new("f", b"x" * 5000)), os.mkdir("d"), os.symlink("f", "s"), os.mkfifo("p")
    return {name: statx(name) for name in ("f", "d", "s", "p")}


@case()
def statx_asked_for_little(d: Path) -> Any:
    os.close(new("f", b"x"))
    return [int(statx("f", mask)[0], 16) & mask == mask for mask in (0, 0x200, 0x1, BTIME)]


@case()
def statx_refused(d: Path) -> Any:
    os.close(new("f"))
    return [
        statx("f", 1 << 31),
        statx("f", flags=1 << 20),
        statx("none"),
        statx("f/x"),
        statx("f", flags=0x6000),
    ]


@case()
def statx_told_not_to_sync(d: Path) -> Any:
    fd = new("f", b"x")
    seen = [statx("f", flags=0x4000)[5]]
    os.pwrite(fd, b"more", 10)
    return [*seen, statx("f", flags=0x2000)[5]]


@case()
def statx_of_a_descriptor(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    os.unlink("f")
    return statx("", flags=0x1000, at=fd)


@case()
def birth_is_kept(d: Path) -> Any:
    os.close(new("f"))
    born = birth("f")
    os.utime("f", (1, 2)), os.chmod("f", 0o600), os.truncate("f", 100), os.rename("f", "g"), os.link("g", "h")
    return [birth("g") == born, birth("h") == born]


@case()
def birth_is_the_first_ctime(d: Path) -> Any:
    os.close(new("f")), os.mkdir("d"), os.symlink("x", "s")
    return [birth(name) == divmod(os.lstat(name).st_ctime_ns, 10**9) for name in ("f", "d", "s")]


@case()
def blocks_after_each_way_to_store(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 20 * PAGE)
    seen = [blocks("f")]
    os.pwrite(fd, b"x", 5 * PAGE)
    seen.append(blocks("f"))
    Mapping(fd, 20 * PAGE).store(b"x", 7 * PAGE)
    seen.append(blocks("f"))
    os.copy_file_range(fd, fd, PAGE, 5 * PAGE, 9 * PAGE)
    return [*seen, blocks("f")]


@case()
def size_is_seen_by_all_at_once(d: Path) -> Any:
    fd = new("f")
    seen = []
    for size in (1, 100, PAGE, 10 * PAGE, 50):
        os.ftruncate(fd, size)
        seen.append([os.stat("f").st_size, child(lambda: os.stat("f").st_size), os.lseek(fd, 0, os.SEEK_END)])
    os.pwrite(fd, b"x", 1000)
    return [*seen, child(lambda: os.stat("f").st_size)]


@case()
def links_are_counted(d: Path) -> Any:
    fd = new("f")
    seen = [os.fstat(fd).st_nlink]
    steps: list[Callable[[], Any]] = [
        lambda: os.link("f", "g"),
        lambda: os.rename("g", "h"),
        lambda: os.link("f", "g"),
        lambda: os.rename("g", "h"),
        lambda: os.unlink("f"),
        lambda: os.unlink("g"),
        lambda: os.unlink("h"),
    ]
    for step in steps:
        tried(step)
        seen.append(os.fstat(fd).st_nlink)
    return seen


@case()
def directories_count_their_names(d: Path) -> Any:
    os.mkdir("d")
    seen = []
    steps: list[Callable[[], Any]] = [
        lambda: os.mkdir("d/a"),
        lambda: os.close(new("d/f")),
        lambda: os.symlink("x", "d/s"),
        lambda: os.link("d/f", "d/g"),
        lambda: os.rename("d/a", "away"),
        lambda: os.rename("d/f", "d/g2"),
        lambda: os.unlink("d/g2"),
        lambda: os.rename("away", "d/back"),
    ]
    for step in steps:
        step()
        status = os.stat("d")
        seen.append([status.st_nlink, status.st_size, status.st_blocks])
    return seen


@case()
def inode_numbers_are_kept(d: Path) -> Any:
    os.close(new("f")), os.mkdir("d")
    number = os.stat("f").st_ino
    os.rename("f", "d/g"), os.link("d/g", "h"), os.chmod("h", 0o600)
    with os.scandir("d") as found:
        listed = [entry.inode() == number for entry in found]
    return [os.stat("d/g").st_ino == number, os.stat("h").st_ino == number, listed]


@case()
def inode_numbers_are_not_given_again_at_once(d: Path) -> Any:
    seen = set()
    for _ in range(50):
        os.close(new("f"))
        seen.add(os.stat("f").st_ino)
        os.unlink("f")
    return len(seen)


@case()
def the_kind_of_file_system(d: Path) -> Any:
    """f_type of statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    call("statfs", ".", buffer)
    kind, bsize, *_ = struct.unpack_from("qq", buffer.raw)
    return {"type": hex(kind), "bsize": bsize}


@case()
def pathconf(d: Path) -> Any:
    names = (
        "PC_NAME_MAX",
        "PC_PATH_MAX",
        "PC_LINK_MAX",
        "PC_PIPE_BUF",
        "PC_CHOWN_RESTRICTED",
        "PC_NO_TRUNC",
        "PC_FILESIZEBITS",
    )
    return {name: tried(os.pathconf, ".", name) for name in names}


# ---- other kinds of files


@case()
def mknod_of_every_kind(d: Path) -> Any:
    seen = {}
    for name, kind in KINDS.items():
        os.mknod(name, kind | 0o640, os.makedev(7, 99))
        status = os.lstat(name)
        seen[name] = [mode(name), status.st_rdev, status.st_size, status.st_nlink, status.st_blocks]
    return seen


@case()
def other_kinds_cannot_be_truncated(d: Path) -> Any:
    for name, kind in KINDS.items():
        os.mknod(name, kind | 0o600, os.makedev(1, 3))
    return {name: tried(os.truncate, name, 100) for name in KINDS}


@case()
def other_kinds_cannot_be_allocated(d: Path) -> Any:
    os.mkfifo("p"), os.mknod("null", 0o20600, os.makedev(1, 3))
    return [allocate(os.open(name, os.O_RDWR), 0, 0, PAGE) for name in ("p", "null")]


@case()
def numbers_of_devices(d: Path) -> Any:
    numbers = [(0, 0), (1, 3), (255, 255), (256, 256), (4095, 1048575)]
    for index, (major, minor) in enumerate(numbers):
        os.mknod(f"n{index}", 0o20600, os.makedev(major, minor))
    return [
        (os.major(os.stat(f"n{i}").st_rdev), os.minor(os.stat(f"n{i}").st_rdev)) for i in range(len(numbers))
    ]


@case()
def devices_work(d: Path) -> Any:
    os.mknod("zero", 0o20666, os.makedev(1, 5)), os.mknod("full", 0o20666, os.makedev(1, 7))
    os.mknod("none", 0o20666, os.makedev(4000, 5))
    return [
        os.read(os.open("zero", os.O_RDONLY), 3),
        tried(os.write, os.open("full", os.O_WRONLY), b"x"),
        opened("none"),
    ]


@case()
def a_fifo_by_two_names(d: Path) -> Any:
    os.mkfifo("p")
    os.link("p", "q")
    one, other = os.open("p", os.O_RDWR), os.open("q", os.O_RDWR)
    os.write(one, b"through")
    os.unlink("p")
    return [os.read(other, 10), os.stat("q").st_nlink]


@case()
def a_fifo_nobody_reads(d: Path) -> Any:
    os.mkfifo("p")
    reader = os.open("p", os.O_RDONLY | os.O_NONBLOCK)
    seen = [opened("p", os.O_WRONLY | os.O_NONBLOCK)]
    os.close(reader)
    return [*seen, opened("p", os.O_WRONLY | os.O_NONBLOCK)]


@case()
def a_socket_is_bound(d: Path) -> Any:
    os.umask(0o077)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        seen = [mode("s"), stat.S_ISSOCK(os.stat("s").st_mode), tried(client.connect, "s")]
        server.listen()
        seen += [
            tried(client.connect, "s"),
            opened("s"),
            unprivileged(lambda: socket.socket(socket.AF_UNIX).connect("s")),
        ]
    return [*seen, os.listdir(".")]


@case()
def a_socket_is_bound_twice(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind("s")
        seen = [tried(other.bind, "s"), tried(other.bind, "none/s")]
        os.unlink("s")
        return [*seen, tried(other.bind, "s")]


@case()
def a_socket_by_a_link(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        os.link("s", "t"), os.symlink("t", "l"), os.unlink("s")
        return [tried(client.connect, "l"), mode("t")]


@case()
def messages_to_a_socket(d: Path) -> Any:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind("r"), sender.bind("s")
        sender.sendto(b"one", "r")
        data, source = receiver.recvfrom(10)
        os.rename("r", "moved")
        return [
            data,
            source,
            tried(sender.sendto, b"two", "r"),
            tried(sender.sendto, b"two", "moved"),
            receiver.recv(10),
        ]
