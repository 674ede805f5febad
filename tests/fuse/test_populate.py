"""The end of a populate and its repair, without a device and without the process that writes pages again."""

import errno
import os
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shmfs.fs.attributes import Changes
from shmfs.fs.superblock import Credentials
from shmfs.fuse import populate, reads
from shmfs.fuse.populate import PopulateEnd
from tests.fs.support import PAGE
from tests.fuse.test_operations import CRED, make

TID = 11
FIRST, SECOND = struct.Struct("<IiQQqq"), struct.Struct("<IiQQQII")


class Device:
    """Takes the two notifications; the first waits for the page until the test lets it have it."""

    def __init__(self) -> None:
        self.page_free = threading.Semaphore(0)
        self.sent: list[Any] = []
        self.waits = False

    def send(self, first: bytes, second: bytearray, unreadable: memoryview, pause: int, /) -> None:
        assert self.page_free.acquire(timeout=20)
        self.sent.append(FIRST.unpack(first))
        if any(second[:4]):
            self.sent.append((*SECOND.unpack(second), len(unreadable), pause))


class Rewriter:
    """Notes what it is to write; it does not end before the test lets it."""

    pid = 99

    def __init__(self) -> None:
        self.orders: list[tuple[int, Sequence[tuple[int, int]]]] = []
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.failure: int | None = None
        self.closed = False

    def rewrite(self, ino: int, ranges: Sequence[tuple[int, int]], path: str = "") -> None:
        self.orders.append((ino, ranges))
        assert path == "/f"
        self.begun.set()
        assert self.may_end.wait(20)
        if self.failure:
            raise OSError(self.failure, "")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def rewriter() -> Rewriter:
    return Rewriter()


@pytest.fixture
def ends(table: Any, device: Device, rewriter: Any, monkeypatch: pytest.MonkeyPatch) -> PopulateEnd:
    made = PopulateEnd(-1, table.superblock, rewriter, device.send)
    table.reads.populate_end = made
    monkeypatch.setattr(made, "_invalidation_waits", lambda: device.waits)
    monkeypatch.setattr(made, "_schedule", lambda policy, priority: None)
    return made


def file_with(table: Any, *pages: int, size: int = 64) -> tuple[int, int]:
    ino, handle = make(table)
    table.setattr(ino, Changes(size=size * PAGE), CRED)
    for page in pages:
        table.write(handle, page * PAGE, b"x" * PAGE)
    return ino, handle


def over(ends: PopulateEnd) -> None:
    """Return when no attempt is under way."""
    with ends._done:
        assert ends._done.wait_for(lambda: ends._attempt is None, 20)


def attempt(ends: PopulateEnd, device: Device, ino: int, page: int = 8) -> None:
    """Until a READ is answered with no bytes, and the page is free."""
    device.waits = False
    assert ends.refused(TID, ino, page) is False
    assert ends.refused(TID, ino, page) is False, "the invalidation does not wait yet"
    device.waits = True
    assert ends.refused(TID, ino, page) is False, "this READ may be older than the attributes"
    assert ends.refused(TID + 1, ino, page) is False
    assert ends.refused(TID, ino, page) is True
    assert ends.refused(TID, ino, page) is False, "nothing would repair it"
    device.page_free.release()


def test_what_may_have_been_skipped_is_written_again(
    table: Any, ends: PopulateEnd, device: Device, rewriter: Rewriter
) -> None:
    ino, _ = file_with(table, 0, 1, 8, 20, 21, 22, 63)
    attempt(ends, device, ino, 10)
    assert rewriter.begun.wait(20)
    assert rewriter.orders == [(ino, [(20, 23), (63, 64)])]
    assert device.sent[0][3:] == (ino, 10 * PAGE, PAGE)
    assert device.sent[1][3:] == (ino, 64 * PAGE - 1, 1, 0, 1, populate._GRACE)
    assert ends.repair_of(ino) is None, "the size is right, and who writes the pages asks for it"
    assert ends.rewritten == ino
    rewriter.may_end.set()
    over(ends)
    assert ends.rewritten == 0


def test_requests_for_the_size_wait_for_its_repair_only(
    table: Any, ends: PopulateEnd, device: Device, rewriter: Rewriter
) -> None:
    ino, _ = file_with(table, 20)
    assert ends.refused(TID, ino, 8) is False
    wait = ends.repair_of(ino)
    assert wait is not None
    assert ends.repair_of(ino + 1) is None
    device.page_free.release()
    wait()
    over(ends)
    assert rewriter.orders == [], "the size was never wrong"
    assert len(device.sent) == 1


def test_nothing_is_written_again_where_nothing_can_be_dirty(
    table: Any, ends: PopulateEnd, device: Device, rewriter: Rewriter
) -> None:
    ino, handle = file_with(table, 0, 7)
    attempt(ends, device, ino)
    over(ends)
    table.write(handle, 20 * PAGE, b"x")
    table.release(handle)
    attempt(ends, device, ino)
    over(ends)
    assert rewriter.orders == []
    assert len(device.sent) == 4


