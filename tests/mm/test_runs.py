"""The map of runs, against a plain dict of pages."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shmfs.mm import runs as runs_module
from shmfs.mm.runs import MAX_COUNT, Run, RunMap

Plain = dict[int, tuple[int, bool]]
"""Page: its frame, and whether it is unwritten."""


def pages_of(runs: Iterator[Run]) -> Plain:
    return {run.first + i: (run.frame + i, run.unwritten) for run in runs for i in range(run.length)}


def is_sound(tree: RunMap) -> None:
    """What the structure promises, beyond its content."""
    assert tree._firsts[0] == 0
    assert list(tree._firsts) == sorted(set(tree._firsts))
    assert len(tree._firsts) == len(tree._leaves)
    end = 0
    for number, leaf in enumerate(tree._leaves):
        assert len(leaf.indexes) == len(leaf.frames) == len(leaf.counts) <= runs_module._LEAF
        assert number == 0 or leaf.indexes, "an empty leaf is kept"
        for slot in range(len(leaf.indexes)):
            assert leaf.indexes[slot] >= end, "runs overlap or are out of order"
            assert leaf.indexes[slot] >= tree._firsts[number]
            assert leaf.run(slot).length > 0
            end = leaf.end(slot)
            assert number + 1 == len(tree._firsts) or end <= tree._firsts[number + 1]
    assert tree.pages == sum(run.length for run in tree.runs())


def fill(tree: RunMap, pages: Plain) -> None:
    for page, (frame, unwritten) in pages.items():
        tree.insert(Run(page, frame, 1, unwritten))


class RunMapMachine(RuleBasedStateMachine):
    """Leaves of sixteen runs, so that they split and vanish within few steps."""

    def __init__(self) -> None:
        super().__init__()
        self.full_leaf, runs_module._LEAF = runs_module._LEAF, 16
        self.tree = RunMap()
        self.plain: Plain = {}
        self.frame = 0
        self.base = 0

    def teardown(self) -> None:
        runs_module._LEAF = self.full_leaf

    @initialize(
        base=st.sampled_from([0, 0, (1 << 32) - 300, 1 << 40]),
        stride=st.sampled_from([0, 2, 3]),
    )
    def start(self, base: int, stride: int) -> None:
        """Below, across or beyond the pages that fit in 32 bits; empty or with many single pages."""
        self.base = base
        if stride:
            for page in range(0, 400, stride):
                self.insert(page, 1, False, True)

    def hole(self, page: int, length: int) -> int:
        """How much of the range is a hole from its start on."""
        return next((i for i in range(length) if self.base + page + i in self.plain), length)

    @rule(
        page=st.integers(0, 600), length=st.integers(1, 60), unwritten=st.booleans(), adjacent=st.booleans()
    )
    def insert(self, page: int, length: int, unwritten: bool, adjacent: bool) -> None:
        length = self.hole(page, length)
        if not length:
            return
        self.frame += 0 if adjacent else 1000
        first = self.base + page
        self.tree.insert(Run(first, self.frame, length, unwritten))
        for i in range(length):
            self.plain[first + i] = (self.frame + i, unwritten)
        self.frame += length

    @rule(page=st.integers(0, 600), length=st.one_of(st.integers(0, 30), st.integers(0, 600)))
    def remove(self, page: int, length: int) -> None:
        first = self.base + page
        gone = [p for p in self.plain if first <= p < first + length]
        frames = self.tree.remove(first, first + length)
        taken = sorted(
            frame + i
            for firsts, counts in frames.chunks
            for frame, count in zip(firsts, counts, strict=True)
            for i in range(count)
        )
        assert taken == sorted(self.plain.pop(p)[0] for p in gone)
        assert frames.pages == len(gone)

    @rule(page=st.integers(0, 600))
    def truncate(self, page: int) -> None:
        gone = [p for p in self.plain if p >= self.base + page]
        assert self.tree.remove(self.base + page).pages == len(gone)
        for p in gone:
            del self.plain[p]

    @rule(page=st.integers(0, 600), length=st.integers(0, 200))
    def set_written(self, page: int, length: int) -> None:
        first = self.base + page
        self.tree.set_written(first, first + length)
        for p, (frame, _) in self.plain.items():
            if first <= p < first + length:
                self.plain[p] = (frame, False)

    @rule(page=st.integers(0, 700), length=st.integers(0, 100))
    def read_a_range(self, page: int, length: int) -> None:
        first = self.base + page
        got = list(self.tree.runs(first, first + length))
        assert [run.first for run in got] == sorted(run.first for run in got)
        assert pages_of(iter(got)) == {p: v for p, v in self.plain.items() if first <= p < first + length}

    @precondition(lambda self: self.plain)
    @rule(pick=st.integers(0))
    def find(self, pick: int) -> None:
        page = sorted(self.plain)[pick % len(self.plain)]
        run = self.tree.find(page)
        assert run is not None
        assert (run.frame + page - run.first, run.unwritten) == self.plain[page]

    @rule(page=st.integers(0, 700))
    def find_hole(self, page: int) -> None:
        assert (self.tree.find(self.base + page) is None) == (self.base + page not in self.plain)

    @invariant()
    def same(self) -> None:
        assert pages_of(self.tree.runs()) == self.plain
        is_sound(self.tree)


TestRunMap = RunMapMachine.TestCase


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("base", [0, (1 << 32) - 4000, 1 << 45])
def test_thousands_of_runs(seed, base):
    """Leaves of their real size, split and emptied many times over."""
    rng = random.Random(seed)
    tree, plain = RunMap(), {}
    pages = [base + page for page in rng.sample(range(12_000), 6000)]
    for number, page in enumerate(pages):
        plain[page] = (number * 2, page % 7 == 0)
    fill(tree, plain)
    assert len(tree._leaves) > 5
    is_sound(tree)
    assert pages_of(tree.runs()) == plain
    for _ in range(150):
        first = base + rng.randrange(12_000)
        end = first + rng.choice([1, 3, 100, 900])
        if rng.random() < 0.4:
            tree.set_written(first, end)
            plain = {p: (f, u and not first <= p < end) for p, (f, u) in plain.items()}
        else:
            tree.remove(first, end)
            plain = {p: v for p, v in plain.items() if not first <= p < end}
        probe = base + rng.randrange(12_000)
        assert pages_of(tree.runs(probe, probe + 50)) == {
            p: v for p, v in plain.items() if probe <= p < probe + 50
        }
    is_sound(tree)
    assert pages_of(tree.runs()) == plain
    assert tree.remove(0).pages == len(plain)
    assert (tree.pages, len(tree._leaves)) == (0, 1)


def test_adjacent_pages_and_frames_are_one_run():
    tree = RunMap()
    for page in [0, 2, 1, 5, 4, 3]:
        tree.insert(Run(page, 100 + page, 1))
    assert list(tree.runs()) == [Run(0, 100, 6)]


def test_runs_are_not_joined_where_frames_or_flags_differ():
    tree = RunMap()
    tree.insert(Run(0, 10, 2))
    tree.insert(Run(2, 13, 2))
    tree.insert(Run(4, 15, 2, unwritten=True))
    assert list(tree.runs()) == [Run(0, 10, 2), Run(2, 13, 2), Run(4, 15, 2, unwritten=True)]
    tree.set_written(0, 10)
    assert list(tree.runs()) == [Run(0, 10, 2), Run(2, 13, 4)]


def test_a_run_does_not_grow_into_its_flag():
    tree = RunMap()
    tree.insert(Run(0, 0, MAX_COUNT))
    tree.insert(Run(MAX_COUNT, MAX_COUNT, 5))
    assert tree.pages == MAX_COUNT + 5
    assert list(tree.runs()) == [Run(0, 0, MAX_COUNT), Run(MAX_COUNT, MAX_COUNT, 5)]


def test_part_of_an_unwritten_run_is_written():
    tree = RunMap()
    tree.insert(Run(0, 0, 10, unwritten=True))
    tree.set_written(5, 6)
    assert [run.unwritten for run in tree.runs(5, 6)] == [False]
    assert list(tree.runs()) == [Run(0, 0, 5, True), Run(5, 5, 1), Run(6, 6, 4, True)]


@pytest.mark.parametrize(("first", "end"), [(5, 5), (5, 4), (5, 0), (0, 0), (9, 1)])
def test_an_empty_range_holds_nothing(first, end):
    """Also within a run, and where its end lies before its start."""
    tree = RunMap()
    tree.insert(Run(0, 100, 10, unwritten=True))
    assert list(tree.runs(first, end)) == []
    tree.set_written(first, end)
    assert list(tree.runs()) == [Run(0, 100, 10, unwritten=True)]


def test_a_file_written_in_order_fills_its_leaves():
    tree = RunMap()
    for number in range(10_000):
        tree.insert(Run(number * 2, number, 1))
    assert len(tree._leaves) <= 10_000 / 500 + 2


def test_a_run_may_reach_over_the_start_of_a_leaf_that_lost_its_first_runs():
    """Leaf 1 begins at a page that is a hole by now; a long run of leaf 0 covers that page."""
    tree = RunMap()
    for number in range(600):
        tree.insert(Run(number * 10, number * 2, 1))
    boundary = tree._firsts[1]
    tree.remove(boundary - 25, boundary + 45)
    tree.insert(Run(boundary - 24, 50_000, 60))
    for page in (boundary - 24, boundary - 1, boundary, boundary + 35):
        run = tree.find(page)
        assert run is not None
        assert run.frame == 50_000
    assert sum(run.length for run in tree.runs(boundary, boundary + 36)) == 36
    tree.remove(boundary, boundary + 1)
    assert tree.find(boundary) is None
    is_sound(tree)
