"""Counts of faults, compared with a count in plain Python."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmfs.analysis import tally as tally_module
from shmfs.analysis.tally import BUCKETS, FAILED, Tally, batches
from shmfs.tracefile.format import FAULT

TIMES = st.one_of(st.integers(10**18, 10**18 + 100), st.integers(10**18 - 10**12, 10**18 + 10**12))
PAGES = st.one_of(st.integers(0, 6), st.sampled_from([2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**51, 2**52 - 1]))
FAULTS = st.tuples(
    TIMES,
    PAGES,
    st.integers(0, 2**48),
    st.sampled_from([0, 1, 2, 7, 2**32 - 1]),
    st.sampled_from([0, 1, 2, 3, 2**32 - 1]),
    st.integers(1, 5),
    st.integers(0, 5),  # of kind and access there may be more some day
    st.integers(0, 5),
    st.sampled_from([0, 0, 0, 1]),
    st.integers(0, 3),
)


class Brute:
    """What a Tally should say, the slow way."""

    def __init__(self, faults):
        self.faults = faults
        self.segments = {fault[3] for fault in faults}

    def of(self, segment, process=None):
        return [one for one in self.faults if one[3] == segment and process in (None, one[4])]

    def counts(self, faults):
        perf = [one for one in faults if one[8] == 0]
        kinds = Counter(one[6] if one[6] < 4 else 0 for one in perf)
        accesses = Counter(one[7] if one[7] < 4 else 0 for one in perf)
        return (
            len(perf), kinds[1], kinds[2], kinds[3], kinds[0], accesses[1], accesses[2], accesses[3],
            len(faults) - len(perf),
        )  # fmt: skip

    def good(self, faults):
        return [one for one in faults if one[8] == 0 and one[6] != FAILED]

    def sharing(self, segment):
        processes = defaultdict(set)
        for one in self.of(segment):
            if one[8] or one[6] != FAILED:
                processes[one[1]].add(one[4])
        return dict(Counter(map(len, processes.values())))


def fields(count):
    return tuple(getattr(count, name) for name in count.__struct_fields__)


def split(rows, cuts):
    array = np.array(rows, FAULT)
    at = sorted(cut % (len(rows) + 1) for cut in cuts)
    return [array[a:b] for a, b in zip([0, *at], [*at, len(rows)], strict=True)]


def check(rows, arrays):
    tally, brute = Tally(), Brute(rows)
    for array in arrays:
        tally.add(array)
    found = tally.segments()
    assert set(found) == brute.segments
    for segment, one in found.items():
        assert fields(one.faults) == brute.counts(brute.of(segment))
        assert one.pages == len({fault[1] for fault in brute.good(brute.of(segment))})
        assert one.sharing == brute.sharing(segment)
        assert {use.process for use in one.uses} == {fault[4] for fault in brute.of(segment)}
        assert len(one.uses) == len({use.process for use in one.uses})
        for use in one.uses:
            mine = brute.of(segment, use.process)
            good = brute.good(mine)
            assert fields(use.faults) == brute.counts(mine)
            assert use.pages == len({fault[1] for fault in good})
            assert use.first == min((fault[0] for fault in good), default=None)
            assert use.last == max((fault[0] for fault in good), default=None)
    line = tally.timeline()
    perf = [fault for fault in rows if fault[8] == 0]
    buckets = Counter((fault[0] - line.start) // line.width for fault in perf)
    assert {at: count for at, count in enumerate(line.counts) if count} == dict(buckets)
    assert len(line.counts) <= BUCKETS
    for segment, one in found.items():
        mine = Counter((fault[0] - line.start) // line.width for fault in perf if fault[3] == segment)
        assert {at: count for at, count in enumerate(one.timeline) if count} == dict(mine)
    seen = {(fault[5], fault[4]) for fault in rows}
    assert set(tally.threads) == {tid for tid, _ in seen}
    assert set(tally.threads.items()) <= seen


@settings(deadline=None)
@given(st.lists(FAULTS, max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_it_counts_as_plain_python_does(rows, cuts):
    check(rows, split(rows, cuts))


def test_many_pairs_and_merges(monkeypatch):
    monkeypatch.setattr(tally_module._Distinct, "LEAST", 100)
    random = np.random.default_rng(7)
    rows = [
        (
            10**18 + int(random.integers(0, 10**9)), int(random.integers(0, 30)), 0,
            int(random.integers(0, 20)), int(random.integers(0, 12)), 1,
            int(random.integers(1, 4)), int(random.integers(0, 4)), int(random.integers(0, 2)), 0,
        )
        for _ in range(3000)
    ]  # fmt: skip
    check(rows, split(rows, range(0, 3000, 70)))


def test_nothing():
    tally = Tally()
    tally.add(np.empty(0, FAULT))
    assert tally.segments() == {}
    assert tally.timeline().counts == []


def test_very_many_segments_get_no_time_line(monkeypatch):
    monkeypatch.setattr(tally_module, "LINES", 3)
    rows = [(10**18 + at, 0, 0, at, 0, 1, 1, 1, 0, 0) for at in range(9)]
    tally = Tally()
    for array in split(rows, [2, 5]):
        tally.add(array)
    found = tally.segments()
    assert [segment for segment, one in found.items() if one.timeline is not None] == [0, 1, 2]
    assert sum(tally.timeline().counts) == 9


@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 0, 4, 1, 1], [10, 10, 10]])
def test_batches_are_large_and_in_order(monkeypatch, sizes):
    monkeypatch.setattr(tally_module, "BATCH", 5)
    arrays, at = [], 0
    for size in sizes:
        array = np.zeros(size, FAULT)
        array["page"] = range(at, at + size)
        arrays.append(array)
        at += size
    found = list(batches(arrays))
    assert [page for array in found for page in array["page"].tolist()] == list(range(at))
    assert all(len(array) >= 5 for array in found[:-1])
