"""`shmfs.record()` and `shmfs.faults`: who is followed, what is seen, how it is filtered."""

import mmap
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest

from shmfs.testing import PrivateMount
from shmfs.testing.faults import Fault, Faults
from shmfs.tracefile.stream import FAULT
from shmfs.tracing import perf

TOUCH = """
import mmap, os, sys
name, *pages = sys.argv[1:]
file = os.open(name, os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 16 * 4096)
memory = mmap.mmap(file, 16 * 4096)
for page in pages:
    memory[int(page) * 4096] = 1
"""


def touch(path: str, pages: Iterable[int]) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 16 * 4096)
    with mmap.mmap(file, 16 * 4096) as memory:
        os.close(file)
        for page in pages:
            memory[page * 4096] = 1


def run(shmfs: PrivateMount, name: str, *pages: int) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-S", "-c", TOUCH, f"/dev/shm/{name}", *map(str, pages)]
    return shmfs.run(command, timeout=60)


def forked(path: str, pages: Iterable[int]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            touch(path, pages)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return pid


@pytest.mark.mount
def test_all_that_the_test_starts_is_followed(shmfs: PrivateMount) -> None:
    touch(f"{shmfs.path}/frames", [9])  # before
    with shmfs.record():
        run(shmfs, "frames", 1, 3)
        child = forked(f"{shmfs.path}/frames", [5, 6])
        process = multiprocessing.get_context("fork").Process(
            target=touch, args=(f"{shmfs.path}/edges", [2, 7])
        )
        process.start()
        process.join()
        touch(f"{shmfs.path}/own", [4])
    touch(f"{shmfs.path}/own", [10])  # after
    faults = shmfs.faults
    assert [(one.path, one.page) for one in faults] == [
        *(("/frames", 1), ("/frames", 3), ("/frames", 5), ("/frames", 6)),
        *(("/edges", 2), ("/edges", 7), ("/own", 4)),
    ]
    assert faults.paths == ["/edges", "/frames", "/own"]
    assert faults(path="frames").pages == faults(path="/frames").pages == [1, 3, 5, 6]
    assert faults(pid=child).pages == [5, 6]
    assert faults(pid=process.pid, path="edges").pages == [2, 7]
    assert faults(pid=os.getpid()).paths == ["/own"]
    assert len(faults.pids) == 4
    assert len(faults(path="missing")) == 0
    assert len(faults(kind="major")) == 7  # shmfs was asked for each of them
    assert not faults(kind="failed")


@pytest.mark.mount
def test_a_mapping_of_before_is_known(shmfs: PrivateMount) -> None:
    file = os.open(f"{shmfs.path}/early", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 16 * 4096)
    with mmap.mmap(file, 16 * 4096) as memory:
        os.close(file)
        with shmfs.record():
            memory[3 * 4096] = 1
            pid = os.fork()
            if pid == 0:
                memory[8 * 4096] = 1
                os._exit(0)
            os.waitpid(pid, 0)
    assert [(one.pid, one.page) for one in shmfs.faults(path="early")] == [(os.getpid(), 3), (pid, 8)]


@pytest.mark.mount
@pytest.mark.shm_limit("16k")
def test_a_failed_fault(shmfs: PrivateMount) -> None:
    with shmfs.record():
        assert run(shmfs, "full", 0, 1, 2, 3, 4).returncode == -7
    assert shmfs.faults(kind="failed").pages == [4]
    assert shmfs.faults(kind="major").pages == [0, 1, 2, 3]


@pytest.mark.mount
def test_each_recording_is_its_own(shmfs: PrivateMount) -> None:
    with pytest.raises(RuntimeError, match="no faults were recorded"):
        assert shmfs.faults
    with shmfs.record():
        run(shmfs, "one", 1)
    with shmfs.record():
        with pytest.raises(RuntimeError, match="look after it"):
            assert shmfs.faults
        run(shmfs, "two", 2)
    assert shmfs.faults.paths == ["/two"]
    with shmfs.record():
        pass
    assert len(shmfs.faults) == 0
    assert [path.name for path in shmfs.path.parent.iterdir() if path.suffix == ".shmtrace"] == []


@pytest.mark.mount
def test_what_a_test_raises_goes_through(shmfs: PrivateMount) -> None:
    def fail() -> None:
        with shmfs.record():
            run(shmfs, "one", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(shmfs.faults) == 1


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's tracepoints distinguish reads from writes")
def test_access(shmfs: PrivateMount) -> None:
    if not _tracepoints():
        pytest.skip("the kernel permits no tracepoints here")
    touch(f"{shmfs.path}/both", [])
    with (
        shmfs.record(),
        open(shmfs.path / "both", "r+b") as file,
        mmap.mmap(file.fileno(), 16 * 4096) as memory,
    ):
        assert memory[4096] == 0
        memory[5 * 4096] = 1
    assert shmfs.faults(access="read").pages == [1]
    assert shmfs.faults(access="write").pages == [5]


def _tracepoints() -> bool:
    tried = perf.Perf(os.getpid())
    tried.close()
    return tried.tracepoints


# ---- without a mount


FIELDS = ("time", "segment", "process", "page", "kind", "access")


def made(*rows: tuple[int, ...]) -> Faults:
    array = np.zeros(len(rows), FAULT)
    for name, column in zip(FIELDS, zip(*rows, strict=True), strict=True):
        array[name] = column
    return Faults(array, ["/a", "/b", "/a"], [(10, "one"), (20, "two"), (10, "again")])


FAULTS = made((5, 0, 0, 1, 1, 1), (6, 1, 1, 9, 2, 2), (7, 2, 2, 1, 2, 2), (8, 2, 1, 0, 3, 2))


@pytest.mark.parametrize(
    ("wanted", "times"),
    [
        ({}, [5, 6, 7, 8]),
        ({"path": "/a"}, [5, 7, 8]),
        ({"path": "b"}, [6]),
        ({"pid": 10}, [5, 7]),  # a pid that came round again
        ({"pid": 30}, []),
        ({"kind": "minor"}, [5]),
        ({"kind": "major"}, [6, 7]),
        ({"kind": "failed"}, [8]),
        ({"access": "read"}, [5]),
        ({"access": "write", "path": "a", "pid": 10}, [7]),
    ],
)
def test_filters(wanted: dict[str, str], times: list[int]) -> None:
    assert [one.time for one in FAULTS(**wanted)] == times  # type: ignore[arg-type]


def test_looking_at_them() -> None:
    assert FAULTS[1] == Fault(6, "/b", 9, 20, "two", "major", "write")
    assert FAULTS.pages == [0, 1, 9]
    assert FAULTS.paths == ["/a", "/b"]
    assert FAULTS.pids == [10, 20]
    assert len(FAULTS) == 4
    assert repr(FAULTS) == "<4 faults: 1 minor, 2 major, 1 failed>"
    assert repr(FAULTS(path="c")) == "<0 faults>"


def test_a_filter_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="'huge' is no kind of fault: it is one of minor, major, failed"):
        FAULTS(kind="huge")
    with pytest.raises(ValueError, match="'touch' is no access of fault: it is one of read, write, execute"):
        FAULTS(access="touch")
    unknown = made((5, 0, 0, 1, 1, 0))
    with pytest.raises(ValueError, match="reads cannot be distinguished from writes here"):
        unknown(access="read")
    assert unknown[0].access is None
