"""What is easy to forget: where well-known suites of tests for file systems look."""

import os
import random
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.cases.directories import Stream, entries
from shmfs.conformance.tools import (
    KEEP_SIZE,
    PAGE,
    PRIVATE,
    Mapping,
    allocate,
    blocks,
    call,
    child,
    content,
    digest,
    free,
    new,
    opened,
    state,
)

# ---- buffers that are mappings of the same file


@case()
def a_write_from_its_own_page(d: Path) -> Any:
    fd = new("f", bytes(range(256)) * 16)
    m = Mapping(fd)
    return [
        call("pwrite", fd, m.address, PAGE, 0),
        call("pwrite", fd, m.address + 100, 1000, 50),
        digest(content("f")),
    ]


@case()
def a_write_from_its_own_hole(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    m = Mapping(fd, 4 * PAGE)
    return [call("pwrite", fd, m.address + 2 * PAGE, PAGE, 0), state(), content("f").count(0)]


@case()
def a_write_behind_the_end_from_its_own_page(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    m = Mapping(fd, 2 * PAGE)
    return [call("pwrite", fd, m.address, PAGE, PAGE), m.load(PAGE), state()]


@case()
def a_read_into_its_own_page(d: Path) -> Any:
    fd = new("f", bytes(range(256)) * 16)
    m = Mapping(fd)
    return [
        call("pread", fd, m.address + 10, 100, 0),
        call("pread", fd, m.address, PAGE, 0),
        digest(content("f")),
    ]


@case()
def a_read_into_its_own_hole(d: Path) -> Any:
    fd = new("f", b"data" * 100)
    os.ftruncate(fd, 4 * PAGE)
    m = Mapping(fd, 4 * PAGE)
    return [call("pread", fd, m.address + 3 * PAGE, 400, 0), m.load(3 * PAGE, 4), state()]


@case()
def a_write_from_another_file_that_is_mapped(d: Path) -> Any:
    one, other = new("f", b"x" * PAGE), new("g", b"y" * PAGE)
    m = Mapping(other)
    return [call("pwrite", one, m.address, PAGE, 100), digest(content("f"))]


@case()
def a_socket_that_receives_into_a_mapping(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    m = Mapping(fd, 4 * PAGE)
    left, right = socket.socketpair()
    left.sendall(b"received" * 1000)
    return [call("recv", right.fileno(), m.address + 100, 8000, 0x100), blocks("f"), digest(content("f"))]


@case()
def a_pipe_that_is_written_from_a_mapping(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 2 * PAGE)
    m = Mapping(fd, 2 * PAGE)
    reader, writer = os.pipe()
    return [call("write", writer, m.address + PAGE, 100), os.read(reader, 100) == bytes(100), blocks("f")]


# ---- truncation and mappings


@case()
def truncate_down_then_up(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    m = Mapping(fd, 3 * PAGE)
    os.ftruncate(fd, PAGE + 7)
    os.ftruncate(fd, 3 * PAGE)
    return [m.load(PAGE, 10), m.load(2 * PAGE), content("f").count(b"x"), blocks("f")]


@case()
def a_store_through_a_mapping_made_before_a_truncate(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    m = Mapping(fd, 3 * PAGE)
    m.store(b"before", 2 * PAGE)
    os.ftruncate(fd, PAGE)
    seen = [child(m.store, b"y", 2 * PAGE), child(m.load, PAGE)]
    os.ftruncate(fd, 3 * PAGE)
    m.store(b"after", 2 * PAGE)
    return [*seen, os.pread(fd, 6, 2 * PAGE), blocks("f")]


@case()
def a_private_copy_survives_a_truncate_up(d: Path) -> Any:
    fd = new("f", b"x" * 2 * PAGE)
    m = Mapping(fd, 2 * PAGE, flags=PRIVATE)
    m.store(b"own", PAGE)
    os.ftruncate(fd, PAGE)
    seen = child(m.load, PAGE)
    os.ftruncate(fd, 2 * PAGE)
    return [seen, m.load(PAGE, 3), m.load(0, 1)]


@case()
def truncate_in_the_last_page_of_a_mapping(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    m = Mapping(fd)
    os.ftruncate(fd, 10)
    seen = [m.load(9, 3)]
    m.store(b"tail", 100)
    os.ftruncate(fd, 5)
    os.ftruncate(fd, PAGE)
    return [*seen, m.load(0, 12), m.load(100, 4), content("f").count(0)]


@case()
def truncate_to_the_same_size(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    allocate(fd, KEEP_SIZE, 0, 8 * PAGE)
    seen = [state()]
    os.ftruncate(fd, 100)
    return [*seen, state()]


@case()
def faults_and_truncates_at_once(d: Path) -> Any:
    """Stores end in a signal or in the file, and nothing else; at the end all is as truncated."""
    fd = new("f", b"x" * 8 * PAGE)
    m = Mapping(fd, 8 * PAGE)

    def store() -> Any:
        choose = random.Random(1)
        while True:
            m.store(b"s", choose.randrange(8) * PAGE)

    pid = os.fork()
    if pid == 0:
        store()
    ended = 0
    for _ in range(100):
        os.ftruncate(fd, PAGE)
        os.ftruncate(fd, 8 * PAGE)
        if os.waitpid(pid, os.WNOHANG)[0]:
            ended += 1
            pid = os.fork()
            if pid == 0:
                store()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.ftruncate(fd, 0)
    return [content("f"), blocks("f")]


# ---- many


@case()
def a_thousand_names_removed_while_read(d: Path) -> Any:
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
def opened_ten_thousand_times(d: Path) -> Any:
    os.close(new("f", b"x"))
    for _ in range(10_000):
        os.close(os.open("f", os.O_RDONLY))
    return [content("f"), os.stat("f").st_nlink]


@case()
def a_thousand_links(d: Path) -> Any:
    os.close(new("f", b"x"))
    for index in range(1000):
        os.link("f", f"l{index}")
    seen = [os.stat("f").st_nlink]
    for index in range(1000):
        os.unlink(f"l{index}")
    return [*seen, os.stat("f").st_nlink, os.listdir(".")]


@case()
def a_thousand_mappings_of_one_file(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mappings = [Mapping(fd) for _ in range(1000)]
    mappings[0].store(b"seen")
    return [{m.load(0, 4) for m in mappings}, [m.unmap() for m in mappings[:3]]]


@case()
def five_hundred_open_and_unlinked(d: Path) -> Any:
    before = free()
    fds = []
    for index in range(500):
        fds.append(new(f"f{index}", b"%d" % index))
        os.unlink(f"f{index}")
    return [
        os.listdir("."),
        before[0] - free()[0],
        [os.pread(fd, 9, 0) for fd in fds] == [b"%d" % i for i in range(500)],
    ]


@case()
def readdir_of_a_directory_that_grows(d: Path) -> Any:
    for index in range(100):
        os.mknod(f"a{index}")
    stream = Stream(".")
    seen: list[bytes] = []
    while (name := stream.next()) is not None and len(seen) < 5000:
        seen.append(name)
        os.mknod(f"b{len(seen)}")
    stream.rewind()
    return [len(seen), len(set(seen)), len(stream.rest()) - len(seen)]


@case()
def threads_that_make_and_remove(d: Path) -> Any:
    failures: list[str] = []

    def work(number: int) -> None:
        for index in range(50):
            name = f"{number}-{index}"
            try:
                os.close(new(name, b"x" * 100))
                os.rename(name, name + "r")
                os.link(name + "r", name)
                os.unlink(name), os.unlink(name + "r")
            except OSError as failure:
                failures.append(str(failure))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [failures, os.listdir("."), os.stat(".").st_size]
