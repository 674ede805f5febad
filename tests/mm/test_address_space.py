"""Address spaces against a plain model: bytes, and sets of the pages that are allocated and unwritten."""

import errno
import os

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shmfs.events.hooks import Instruments
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE, AddressSpace, Intent, ManagedStore, Reservation
from shmfs.mm import address_space as module
from shmfs.mm import arena as arena_module
from shmfs.mm import runs as runs_module
from tests.fs.support import errno_of

PAGES = 120
"""Size of the files of the model."""


class Recorder:
    """An instrument of the hooks that mm calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def allocate(self, *arguments: object) -> None:
        self.calls.append(("allocate", *arguments))

    def free(self, *arguments: object) -> None:
        self.calls.append(("free", *arguments))

    def refuse(self, *arguments: object) -> None:
        self.calls.append(("refuse", *arguments))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def store(recorder):
    instruments = Instruments()
    instruments.install(recorder)
    store = ManagedStore(Reservation(100), instruments)
    yield store
    assert store.blocks.used == store.arena.used
    store.arena.close()


@pytest.fixture
def space(store):
    return AddressSpace(store, 7)


def pages_of(first: int, end: int) -> range:
    return range(first >> PAGE_SHIFT, (end + PAGE_SIZE - 1) >> PAGE_SHIFT)


def in_use(space: AddressSpace) -> set[int]:
    return {page for run in space.runs() for page in range(run.first, run.first + run.length)}


class PlainFile:
    """What an address space should hold."""

    def __init__(self) -> None:
        self.content = bytearray(PAGES * PAGE_SIZE)
        self.allocated: set[int] = set()
        self.unwritten: set[int] = set()

    def drop(self, pages: range) -> None:
        self.allocated -= set(pages)
        self.unwritten &= self.allocated


OFFSETS = st.one_of(
    st.integers(0, PAGES * PAGE_SIZE),
    st.integers(0, PAGES).map(lambda page: page * PAGE_SIZE),
    st.integers(1, PAGES).map(lambda page: page * PAGE_SIZE - 1),
)
LENGTHS = st.one_of(
    st.integers(1, 3 * PAGE_SIZE), st.integers(1, 40).map(lambda page: page * PAGE_SIZE), st.just(1)
)
FILES = st.integers(0, 2)


class AddressSpaceMachine(RuleBasedStateMachine):
    """Three files on one store whose limit they soon hit."""

    def __init__(self) -> None:
        super().__init__()
        self.full_leaf, runs_module._LEAF = runs_module._LEAF, 16
        self.recorder = Recorder()
        self.stamp = 0

    def teardown(self) -> None:
        runs_module._LEAF = self.full_leaf
        for space in self.spaces:
            space.truncate(0)
        assert (self.store.arena.used, self.store.blocks.used) == (0, 0)
        while self.store.arena.reclaim(10_000):
            pass
        left = os.fstat(self.store.arena.fileno()).st_blocks
        self.store.arena.close()
        assert left == 0

    @initialize(limit=st.sampled_from([0, 40, 150]), checkered=st.booleans())
    def start(self, limit: int, checkered: bool) -> None:
        instruments = Instruments()
        instruments.install(self.recorder)
        self.store = ManagedStore(Reservation(limit), instruments)
        self.spaces = [AddressSpace(self.store, ino) for ino in range(3)]
        self.files = [PlainFile() for _ in range(3)]
        self.base = 0
        if checkered:
            for page in range(0, 60, 3):
                self.write(0, page * PAGE_SIZE, 10)

    def room(self) -> int:
        limit = self.store.blocks.limit
        return limit - sum(len(file.allocated) for file in self.files) if limit else 1 << 40

    @rule(number=FILES, offset=OFFSETS, size=LENGTHS)
    def write(self, number: int, offset: int, size: int) -> None:
        space, file = self.spaces[number], self.files[number]
        size = min(size, len(file.content) - offset)
        if size <= 0:
            return
        self.stamp = self.stamp % 255 + 1
        data = bytes([self.stamp]) * size
        room, end = self.room(), offset + size
        for page in pages_of(offset, end):
            if page not in file.allocated and not room:
                end = max(offset, page << PAGE_SHIFT)
                break
            room -= page not in file.allocated
        self.recorder.calls.clear()
        stored = errno_of(space.write, offset, memoryview(data))
        assert stored == (end - offset or "ENOSPC")
        stored = end - offset
        refused = [call for call in self.recorder.calls if call[0] == "refuse"]
        assert [call[2] for call in refused] == [end >> PAGE_SHIFT] * (stored < size)
        file.content[offset:end] = data[:stored]
        file.allocated |= set(pages_of(offset, end)) if stored else set()
        file.unwritten -= set(pages_of(offset, end)) if stored else set()

    @rule(number=FILES, offset=OFFSETS, size=LENGTHS)
    def read(self, number: int, offset: int, size: int) -> None:
        size = min(size, PAGES * PAGE_SIZE - offset)
        assert self.spaces[number].read(offset, size) == self.files[number].content[offset : offset + size]

    @rule(
        number=FILES,
        first=st.integers(0, PAGES - 1),
        count=st.integers(0, 40),
        intent=st.sampled_from(Intent),
    )
    def get_pages(self, number: int, first: int, count: int, intent: Intent) -> None:
        space, file = self.spaces[number], self.files[number]
        end = min(first + count, PAGES)
        missing = set(range(first, end)) - file.allocated
        if intent in (Intent.READ, Intent.NOALLOC):
            missing = set()
        self.recorder.calls.clear()
        if len(missing) > self.room():
            with pytest.raises(OSError, match="space"):
                space.get_pages(first, end, intent)
            reported = [] if intent is Intent.CACHE else [("refuse", number, first)]  # by who asks for it
            assert [call[:3] for call in self.recorder.calls] == reported
            return
        assert space.get_pages(first, end, intent) == len(missing)
        told = {p for _, _, index, pages in self.recorder.calls for p in range(index, index + pages)}
        assert told == missing
        file.allocated |= missing
        if intent not in (Intent.READ, Intent.NOALLOC):
            file.unwritten -= set(range(first, end))
        if intent is Intent.FALLOC:
            file.unwritten |= missing

    @rule(number=FILES, index=st.integers(0, PAGES - 1), intent=st.sampled_from(Intent))
    def get_page(self, number: int, index: int, intent: Intent) -> None:
        space, file = self.spaces[number], self.files[number]
        content = bytes(file.content[index << PAGE_SHIFT : (index + 1) << PAGE_SHIFT])
        absent = index not in file.allocated
        allocates = intent not in (Intent.READ, Intent.NOALLOC)
        if absent and allocates and not self.room():
            with pytest.raises(OSError, match="space"):
                space.get_page(index, intent)
            return
        assert space.get_page(index, intent) == (None if absent and intent is Intent.NOALLOC else content)
        if allocates:
            file.unwritten.discard(index)
        if absent and allocates:
            file.allocated.add(index)
            if intent is Intent.FALLOC:
                file.unwritten.add(index)

    @rule(number=FILES, size=OFFSETS)
    def truncate(self, number: int, size: int) -> None:
        file = self.files[number]
        before = len(file.allocated)
        file.content[size:] = bytes(len(file.content) - size)
        file.drop(range((size + PAGE_SIZE - 1) >> PAGE_SHIFT, PAGES + 1))
        assert self.spaces[number].truncate(size) == before - len(file.allocated)

    @rule(number=FILES, offset=OFFSETS, size=LENGTHS)
    def punch(self, number: int, offset: int, size: int) -> None:
        file = self.files[number]
        before = len(file.allocated)
        end = min(offset + size, len(file.content))
        file.content[offset:end] = bytes(end - offset)
        file.drop(range((offset + PAGE_SIZE - 1) >> PAGE_SHIFT, (offset + size) >> PAGE_SHIFT))
        assert self.spaces[number].punch(offset, size) == before - len(file.allocated)

    @rule(number=FILES, offset=OFFSETS, size=st.integers(0, PAGES * PAGE_SIZE), data=st.booleans())
    def seek(self, number: int, offset: int, size: int, data: bool) -> None:
        file = self.files[number]
        has_data = file.allocated - file.unwritten
        wanted = None
        if offset < size:
            found = (
                max(offset, page << PAGE_SHIFT)
                for page in pages_of(offset - offset % PAGE_SIZE, size)
                if (page in has_data) == data
            )
            wanted = next(found, None if data else size)
            wanted = None if wanted is None else min(wanted, size)
        got = errno_of(self.spaces[number].seek, offset, data=data, size=size)
        assert got == ("ENXIO" if wanted is None else wanted)

    @rule(frames=st.integers(0, 60))
    def reclaim(self, frames: int) -> None:
        self.store.arena.reclaim(frames)

    @invariant()
    def charged_is_allocated_is_mapped(self) -> None:
        for space, file in zip(self.spaces, self.files, strict=True):
            assert space.allocated == len(file.allocated)
            assert in_use(space) == file.allocated
            assert {
                p for run in space.runs() if run.unwritten for p in range(run.first, run.first + run.length)
            } == file.unwritten
            holes = {p for start, stop in space.holes(0, PAGES) for p in range(start, stop)}
            assert holes == set(range(PAGES)) - file.allocated
        assert self.store.blocks.used == self.store.arena.used
        assert self.store.blocks.used == sum(len(file.allocated) for file in self.files)
        frames = [
            frame
            for space in self.spaces
            for run in space.runs()
            for frame in range(run.frame, run.frame + run.length)
        ]
        assert len(frames) == len(set(frames)), "two pages share a frame"


TestAddressSpace = AddressSpaceMachine.TestCase


# ---- what the machine does not reach


def test_an_empty_space_costs_nothing(space, store):
    assert space.allocated == 0
    assert space.read(1 << 40, 100) == bytes(100)
    assert (space.truncate(0), space.punch(0, 1 << 40)) == (0, 0)
    assert store.blocks.used == 0


def test_zero_bytes_are_written_without_a_charge(space, store):
    store.blocks.limit = 1
    space.write(0, b"x")
    assert space.write(1 << 30, b"") == 0
    assert space.allocated == 1


def test_a_write_at_the_limit_is_partial_then_fails(space, store):
    store.blocks.limit = 2
    assert space.write(100, b"x" * 3 * PAGE_SIZE) == 2 * PAGE_SIZE - 100
    with pytest.raises(OSError, match="space") as raised:
        space.write(2 * PAGE_SIZE, b"y")
    assert raised.value.errno == errno.ENOSPC
    assert space.write(0, b"z" * 9) == 9  # what is there can still be written
    assert space.read(0, 2 * PAGE_SIZE)[:101] == b"z" * 9 + bytes(91) + b"x"


def test_a_write_that_begins_in_an_allocated_page_is_cut_at_the_first_refused_one(space, store, recorder):
    store.blocks.limit = 1
    space.write(0, b"a")
    recorder.calls.clear()
    assert space.write(10, b"b" * 2 * PAGE_SIZE) == PAGE_SIZE - 10
    assert recorder.calls == [("refuse", 7, 1, 2, "size")]


def test_falloc_at_the_limit_charges_nothing(space, store, recorder):
    store.blocks.limit = 5
    space.write(3 * PAGE_SIZE, b"x")
    recorder.calls.clear()
    with pytest.raises(OSError, match="space"):
        space.get_pages(0, 6, Intent.FALLOC)
    assert (space.allocated, store.blocks.used) == (1, 1)
    assert recorder.calls == [("refuse", 7, 0, 5, "size")]
    assert space.get_pages(0, 5, Intent.FALLOC) == 4


def test_an_arena_that_cannot_grow_leaves_nothing_charged(space, store, recorder, monkeypatch):
    """The host may refuse what the limit allows (RLIMIT_FSIZE, memory): then all is as it was."""
    store.blocks.limit = 0
    space.write(0, b"kept")
    space.write(2 * PAGE_SIZE, b"kept too")
    before = list(space.runs())
    recorder.calls.clear()
    allocate = store.arena.allocate

    def two_pages_then_no_more(count: int) -> tuple[int, int]:
        if store.arena.used >= 4:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return allocate(1)

    monkeypatch.setattr(store.arena, "allocate", two_pages_then_no_more)
    with pytest.raises(OSError, match="large") as raised:
        space.get_pages(0, 10, Intent.FALLOC)
    assert raised.value.errno == errno.EFBIG
    assert list(space.runs()) == before
    assert store.blocks.used == space.allocated == 2
    assert recorder.calls == []
    with pytest.raises(OSError, match="large"):
        AddressSpace(store, 8).write(0, b"x" * 5 * PAGE_SIZE)
    assert store.blocks.used == 2


def test_an_absurd_reservation_on_an_unlimited_store_is_refused(space, store):
    store.blocks.limit = 0
    with pytest.raises(OSError, match="space"):
        space.get_pages(0, 1 << 50, Intent.FALLOC)
    assert store.blocks.used == 0


def test_pages_beyond_16_tib(space):
    index = 1 << 51  # the last page that a file of MAX_LFS_FILESIZE has
    space.write((index - 1) << PAGE_SHIFT, b"far")
    space.write(5, b"near")
    assert space.read((index - 1) << PAGE_SHIFT, 3) == b"far"
    assert [run.first for run in space.runs()] == [0, index - 1]
    assert space.seek(PAGE_SIZE, data=True, size=(1 << 63) - 1) == (index - 1) << PAGE_SHIFT
    assert space.punch(PAGE_SIZE, 1 << 62) == 0
    assert space.truncate(PAGE_SIZE) == 1


@pytest.mark.parametrize(
    ("offset", "length", "freed"),
    [
        (0, PAGE_SIZE, 1),
        (0, PAGE_SIZE - 1, 0),
        (1, PAGE_SIZE - 1, 0),
        (1, PAGE_SIZE, 0),
        (PAGE_SIZE - 1, PAGE_SIZE + 1, 1),
        (PAGE_SIZE - 1, 2, 0),
        (100, 3 * PAGE_SIZE, 2),
        (0, 100 * PAGE_SIZE, 4),
        (PAGE_SIZE, 1, 0),
    ],
)
def test_punch_frees_whole_pages_and_zeroes_parts(space, offset, length, freed):
    data = bytearray(b"d" * 4 * PAGE_SIZE)
    space.write(0, data)
    assert space.punch(offset, length) == freed
    data[offset : offset + length] = bytes(min(length, len(data) - offset))
    assert space.read(0, len(data)) == data
    assert space.allocated == 4 - freed


def test_truncate_zeroes_the_tail_of_the_last_page(space):
    space.write(0, b"d" * 2 * PAGE_SIZE)
    assert space.truncate(10) == 1
    assert space.read(0, PAGE_SIZE) == b"d" * 10 + bytes(PAGE_SIZE - 10)


def test_a_page_that_is_read_for_the_cache_counts_as_written(space):
    """The kernel's folio is cleared and uptodate once it was faulted in."""
    space.get_pages(0, 4, Intent.FALLOC)
    assert space.seek(0, data=False, size=4 * PAGE_SIZE) == 0
    space.read(PAGE_SIZE, 1, Intent.CACHE)
    assert space.seek(0, data=True, size=4 * PAGE_SIZE) == PAGE_SIZE
    space.read(0, 4 * PAGE_SIZE, Intent.READ)
    assert space.seek(2 * PAGE_SIZE, data=False, size=4 * PAGE_SIZE) == 2 * PAGE_SIZE


