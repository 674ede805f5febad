"""Notifications, with a pipe for the device."""

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from shmfs.fuse import notify
from shmfs.fuse.notify import Notifier


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_store(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    Notifier(writer).store_pages(7, [(4096, b"page"), (0, b"x")])
    first, second = os.read(reader, 44), os.read(reader, 100)
    assert struct.unpack("<IiQQQII", first[:40]) == (44, 4, 0, 7, 4096, 4, 0)
    assert first[40:] == b"page"
    assert struct.unpack("<IiQQQII", second[:40]) == (41, 4, 0, 7, 0, 1, 0)
    assert second[40:] == b"x"


def test_a_store_that_waits_for_who_waits_for_its_end(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full pipe is read from when the store has returned, and not before."""
    reader, writer = pipe
    monkeypatch.setattr(notify, "_PATIENCE", 0.05)
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * size)
    Notifier(writer).store_pages(7, [(0, b"page")])
    assert os.read(reader, size) == b"x" * size
    assert os.read(reader, 100)[40:] == b"page"


def test_it_waits_for_what_is_being_sent_and_sends_no_more(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * size)
    notifier = Notifier(writer)
    notifier.drop_name(7, b"name")
    begin = time.monotonic()
    notifier.close(0.05)
    assert time.monotonic() > begin + 0.05
    threading.Timer(0.05, os.read, (reader, size)).start()
    notifier.close(20)
    assert not notifier.pending
    assert len(os.read(reader, size)) == 37
    notifier.drop_name(7, b"another")
    notifier.store_pages(7, [(0, b"page")])
    notifier.wait()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, size)


def test_it_waits_for_a_store(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    monkeypatch.setattr(notify, "_PATIENCE", 0.05)
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * size)
    notifier = Notifier(writer)
    notifier.store_pages(7, [(0, b"page")])
    threading.Timer(0.05, os.read, (reader, size)).start()
    notifier.close(20)
    assert os.read(reader, size)[40:] == b"page"
