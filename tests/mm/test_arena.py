"""The arena: frames are zero when handed out, and their memory goes back to the kernel."""

import errno
import os
from array import array
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shmfs.mm import PAGE_SIZE, Arena
from shmfs.mm import arena as arena_module


@pytest.fixture
def arena():
    arena = Arena()
    yield arena
    arena.close()


@pytest.fixture
def punches(monkeypatch):
    """The frames and counts of every punch, counted while they are carried out."""
    calls: list[tuple[int, int]] = []
    fallocate = arena_module.syscalls.fallocate

    def counted(fd: int, mode: int, offset: int, length: int) -> None:
        calls.append((offset // PAGE_SIZE, length // PAGE_SIZE))
        fallocate(fd, mode, offset, length)

    monkeypatch.setattr(arena_module.syscalls, "fallocate", counted)
    return calls


def blocks(arena: Arena) -> int:
    """Pages of memory that the memfd takes."""
    return os.fstat(arena.fileno()).st_blocks * 512 // PAGE_SIZE


def free(arena: Arena, *runs: tuple[int, int]) -> None:
    arena.free(array("I", [first for first, _ in runs]), array("I", [count for _, count in runs]))


def take(arena: Arena, count: int) -> list[int]:
    """Allocate exactly `count` frames."""
    frames: list[int] = []
    while len(frames) < count:
        first, taken = arena.allocate(count - len(frames))
        assert 1 <= taken <= count - len(frames)
        frames += range(first, first + taken)
    return frames


def test_an_empty_arena_takes_no_memory(arena):
    assert blocks(arena) == 0
    assert (arena.used, arena.dirty) == (0, 0)


def test_allocation_takes_no_memory_until_it_is_written(arena):
    take(arena, 10_000)
    assert blocks(arena) == 0
    assert arena.used == 10_000


def test_adjacent_frames_are_given_in_one_run(arena):
    assert arena.allocate(5000)[1] == 5000
    assert arena.allocate(10)[1] == 10


def test_the_memfd_grows_by_large_steps(arena):
    arena.allocate(1)
    size = os.fstat(arena.fileno()).st_size
    for _ in range(1000):
        arena.allocate(1)
    assert os.fstat(arena.fileno()).st_size == size >= 1001 * PAGE_SIZE


def test_next_fit_goes_on_behind_the_last_allocation(arena):
    first, _ = arena.allocate(4)
    second, _ = arena.allocate(4)
    free(arena, (first, 4))
    arena.reclaim(100)
    third, _ = arena.allocate(4)
    assert third >= second + 4  # not back into the hole as long as there is room behind


def test_next_fit_starts_over_at_the_end(arena):
    frames = take(arena, 4096)
    assert os.fstat(arena.fileno()).st_size == 4096 * PAGE_SIZE
    free(arena, (frames[10], 5))
    arena.reclaim(100)
    assert arena.allocate(5) == (frames[10], 5)
    assert os.fstat(arena.fileno()).st_size == 4096 * PAGE_SIZE


def test_scattered_free_frames_are_used_before_the_arena_grows_for_ever(arena):
    """Every other frame of 20,000 is free: asking for adjacent ones must not grow without end."""
    frames = take(arena, 20_000)
    free(arena, *((frame, 1) for frame in frames[::2]))
    while arena.reclaim(100_000):
        pass
    for _ in range(10_000 // 50):
        take(arena, 50)
    assert os.fstat(arena.fileno()).st_size <= 2.5 * 20_000 * PAGE_SIZE


def test_free_is_constant_time(arena, punches):
    """It leaves the work that grows with what is freed to `reclaim`: no call for a page, nor for a run."""
    frames = take(arena, 10_000)
    state = bytes(arena._state)
    free(arena, (frames[0], 10_000))
    assert punches == []
    assert bytes(arena._state) == state
    assert (arena.used, arena.dirty) == (0, 10_000)


def test_reclaim_gives_all_memory_back(arena):
    first, count = arena.allocate(2000)
    arena.write(first, 0, b"x" * PAGE_SIZE * count)
    assert blocks(arena) == 2000
    free(arena, (first, count))
    assert arena.dirty == 2000
    assert arena.reclaim(500)
    assert 1000 < blocks(arena) <= 1500
    while arena.reclaim(500):
        pass
    assert blocks(arena) == 0
    assert arena.dirty == 0
    assert os.fstat(arena.fileno()).st_size == 0


def test_reclaim_keeps_what_is_in_use(arena):
    first, _ = arena.allocate(3)
    arena.write(first, 0, b"a" * PAGE_SIZE + b"b" * PAGE_SIZE + b"c" * PAGE_SIZE)
    free(arena, (first, 1), (first + 2, 1))
    assert not arena.reclaim(100)
    assert arena.read(first + 1, 0, PAGE_SIZE) == b"b" * PAGE_SIZE
    assert arena.read(first, 0, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert blocks(arena) == 1


def test_reclaim_does_a_bounded_slice(arena, punches):
    first, _ = arena.allocate(100_000)
    free(arena, (first, 100_000))
    arena.reclaim(64)
    assert sum(count for _, count in punches) <= 64
    free(arena)  # nothing
    assert arena.dirty == 100_000 - 64


def test_an_allocation_gives_back_no_more_than_a_bounded_amount(arena, punches):
    first, _ = arena.allocate(1 << 18)  # 1 GiB
    free(arena, (first, 1 << 18))
    arena.allocate(1 << 17)
    assert sum(count for _, count in punches) <= 4096
    punches.clear()
    arena.allocate(1)
    assert sum(count for _, count in punches) <= 1


def test_steady_use_gives_back_what_it_frees(arena):
    """A writer that frees as much as it takes does not let the dirty frames pile up."""
    for _ in range(200):
        first, count = arena.allocate(64)
        arena.write(first, 0, b"x" * PAGE_SIZE * count)
        free(arena, (first, count))
    assert blocks(arena) <= 2 * 64
    assert os.fstat(arena.fileno()).st_size <= 2 * 4096 * PAGE_SIZE


def test_a_frame_is_zero_when_it_is_used_again(arena):
    frames = take(arena, 4096)
    for frame in frames[:100]:
        arena.write(frame, 0, b"secret" * 100)
    free(arena, (frames[0], 4096))
    for frame in take(arena, 8192):
        assert arena.read(frame, 0, 600) == bytes(600)


def test_read_and_write_reach_over_frames(arena):
    first, _ = arena.allocate(3)
    arena.write(first, 4000, memoryview(b"y" * 5000))
    assert arena.read(first, 3999, 5002) == b"\0" + b"y" * 5000 + b"\0"


def test_a_short_pwrite_is_continued(arena, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:1000], offset))
    first, _ = arena.allocate(3)
    data = os.urandom(9999)
    arena.write(first, 1, data)
    assert arena.read(first, 0, 10_001) == b"\0" + data + b"\0"


def test_populate_takes_the_memory_now(arena):
    first, _ = arena.allocate(100)
    arena.populate(first + 10, 50)
    assert blocks(arena) == 50
    assert arena.read(first + 10, 0, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_more_than_an_arena_can_name_is_refused_at_once(arena):
    with pytest.raises(OSError, match="space") as raised:
        arena.allocate(1 << 50)
    assert raised.value.errno == errno.ENOSPC
    assert arena.used == 0


def test_a_huge_request_is_met_in_pieces(arena):
    first, count = arena.allocate((1 << 24) + 5)
    assert count == 1 << 24
    assert arena.allocate(5) == (first + count, 5)


def test_the_descriptor_is_not_inherited(arena):
    assert not os.get_inheritable(arena.fileno())


class ArenaMachine(RuleBasedStateMachine):
    """Frames in use never overlap, keep their content, and come zeroed."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena()
        self.runs: list[tuple[int, int, int]] = []
        self.stamp = 0

    @rule(count=st.one_of(st.integers(1, 40), st.integers(2000, 6000)))
    def allocate(self, count: int) -> None:
        first, taken = self.arena.allocate(count)
        assert 1 <= taken <= count
        for other, length, _ in self.runs:
            assert first + taken <= other or other + length <= first
        for frame in {first, first + taken - 1, first + taken // 2}:
            assert self.arena.read(frame, 0, PAGE_SIZE) == bytes(PAGE_SIZE)
        self.stamp += 1
        for frame in {first, first + taken - 1, first + taken // 2}:
            self.arena.write(frame, 0, self.stamp.to_bytes(8, "little") * (PAGE_SIZE // 8))
        self.runs.append((first, taken, self.stamp))

    @precondition(lambda self: self.runs)
    @rule(pick=st.integers(0), cut=st.integers(0), end=st.booleans())
    def free(self, pick: int, cut: int, end: bool) -> None:
        """Free a run, or the front or back of one."""
        first, count, stamp = self.runs.pop(pick % len(self.runs))
        size = 1 + cut % count
        if size == count:
            free(self.arena, (first, count))
        elif end:
            free(self.arena, (first + count - size, size))
            self.arena.write(first + count - size - 1, 0, stamp.to_bytes(8, "little") * (PAGE_SIZE // 8))
            self.runs.append((first, count - size, stamp))
        else:
            free(self.arena, (first, size))
            self.arena.write(first + size, 0, stamp.to_bytes(8, "little") * (PAGE_SIZE // 8))
            self.runs.append((first + size, count - size, stamp))

    @rule(frames=st.integers(0, 10_000))
    def reclaim(self, frames: int) -> None:
        more = self.arena.reclaim(frames)
        assert more == (self.arena.dirty > 0)

    @invariant()
    def frames_are_counted(self) -> None:
        assert self.arena.used == sum(count for _, count, _ in self.runs)
        state = self.arena._state
        assert state.count(1) == self.arena.used + self.arena.dirty
        assert os.fstat(self.arena.fileno()).st_size == len(state) * PAGE_SIZE

    @invariant()
    def content_is_kept(self) -> None:
        for first, count, stamp in self.runs:
            for frame in (first, first + count - 1):
                assert self.arena.read(frame, 0, 8) == stamp.to_bytes(8, "little")

    def teardown(self) -> None:
        for first, count, _ in self.runs:
            free(self.arena, (first, count))
        while self.arena.reclaim(100_000):
            pass
        left = blocks(self.arena)
        self.arena.close()
        assert left == 0


TestArena: Callable[..., object] = ArenaMachine.TestCase
