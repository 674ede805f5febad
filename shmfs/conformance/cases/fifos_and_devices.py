"""Fifos and device nodes: mknod(2), input and output, times."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Channel,
    allocate,
    changes,
    mode,
    new,
    opened,
    process,
    tried,
    unprivileged,
)

KINDS = {"fifo": 0o10000, "character": 0o20000, "block": 0o60000, "socket": 0o140000, "file": 0o100000}


# ---- nodes


@case()
def mknod_of_every_kind(d: Path) -> Any:
    seen = {}
    for name, kind in KINDS.items():
        os.mknod(name, kind | 0o640, os.makedev(7, 99))
        status = os.lstat(name)
        seen[name] = [mode(name), status.st_rdev, status.st_size, status.st_nlink, status.st_blocks]
    return seen


@case()
def mknod_and_device_io(d: Path) -> Any:
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
def numbers_of_devices(d: Path) -> Any:
    numbers = [(0, 0), (1, 3), (255, 255), (256, 256), (4095, 1048575)]
    for index, (major, minor) in enumerate(numbers):
        os.mknod(f"n{index}", 0o20600, os.makedev(major, minor))
    return [
        (os.major(os.stat(f"n{i}").st_rdev), os.minor(os.stat(f"n{i}").st_rdev)) for i in range(len(numbers))
    ]


@case()
def truncation_of_every_kind(d: Path) -> Any:
    for name, kind in KINDS.items():
        os.mknod(name, kind | 0o600, os.makedev(1, 3))
    return {name: tried(os.truncate, name, 100) for name in KINDS}


@case()
def fallocate_of_every_kind(d: Path) -> Any:
    os.mkfifo("p"), os.mknod("null", 0o20600, os.makedev(1, 3))
    return [allocate(os.open(name, os.O_RDWR), 0, 0, PAGE) for name in ("p", "null")]


# ---- fifos


@case()
def a_fifo_between_processes(d: Path) -> Any:
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
def a_fifo_by_two_names(d: Path) -> Any:
    os.mkfifo("p")
    os.link("p", "q")
    one, other = os.open("p", os.O_RDWR), os.open("q", os.O_RDWR)
    os.write(one, b"through")
    os.unlink("p")
    return [os.read(other, 10), os.stat("q").st_nlink]


@case()
def a_fifo_without_a_reader(d: Path) -> Any:
    os.mkfifo("p")
    reader = os.open("p", os.O_RDONLY | os.O_NONBLOCK)
    seen = [opened("p", os.O_WRONLY | os.O_NONBLOCK)]
    os.close(reader)
    return [*seen, opened("p", os.O_WRONLY | os.O_NONBLOCK)]


@case()
def times_of_a_fifo(d: Path) -> Any:
    os.mkfifo("p")
    fd = os.open("p", os.O_RDWR | os.O_NONBLOCK)
    return {
        "write": changes(lambda: os.write(fd, b"x"), p="p"),
        "read": changes(lambda: os.read(fd, 1), p="p"),
        "read of nothing": changes(lambda: os.read(fd, 1), p="p"),
        "write of nothing": changes(lambda: os.write(fd, b""), p="p"),
    }


# ---- devices


@case()
def device_io(d: Path) -> Any:
    os.mknod("zero", 0o20666, os.makedev(1, 5)), os.mknod("full", 0o20666, os.makedev(1, 7))
    os.mknod("none", 0o20666, os.makedev(4000, 5))
    return [
        os.read(os.open("zero", os.O_RDONLY), 3),
        tried(os.write, os.open("full", os.O_WRONLY), b"x"),
        opened("none"),
    ]


@case()
def times_of_devices(d: Path) -> Any:
    os.mknod("zero", 0o20666, os.makedev(1, 5)), os.mknod("null", 0o20666, os.makedev(1, 3))
    return {
        "read": changes(lambda: os.read(os.open("zero", os.O_RDONLY), 1), f="zero"),
        "write": changes(lambda: os.write(os.open("null", os.O_WRONLY), b"x"), f="null"),
        "sendfile": changes(lambda: os.sendfile(new("f"), os.open("zero", os.O_RDONLY), None, 1), f="zero"),
    }
