"""truncate(2) and the end of a file: sizes, times, mappings across a truncation and stores beyond the end."""

import functools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    KEEP_SIZE,
    PAGE,
    PRIVATE,
    Mapping,
    aged,
    allocate,
    blocks,
    changed,
    changes,
    child,
    content,
    digest,
    new,
    state,
    tried,
    unprivileged,
)

# ---- sizes, times, errors


@case()
def a_truncation_zeroes_the_tail(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    mapping = Mapping(fd, 3 * PAGE)
    os.ftruncate(fd, PAGE + 10)
    seen = [mapping.load(PAGE + 8, 6), child(mapping.load, 2 * PAGE)]
    os.ftruncate(fd, 3 * PAGE)
    seen += [mapping.load(PAGE + 8, 6), mapping.load(2 * PAGE), digest(content("f")), blocks("f")]
    return seen


@case()
def times(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    seen = {}
    actions: dict[str, Callable[[], Any]] = {
        "truncate same": lambda: os.truncate("f", 100),
        "ftruncate same": lambda: os.ftruncate(fd, 100),
        "truncate up": lambda: os.truncate("f", 200),
        "truncate down": lambda: os.truncate("f", 50),
        "ftruncate up": lambda: os.ftruncate(fd, 200),
        "O_TRUNC": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
        "O_TRUNC of the empty": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
    }
    for name, action in actions.items():
        before = aged("f")
        action()
        seen[name] = changed(before, "f")
    return seen


@case()
def times_of_truncations_to_the_same_size(d: Path) -> Any:
    """truncate(2) keeps the times of an empty file; ftruncate(2) changes them."""
    seen: list[Any] = []
    for size in (0, 5000):
        fd = new(f"f{size}")
        os.ftruncate(fd, size)
        name = f"f{size}"
        for action in (functools.partial(os.truncate, name, size), functools.partial(os.ftruncate, fd, size)):
            seen += [changes(action, f=name)]
    return seen


@case()
def a_truncation_to_the_same_size_keeps_preallocation(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    allocate(fd, KEEP_SIZE, 0, 8 * PAGE)
    seen = [state()]
    os.ftruncate(fd, 100)
    return [*seen, state()]


@case()
def errors(d: Path) -> Any:
    os.mkdir("d")
    os.mkfifo("p")
    os.close(new("f", b"x", 0o444))
    return {
        "directory": tried(os.truncate, "d", 0),
        "fifo": tried(os.truncate, "p", 0),
        "read-only descriptor": tried(os.ftruncate, os.open("f", os.O_RDONLY), 0),
        "without right": unprivileged(os.truncate, "f", 0),
        "missing": tried(os.truncate, "none", 0),
        "below a file": tried(os.truncate, "f/x", 0),
    }


# ---- mappings


@case()
def a_mapping_after_down_and_up(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    m = Mapping(fd, 3 * PAGE)
    os.ftruncate(fd, PAGE + 7)
    os.ftruncate(fd, 3 * PAGE)
    return [m.load(PAGE, 10), m.load(2 * PAGE), content("f").count(b"x"), blocks("f")]


@case()
def faults_of_a_mapping_after_down_and_up(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    mapping.store(b"one", 2 * PAGE)
    os.ftruncate(fd, PAGE)
    seen = [child(mapping.load, 2 * PAGE), child(mapping.store, b"x", 2 * PAGE), child(mapping.load, 0)]
    os.ftruncate(fd, 4 * PAGE)
    seen += [mapping.load(2 * PAGE, 3)]
    mapping.store(b"two", 2 * PAGE)
    return [seen, os.pread(fd, 3, 2 * PAGE)]


@case()
def stores_of_an_older_mapping(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    m = Mapping(fd, 3 * PAGE)
    m.store(b"before", 2 * PAGE)
    os.ftruncate(fd, PAGE)
    seen = [child(m.store, b"y", 2 * PAGE), child(m.load, PAGE)]
    os.ftruncate(fd, 3 * PAGE)
    m.store(b"after", 2 * PAGE)
    return [*seen, os.pread(fd, 6, 2 * PAGE), blocks("f")]


@case()
def a_private_copy_after_down_and_up(d: Path) -> Any:
    fd = new("f", b"x" * 2 * PAGE)
    m = Mapping(fd, 2 * PAGE, flags=PRIVATE)
    m.store(b"own", PAGE)
    os.ftruncate(fd, PAGE)
    seen = child(m.load, PAGE)
    os.ftruncate(fd, 2 * PAGE)
    return [seen, m.load(PAGE, 3), m.load(0, 1)]


@case()
def truncations_within_the_last_page(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    m = Mapping(fd)
    os.ftruncate(fd, 10)
    seen = [m.load(9, 3)]
    m.store(b"tail", 100)
    os.ftruncate(fd, 5)
    os.ftruncate(fd, PAGE)
    return [*seen, m.load(0, 12), m.load(100, 4), content("f").count(0)]


@case()
def concurrent_faults_and_truncations(d: Path) -> Any:
    """Each store either raises SIGBUS or reaches the file; the last truncation frees all pages."""
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


# ---- the end of a file


@case()
def faults_beyond_the_end(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    mapping = Mapping(fd, 3 * PAGE)
    seen = [mapping.load(99, 3), child(mapping.load, PAGE), child(mapping.store, b"x", 2 * PAGE)]
    seen += [child(mapping.store, b"y", PAGE - 1), os.fstat(fd).st_size]
    os.ftruncate(fd, 2 * PAGE)
    seen += [child(mapping.load, PAGE), child(mapping.load, 2 * PAGE), blocks("f")]
    os.ftruncate(fd, 0)
    return [seen, child(mapping.load, 0), Mapping(new("empty"), PAGE)]


@case()
def a_store_beyond_the_end(d: Path) -> Any:
    """Bytes stored in the last page beyond the end become visible when the file grows over them."""
    fd = new("f", b"x" * 10)
    mapping = Mapping(fd, PAGE)
    mapping.store(b"behind", 100)
    seen = {"mapped": mapping.load(100, 6), "read": os.pread(fd, 200, 0)}
    os.ftruncate(fd, 200)
    seen["grown"] = mapping.load(98, 10)
    seen["read grown"] = os.pread(fd, 200, 0)
    return seen


@case()
def a_store_beyond_the_end_then_a_write(d: Path) -> Any:
    fd = new("f", b"x" * 10)
    mapping = Mapping(fd, PAGE)
    mapping.store(b"behind", 100)
    os.pwrite(fd, b"end", 300)
    return {"mapped": mapping.load(98, 10), "read": os.pread(fd, 303, 0)}


@case()
def a_synced_store_beyond_the_end(d: Path) -> Any:
    """As a_store_beyond_the_end, with msync(2) before the file grows."""
    fd = new("f", b"x" * 10)
    mapping = Mapping(fd, PAGE)
    mapping.store(b"behind", 100)
    mapping.sync(4)
    os.ftruncate(fd, 200)
    return {"grown": mapping.load(100, 6)}
