"""Calls that allocate many pages, up to a limit and beyond it: mlock, MAP_POPULATE, huge pages."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    LOCKED,
    PAGE,
    POPULATE,
    READ,
    SHARED,
    WRITE,
    Channel,
    Mapping,
    blocks,
    call,
    child,
    eventually,
    fill_file_system,
    free,
    new,
    process,
    state,
    tried,
)

SMALL = "size=256k,nr_inodes=16"
PAGES = 32
MADV_HUGEPAGE, POPULATE_READ, POPULATE_WRITE = 14, 22, 23
MCL_CURRENT, MCL_FUTURE = 1, 2
HUGE = 2 << 20


def full() -> int:
    """A file with holes but for the pages 0 to 3 and 28 to 31, in a file system without room."""
    fd = new("f")
    os.ftruncate(fd, PAGES * PAGE)
    os.pwrite(fd, b"a" * 4 * PAGE, 0)
    os.pwrite(fd, b"b" * 4 * PAGE, 28 * PAGE)
    os.close(fill_file_system())
    return fd


def after(fd: int, mapping: Mapping) -> list[Any]:
    """What is left when a populate has failed: size, pages, data, and SIGBUS for a touch of a hole.

    The size comes first: until it is known again in shmfs, a touch behind the hole could fail.
    """
    seen = [
        state(),
        os.lseek(fd, 0, os.SEEK_END),
        os.pread(fd, 2 * PAGE, 31 * PAGE) == b"b" * PAGE,
        mapping.load(0),
        mapping.load(28 * PAGE),
    ]
    mapping.store(b"stored", 29 * PAGE)
    return [*seen, child(mapping.store, b"x", 5 * PAGE), os.pread(fd, 6, 29 * PAGE), free()[0]]


@case(options=SMALL)
def mlock_beyond_the_limit(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, PAGES * PAGE)
    return [[tried(call, "mlock", m.address, m.length) for _ in range(3)], after(fd, m)]


@case(options=SMALL)
def mlock_of_a_reader_beyond_the_limit(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, PAGES * PAGE, READ)
    return [tried(call, "mlock", m.address, m.length), after(fd, Mapping(fd, PAGES * PAGE))]


@case(options=SMALL)
def mlock_after_the_limit_is_raised(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, PAGES * PAGE)
    seen = [tried(call, "mlock", m.address, m.length)]
    os.truncate("filler", 0)
    eventually(lambda: free()[0] >= PAGES, True)
    return [*seen, tried(call, "mlock", m.address, m.length), blocks("f"), m.load(5 * PAGE)]


@case(options=SMALL)
def map_populate_beyond_the_limit(d: Path) -> Any:
    fd = full()
    return after(fd, Mapping(fd, PAGES * PAGE, flags=SHARED | POPULATE))


@case(options=SMALL)
def map_locked_beyond_the_limit(d: Path) -> Any:
    fd = full()
    return after(fd, Mapping(fd, PAGES * PAGE, flags=SHARED | LOCKED))


@case(options=SMALL)
def madv_populate_beyond_the_limit(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, PAGES * PAGE)
    return [[tried(m.advise, how) for how in (POPULATE_READ, POPULATE_WRITE) * 3], after(fd, m)]


@case(options=SMALL)
def mlockall_beyond_the_limit(d: Path) -> Any:
    fd = full()

    def locked() -> Any:
        early = Mapping(fd, PAGES * PAGE)
        now = tried(call, "mlockall", MCL_CURRENT)
        later = tried(call, "mlockall", MCL_FUTURE)
        m = Mapping(fd, PAGES * PAGE)
        call("munlockall")
        return [now, later, early.load(0), after(fd, m)]

    return child(locked)


@case(options=SMALL)
def mremap_of_a_locked_mapping_beyond_the_limit(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, 2 * PAGE)
    seen = [tried(call, "mlock", m.address, m.length)]
    m.address = call("mremap", m.address, 2 * PAGE, PAGES * PAGE, 1, 0)
    m.length = PAGES * PAGE
    return [*seen, after(fd, m)]


@case(options=SMALL)
def threads_that_mlock_beyond_the_limit(d: Path) -> Any:
    fd = full()
    mappings = [Mapping(fd, PAGES * PAGE) for _ in range(4)]
    answers: list[Any] = []

    def lock(m: Mapping) -> None:
        answers.append(tried(call, "mlock", m.address, m.length))

    threads = [threading.Thread(target=lock, args=(m,)) for m in mappings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers, after(fd, mappings[0])]


def _touches(channel: Channel, fd: int) -> None:
    """Another user of the file: its pages behind those that are refused are there all the time."""
    m = Mapping(fd, PAGES * PAGE)
    m.load(28 * PAGE)
    channel.send("mapped")
    rounds = 0
    wrong = 0
    done = False
    while not done:
        for index in range(28, 32):
            m.store(b"%07d" % rounds, index * PAGE)
            wrong += m.load(index * PAGE, 7) != b"%07d" % rounds
        wrong += os.fstat(fd).st_size != PAGES * PAGE
        rounds += 1
        done = os.path.exists("done")
    channel.send([wrong, rounds > 0])


@case(options=SMALL)
def mlock_beyond_the_limit_beside_another_user_of_the_file(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, PAGES * PAGE)
    with process(_touches, fd) as other:
        seen = [other.receive()]
        seen += [tried(call, "mlock", m.address, m.length) for _ in range(10)]
        os.close(new("done"))
        seen.append(other.receive())
    return seen


@case(options=SMALL)
def mlock_of_an_unlinked_file_beyond_the_limit(d: Path) -> Any:
    fd = full()
    os.unlink("f")
    m = Mapping(fd, PAGES * PAGE)
    seen = [tried(call, "mlock", m.address, m.length), os.fstat(fd).st_size // PAGE]
    return [*seen, child(m.store, b"x", 5 * PAGE), m.load(28 * PAGE)]


@case()
def map_populate(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    os.ftruncate(fd, 8 * PAGE)
    mapping = Mapping(fd, 8 * PAGE, READ | WRITE, SHARED | POPULATE)
    seen = [blocks("f"), mapping.resident()]
    behind = Mapping(fd, 16 * PAGE, READ | WRITE, SHARED | POPULATE)
    return [seen, behind.load(0), child(behind.load, 8 * PAGE)]


# ---- advice


@case(options="size=16m")
def madv_hugepage_charges_what_is_touched(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * HUGE)
    m = Mapping(fd, 4 * HUGE)
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages
        m.advise(MADV_HUGEPAGE)
    seen: list[Any] = [m.load(PAGE), blocks("f")]
    for offset in (0, HUGE + 5 * PAGE, 3 * HUGE):
        m.store(b"x", offset)
        seen.append(blocks("f"))
    return [*seen, m.load(HUGE), m.load(HUGE + 5 * PAGE), blocks("f")]


@case(options=SMALL)
def madv_hugepage_in_a_full_file_system(d: Path) -> Any:
    fd = full()
    m = Mapping(fd, PAGES * PAGE)
    with contextlib.suppress(OSError):
        m.advise(MADV_HUGEPAGE)
    return after(fd, m)


@case()
def madv_hugepage_of_data(d: Path) -> Any:
    fd = new("f", b"x" * HUGE)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    m = Mapping(fd, HUGE, READ | WRITE)
    with contextlib.suppress(OSError):
        m.advise(MADV_HUGEPAGE)
    return [set(m.load(0, HUGE)), blocks("f")]
