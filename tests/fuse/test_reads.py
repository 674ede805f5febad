"""READ of managed pages in a full file system: what is one refusal, what is speculative, what populates."""

import os
from typing import Any

import pytest

from shmfs.fs.attributes import Changes
from shmfs.fuse import refused_reads
from shmfs.fuse.reads import Reader
from shmfs.fuse.refused_reads import RefusedReads
from tests.fs.support import PAGE, errno_of
from tests.fuse.test_operations import CRED, make

ONE, OTHER = Reader(11, called=False, direct=False), Reader(12, called=False, direct=False)


@pytest.fixture
def full(table_of: Any, recorder: Any) -> Any:
    """A table without room, and a handle of a sparse file of 1024 pages whose first is allocated."""
    table = table_of("size=1m")
    ino, handle = make(table)
    table.setattr(ino, Changes(size=1024 * PAGE), CRED)
    table.write(handle, 0, b"x" * PAGE)
    table.write(make(table, b"filler")[1], 0, b"f" * 255 * PAGE)
    recorder.take()
    return table, handle


def refusals_of(recorder: Any) -> list[Any]:
    return [call[2:] for call in recorder.take() if call[0] == "refuse"]


def test_the_same_refusal_again_is_reported_once(full, recorder):
    table, handle = full
    for reader in (ONE, ONE, OTHER, ONE, OTHER):
        assert errno_of(table.read, handle, 7 * PAGE, PAGE, reader) == "ENOSPC"
    assert refusals_of(recorder) == [(7, 1, "size")] * 2
    assert errno_of(table.read, handle, 8 * PAGE, PAGE, ONE) == "ENOSPC"
    assert errno_of(table.read, handle, 7 * PAGE, PAGE, ONE) == "ENOSPC"
    assert refusals_of(recorder) == [(8, 1, "size"), (7, 1, "size")]


def test_a_refusal_after_a_success_is_another(full, recorder):
    table, handle = full
    assert errno_of(table.read, handle, 7 * PAGE, PAGE, ONE) == "ENOSPC"
    assert table.read(handle, 0, PAGE, ONE) == b"x" * PAGE
    assert errno_of(table.read, handle, 7 * PAGE, PAGE, ONE) == "ENOSPC"
    assert refusals_of(recorder) == [(7, 1, "size")] * 2


def test_a_read_larger_than_the_window_charges_nothing(table, recorder):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=64 * PAGE), CRED)
    recorder.take()
    for offset in (0, 16, 32):
        assert errno_of(table.read, handle, offset * PAGE, 16 * PAGE, ONE) == "EIO"
    assert recorder.take() == []
    assert table.read(handle, 33 * PAGE, PAGE, ONE) == bytes(PAGE)
    assert table.superblock.blocks.used == 1


def test_a_large_read_of_data_is_served(table):
    _, handle = make(table)
    table.write(handle, 0, b"x" * 16 * PAGE)
    assert table.read(handle, 0, 16 * PAGE, ONE) == b"x" * 16 * PAGE


def test_a_large_read_that_comes_again_is_for_a_large_folio(table):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=64 * PAGE), CRED)
    assert errno_of(table.read, handle, 0, 16 * PAGE, ONE) == "EIO"
    assert errno_of(table.read, handle, 0, 16 * PAGE, OTHER) == "EIO"
    assert table.read(handle, 0, 16 * PAGE, ONE) == bytes(16 * PAGE)
    assert errno_of(table.read, handle, 16 * PAGE, 16 * PAGE, ONE) == "EIO"


def test_a_read_within_the_window_charges_it(table_of, recorder):
    table = table_of("size=1m,readahead=32")
    ino, handle = make(table)
    table.setattr(ino, Changes(size=1024 * PAGE), CRED)
    assert table.read(handle, 0, 32 * PAGE, ONE) == bytes(32 * PAGE)
    assert errno_of(table.read, handle, 32 * PAGE, 33 * PAGE, ONE) == "EIO"
    table.write(make(table, b"filler")[1], 0, b"f" * 224 * PAGE)
    recorder.take()
    assert errno_of(table.read, handle, 32 * PAGE, 32 * PAGE, ONE) == "ENOSPC"
    assert refusals_of(recorder) == [], "nobody need have touched these"


def test_a_direct_read_is_never_speculative(full, recorder):
    table, handle = full
    direct = Reader(11, called=True, direct=True)
    assert errno_of(table.read, handle, PAGE, 16 * PAGE, direct) == "ENOSPC"
    assert refusals_of(recorder) == [(1, 16, "size")]


def test_a_large_read_without_writers_charges_nothing(table):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=64 * PAGE), CRED)
    table.release(handle)
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    assert table.read(reader, 0, 64 * PAGE, ONE) == bytes(64 * PAGE)
    assert table.superblock.blocks.used == 0


class Ends:
    """Takes the place of what ends populates."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []

    def refused(self, tid: int, ino: int, page: int) -> bool:
        self.steps.append((tid, ino, page))
        return len(self.steps) == 3

    def repair_of(self, ino: int) -> None:
        return None


@pytest.mark.parametrize(("in_call", "touches"), [(True, 7), (None, 31), (False, None)])
def test_a_populate_is_answered_with_no_bytes(full, monkeypatch, in_call, touches):
    table, handle = full
    ends: Any = Ends()
    table.reads.populate_end = ends
    monkeypatch.setattr(refused_reads, "in_system_call", lambda tid: in_call)
    answers = [errno_of(table.read, handle, 7 * PAGE, PAGE, ONE) for _ in range(100)]
    if touches is None:
        assert ends.steps == []
        assert set(answers) == {"ENOSPC"}, "these are touches whose SIGBUS is handled"
    else:
        assert answers.index(b"") == touches + 2
        assert set(ends.steps) == {(11, handle >> 2, 7)}


def test_threads_that_are_remembered_are_bounded():
    reads = RefusedReads(0)
    for tid in range(5000):
        reads.is_repeated(tid, 1, 1)
        reads.is_speculative(tid, 1, 0, 2 * PAGE)
    assert max(len(reads._rows), len(reads._speculative)) <= 1024
    assert reads.is_repeated(4999, 1, 1)


def test_what_a_thread_does_is_read_from_the_kernel():
    assert refused_reads.in_system_call(1 << 30) is None
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os._exit(0)
    try:
        with open(f"/proc/{pid}/syscall") as file:
            file.read()
    except OSError as failure:
        pytest.skip(f"/proc/PID/syscall may not be read: {failure.strerror}")
    else:
        while (seen := refused_reads.in_system_call(pid)) is None:
            pass
        assert seen is True
    finally:
        os.write(writer, b"x")
        os.waitpid(pid, 0)
        os.close(reader), os.close(writer)
