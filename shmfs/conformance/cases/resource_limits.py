"""setrlimit(2): file size, address space, data, and locked memory."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    KEEP_SIZE,
    LOCKED,
    PAGE,
    PRIVATE,
    PUNCH,
    READ,
    SHARED,
    WRITE,
    Mapping,
    allocate,
    call,
    child,
    data_file,
    mapped_file,
    new,
    state,
    tried,
    try_map,
    unprivileged,
)

# ---- RLIMIT_FSIZE


@case()
def rlimit_fsize(d: Path) -> Any:
    fd = new("f")

    def limited() -> Any:
        signals = []
        signal.signal(signal.SIGXFSZ, lambda number, frame: signals.append(number))
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, PAGE))
        steps = [tried(os.pwrite, fd, b"x" * 10, PAGE - 5), tried(os.pwrite, fd, b"x", PAGE)]
        steps += [tried(os.ftruncate, fd, PAGE), tried(os.ftruncate, fd, PAGE + 1)]
        return [steps, [int(number) for number in signals]]

    def killed() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, PAGE))
        return os.pwrite(fd, b"x", PAGE)

    return [child(limited), child(killed), os.fstat(fd).st_size]


@case()
def rlimit_fsize_of_a_vector(d: Path) -> Any:
    fd = new("f")

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return [
            tried(os.writev, fd, [b"x" * 60] * 3),
            tried(os.writev, fd, [b"x"]),
            tried(os.pwrite, fd, b"x", 99),
        ]

    return [child(limited), os.fstat(fd).st_size]


@case()
def rlimit_fsize_of_append(d: Path) -> Any:
    os.close(new("f", b"x" * 90))

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        fd = os.open("f", os.O_WRONLY | os.O_APPEND)
        return [tried(os.write, fd, b"y" * 20), tried(os.write, fd, b"y")]

    return [child(limited), os.stat("f").st_size]


@case()
def rlimit_fsize_of_a_larger_file(d: Path) -> Any:
    fd = new("f", b"x" * 1000)

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return [tried(os.pwrite, fd, b"y", 50), tried(os.pwrite, fd, b"y", 500), tried(os.ftruncate, fd, 900)]

    return child(limited)


@case()
def rlimit_fsize_of_fallocate(d: Path) -> Any:

    fd = new("f")

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        return {
            f"{how}, {size}": allocate(fd, how, 0, size)
            for how in (0, KEEP_SIZE, PUNCH)
            for size in (9000, 10001)
        }

    return child(limited) | {"state": state()}


# ---- RLIMIT_AS, RLIMIT_DATA


@case()
def rlimit_as_of_mmap(d: Path) -> Any:
    fd = data_file()

    def limited() -> Any:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), used + (1 << 20)))
        return [try_map(fd, PAGE, READ), try_map(fd, 4 << 20, READ)]

    return child(limited)


@case()
def rlimit_data_of_mmap(d: Path) -> Any:
    """Private writable mappings count, shared ones do not."""
    fd = data_file()

    def limited() -> Any:
        resource.setrlimit(resource.RLIMIT_DATA, (PAGE, PAGE))
        return [
            try_map(fd, PAGE, READ | WRITE, SHARED),
            tried(call, "mmap", 0, 64 << 20, READ | WRITE, PRIVATE, fd, 0),
        ]

    return child(limited)


# ---- RLIMIT_MEMLOCK


@case()
def rlimit_memlock_of_map_locked(d: Path) -> Any:
    fd = data_file(pages=16)

    def limited() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (2 * PAGE, 2 * PAGE))
        return unprivileged(lambda: [try_map(fd, n * PAGE, READ, SHARED | LOCKED) for n in (1, 2, 16)])

    return child(limited)


@case()
def rlimit_memlock_of_0(d: Path) -> Any:
    """can_do_mlock: EPERM, not EAGAIN."""
    fd = data_file()

    def limited() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        return unprivileged(lambda: try_map(fd, PAGE, READ, SHARED | LOCKED))

    return child(limited)


@case()
def rlimit_as_and_rlimit_memlock(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 << 20)

    def address_space() -> Any:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), used + (1 << 20)))
        return tried(Mapping, fd, 4 << 20)

    def locked() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (2 * PAGE, 2 * PAGE))
        return {
            "over": unprivileged(Mapping, fd, 16 * PAGE, READ | WRITE, SHARED | LOCKED),
            "under": unprivileged(Mapping, fd, PAGE, READ | WRITE, SHARED | LOCKED),
            "mlock": unprivileged(lambda: call("mlock", Mapping(fd, 16 * PAGE).address, 16 * PAGE)),
        }

    return [child(address_space), child(locked)]


@case()
def rlimit_memlock_of_mlock(d: Path) -> Any:
    m = mapped_file()

    def limited() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (2 * PAGE, 2 * PAGE))
        return unprivileged(lambda: [tried(call, "mlock", m.address, n * PAGE) for n in (1, 2, 4)])

    return child(limited)
