"""What the HTML page is made of, compared with a count in plain Python."""

from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmfs import trace
from shmfs.analysis.tally import Tally
from shmfs.report.html import extract as extract_module
from shmfs.report.html.extract import extract
from shmfs.report.html.levels import Levels, most
from shmfs.report.html.model import Heat
from shmfs.report.html.touches import OTHERS, Axis, First, Plan, Touches, matrix
from shmfs.tracefile.format import FAULT
from tests.record.recording import MIB, START, Recording
from tests.report.test_trace_report import HOSTILE, film

FAULTS = st.tuples(
    st.integers(10**18 - 50, 10**18 + 1050),  # some lie outside the time that is shown
    st.integers(0, 40),
    st.sampled_from([0, 1, 2, 9]),  # segment
    st.sampled_from([0, 1, 2, 3, 2**32 - 1]),  # process
    st.integers(0, 3),  # kind
    st.sampled_from([0, 0, 0, 1]),  # source
)


def array(rows):
    faults = np.zeros(len(rows), FAULT)
    for name, column in zip(
        ("time", "page", "segment", "process", "kind", "source"), zip(*rows, strict=True), strict=False
    ):
        faults[name] = column
    return faults


def page_of(path):
    with trace.open(path) as opened:
        return extract(opened)


def expanded(heat):
    """Cells by row and column: touches, who had most (an index of people), how many."""
    at, cells = 0, {}
    for step, *cell in zip(heat.steps, heat.counts, heat.who, heat.several, strict=True):
        at += step
        cells[divmod(at, heat.columns)] = tuple(cell)
    return cells


