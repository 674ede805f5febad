"""The client of scripts/bench that uses System V shared memory, in a process and an IPC namespace of its own.

`bench_segments.py DIR BYTES COUNT [CORE]` takes memory from the mount of shmfs on DIR through the library,
or from the kernel where DIR is none. It prints {measure: seconds per page} as JSON or, with CORE, seconds an
operation, made on that processor alone.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shmfs.conformance.doors import PRIVATE_KEY, Doors, through
from shmfs.conformance.tools import PAGE, libc
from shmfs.system import mounts, namespaces

LIFE = "shmget + shmat + shmdt + rm"


def touch(doors: Doors, size: int) -> dict[str, float]:
    """Attach twice, and store into every page: fresh, present, and through the other attach."""
    one = doors.get(PRIVATE_KEY, size)
    results = {}
    attaches = [doors.at(one), doors.at(one)]
    for name, address in (("first", attaches[0]), ("second", attaches[0]), ("other", attaches[1])):
        buffer = (ctypes.c_uint8 * size).from_address(address)
        pages: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)[::PAGE]
        start = time.perf_counter()
        pages[:] = 1
        results[f"segment, {name} touch"] = (time.perf_counter() - start) / (size // PAGE)
    for address in attaches:
        doors.dt(address)
    doors.remove(one)
    return results


def live(doors: Doors, count: int) -> float:
    """Make, attach, detach and remove segments, one after the other."""
    start = time.perf_counter()
    for _ in range(count):
        one = doors.get(PRIVATE_KEY, PAGE)
        doors.dt(doors.at(one))
        doors.remove(one)
    return (time.perf_counter() - start) / count


def ask(mountpoint: str, count: int) -> float:
    """Make the simplest request that waits for an answer."""
    look: Callable[[str], object] = os.statvfs
    start = time.perf_counter()
    for _ in range(count):
        look(mountpoint)
    return (time.perf_counter() - start) / count


def main() -> None:
    """Measure and print."""
    mountpoint, size, count, *core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    namespaces.leave_ipc()
    mount = mounts.find(mountpoint)
    doors = through(mountpoint) if mount and mount.fstype == mounts.FSTYPE else Doors(libc)
    if core:
        results = {LIFE: live(doors, int(count)), "statfs": ask(mountpoint, int(count))}
    else:
        results = touch(doors, int(size))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
