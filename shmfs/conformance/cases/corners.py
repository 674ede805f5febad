"""What is easy to forget: where well-known suites of tests for file systems look."""

import os
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.cases.directories import Stream, entries
from shmfs.conformance.tools import PAGE, Mapping, content, free, new, opened

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
