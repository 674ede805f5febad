"""What scripts/bench measures with data: streams, random blocks, and pages touched through mappings.

Each group takes a directory and the sizes, and returns {measure: seconds per MB, per call or per page}.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MIB = 1 << 20
PAGE = 4096
DATA = memoryview(os.urandom(MIB))
FREED_WITHIN = 5.0  # seconds that removed data may take to go


class BenchError(Exception):
    """Something could not be measured."""


@dataclass(frozen=True)
class Sizes:
    """How much each measurement does."""

    stream: int = 256 * MIB  # bytes written and read sequentially
    touched: int = 64 * MIB  # bytes mapped and touched, or written and read in random order
    names: int = 2_000  # names made, opened, listed, renamed, removed
    stored: int = 512 * MIB  # bytes stored to see the daemon's memory


QUICK = Sizes(stream=32 * MIB, touched=8 * MIB, names=500, stored=64 * MIB)


@contextmanager
def fresh(path: Path, size: int = 0, *, written: bool = False) -> Iterator[int]:
    """Make a file of `size` bytes, as a hole or `written`; removed afterwards, and its memory freed."""
    free = os.statvfs(path.parent).f_bfree
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if written:
            write(descriptor, size)
        else:
            os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink()
    # What is freed in the background must not disturb what is measured next, maybe on the other side.
    deadline = time.monotonic() + FREED_WITHIN
    while os.statvfs(path.parent).f_bfree < free and time.monotonic() < deadline:
        time.sleep(0.002)


def write(descriptor: int, size: int) -> None:
    """Write `size` bytes, a multiple of 1 MiB."""
    for _ in range(size // MIB):
        if os.write(descriptor, DATA) != MIB:
            raise BenchError("a write of 1 MiB was cut short: is there memory enough?")


def pages(descriptor: int) -> NDArray[np.uint8]:
    """Map the file, and give one byte of each page; the mapping ends with the last reference."""
    return np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)[::PAGE]


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_child(work: Callable[[], float]) -> float:
    """Return what `work` returns in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, struct.pack("d", work()))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        answer = os.read(reader, 8)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer:
        raise BenchError("a child process that touches pages died: is there memory enough?")
    return float(struct.unpack("d", answer)[0])


def median(work: Callable[[], float], times: int) -> float:
    """Return the median of what several calls return."""
    return statistics.median(work() for _ in range(times))


# ---- the groups


def stream(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Write a fresh file, and read it again."""
    buffer = bytearray(MIB)

    def read() -> None:
        for offset in range(0, sizes.stream, MIB):
            os.preadv(descriptor, [buffer], offset)

    with fresh(directory / "stream") as descriptor:
        written = seconds(lambda: write(descriptor, sizes.stream))
        read()
        again = median(lambda: seconds(read), 3)
    megabytes = sizes.stream / 1e6
    return {"sequential write, 1 MiB": written / megabytes, "sequential read, 1 MiB": again / megabytes}


def scattered(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Write and read the blocks of a file that is there, in an order that is the same on all sides."""
    offsets = list(range(0, sizes.touched, PAGE))
    random.Random(2).shuffle(offsets)
    block, buffers = bytes(DATA[:PAGE]), [bytearray(PAGE)]

    def put() -> None:
        pwrite = os.pwrite
        for offset in offsets:
            pwrite(descriptor, block, offset)

    def get() -> None:
        preadv = os.preadv
        for offset in offsets:
            preadv(descriptor, buffers, offset)

    with fresh(directory / "scattered", sizes.touched, written=True) as descriptor:
        written = median(lambda: seconds(put), 3)
        get()
        again = median(lambda: seconds(get), 3)
    return {"random write, 4 KiB": written / len(offsets), "random read, 4 KiB": again / len(offsets)}


def touch(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Store to each page of a hole, and again in the same mapping and in a fork; load it in a new mapping."""
    with fresh(directory / "touch", sizes.touched) as descriptor:
        return touches(descriptor)


def touches(descriptor: int) -> dict[str, float]:
    """Touch an open file; its mapping ends here, before the file is removed."""
    touched = pages(descriptor)
    count = len(touched)

    def store() -> float:
        return seconds(lambda: touched.fill(1)) / count

    def load_elsewhere() -> float:
        mapped = pages(descriptor)
        return seconds(mapped.sum) / count

    return {
        "mmap, first touch": store(),
        "mmap, second touch": median(store, 15),
        "fork and touch": median(lambda: in_child(store), 3),
        "mmap, touch by a second process": median(lambda: in_child(load_elsewhere), 3),
    }


def touch_ahead(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Store to each page of a hole that the kernel may read ahead."""
    with fresh(directory / "touch", sizes.touched) as descriptor:
        return {"mmap, first touch, readahead=32": touches_first(descriptor)}


def touches_first(descriptor: int) -> float:
    """Store to each page of an open file once; in seconds per page."""
    touched = pages(descriptor)
    return seconds(lambda: touched.fill(1)) / len(touched)
