"""readdir: order, cookies, and directories that change while they are read."""

import ctypes
import os
import random
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import call, free, libc, new, opened, tried

libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long


class Stream:
    """DIR of the C library."""

    def __init__(self, path: str) -> None:
        self.dir = ctypes.c_void_p(libc.opendir(path.encode()))

    def next(self) -> bytes | None:
        entry = libc.readdir(self.dir)
        return ctypes.string_at(entry + 19) if entry else None

    def rest(self) -> list[bytes]:
        names = []
        while (name := self.next()) is not None:
            names.append(name)
        return names

    def tell(self) -> int:
        return int(libc.telldir(self.dir))

    def seek(self, position: int) -> None:
        libc.seekdir(self.dir, ctypes.c_long(position))

    def rewind(self) -> None:
        libc.rewinddir(self.dir)

    def close(self) -> None:
        libc.closedir(self.dir)


def entries(fd: int, size: int) -> list[tuple[int, bytes, int]]:
    """getdents64(2): offset, name and type of what fits."""
    buffer = ctypes.create_string_buffer(size)
    end = call("getdents64", fd, buffer, size)
    found, position = [], 0
    while position < end:
        _, offset, length, kind = struct.unpack_from("QqHB", buffer.raw, position)
        name = buffer.raw[position + 19 : position + length].split(b"\0")[0]
        found.append((offset, name, kind))
        position += length
    return found


def create_files(count: int, form: str = "f{}") -> None:
    for index in range(count):
        os.close(new(form.format(index)))


@case()
def order_and_types(d: Path) -> Any:
    os.close(new("file")), os.mkdir("directory"), os.symlink("x", "link"), os.mkfifo("fifo")
    os.link("file", "linked")
    os.rename("directory", "renamed")
    found = entries(os.open(".", os.O_RDONLY), 4096)
    return [[(name, kind) for _, name, kind in found], os.listdir(".")]


@case()
def inode_numbers(d: Path) -> Any:
    create_files(10)
    with os.scandir(".") as scan:
        return [entry.inode() == os.stat(entry.name).st_ino for entry in scan]


@case()
def many(d: Path) -> Any:
    create_files(1500)
    listed = os.listdir(".")
    return [listed == [f"f{index}" for index in reversed(range(1500))], len(listed)]


@case()
def small_buffers(d: Path) -> Any:
    create_files(50, "a-rather-long-name-{:03}")
    fd = os.open(".", os.O_RDONLY)
    names = []
    while part := entries(fd, 200):
        names += [name for _, name, _ in part]
    os.lseek(fd, 0, os.SEEK_SET)
    return [names, tried(entries, fd, 10), len(entries(fd, 100))]


@case()
def seek_to_every_name(d: Path) -> Any:
    create_files(40)
    stream = Stream(".")
    places = []
    while True:
        place = stream.tell()
        name = stream.next()
        if name is None:
            break
        places.append((place, name))
    order = [name for _, name in places]
    random.Random(3).shuffle(places)
    seen = []
    for place, name in places:
        stream.seek(place)
        seen.append(stream.next() == name)
    stream.rewind()
    return [order, seen, stream.rest() == order]


@case()
def names_created_and_removed_during_a_listing(d: Path) -> Any:
    """A slow reader gets each name that stays exactly once."""
    create_files(300)
    fd = os.open(".", os.O_RDONLY)
    names: list[bytes] = []
    step = 0
    while part := entries(fd, 1000):
        names += [name for _, name, _ in part]
        os.close(new(f"new{step}"))
        os.unlink(f"f{step * 5}")
        os.rename(f"f{step * 5 + 1}", f"moved{step}")
        step += 1
    stayed = [b"f%d" % i for i in range(300) if i % 5 > 1 or i >= step * 5]
    return [
        len(names) == len(set(names)),
        set(stayed) <= set(names),
        sum(n.startswith(b"new") for n in names),
    ]


@case()
def a_growing_directory_ends(d: Path) -> Any:
    create_files(5)
    count = 0
    with os.scandir(".") as scan:
        for entry in scan:
            os.close(new(f"{entry.name}+"))
            os.rename(f"{entry.name}+", f"{entry.name}*")
            count += 1
    return [count, len(os.listdir("."))]


@case()
def removal_while_reading(d: Path) -> Any:
    create_files(700)
    with os.scandir(".") as scan:
        for entry in scan:
            os.unlink(entry.name)
    return os.listdir(".")


@case()
def rewinding_shows_new_names(d: Path) -> Any:
    create_files(3)
    stream = Stream(".")
    first = stream.rest()
    os.close(new("late")), os.unlink("f1")
    seen = [first, stream.rest()]
    stream.rewind()
    seen.append(stream.rest())
    stream.close()
    return seen


@case()
def the_position_of_a_removed_name(d: Path) -> Any:
    create_files(20)
    stream = Stream(".")
    for _ in range(8):
        stream.next()
    place, following = stream.tell(), stream.next()
    stream.seek(place)
    os.unlink(os.fsdecode(following or b""))
    stream.seek(place)
    return [following, stream.rest()]


