"""Backing ids: kept while a file is open, warm for a while after, given up in time."""

import errno
import os
from typing import Any

import pytest

from shmfs.fuse import backing
from shmfs.fuse.backing import Backings


class File:
    """A file of the native store as far as an id needs one."""

    def __init__(self, ino: int, *, is_open: bool = False) -> None:
        self.ino = ino
        self.opens = int(is_open)
        self.asked = 0

    def descriptor(self) -> int:
        self.asked += 1
        return 1000 + self.ino


class Device(Backings):
    """A connection that counts, and gives out no more ids than it has."""

    def __init__(self, room: int = 1 << 20) -> None:
        super().__init__(-1)
        self.room = room
        self.given: dict[int, int] = {}
        self.last = 0
        self.failure: OSError | None = None

    def backing_open(self, fd: int) -> int:
        if self.failure:
            raise self.failure
        if len(self.given) >= self.room:
            raise OSError(errno.ENOSPC, "")
        self.last += 1
        self.given[self.last] = fd
        return self.last

    def backing_close(self, number: int) -> None:
        del self.given[number]


def test_all_opens_of_a_file_have_one_id() -> None:
    device, file = Device(), File(5)
    ids: set[Any] = {device.get(file) for _ in range(3)}  # type: ignore[arg-type]
    assert len(ids) == 1
    assert file.asked == 1
    assert list(device.given.values()) == [1005]
    assert len(device) == 1


def test_evicted_ids_are_closed() -> None:
    device = Device()
    for ino in range(10):
        device.get(File(ino))  # type: ignore[arg-type]
    for ino in range(12):  # there are files without an id
        device.evict(ino)
        device.evict(ino)
    assert device.given == {}
    assert len(device) == 0


def test_an_id_that_the_kernel_keeps_is_reported_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    for ino in range(3):
        device.get(File(ino))  # type: ignore[arg-type]
    assert device.notes() == []
    with monkeypatch.context() as patch:

        def refuse(number: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(device, "backing_close", refuse)
        device.evict(0)
        device.evict(1)
    device.evict(2)
    assert device.notes() == ["the kernel keeps the pages of 2 deleted files until the mount ends"]
    assert len(device) == 0


def test_ids_of_closed_files_are_given_up_the_longest_unused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "_WARM", 16)
    device = Device()
    files = [File(ino, is_open=ino < 4) for ino in range(16)]
    numbers = {file.ino: device.get(file) for file in files}  # type: ignore[arg-type]
    device.get(files[4])  # type: ignore[arg-type]  # used again
    device.get(File(16))  # type: ignore[arg-type]
    assert len(device) == 14
    assert {numbers[ino] for ino in range(5)} <= set(device.given)
    assert not {numbers[ino] for ino in (5, 6, 7)} & set(device.given)


def test_ids_of_open_files_are_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another id while a file is open would be EIO for whoever opens it."""
    monkeypatch.setattr(backing, "_WARM", 8)
    device = Device()
    files = [File(ino, is_open=True) for ino in range(50)]
    numbers = [device.get(file) for file in files]  # type: ignore[arg-type]
    assert [device.get(file) for file in files] == numbers  # type: ignore[arg-type]
    for file in files:
        file.opens = 0
    for ino in (98, 99):
        device.get(File(ino))  # type: ignore[arg-type]
    assert len(device) == len(device.given) <= 8


def test_many_open_files_are_not_looked_through_at_each_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing, "_WARM", 256)
    looks = []

    class Counted(File):
        @property
        def opens(self) -> int:
            looks.append(self.ino)
            return 1

        @opens.setter
        def opens(self, value: int) -> None:
            pass

    device = Device()
    for ino in range(4096):
        device.get(Counted(ino))  # type: ignore[arg-type]
    assert len(looks) < 100 * 4096


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_where_there_are_no_more_those_not_in_use_are_given_up(number: int) -> None:
    device = Device(room=4)
    used = device.get(File(1, is_open=True))  # type: ignore[arg-type]
    for ino in range(2, 40):
        device.get(File(ino))  # type: ignore[arg-type]
        assert used in device.given
    device.failure = OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        device.get(File(50))  # type: ignore[arg-type]
    device.failure = None
    assert device.get(File(50)) in device.given  # type: ignore[arg-type]


def test_what_is_not_permitted_is_told() -> None:
    device = Device()
    warm = device.get(File(1))  # type: ignore[arg-type]
    device.failure = PermissionError(errno.EPERM, "")
    with pytest.raises(PermissionError):
        device.get(File(2))  # type: ignore[arg-type]
    assert list(device.given) == [warm], "nothing was given up for it"


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse")
def test_a_device_without_a_session_refuses() -> None:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError, match=r"."):
            Backings(fd).backing_open(fd)
    finally:
        os.close(fd)