def test_ranges_are_bounded(
    table: Any, ends: PopulateEnd, device: Device, rewriter: Rewriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(populate, "_RANGES", 3)
    rewriter.may_end.set()
    ino, handle = file_with(table, 10, 20, 30)
    attempt(ends, device, ino)
    over(ends)
    table.write(handle, 40 * PAGE, b"x")
    attempt(ends, device, ino)
    over(ends)
    assert [ranges for _, ranges in rewriter.orders] == [
        [(10, 11), (20, 21), (30, 31)],
        [(10, 11), (20, 21), (30, 64)],
    ]


@pytest.mark.parametrize("failure", [errno.ESTALE, errno.EPERM, errno.ETIMEDOUT])
def test_a_failure_to_write_again_ends_the_attempt(
    table: Any, ends: PopulateEnd, device: Device, rewriter: Rewriter, failure: int
) -> None:
    rewriter.failure = failure
    rewriter.may_end.set()
    ino, _ = file_with(table, 20)
    for _ in range(2):
        attempt(ends, device, ino)
        over(ends)
    assert len(rewriter.orders) == 2
    ends.close()
    assert rewriter.closed


def test_a_populate_that_did_not_run_in_time_gets_more(
    table: Any, ends: PopulateEnd, device: Device, rewriter: Rewriter
) -> None:
    """A READ of its that comes after the repair shows that it went on."""
    ino, _ = file_with(table, 20)
    for missed in (True, True, True, True, False, True):
        rewriter.begun.clear(), rewriter.may_end.clear()
        attempt(ends, device, ino)
        assert rewriter.begun.wait(20)
        if missed:
            assert ends.refused(TID, ino, 8) is False
        rewriter.may_end.set()
        over(ends)
    pauses = [sent[-1] for sent in device.sent[1::2]]
    assert pauses == [20_000, 40_000, 80_000, 160_000, 160_000, 20_000]


def test_in_python_the_second_is_sent_if_it_is_there(table: Any, rewriter: Any) -> None:
    reader, writer = os.pipe()
    try:
        ends = PopulateEnd(writer, table.superblock, rewriter)
        ends._send_in_python(b"first", bytearray(40), memoryview(b"?"), 0)
        ends._send_in_python(b"first", bytearray(b"second".ljust(40, b".")), memoryview(b"?"), 0)
        assert os.read(reader, 100) == b"firstfirst" + b"second".ljust(40, b".") + b"?"
    finally:
        os.close(reader), os.close(writer)


# ---- the process that writes again


@pytest.fixture
def rewriting(table: Any, ends: PopulateEnd) -> Callable[[int], Credentials]:
    def begin(ino: int) -> Credentials:
        ends.rewritten = ino
        return Credentials(0, 0, Rewriter.pid)

    return begin


def test_its_open_is_no_event(table: Any, recorder: Any, rewriting: Any) -> None:
    ino, user = file_with(table, 20)
    inode = table.superblock.inode(ino)
    inode.flags = 0x10  # FS_IMMUTABLE_FL: what was stored before is written all the same
    recorder.take()
    handle, keep_cache = table.open(ino, os.O_RDWR, rewriting(ino))
    assert (keep_cache, inode.opens, inode.writers) == (True, 2, 2)
    table.release(handle)
    assert (inode.opens, inode.writers) == (1, 1)
    assert recorder.take() == []
    inode.flags = 0
    handle, _ = table.open(ino, reads.REWRITE, CRED)  # the access mode that is good for ioctl(2) only
    table.release(handle), table.release(user)
    assert [call[0] for call in recorder.take()] == ["open", "release", "release"]
    assert (inode.opens, inode.writers) == (0, 0)


def test_what_is_stored_already_changes_no_times(table: Any, clock: Any, rewriting: Any) -> None:
    ino, handle = file_with(table, 20)
    clock.tick()
    inode = table.superblock.inode(ino)
    rewriting(ino)
    before, allocated = (inode.mtime, inode.ctime), inode.allocated
    assert table.write(handle, 20 * PAGE, b"x" * PAGE) == PAGE
    assert (inode.mtime, inode.ctime) == before
    assert table.write(handle, 20 * PAGE, b"y" * PAGE) == PAGE
    assert inode.mtime > before[0]
    assert table.read(handle, 20 * PAGE, PAGE) == b"y" * PAGE
    before = inode.mtime, inode.ctime
    clock.tick()
    assert table.write(handle, 20 * PAGE, b"y" * PAGE, writeback=False) == PAGE
    assert inode.mtime > before[0], "that is write(2)"
    assert inode.allocated == allocated