@case()
def offsets(d: Path) -> Any:
    create_files(5)
    fd = os.open(".", os.O_RDONLY)
    found = entries(fd, 4096)
    end = entries(fd, 4096)
    cookies = [offset for offset, _, _ in found]
    os.lseek(fd, cookies[3], os.SEEK_SET)
    again = [name for _, name, _ in entries(fd, 4096)]
    return {
        "distinct": len(set(cookies)) == len(cookies),
        "end": end,
        "again": again == [name for _, name, _ in found[4:]],
        "negative": tried(os.lseek, fd, -5, os.SEEK_SET),
        "read of a file": tried(entries, os.open("f1", os.O_RDONLY), 100),
    }


@case()
def empty_and_nested(d: Path) -> Any:
    os.makedirs("a/b/c/d/e")
    return [os.listdir("a/b/c/d/e"), [len(files) for _, files, _ in os.walk(".")], Stream("a/b/c/d/e").rest()]


@case()
def a_removed_directory_reads_as_empty(d: Path) -> Any:
    os.mkdir("d")
    fd, stream = os.open("d", os.O_RDONLY), Stream("d")
    os.rmdir("d")
    return [tried(entries, fd, 1000), stream.rest()]


@case()
def two_readers(d: Path) -> Any:
    create_files(100)
    one, two = Stream("."), Stream(".")
    first = [one.next() for _ in range(50)]
    os.unlink("f10")
    return [first, len(two.rest()), len(one.rest())]


@case()
def a_rename_onto_a_name_keeps_or_moves_its_place(d: Path) -> Any:
    create_files(5)
    os.rename("f4", "f1")
    os.rename("f0", "g")
    seen = {"replaced": os.listdir(".")}
    call("renameat2", -100, "f2", -100, "f3", 2)
    seen["exchanged"] = os.listdir(".")
    return seen


@case()
def names_removed_during_a_listing(d: Path) -> Any:
    os.mkdir("d")
    for number in range(20):
        os.close(new(f"d/{number}"))
    os.listdir("d")
    fd = os.open("d", os.O_RDONLY)
    first = [name for _, name, _ in entries(fd, 128)]
    for name in os.listdir("d"):
        os.unlink(f"d/{name}")
    rest = []
    while part := entries(fd, 4096):
        rest += [name for _, name, _ in part]
    return {"begun": len(first), "listed still": len(rest), "listed anew": os.listdir("d")}


# ---- lseek


@case()
def positions(d: Path) -> Any:
    """lseek(2) of a directory from its end, for data and for holes."""
    os.close(new("f"))
    fd = os.open(".", os.O_RDONLY)
    seen = {"start": tried(os.lseek, fd, 0, os.SEEK_SET), "before": tried(os.lseek, fd, -1, os.SEEK_SET)}
    for name, whence in (("end", os.SEEK_END), ("data", os.SEEK_DATA), ("hole", os.SEEK_HOLE)):
        seen[name] = tried(os.lseek, fd, 0, whence)
    return seen


@case()
def positions_of_an_empty_directory(d: Path) -> Any:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    kinds = {"set": os.SEEK_SET, "current": os.SEEK_CUR, "end": os.SEEK_END, "data": os.SEEK_DATA}
    return {name: tried(os.lseek, fd, 0, kind) for name, kind in (kinds | {"hole": os.SEEK_HOLE}).items()}


# ---- many names, and names created and removed while they are read


@case()
def removal_of_a_thousand_names(d: Path) -> Any:
    for index in range(1000):
        os.mknod(f"f{index}")
    fd = os.open(".", os.O_RDONLY)
    removed = 0
    while found := entries(fd, 4096):
        for _, name, _ in found:
            if name not in (b".", b".."):
                os.unlink(name)
                removed += 1
    return [removed, os.listdir("."), os.stat(".").st_size]


@case(options="size=64m,nr_inodes=20k")
def ten_thousand_names(d: Path) -> Any:
    for index in range(10_000):
        os.mknod(f"n{index}")
    listed = os.listdir(".")
    seen = [len(listed), len(set(listed)), os.stat(".").st_size, listed[:2], free()[1]]
    seen += [opened("n7777"), opened("n10000"), os.stat("n5").st_nlink]
    for index in range(0, 10_000, 2):
        os.unlink(f"n{index}")
    return [*seen, len(os.listdir(".")), os.stat(".").st_size]


@case()
def a_growing_directory_that_is_rewound(d: Path) -> Any:
    for index in range(100):
        os.mknod(f"a{index}")
    stream = Stream(".")
    seen: list[bytes] = []
    while (name := stream.next()) is not None and len(seen) < 5000:
        seen.append(name)
        os.mknod(f"b{len(seen)}")
    stream.rewind()
    return [len(seen), len(set(seen)), len(stream.rest()) - len(seen)]