@pytest.mark.parametrize("offset", [-1, 100, 101])
@pytest.mark.parametrize("data", [False, True])
def test_seek_outside_the_file(space, offset, data):
    space.write(0, b"x" * 100)
    with pytest.raises(OSError, match="address") as raised:
        space.seek(offset, data=data, size=100)
    assert raised.value.errno == errno.ENXIO


def test_instruments_are_told_of_runs(space, recorder):
    space.write(2 * PAGE_SIZE, b"x" * 3 * PAGE_SIZE)
    space.get_pages(0, 8, Intent.CACHE)
    space.punch(PAGE_SIZE, 2 * PAGE_SIZE)
    space.truncate(0)
    assert recorder.calls == [
        ("allocate", 7, 2, 3),
        ("allocate", 7, 0, 2),
        ("allocate", 7, 5, 3),
        ("free", 7, 1, 2),
        ("free", 7, 0, 6),
    ]


def test_populate_backs_what_is_allocated_and_touches_no_state(space, store):
    space.get_pages(10, 20, Intent.FALLOC)
    work = store.populate(space.runs(0, 15))
    before = list(space.runs())
    assert os.fstat(store.arena.fileno()).st_blocks == 0
    work()
    assert os.fstat(store.arena.fileno()).st_blocks == 5 * 8
    assert list(space.runs()) == before