@settings(deadline=None)
@given(st.lists(FAULTS, max_size=80), st.integers(0, 80), st.integers(1, 50), st.permutations([0, 1, 2]))
def test_heat_maps_count_as_plain_python_does(rows, cut, height, people):
    axis = Axis.of(10**18, 10**18 + 1000, 10)
    plans = [Plan(segment, 41, height, people, axis) for segment in (2, 0)]
    tally, touches = Tally(), Touches(plans, axis)
    for part in (rows[:cut], rows[cut:]):
        if part:
            tally.add(array(part))
            touches.add(array(part))
    pages = defaultdict(lambda: defaultdict(list))
    for segment, process, some in tally.touches({one[2] for one in rows}):
        pages[segment][process].append(some)
    for plan in plans:
        heat = touches.heat(plan.segment, pages[plan.segment])
        mine = [one for one in rows if one[2] == plan.segment and (one[5] or one[4] != 3)]
        column = {process: i for i, process in enumerate(people)}
        cells = defaultdict(Counter)
        for time, page, _, process, *_ in mine:
            bucket = min(9, max(0, (time - 10**18) // 100))
            cells[page // heat.per_row, bucket][column.get(process, len(people))] += 1
        found = expanded(heat)
        assert set(found) == set(cells)
        for cell, (total, who, several) in found.items():
            assert total == cells[cell].total()
            assert cells[cell][who] == max(cells[cell].values())
            assert several == len(cells[cell])
        assert heat.people in ([*people], [*people, OTHERS])
        for k, strip in enumerate(heat.strips):
            owners = [
                process for process in {one[3] for one in mine} if column.get(process, len(people)) == k
            ]
            touched = {(one[3], one[1]) for one in mine if one[3] in owners}
            assert strip == [
                sum(page // heat.per_row == row for _, page in touched) for row in range(heat.rows)
            ]
        firsts = {}
        for one in sorted(mine, key=lambda one: one[0]):
            firsts.setdefault(one[1], one[0])
        assert touches.touched(plan.segment)[-1] == len(firsts)
        for row, who in enumerate(heat.first):
            here = [page for page in firsts if page // heat.per_row == row]
            assert (who == OTHERS) == (not here)
            could = {
                column.get(one[3], len(people)) for one in mine if one[1] in here and one[0] == firsts[one[1]]
            }
            assert who == OTHERS or who in could
    perf = [one for one in rows if one[5] == 0]
    minor, major, failed, unknown = (sum(counts) for counts in touches.kinds())
    assert [unknown, minor, major, failed] == [sum(one[4] == kind for one in perf) for kind in range(4)]


@settings(deadline=None)
@given(st.lists(FAULTS, min_size=1, max_size=80))
def test_the_matrix_counts_as_plain_python_does(rows):
    tally = Tally()
    tally.add(array(rows))
    pages = defaultdict(lambda: defaultdict(list))
    for segment, process, some in tally.touches({one[2] for one in rows}):
        pages[segment][process].append(some)
    people = [3, 0, 2**32 - 1]
    touched = defaultdict(set)
    for _, page, segment, process, kind, source in rows:
        if source or kind != 3:
            touched[process].add((segment, page))
    assert matrix(pages, people).tolist() == [[len(touched[a] & touched[b]) for b in people] for a in people]


def test_the_matrix_in_blocks(monkeypatch):
    monkeypatch.setattr("shmfs.report.html.touches.BLOCK", 7)
    random = np.random.default_rng(1)
    sets = [np.unique(random.integers(0, 2**50, 40) // 2**44).astype(np.uint64) for _ in range(5)]
    found = matrix({0: {i: [one] for i, one in enumerate(sets)}}, list(range(5)))
    assert found.tolist() == [[len(set(a.tolist()) & set(b.tolist())) for b in sets] for a in sets]


def test_touches_beyond_16_tib():
    tally = Tally()
    rows = [(10**18, page, 0, process, 1, 0) for page in (3, 2**32 + 3, 2**51) for process in (0, 1)]
    tally.add(array(rows))
    found = defaultdict(list)
    for segment, process, pages in tally.touches([0]):
        found[segment, process] += pages.tolist()
    assert found == {(0, 0): [3, 2**32 + 3, 2**51], (0, 1): [3, 2**32 + 3, 2**51]}
    assert list(tally.touches([1])) == []


def test_first_touches_merge(monkeypatch):
    monkeypatch.setattr(First, "LEAST", 5)
    first, random = First(), np.random.default_rng(2)
    seen = {}
    for _ in range(20):
        pages = random.integers(0, 30, 4).astype(np.uint64)
        times = random.integers(0, 10**6, 4).astype(np.uint64)
        first.add(pages, times, times.astype(np.int64) % 7)
        for page, time in zip(pages.tolist(), times.tolist(), strict=True):
            seen[page] = min(time, seen.get(page, time))
    pages, times, columns = first.result()
    assert dict(zip(pages.tolist(), times.tolist(), strict=True)) == seen
    assert pages.tolist() == sorted(seen)
    assert columns.tolist() == [time % 7 for time in times.tolist()]


def test_levels():
    levels = Levels()
    events = [
        ("allocate", 10, 1, 5), ("allocate", 12, 2, 3), ("free", 14, 1, 5), ("allocate", 31, 1, 2),
        ("usage", 33, 3, 7), ("usage", 35, 3, 4), ("evict", 52, 2, None), ("create", 53, 9, None),
    ]  # fmt: skip
    for kind, time, inode, pages in events:
        levels.hear({"event": kind, "time": time, "inode": inode} | ({"pages": pages} if pages else {}))
    for broken in ({"event": "allocate"}, {"event": "usage", "time": 1, "inode": 1, "pages": "x"}, {}):
        levels.hear(broken)
    table = levels.table()
    assert most(table, 0, 10.0, 7) == [0, 8, 3, 12, 9, 9, 6]
    assert most(table[table[:, 1] == 2], 0, 10.0, 7) == [0, 3, 3, 3, 3, 3, 0]
    assert most(table[:0], 0, 10.0, 3) == [0, 0, 0]


def test_the_plain_case(tmp_path):
    page = page_of(film(tmp_path / "film.shmtrace"))
    assert (page.title, page.outcome, page.bad) == ("python3 film.py", "exit 0", False)
    assert (page.faults, page.minor, page.major, page.failed) == (8192, 4096, 4096, 0)
    assert [sum(kind) for kind in page.kinds] == [4096, 4096, 0, 0]
    assert [one.name for one in page.processes] == ["python3 100", "worker 101", "worker 102"]
    assert [(one.depth, one.parent, one.bad) for one in page.processes] == [
        (0, None, False), (1, 0, False), (1, 0, True),
    ]  # fmt: skip
    frames = page.segments[0]
    assert (frames.name, frames.created, frames.unlinked, frames.evicted) == ("/frames", 0.3, 2.5, 2.6)
    assert (frames.peak, frames.pages, frames.shared, frames.sharing) == (
        2048,
        2048,
        1024,
        {3: 1024, 1: 1024},
    )
    assert max(frames.level) == 2048
    assert frames.level[-1] == 0
    assert max(page.level) == 4096
    assert frames.touched[-1] == 2048
    assert sum(frames.heat.counts) == frames.faults == 4096
    assert [sum(strip) for strip in frames.heat.strips] == [2048, 1024, 1024]
    assert frames.heat.people == [0, 1, 2]
    assert set(frames.heat.first) == {0}
    assert page.matrix.people == [0, 1, 2]
    assert page.matrix.counts == [[4096, 2048, 2048], [2048, 2048, 2048], [2048, 2048, 2048]]
    assert any("size=16m" in text for _, text in page.sizing)
    assert any("still linked" in text for _, text in page.lives)


def test_a_death_is_placed(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    process, segment = recording.process(7, "python"), recording.segment(5, "/full")
    recording.touch(process, 7, segment, range(10), 0.1, 0.5)
    recording.touch(process, 7, segment, range(10, 11), 0.6, 0.6, kind=3)
    recording.event("sigbus", 0.6, "perf", process=process, tid=7, segment=segment, page=10, path="/full",
                    reason="the limit is reached", limit=MIB, holders=[], enough="2m")  # fmt: skip
    page = page_of(recording.close())
    [death] = page.deaths
    assert (death.time, death.segment, death.page, death.process) == (0.6, 0, 10, 0)
    assert "page 10 of /full" in death.text
    assert page.segments[0].heat.pages == 11
    assert sum(page.segments[0].heat.counts) == 10
    assert sum(page.kinds[2]) == 1


@pytest.mark.parametrize("kind", ["empty", "one page", "cut", "no faults", "time 0"])
def test_little_is_enough(tmp_path, kind):
    recording = Recording(tmp_path / "x.shmtrace", started=0 if kind == "time 0" else START)
    if kind != "empty":
        process, segment = recording.process(7, "python"), recording.segment(5, "/one")
        if kind != "no faults":
            recording.touch(process, 7, segment, range(1), 0.1, 0.1)
    page = page_of(recording.cut() if kind == "cut" else recording.close())
    assert len(page.segments) == (kind != "empty")
    assert page.seconds > 0
    assert bool(page.warnings) == (kind == "cut")
    if kind in ("one page", "cut", "time 0"):
        assert page.segments[0].heat.counts == [1]
        assert page.matrix is None


def test_what_is_not_shown_is_summed(tmp_path, monkeypatch):
    for name, value in {"SEGMENTS": 3, "HEATS": 2, "PROCESSES": 4, "PEOPLE": 2, "COMPARED": 1}.items():
        monkeypatch.setattr(extract_module, name, value)
    recording = Recording(tmp_path / "x.shmtrace")
    main = recording.process(100, "main")
    people = [main] + [recording.process(101 + i, "worker", 0.1, main) for i in range(6)]
    for inode in range(8):
        segment = recording.segment(inode + 2, f"/{inode}")
        for process in people:
            recording.touch(process, 100 + process, segment, range(10 - inode + process), 0.1, 0.9)
    page = page_of(recording.close())
    assert [one.name for one in page.segments] == ["/0", "/1", "/2"]
    assert page.rest.number == 5
    assert sum(one.faults for one in page.segments) + page.rest.faults == page.faults
    assert len(page.processes) == 4
    assert page.rest_of_processes.number == 3
    assert sum(one.faults for one in page.processes) + page.rest_of_processes.faults == page.faults
    assert page.processes[0].name == "main 100"
    assert [one.heat is not None for one in page.segments] == [True, True, False]
    heat = page.segments[0].heat
    assert heat.people[-1] == OTHERS
    assert len(heat.people) == 3
    assert sum(heat.counts) == page.segments[0].faults
    assert len(page.segments[0].users) + page.segments[0].others == 7
    assert len(page.matrix.people) == 2
    said = " ".join(page.notes)
    for words in ("3 of 8 segments", "first 2 segments", "4 of 7 processes", "the 2 processes", "of 8 that"):
        assert words in said


def test_the_largest_heat_maps_are_not_too_large():
    """Of all that grows with a trace they are most; the page is to stay below 5 MB."""
    people, total = list(range(200, 200 + extract_module.PEOPLE + 1)), 0
    for number, (rows, columns) in (
        (extract_module.LARGE, extract_module.FINE),
        (extract_module.HEATS - extract_module.LARGE, extract_module.COARSE),
    ):
        cells, strips = rows * columns, [[98765] * rows] * len(people)
        counts = ([1] * cells, [98765] * cells, [63] * cells, [64] * cells)
        heat = Heat(10**9, rows, 10**7, columns, 0.1234567, 9.8765432, people, *counts, strips, [63] * rows)
        total += number * len(msgspec.json.encode(heat))
    assert total < 4_500_000


def test_ancestors_that_go_in_a_circle(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    for pid in range(3):
        recording.process(100 + pid, "loop", 0.1, (pid + 1) % 3)
    page = page_of(recording.close())
    assert sorted(one.name for one in page.processes) == ["loop 100", "loop 101", "loop 102"]


def test_names_have_no_control_characters(tmp_path):
    page = page_of(film(tmp_path / "x.shmtrace", names=(HOSTILE, "/b")))
    assert page.segments[0].name.isprintable()
    assert "[red]" in page.segments[0].name
