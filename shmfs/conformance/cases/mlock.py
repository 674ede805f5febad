"""mlock(2), mlock2(2) and mlockall(2)."""

import os
import resource
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, READ, Mapping, blocks, call, child, mapped_hole, new, tried


@case()
def mlock_and_munlock(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    mapping = Mapping(fd, 4 * PAGE)
    seen = [call("mlock", mapping.address, 2 * PAGE), mapping.resident()[:2], blocks("f")]
    seen += [tried(mapping.sync, 2), tried(mapping.advise, 4), call("munlock", mapping.address, 4 * PAGE)]
    seen += [tried(call, "mlock2", mapping.address + 2 * PAGE, PAGE, 1), blocks("f")]
    seen += [tried(call, "mlock", Mapping(fd, 8 * PAGE).address, 8 * PAGE)]
    return seen


@case()
def mlock_of_holes_allocates(d: Path) -> Any:
    m = mapped_hole()
    return [tried(call, "mlock", m.address, 2 * PAGE), blocks("f")]


@case()
def mlock_of_a_reader_of_data(d: Path) -> Any:
    os.close(new("f", b"x" * PAGE))
    return tried(call, "mlock", Mapping(os.open("f", os.O_RDONLY), PAGE, READ).address, PAGE)


@case()
def mlock_onfault(d: Path) -> Any:
    m = mapped_hole()
    return [tried(call, "mlock2", m.address, 4 * PAGE, 1), blocks("f"), m.load(PAGE), blocks("f")]


@case()
def mlock_beyond_the_end(d: Path) -> Any:
    return tried(call, "mlock", Mapping(new("f", b"x"), 3 * PAGE).address, 3 * PAGE)


@case()
def mlockall(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)

    def locked() -> Any:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, resource.getrlimit(resource.RLIMIT_MEMLOCK))
        answer = tried(call, "mlockall", 2)
        Mapping(fd, 4 * PAGE)
        return [answer, blocks("f"), tried(call, "munlockall")]

    return child(locked)