class Calls:
    """Counts the calls into an arena."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("allocate", "read", "write", "free"):
            self.watch(monkeypatch, name, getattr(arena_module.Arena, name))

    def watch(self, monkeypatch, name, function):
        def counted(*arguments):
            self.count += 1
            return function(*arguments)

        monkeypatch.setattr(arena_module.Arena, name, counted)

    def of(self, work) -> int:
        self.count = 0
        work()
        return self.count


def test_page_operations_work_on_runs(space, store, monkeypatch):
    """One MiB is 256 pages, and two calls."""
    store.blocks.limit = 0
    calls = Calls(monkeypatch)
    mib = 1 << 20
    assert calls.of(lambda: space.write(0, b"x" * mib)) <= 3
    assert calls.of(lambda: space.write(0, b"y" * mib)) <= 1
    assert calls.of(lambda: space.read(0, mib)) <= 1
    assert calls.of(lambda: space.write(mib, b"z" * mib)) <= 3
    assert calls.of(lambda: space.read(0, 2 * mib)) <= 1  # appended: still one run
    assert calls.of(lambda: space.get_pages(512, 512 + (1 << 18), Intent.FALLOC)) <= 2
    assert calls.of(lambda: space.punch(0, mib)) <= 1
    assert calls.of(lambda: space.truncate(0)) <= 2
    assert calls.of(lambda: space.read(0, mib)) == 0


def test_freeing_many_runs_frees_leaf_by_leaf(space, store, monkeypatch):
    store.blocks.limit = 0
    for page in range(0, 20_000, 2):
        space.get_pages(page, page + 1, Intent.WRITE)
    calls = Calls(monkeypatch)
    assert calls.of(lambda: space.truncate(0)) <= 10_000 / 250
    assert store.arena.used == 0


def test_a_hole_is_one_shared_page(space):
    assert space.get_page(5, Intent.READ) is module._ZERO_PAGE
    assert space.get_page(6, Intent.READ) is module._ZERO_PAGE
    assert space.get_page(6, Intent.NOALLOC) is None
