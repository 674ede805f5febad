"""fallocate(2), and SEEK_DATA and SEEK_HOLE of what it leaves."""

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    KEEP_SIZE,
    PAGE,
    PUNCH,
    ZERO,
    Mapping,
    allocate,
    blocks,
    call,
    changes,
    child,
    content,
    free,
    mode,
    new,
    state,
    tried,
    unprivileged,
)

SMALL = "size=256k,nr_inodes=16"


# ---- fallocate


@case()
def modes(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    answers = {}
    for how in [*range(128), 1 << 7, 1 << 20, -1]:
        answers[how] = allocate(fd, how, PAGE, PAGE), state(), content("f").count(b"x")
        os.pwrite(fd, b"x" * 3 * PAGE, 0)
    return answers


@case()
def arguments(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    far = (1 << 63) - 1
    places = [(-1, 1), (0, 0), (0, -1), (-PAGE, PAGE), (far, 1), (1, far), (far - 5, 10), (1 << 62, 1 << 62)]
    places += [(0, 1), (PAGE - 1, 2), (5 * PAGE, 1), (0, far)]
    answers = [
        (how, place, allocate(fd, how, *place), state()) for how in (KEEP_SIZE, 0, PUNCH) for place in places
    ]
    os.mkdir("d")
    os.mkfifo("fifo")
    others = {"directory": os.open("d", os.O_RDONLY), "fifo": os.open("fifo", os.O_RDWR)}
    others |= {"reader": os.open("f", os.O_RDONLY), "path": os.open("f", os.O_PATH), "none": 999}
    others["append"] = os.open("f", os.O_WRONLY | os.O_APPEND)
    return [answers, {kind: allocate(other, 0, 0, PAGE) for kind, other in others.items()}]


@case()
def random_allocation(d: Path) -> Any:
    """Sizes, blocks, data and holes after each of 300 random steps."""
    random.seed(5)
    fd = new("f")
    m = Mapping(fd, 40 * PAGE)
    seen = []
    for _ in range(300):
        offset, length = random.randrange(40 * PAGE), random.randrange(1, 12 * PAGE)
        if random.random() < 0.3:
            offset, length = offset // PAGE * PAGE, -(-length // PAGE) * PAGE
        kind = random.randrange(6)
        answer: Any = None
        if kind < 3:
            answer = allocate(fd, (0, KEEP_SIZE, PUNCH)[kind], offset, length)
        elif kind == 3:
            answer = tried(os.ftruncate, fd, offset)
        elif kind == 4:
            answer = tried(os.pwrite, fd, b"w" * length, offset)
        elif offset < os.fstat(fd).st_size:
            m.store(b"m", offset)
        data, place = [], 0
        while isinstance(start := tried(os.lseek, fd, place, os.SEEK_DATA), int):
            place = os.lseek(fd, start, os.SEEK_HOLE)
            now = os.pread(fd, place - start, start)
            data.append((start, place, now.count(b"w"), now.count(b"m")))
        seen.append((kind, answer, state(), data))
    return seen


@case(options=SMALL)
def a_failure_leaves_nothing(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    os.pwrite(fd, b"x", 30 * PAGE)
    answers = [allocate(fd, how, 0, pages * PAGE) for how in (0, KEEP_SIZE) for pages in (65, 64, 1 << 30)]
    answers += [state(), free()[0], content("f").count(b"x")]
    answers += [allocate(fd, KEEP_SIZE, 0, 64 * PAGE), allocate(fd, 0, 64 * PAGE, 1), state(), free()[0]]
    answers += [tried(os.pwrite, new("g"), b"y"[:1], 0), allocate(fd, PUNCH, 5 * PAGE, PAGE)]
    return [*answers, free()[0], state()]


@case(options="size=64k,nr_inodes=24")
def a_failure_initialises_existing_pages(d: Path) -> Any:
    fd = new("f")
    for page in (0, 1, 3, 12):
        call("fallocate", fd, 0, page * PAGE, PAGE)
    os.pwrite(new("filler"), b"x" * 5 * PAGE, 0)  # seven pages are left: up to page 10, for 2 is a hole too
    seen = [tried(call, "fallocate", fd, 0, PAGE, 15 * PAGE), blocks("f")]
    for page in range(13):
        seen.append(tried(os.lseek, fd, page * PAGE, os.SEEK_DATA))
        seen.append(tried(os.lseek, fd, page * PAGE, os.SEEK_HOLE))
    return seen


@case(options=SMALL)
def stores_into_preallocation(d: Path) -> Any:
    """The file system has no other free pages."""
    fd = new("f")
    os.posix_fallocate(fd, 0, 10 * PAGE)
    m = Mapping(fd, 10 * PAGE)
    filler = new("filler")
    while isinstance(tried(os.pwrite, filler, b"x" * PAGE, os.fstat(filler).st_size), int):
        continue
    before = free()[0]
    for page in range(0, 10, 2):
        m.store(b"mapped", page * PAGE)
        os.pwrite(fd, b"written", (page + 1) * PAGE)
    allocate(fd, PUNCH, 0, 2 * PAGE)
    refilled = [tried(os.pwrite, filler, b"x" * PAGE, os.fstat(filler).st_size) for _ in range(3)]
    return [before, m.load(4 * PAGE, 6), state(), refilled, child(m.store, b"x"), m.load(2 * PAGE, 6)]


@case()
def preallocation_beyond_the_end(d: Path) -> Any:
    """Which truncations free preallocation beyond the end of the file."""
    fd = new("f", b"x" * 100)
    seen = []
    for size in (100, 50, 5 * PAGE, 20 * PAGE, 0):
        seen.append([allocate(fd, KEEP_SIZE, 0, 10 * PAGE), state()])
        os.ftruncate(fd, size)
        seen.append([state(), os.pread(fd, 100, 0).count(b"x")])
    return [*seen, allocate(fd, KEEP_SIZE, 5 * PAGE, PAGE), state(), tried(os.truncate, "f", 0), state()]


@case()
def holes_in_mappings(d: Path) -> Any:
    """A punched hole reads as zeros in mappings, and a store fills it again."""
    fd = new("f", b"x" * 8 * PAGE)
    m, private = Mapping(fd, 8 * PAGE), Mapping(fd, 8 * PAGE, flags=2)
    private.store(b"own", PAGE)
    answers = [m.load(PAGE), allocate(fd, PUNCH, 100, 3 * PAGE)]
    answers += [m.load(n * PAGE + 50) for n in range(5)]
    answers += [private.load(PAGE, 3), private.load(2 * PAGE), m.load(3 * PAGE + 99), m.load(3 * PAGE + 100)]
    m.store(b"new", 2 * PAGE)
    return [*answers, content("f")[2 * PAGE :][:4], state(), tried(m.advise, 9, 0, PAGE), state(), m.load()]


@case()
def times_and_privileges(d: Path) -> Any:
    fd = new("f", b"x" * 3 * PAGE)
    seen: dict[str, Any] = {}
    for how in (0, KEEP_SIZE, PUNCH):
        seen[f"{how}"] = changes(partial(allocate, fd, how, 0, 2 * PAGE), f="f")
        seen[f"{how} refused"] = changes(partial(allocate, fd, how | ZERO, 0, 2 * PAGE), f="f")
        os.chmod("f", 0o6777)
        allocate(fd, how, 0, PAGE)
        seen[f"{how} root"] = mode("f")
        os.chmod("f", 0o6777)
        unprivileged(lambda how=how: allocate(os.open("f", os.O_RDWR), how, 0, PAGE))
        seen[f"{how} other"] = mode("f")
    return seen


# ---- SEEK_DATA, SEEK_HOLE


@case()
def data_and_holes(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 20 * PAGE + 5)
    os.pwrite(fd, b"x", 3 * PAGE + 7)
    os.pwrite(fd, b"x" * 2 * PAGE, 8 * PAGE - 1)
    allocate(fd, 0, 12 * PAGE, 2 * PAGE)
    m = Mapping(fd, 20 * PAGE)
    m.store(b"x", 15 * PAGE)
    m.load(17 * PAGE)
    places = [page * PAGE + more for page in range(22) for more in (-1, 0, 1)]
    places += [-PAGE, 1 << 62, (1 << 63) - 1]
    ask = {how: [tried(os.lseek, fd, place, how) for place in places] for how in (os.SEEK_DATA, os.SEEK_HOLE)}
    reader = os.open("f", os.O_RDONLY)
    again = [os.lseek(reader, 0, os.SEEK_DATA), os.lseek(reader, 0, os.SEEK_CUR), os.read(reader, 8)]
    return [ask, again, tried(os.lseek, fd, 0, 5), tried(os.lseek, fd, 0, 99)]


@case()
def seek_in_empty_and_full(d: Path) -> Any:
    empty, full = new("empty"), new("full", b"x" * 5000)
    os.mkdir("d")
    directory = os.open("d", os.O_RDONLY)
    seen = [
        [
            tried(os.lseek, fd, place, how)
            for how in (os.SEEK_DATA, os.SEEK_HOLE)
            for place in (0, 1, 4999, 5000)
        ]
        for fd in (empty, full)
    ]
    os.ftruncate(full, 3000)
    return [seen, os.lseek(full, 0, os.SEEK_HOLE), isinstance(directory, int)]
