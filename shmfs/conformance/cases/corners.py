"""What is easy to forget: where well-known suites of tests for file systems look."""

import os
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.cases.directories import Stream, entries
from shmfs.conformance.tools import free, new, opened

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
def a_thousand_links(d: Path) -> Any:
    os.close(new("f", b"x"))
    for index in range(1000):
        os.link("f", f"l{index}")
    seen = [os.stat("f").st_nlink]
    for index in range(1000):
        os.unlink(f"l{index}")
    return [*seen, os.stat("f").st_nlink, os.listdir(".")]


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
