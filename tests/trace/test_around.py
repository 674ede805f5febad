"""The pages mapped around faults, against what one fault after the other gives."""

import hypothesis
import numpy as np
from hypothesis import strategies

from shmfs.trace.around import Around
from shmfs.trace.decode import Samples
from shmfs.trace.format import FAULT, SOURCES, Faults
from shmfs.trace.perf import Event

OFFSET = 1000

Thing = tuple[str, int, int, int, int]
"""fault: thread, segment, page, 0; around: thread, 0, first page, last page."""


def process(thread: int) -> int:
    return thread // 2


def batch(things: list[tuple[int, Thing]]) -> tuple[Faults, Samples | None]:
    """As the recorder gives them, at their times."""
    faults = [(when, *thing[1:]) for when, thing in things if thing[0] == "fault"]
    rows = np.zeros(len(faults), FAULT)
    for row, (when, thread, segment, page, _) in zip(rows, faults, strict=True):
        row["time"], row["tid"], row["process"] = when + OFFSET, thread + 1, process(thread)
        row["segment"], row["page"], row["ip"] = segment, page, 77
    around = [(when, *thing[1:]) for when, thing in things if thing[0] == "around"]
    if not around:
        return rows, None
    columns = np.array(around, np.uint64).T
    small = np.zeros(len(around), np.uint8)
    threads = (columns[1] + np.uint64(1)).astype(np.uint32)
    return rows, Samples(
        columns[0], columns[3], columns[4], threads, threads, small, small + np.uint8(Event.AROUND), small
    )


def expected(things: list[tuple[int, Thing]]) -> list[tuple[int, ...]]:
    """Time, thread, segment and page of each row."""
    present, mapped = set(), set()
    latest: dict[int, tuple[int, int]] = {}
    found: list[tuple[int, ...]] = []
    for when, (kind, thread, segment, first, last) in things:
        if kind == "fault":
            present.add((segment, first))
            mapped.add((segment, process(thread), first))
            latest[thread] = segment, first
        elif thread in latest and first <= latest[thread][1] <= last:
            segment, middle = latest[thread]
            for page in range(first, last + 1):
                here = segment, process(thread), page
                if page != middle and (segment, page) in present and here not in mapped:
                    mapped.add(here)
                    found.append((when + OFFSET, thread + 1, segment, page))
    return found


PAGES = strategies.one_of(
    strategies.integers(0, 20), strategies.integers(0, 200), strategies.just((1 << 32) - 1)
)
FAULTS = strategies.tuples(
    strategies.just("fault"), strategies.integers(0, 5), strategies.integers(0, 3), PAGES, strategies.just(0)
)
AROUND = strategies.tuples(
    strategies.just("around"),
    strategies.integers(0, 5),
    strategies.just(0),
    PAGES,
    strategies.integers(0, 40),
).map(lambda thing: (*thing[:4], thing[3] + thing[4]))


@hypothesis.given(
    strategies.lists(strategies.lists(strategies.one_of(FAULTS, AROUND), max_size=40), max_size=6)
)
def test_as_one_after_the_other(batches: list[list[Thing]]) -> None:
    around, found, everything, when = Around(), [], [], 0
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
    ranges = Samples(
        later["time"].astype(np.uint64),
        one * np.uint64(0),
        one * np.uint64(15),
        one,
        one,
        small,
        small,
        small,
    )
    found = around.feed(later, ranges, 0)
    assert found["segment"].tolist() == later["segment"].tolist()
    assert set(found["page"].tolist()) == {5}
    assert not len(around.feed(later[:0], ranges, 0))
