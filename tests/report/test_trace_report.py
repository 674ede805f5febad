"""The report on a trace: nothing hidden, at any width, whatever the names are."""

import io
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from shmfs.analysis.lifecycle import KINDS
from shmfs.report.text import sparkline
from shmfs.report.trace_report import render
from tests.record.recording import MIB, START, Recording, analysed

HOSTILE = "/a\x1b[2Jb\u202e\n[red]"


def show(analysis, width=120, encoding="utf-8", color=False):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    system = "truecolor" if color else None
    render(
        analysis, Console(file=file, width=width, force_terminal=color, color_system=system, highlight=False)
    )
    file.flush()
    return raw.getvalue().decode(encoding)


def flat(text):
    return " ".join(text.split())


def section(text, title):
    """The lines of a section, from its title to the empty line behind it."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    return lines[start : lines.index("", start)]


def film(path, end="close", names=("/frames", "/psm_1"), **meta):
    """A program of three processes that shares two segments, leaves one, and of which one is killed."""
    recording = Recording(path, command=["python3", "film.py"], **meta)
    main = recording.process(100, "python3", 0.1)
    workers = [recording.process(101 + i, "worker", 0.2, main) for i in range(2)]
    for inode, name in enumerate(names, 5):
        segment = recording.segment(inode, name, 0.3)
        recording.create(inode, name, 0.3, 100)
        recording.told("resize", 0.3, inode, name, old_size=0, size=8 * MIB, pid=100)
        recording.told("allocate", 1, inode, name, page=0, pages=2048)
        for process in (main, *workers):
            recording.map(process, segment, 0.4, 8 * MIB)
        recording.touch(main, 100, segment, range(2048), 0.5, 1)
        for i, worker in enumerate(workers):
            recording.touch(worker, 101 + i, segment, range(1024), 1, 2, kind=2, access=1)
    recording.event("sample", 2, "pagemap", segment=0, process=1, pages=1024, pss=2 * MIB, uss=MIB)
    recording.event("shared", 2, "pagemap", segment=0, pages=777)
    recording.told("unlink", 2.5, 5, names[0], nlink=0, pid=100)
    recording.told("evict", 2.6, 5, names[0])
    recording.exit(workers[0], 2.7, 0)
    recording.exit(workers[1], 2.7, 137)
    recording.exit(main, 2.8, 0)
    return recording.close(status=0) if end == "close" else recording.cut()


@pytest.fixture
def analysis(tmp_path):
    return analysed(film(tmp_path / "film.shmtrace"))


def test_the_plain_case(analysis):
    text = show(analysis)
    assert "python3 film.py" in text
    assert "2 segments · 3 processes" in text
    assert "8,192 · 4,096 minor, 4,096 major · 4,096 reads, 4,096 writes (perf, exact)" in text
    row = next(line for line in section(text, "Segments") if line.startswith("/frames"))
    assert row.split()[:11] == [
        "/frames",
        "8",
        "MiB",
        "8",
        "MiB",
        "2,048",
        "1,024",
        "4,096",
        "2,048",
        "3",
        "python3",
    ]
    killed = next(line for line in section(text, "Processes") if line.startswith("worker 102"))
    assert killed.split()[:9] == ["worker", "102", "python3", "100", "0.2", "s", "2.7", "s", "SIGKILL"]
    pair = next(line for line in section(text, "Faults by") if line.startswith("/frames  worker 101"))
    assert "2 MiB" in pair
    assert "1 MiB" in pair
    shared = next(line for line in section(text, "Sharing") if line.startswith("/frames"))
    assert shared.split()[1:5] == ["1,024", "1,024", "1,024", "777"]
    lives = section(text, "Lives")
    assert any("/frames" in line and "gone 2.6 s" in line for line in lives)
    assert any("/psm_1" in line and "linked, 8 MiB" in line for line in lives)
    assert any(line.startswith("left") and "1 segment still linked (8 MiB): /psm_1" in line for line in lives)
    assert any(line.startswith("died") and "worker 102 by a signal, with /psm_1" in line for line in lives)
    assert "Deaths" not in text
    sizing = flat(" ".join(section(text, "Sizing")))
    assert "16 MiB the most that was in use at once (fuse, mm, exact)" in sizing
    for said in ("size=16m", "--shm-size=16m", "shm_size: 16m", "sizeLimit: 16Mi", "64 MiB, is enough"):
        assert said in sizing
    sources = text.splitlines()[-4:]
    assert [line.split()[0] for line in sources] == ["fuse", "mm", "pagemap", "perf"]
    assert "sampled" in sources[2]
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 57, 80, 100, 200])
@pytest.mark.parametrize("names", [("/frames", "/psm_1"), (HOSTILE, "/" + "\u6f22" * 60)])
def test_it_fits_every_width(tmp_path, width, names):
    text = show(analysed(film(tmp_path / "x.shmtrace", names=names)), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert all(title in text for title in ("Segments", "Processes", "Sharing", "Lives", "Sizing"))
    assert all(char.isprintable() or char == "\n" for char in text)


def test_names_cannot_deceive(tmp_path):
    text = show(analysed(film(tmp_path / "x.shmtrace", names=(HOSTILE, "/b"))))
    assert r"/a\x1b[2Jb\u202e\n[red]" in text


def test_in_ascii(analysis):
    text = show(analysis, encoding="ascii")
    assert "2 segments - 3 processes" in text
    assert "worker x2, python3" in text


def test_in_colour(analysis):
    assert "\x1b[" in show(analysis, color=True)


def test_what_was_cut_is_said(tmp_path):
    text = flat(show(analysed(film(tmp_path / "x.shmtrace", end="cut"))))
    assert "cut off after 2.80 s" in text
    assert "there is no end: the recorder was killed, or still records" in text
    assert "perf, exact until the cut" in text
    assert "as far as it was recorded" in text


def test_what_is_damaged_is_said(tmp_path):
    path = film(tmp_path / "x.shmtrace")
    path.write_bytes(path.read_bytes()[:-5])
    text = flat(show(analysed(path)))
    assert "cut it ends within a chunk" in text
    assert "/frames" in text


def test_what_is_lost_is_said(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    process, segment = recording.process(10, "a"), recording.segment(5, "/x")
    recording.touch(process, 10, segment, range(5), 1, 2)
    recording.event("lost", 1, "perf", of="perf", count=1234)
    text = show(analysed(recording.close()))
    assert "lost    1234 records of perf" in text
    assert "perf, exact" not in text
    assert "5 · 5 minor · 5 writes (perf, at least: records are missing)" in text
    assert text.splitlines()[-1].split()[-2:] == ["at", "least"]


def test_a_kernel_tmpfs(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace", store="tmpfs", size_limit=0)
    process, segment = recording.process(10, "a", -5), recording.segment(5, "/x")
    recording.map(process, segment, 0)
    recording.touch(process, 10, segment, range(600), 1, 2)
    text = show(analysed(recording.close()))
    assert section(text, "Segments")[1].split()[:3] == ["SEGMENT", "PAGES", "FAULTS"]
    assert "before" in section(text, "Processes")[2]
    assert "who made and removed them is seen on a mount of shmfs only" in section(text, "Lives")[0]
    assert "an estimate" in flat(text)
    assert "is enough" not in text
    assert "Sharing" not in text


def test_deaths_are_explained(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    process, segment = recording.process(10, "loader"), recording.segment(5, "/x")
    recording.create(5, "/x", 1, 10)
    recording.told("allocate", 1, 5, "/x", page=0, pages=16384)
    recording.told("refuse", 2, 5, "/x", page=16384, pages=1, limit="size")
    recording.faults([(2, 16384, segment, process, 10, 3, 2, 0), (3, 1, segment, process, 10, 3, 1, 0)])
    assert "2 faults ended in SIGBUS, and no reason was recorded: on /x" in flat(
        show(analysed(recording.cut()))
    )
    holders = [{"path": f"/{i}", "bytes": (i + 1) * MIB, "processes": [process]} for i in range(5)]
    recording.event("sigbus", 2, "shmfs", process=process, tid=10, segment=segment, page=16384, path="/x",
                    reason="The mount is full.", limit=64 * MIB, holders=holders, enough="80m")  # fmt: skip
    text = show(analysed(recording.close(status=135)))
    told = flat(" ".join(section(text, "Deaths")))
    assert "loader 10 at 2 s, page 16,384 of /x: The mount is full (size=64m)." in told
    assert "Held by: /4 5 MiB, /3 4 MiB, /2 3 MiB and 2 more." in told
    assert "The first was held by loader 10." in told
    assert "At least size=80m is needed; to find the value, run again with `-o size=0`" in told
    assert told.endswith("2 times.")
    assert "no reason was recorded" not in told
    assert "charge" not in told
    assert "SIGBUS (exit 135)" in text
    assert "at least: something was refused" in flat(text)
    assert "is enough" not in text


def test_a_reason_that_explains_all_is_not_said_twice(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    process = recording.process(10, "loader")
    reason = "the limit of 4 MiB is reached; it is held by /a 3 MiB; size=6m would hold every file in full"
    recording.event("sigbus", 2, "shmfs", process=process, tid=10, segment=None, page=256, path="/b",
                    reason=reason, limit=4 * MIB, enough="6m",
                    holders=[{"path": "/a", "bytes": 3 * MIB, "processes": []}])  # fmt: skip
    told = flat(" ".join(section(show(analysed(recording.close())), "Deaths")))
    assert told.endswith(f"loader 10 at 2 s, page 256 of /b: {reason} (size=4m).")


def test_the_rest_is_summed(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    process = recording.process(10, "a")
    for number in range(30):
        segment = recording.segment(number + 2, f"/{number}")
        recording.touch(process, 10, segment, range(100 + number), 1, 2)
    text = show(analysed(recording.close()))
    lines = section(text, "Segments")
    assert [line.split()[0] for line in lines[2:22]] == [f"/{number}" for number in range(29, 9, -1)]
    assert lines[22:] == ["… and 10 segments more: 1,045 faults on 1,045 pages"]
    assert section(text, "Faults by")[-1] == f"… and 18 pairs more: {sum(range(100, 118)):,} faults"


def test_an_empty_trace(tmp_path):
    text = show(analysed(Recording(tmp_path / "x.shmtrace").close(status=0)), 40)
    assert "0 segments" in text
    assert "nothing was recorded" in text
    assert not any(title in text for title in ("Segments", "Processes", "Sizing"))


def test_the_result_is_json(analysis):
    again = msgspec.json.decode(msgspec.json.encode(analysis), type=type(analysis))
    assert again == analysis


@pytest.mark.parametrize(
    ("counts", "cells", "line"),
    [
        ([], 5, ""),
        ([0, 1, 4, 8], 9, " ▁▄█"),
        ([1, 1, 2, 2], 2, "▄█"),
        ([1000, 1], 9, "█▁"),
        ([3, 0, 0], 9, "█"),
    ],
)
def test_sparklines(counts, cells, line):
    assert sparkline(counts, cells) == line


SMALL = st.integers(-1, 3)
WIDE = st.one_of(st.integers(0, 200), st.integers(-(2**63), 2**64 - 1))
VALUES = {
    **dict.fromkeys(("process", "segment", "inode", "pid", "parent", "tid", "nlink", "page", "pages"), SMALL),
    **dict.fromkeys(
        ("length", "count", "size", "pss", "uss", "limit", "status", "start_time"), st.integers()
    ),
    **dict.fromkeys(("path", "old_path", "command", "of", "reason", "enough", "device"), st.text(max_size=5)),
    "mode": st.sampled_from([0o100600, 0o40700]),
    "observer": st.text(max_size=5),
    "figures": st.lists(st.sampled_from(["fault", "events", "sample", "resident", "x"]), max_size=3),
    "holders": st.lists(
        st.fixed_dictionaries({"path": st.text(max_size=3), "bytes": SMALL, "processes": st.lists(SMALL)}),
        max_size=3,
    ),
}
ODD = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))


@st.composite
def events(draw):
    kind = draw(st.sampled_from(sorted(KINDS)))
    event = {name: draw(values) for name, values in VALUES.items()}
    if not draw(st.integers(0, 5)):
        event[draw(st.sampled_from(sorted(VALUES)))] = draw(ODD)
    if not draw(st.integers(0, 5)):
        del event[draw(st.sampled_from(sorted(VALUES)))]
    at = draw(st.one_of(st.integers(START, START + 10**10), st.integers(-(2**63), 2**64)))
    return {"event": kind, "time": at, "source": "fuse"} | event


@settings(deadline=None, phases=[Phase.reuse, Phase.generate])  # a smaller example would take minutes
@given(st.lists(events(), max_size=12), st.sampled_from([40, 120]))
def test_events_that_make_no_sense_do_no_harm(several, width):
    with tempfile.TemporaryDirectory() as directory:
        recording = Recording(Path(directory) / "x.shmtrace")
        for event in several:
            recording.writer.event(**event)
        recording.touch(0, 10, 1, range(3), 1, 2)
        analysis = analysed(recording.close())
    assert show(analysis, width)
    assert msgspec.json.encode(analysis)


@pytest.mark.parametrize("mode", [1 << 70, -1])
def test_a_mode_that_is_none(tmp_path, mode):
    recording = Recording(tmp_path / "x.shmtrace")
    recording.create(5, "/a", 0.1, 100, mode=mode)
    assert show(analysed(recording.close()))


@pytest.mark.parametrize("since", [-1, 1 << 63, 10**40, None, "now"])
def test_a_time_of_a_failure_that_is_none(tmp_path, since):
    recording = Recording(tmp_path / "x.shmtrace")
    recording.event("stale", 1, "fuse", observer="log", figures=["events"], reason="x", since=since)
    analysis = analysed(recording.close())
    assert (analysis.stale, analysis.losses.unreadable) == ([], 1)
    assert show(analysis)


@pytest.mark.parametrize("kind", ["page_in", "allocate", "free", "read", "write"])
@pytest.mark.parametrize("path", [None, 7, [1]])
def test_a_frequent_event_that_names_a_segment_wrongly(tmp_path, kind, path):
    """Only the first one of a segment is checked."""
    recording = Recording(tmp_path / "x.shmtrace")
    recording.told(kind, 0.5, 5, path, page=0, pages=1, pid=10, length=1)
    analysis = analysed(recording.close())
    assert analysis.losses.unreadable == 1
    assert show(analysis)
