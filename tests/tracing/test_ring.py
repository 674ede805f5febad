"""Rings: what is read of one, whole words, and what becomes of them without the extension."""

import mmap
import os
import platform
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmfs.errors import ShmfsError
from shmfs.record.recording import Subject, _perf
from shmfs.tracing import ring
from shmfs.tracing.perf import Perf
from shmfs.tracing.ring import DATA, HEAD, TAIL, Ring

SUBJECT = Subject("/mnt", "0:1", "managed")

SIZE = 4096


def extension():
    try:
        from shmfs.tracing import _ring
    except ImportError:
        pytest.skip("the extension was not built")
    return _ring.load_acquire, _ring.store_release


WAYS = {"extension": extension, "plain": lambda: (ring._load, ring._store)}


@pytest.fixture(params=WAYS)
def way(request):
    if request.param == "plain" and platform.machine() != "x86_64":
        pytest.skip("plain accesses are for x86-64")
    return WAYS[request.param]()


@pytest.fixture
def without_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, "shmfs.tracing._ring", None)


class Kernel:
    """Writes into a ring as the kernel does: records of 8 to 64 bytes, none where there is no room."""

    def __init__(self):
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, DATA + SIZE)
        self.map = mmap.mmap(self.fd, DATA + SIZE)
        self.head = 0

    def write(self, record):
        tail = int.from_bytes(self.map[TAIL : TAIL + 8], sys.byteorder)
        if self.head + len(record) - tail > SIZE:
            return False
        for byte in record:
            self.map[DATA + self.head % SIZE] = byte
            self.head += 1
        self.map[HEAD : HEAD + 8] = self.head.to_bytes(8, sys.byteorder)
        return True

    def close(self):
        self.map.close()
        os.close(self.fd)


@given(st.lists(st.one_of(st.none(), st.binary(min_size=1, max_size=700)), max_size=60))
@pytest.mark.parametrize("name", WAYS)
def test_everything_is_read_once_and_in_order(name, steps):
    load, store = WAYS[name]()
    kernel = Kernel()
    reader = Ring(kernel.fd, SIZE)
    reader._load, reader._store = load, store
    written = read = b""
    for step in steps:
        if step is None:
            read += reader.read()
            assert read == written
        elif kernel.write(step):
            written += step
    read += reader.read()
    assert read == written
    assert reader.read() == b""
    assert int.from_bytes(kernel.map[TAIL : TAIL + 8], sys.byteorder) == kernel.head
    reader.close()
    kernel.close()


@pytest.mark.parametrize("value", [0, 1, 0xFFFF_FFFF, 1 << 32, (1 << 64) - 1, 0x0123456789ABCDEF])
def test_words_are_64_bits_of_the_machine(way, value):
    load, store = way
    with mmap.mmap(-1, 4096) as memory, memoryview(memory) as view:
        store(view, TAIL, value)
        assert memory[TAIL : TAIL + 8] == value.to_bytes(8, sys.byteorder)
        assert memory[:TAIL] + memory[TAIL + 8 :] == bytes(4088)
        assert load(view, TAIL) == value


class Watcher:
    """A number that looks at the memory while it is converted, as the kernel may at any time."""

    def __init__(self, memory):
        self.memory = memory
        self.seen = []

    def __index__(self):
        self.seen.append(self.memory[TAIL : TAIL + 8])
        return 99


def test_the_word_is_never_seen_as_zero(way):
    """Struct sets it to 0 first."""
    before = (12345).to_bytes(8, sys.byteorder)
    with mmap.mmap(-1, 4096) as memory, memoryview(memory) as view:
        _, store = way
        store(view, TAIL, 12345)
        watcher = Watcher(memory)
        store(view, TAIL, watcher)
        assert set(watcher.seen) == {before}
        store(view, TAIL, 12345)
        watcher = Watcher(memory)
        struct.pack_into("<Q", view, TAIL, watcher)
        assert bytes(8) in watcher.seen


@pytest.mark.parametrize("offset", [-8, 4, 4089, 4096, 1 << 40])
def test_the_extension_refuses_what_is_no_word(offset):
    load, store = extension()
    memory = bytearray(4096)
    with pytest.raises(ValueError, match=r"aligned|outside"):
        load(memory, offset)
    with pytest.raises(ValueError, match=r"aligned|outside"):
        store(memory, offset, 1)
    assert memory == bytes(4096)


def test_the_extension_refuses_values_that_do_not_fit():
    _, store = extension()
    memory = bytearray(16)
    for value, error in ((1 << 64, OverflowError), (-1, OverflowError), ("1", TypeError)):
        with pytest.raises(error):
            store(memory, 8, value)
    assert memory == bytes(16)
    with pytest.raises(TypeError):
        store(bytes(16), 0, 1)


def test_with_the_extension_it_is_used(monkeypatch):
    functions = extension()
    monkeypatch.delenv("SHMFS_EXTENSION", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert ring.access() == functions


def test_without_the_extension_only_x86_records(without_extension, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert ring.access() == (ring._load, ring._store)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    why = r"cannot be recorded on aarch64 without the C extension shmfs\.tracing\._ring; reinstall shmfs"
    with pytest.raises(ShmfsError, match=why):
        ring.access()
    with pytest.raises(ShmfsError, match=why):
        Perf()
    assert "reinstall shmfs" in _perf(os.getpid(), SUBJECT, faults=True, calls=False)[1]


def test_big_endian_machines_do_not_record(monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(ShmfsError, match="big-endian"):
        ring.access()
