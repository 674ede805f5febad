"""The pages mapped around faults, against what one fault after the other gives."""

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from shmfs.record.around import Around
from shmfs.tracefile.format import FAULT, SOURCES, Faults
from shmfs.tracing import ranges
from shmfs.tracing.decode import READ, WRITE, Samples
from shmfs.tracing.perf import Event

OFFSET = 1000
INODES = 70
"""The inode of segment 0; the others follow."""

Thing = tuple[str, int, int, int, int]
"""fault: thread, segment, page, access; around: thread, segment, first page, last page."""


def process(thread: int) -> int:
    return thread // 2


def batch(things: list[tuple[int, Thing]]) -> tuple[Faults, Samples | None]:
    """As the recorder gives them, at their times."""
    faults = [(when, *thing[1:]) for when, thing in things if thing[0] == "fault"]
    rows = np.zeros(len(faults), FAULT)
    for row, (when, thread, segment, page, access) in zip(rows, faults, strict=True):
        row["time"], row["tid"], row["process"] = when + OFFSET, thread + 1, process(thread)
        row["access"] = access
        row["segment"], row["page"], row["ip"] = segment, page, 77
    around = [(when, *thing[1:]) for when, thing in things if thing[0] == "around"]
    if not around:
        return rows, None
    columns = np.array(around, np.uint64).T
    small = np.zeros(len(around), np.uint8)
    threads = (columns[1] + np.uint64(1)).astype(np.uint32)
    places = ranges.packed(columns[3], columns[4])
    inodes = columns[2] + np.uint64(INODES)
    return rows, Samples(
        columns[0], places, inodes, threads, threads, small, small + np.uint8(Event.AROUND), small
    )


def expected(things: list[tuple[int, Thing]]) -> list[tuple[int, ...]]:
    """Time, thread, segment and page of each row."""
    present, mapped = set(), set()
    latest: dict[int, tuple[int, int, int]] = {}
    found: list[tuple[int, ...]] = []
    for when, (kind, thread, segment, first, last) in things:
        if kind == "fault":
            present.add((segment, first))
            mapped.add((segment, process(thread), first))
            latest[thread] = segment, first, last
        elif thread in latest and latest[thread][0] == segment and first <= latest[thread][1] <= last:
            _, middle, access = latest[thread]
            if access == WRITE:
                continue
            for page in range(first, last + 1):
                here = segment, process(thread), page
                if page != middle and (segment, page) in present and here not in mapped:
                    mapped.add(here)
                    found.append((when + OFFSET, thread + 1, segment, page))
    return found


PAGES = strategies.one_of(
    strategies.integers(0, 20), strategies.integers(0, 200), strategies.just((1 << 32) - 1)
)
SEGMENTS = strategies.integers(0, 3)
FAULTS = strategies.tuples(
    strategies.just("fault"),
    strategies.integers(0, 5),
    SEGMENTS,
    PAGES,
    strategies.sampled_from([READ, WRITE]),
)
AROUND = strategies.tuples(
    strategies.just("around"),
    strategies.integers(0, 5),
    SEGMENTS,
    PAGES,
    strategies.integers(0, 40),
).map(lambda thing: (*thing[:4], thing[3] + thing[4]))


@hypothesis.given(
    strategies.lists(strategies.lists(strategies.one_of(FAULTS, AROUND), max_size=40), max_size=6)
)
def test_as_one_after_the_other(batches: list[list[Thing]]) -> None:
    around, found, everything, when = Around(lambda segment: INODES + segment), [], [], 0
    for things in batches:
        timed = []
        for thing in things:
            when += 1
            if thing[0] == "around" and thing[4] >= 1 << 32:
                continue
            timed.append((when, thing))
        everything += timed
        rows = around.feed(*batch(timed), OFFSET)
        assert set(rows["source"].tolist()) <= {SOURCES.index("filemap")}
        assert not rows["ip"].any()
        found += [tuple(map(int, row)) for row in rows[["time", "tid", "segment", "page"]]]
    assert found == expected(everything)


@pytest.mark.parametrize("inode_of", [None, lambda segment: INODES + segment])
def test_a_call_that_populates_another_file(inode_of: Callable[[int], int] | None) -> None:
    """mmap(2) with MAP_POPULATE maps a range of a file, and no fault of its own is reported."""
    around = Around(inode_of)
    things: list[tuple[int, Thing]] = [
        *((1, ("fault", 0, 0, page, READ)) for page in range(20)),
        (2, ("fault", 2, 0, 3, READ)),
        (3, ("around", 2, 0, 0, 15)),
        (4, ("fault", 2, 0, 17, READ)),
        (5, ("around", 2, 1, 16, 31)),
        (6, ("around", 2, 0, 16, 31)),
    ]
    found = around.feed(*batch(things), OFFSET)
    pages = [page for page in range(20) if page not in (3, 17)]
    assert found["page"].tolist() == pages
    assert set(found["segment"].tolist()) == {0}
    assert set(found["time"][found["page"] > 15].tolist()) == {6 + OFFSET}


def test_inodes_are_learned_where_they_are_others() -> None:
    """The first range is of a call that populates another file; later ones correct that."""
    around = Around()
    faults: list[tuple[int, Thing]] = [(1, ("fault", 0, 0, page, READ)) for page in range(100)]
    around.feed(*batch(faults), OFFSET)
    _, *right = (
        around.feed(
            *batch([(when, ("fault", 2, 0, first, READ)), (when + 1, ("around", 2, file, first, first + 9))]),
            OFFSET,
        )
        for when, file, first in [(10, 1, 0), (20, 0, 10), (30, 0, 20), (40, 0, 30), (50, 1, 40), (60, 0, 50)]
    )
    assert [len(rows) for rows in right[1:]] == [9, 9, 0, 9]


def test_many_segments_and_pages() -> None:
    """More keys than are remembered by their hash, in little memory for each."""
    around, count = Around(), 100_000
    rows = np.zeros(count, FAULT)
    rows["segment"] = rows["time"] = np.arange(count)
    rows["page"] = 5
    assert not len(around.feed(rows, None, 0))
    assert around._present._bytes.nbytes + around._mapped._bytes.nbytes <= 4 * 64 * count
    later = rows[::-7].copy()
    later["tid"] = later["process"] = 1
    later["page"], later["time"] = 4, count + np.arange(len(later))
    one = np.ones(len(later), np.uint32)
    small = np.zeros(len(later), np.uint8)
    samples = Samples(
        later["time"].astype(np.uint64),
        ranges.packed(one * np.uint64(0), one * np.uint64(15)),
        later["segment"].astype(np.uint64),
        one,
        one,
        small,
        small,
        small,
    )
    found = around.feed(later, samples, 0)
    assert found["segment"].tolist() == later["segment"].tolist()
    assert set(found["page"].tolist()) == {5}
    assert not len(around.feed(later[:0], samples, 0))
