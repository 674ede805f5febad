"""The report: right figures, nothing hidden, at any width, whatever the names are."""

import io
import json
import re

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from shmfs.events.records import (
    Death,
    Holder,
    Mapped,
    Observation,
    Observations,
    Process,
    Refusal,
    Segment,
    Statistics,
)
from shmfs.report.run_report import RunReport, build, render, report_json
from shmfs.report.text import clean, clip, size

MIB = 1 << 20


def process(pid, command="python3"):
    return Process(pid, command, pid * 10)


def segment(inode=2, path="/psm_1", **changes):
    made = Segment(
        inode=inode, path=path, size=8 * MIB, resident=0, peak_resident=2048, page_ins=2048,
        created_by=process(10), opened_by=[process(10), process(11)], created=1, nlink=0,
        open_handles=0, evicted=True, refused=0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def refusal(**changes):
    made = Refusal(
        "ENOSPC", "fallocate", "size", 64 * MIB, 2 * MIB, 10, 10, "python3", "/a", 2, 0, 1,
        [Holder("/big", 63 * MIB, 9, "python3"), Holder("", MIB)], "66m",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def statistics(*segments, **changes):
    made = Statistics(
        mount="/dev/shm", device="0:57", options="size=64m", size_limit=64 * MIB, used=0,
        peak=36 * MIB + 4096, inode_limit=1000, inodes_used=1, inodes_peak=5, readahead=0, store="managed",
        pid=1, started=1, lost_records=0, notes=[], segments=list(segments),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


OBSERVATIONS = Observations(
    "0:57", 160, 0.021, 0,
    [Observation(2, "/psm_1", [Mapped(process(10 + n), 2000, 8 * MIB) for n in range(4)], 1999, 150)],
)  # fmt: skip


def show(report, width=80, encoding="utf-8", color=False):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    render(
        report,
        Console(file=file, width=width, force_terminal=color, color_system="truecolor" if color else None),
    )
    file.flush()
    return raw.getvalue().decode(encoding)


def flat(text):
    return " ".join(text.split())


def make(*segments, observations=OBSERVATIONS, status=0, command=("python3", "film.py"), **changes):
    return build(statistics(*segments, **changes), observations, command, status, 3.2145)


def test_the_plain_case():
    report = make(segment())
    assert (report.processes, report.enough, report.linked, report.unlinked) == (4, "37m", [], [])
    text = show(report)
    assert "python3 film.py" in text
    assert "exit 0 after 3.21 s · 1 segment · 4 processes" in text
    assert "36.0 MiB of 64 MiB (56 %) · size=37m would have been enough" in text
    row = next(line for line in text.splitlines() if line.startswith("/psm_1"))
    assert row.split() == [
        "/psm_1",
        "8",
        "MiB",
        "2,048",
        "2,048",
        "python3",
        "10",
        "python3",
        "\u00d74",
        "1,999",
    ]
    footer = flat(text)
    assert "exact (fuse, mm)" in footer
    assert "sampled, 160 samples every ~21 ms (pagemap)" in footer
    assert not any(word in text for word in ("left", "held", "full", "lost", "note"))
    assert "\x1b" not in text


@pytest.mark.parametrize(("peak", "enough"), [(0, "1m"), (1, "1m"), (MIB, "1m"), (MIB + 4096, "2m")])
def test_enough_is_whole_mebibytes(peak, enough):
    assert make(segment(), peak=peak).enough == enough


def test_largest_first_and_the_rest_is_counted():
    segments = [segment(inode, f"/{inode}", peak_resident=inode) for inode in range(2, 32)]
    text = show(make(*segments))
    names = [line.split()[0] for line in text.splitlines() if line.startswith("/")]
    assert names == [f"/{inode}" for inode in range(31, 11, -1)]
    assert f"… and 10 more, peaks of {size(sum(range(2, 12)) * 4096)} in all" in text
    assert "30 segments" in text


def test_of_a_full_native_store_no_size_is_promised():
    report = make(segment(), store="native", peak=64 * MIB)
    assert (report.enough, report.refused) == (None, 0)
    assert "peak 64 MiB of 64 MiB (100 %) · perhaps not enough" in flat(show(report))


def test_of_native_pages_the_peak_is_a_lower_bound():
    report = make(segment(), store="native", peak=48 * MIB - 4096)
    assert (report.enough, report.needed) == (None, "48m")
    text = flat(show(report))
    assert "peak 48.0 MiB of 64 MiB (75 %) · at least size=48m; the peak of native pages is sampled" in text
    assert "enough" not in text


def test_of_native_pages_what_was_refused_is_not_below_the_peak():
    one = refusal(enough="40m")
    report = make(segment(), store="native", peak=48 * MIB, refused=1, refusals=[one])
    assert (report.enough, report.needed) == (None, "48m")
    assert "not enough: at least size=48m is needed" in flat(show(report))
    one = refusal(enough="80m")
    assert make(segment(), store="native", peak=48 * MIB, refused=1, refusals=[one]).needed == "80m"


def test_what_was_left_behind():
    report = make(
        segment(2, "/kept", evicted=False, nlink=1, resident=2048),
        segment(3, "/held", evicted=False, nlink=0, resident=1, open_handles=1),
        segment(4, "/gone"),
    )
    assert (report.linked, report.unlinked) == ([2], [3])
    text = flat(show(report))
    assert "left 1 segment still linked (8 MiB): /kept" in text
    assert "held 1 segment unlinked but still open or mapped (4 KiB): /held" in text


def test_refused_charges_are_told_and_no_size_is_promised():
    refusals = [
        refusal(count=2), refusal(pid=11), refusal(path="/b", inode=3, enough="80m", call="write"),
    ]  # fmt: skip
    report = make(segment(refused=3), status=135, peak=64 * MIB, refused=4, refusals=refusals)
    assert (report.enough, report.refused, report.needed) == (None, 4, "80m")
    text = flat(show(report))
    assert "SIGBUS (exit 135)" in text
    assert (
        "ENOSPC python3 (pid 10) asked for 2 MiB for /a (fallocate), but size=64m is reached. Held by: /big"
        " 63 MiB (created by python3, pid 9), a file without a name 1 MiB. At least size=66m is needed; to"
        " find the value, run again with `-o size=0` and read the peak. 3 times in all, by 2 processes."
    ) in text
    assert "asked for 2 MiB for /b (write)" in text
    assert "not enough: at least size=80m is needed" in text
    assert "would have been" not in text


def test_a_death_is_explained_and_the_refused_fault_behind_it_is_not_listed_again():
    died = Death(
        10, 12, "worker", "/a", 2, 2048, "the mount is full", 8 * MIB, [Holder("/a", 8 * MIB, 10, "worker")],
        "32m", 1, True,
    )  # fmt: skip
    fault = refusal(errno="SIGBUS", call="page fault", pid=10, inode=2, enough="32m")
    figures = statistics(segment(refused=2), refused=2, refusals=[fault], size_limit=8 * MIB)
    report = build(figures, OBSERVATIONS, ["x"], 135, 1.0, [died])
    assert (report.deaths, report.refusals, report.needed) == ([died], [], "32m")
    text = flat(show(report))
    assert (
        "SIGBUS worker (pid 10, thread 12) touched page 2048 of /a, but the mount is full (size=8m). Held by:"
        " /a 8 MiB (created by worker, pid 10). At least size=32m is needed;"
    ) in text
    assert text.count("Held by") == 1
    encoded = json.loads(report_json(report))["deaths"][0]
    assert encoded["kind"] == "sigbus"
    assert {"pid", "process", "path", "page", "limit", "holders", "enough"} <= encoded.keys()


def test_a_limit_of_something_else_says_nothing_against_the_size():
    one = refusal(limit_name="shmmni", limit=50, asked=1, call="shmget", path="/SYSV00000000", page=None,
                  holders=[Holder("50 segments", 50 * 4096, 10, "python3")], enough="51")  # fmt: skip
    report = make(segment(), refused=1, refusals=[one])
    assert (report.enough, report.needed) == ("37m", None)
    assert "but shmmni=50 is reached. Held by: 50 segments 200 KiB (created by python3, pid 10)." in flat(
        show(report)
    )


def test_everything_that_is_missing_is_told():
    report = make(
        segment(), observations=None, lost_records=12, segments_dropped=2, inodes_peak=1000, readahead=32,
        notes=["no bdi\x07"],
    )  # fmt: skip
    text = flat(show(report))
    assert "12 records of the log" in text
    assert "2 ended segments" in text
    assert "3 segments" in text
    assert "all 1000 inodes" in text
    assert "with 32 pages of read-ahead" in text
    assert "mapped by, shared: not observed" in text
    assert "no bdi\\x07" in text
    row = next(line for line in show(report).splitlines() if line.startswith("/psm_1"))
    assert row.split()[-4:] == ["-", "(2", "opened)", "-"]


def test_refused_processes_are_told():
    observations = msgspec.structs.replace(OBSERVATIONS, hidden=2)
    assert "2 processes not readable" in flat(show(make(segment(), observations=observations)))


def test_no_segments():
    text = show(make(observations=Observations("0:57"), size_limit=0, peak=0, status=1))
    assert "0 segments · 0 processes" in text
    assert "0 B, no limit" in text
    assert "exit 1" in text


EVIL = ["/[red]x[/red]", "/a\x1b[31mb", "/new\nline", "/\u202egnp", "/\u6f22\u5b57" * 30, "/" + "x" * 254, ""]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_width_and_any_name(width, encoding):
    command = ["run", "\x1b]0;title\x07", "[bold]" * 100]
    segments = [
        segment(inode, path, evicted=False, nlink=inode % 2, refused=1, created_by=process(9, path[:15]))
        for inode, path in enumerate(EVIL, 2)
    ]
    text = show(make(*segments, command=command), width, encoding)
    for line in text.splitlines():
        assert line.isprintable()
        if encoding == "utf-8":
            assert cell_len(line) <= width, line
    assert "[red]x[/red]" in text
    if width >= 120:
        assert "\\x1b[31m" in text
        assert "/new\\nline" in text
        assert "\\u202e" in text
    assert "no name" in text


def test_colour():
    plain = show(make(segment()))
    text = show(make(segment()), color=True)
    assert "\x1b[" in text
    assert re.search(r"\x1b\[1;32m *1,999", text)
    assert len(text) > len(plain)


def test_a_narrow_console_gets_paragraphs():
    text = show(make(segment()), 40)
    assert "SEGMENT" not in text
    assert "size 8 MiB · pages 2,048" in text
    assert "page-ins 2,048 · created by python3 10 · mapped by python3 \u00d74 · shared 1,999" in flat(text)


def test_json():
    report = make(segment(), segment(3, "/never-sampled"))
    data = report_json(report)
    assert data.endswith(b"}\n")
    assert b"\n" not in data[:-1]
    assert msgspec.json.decode(data, type=RunReport) == report
    plain = msgspec.json.decode(data)
    assert [row["shared"] for row in plain["segments"]] == [None, 1999]
    assert {source["source"]: source["exact"] for source in plain["sources"]} == {
        "fuse": True, "mm": True, "pagemap": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (4096, "4 KiB"), (1536, "1.50 KiB"), (31 * MIB + 600_000, "31.6 MiB"),
        (16 << 30, "16 GiB"), (1 << 43, "8 TiB"), (1 << 53, "8 PiB"), ((1 << 63) - 1, "8 EiB"),
    ],
)  # fmt: skip
def test_size(number, text):
    assert size(number) == text


def test_clip_keeps_both_ends():
    assert clip("/abcdefghij", 7) == "/ab…hij"
    assert clip("/abc", 4) == "/abc"
    assert cell_len(clip("/" + "\u6f22" * 9, 8)) <= 8


def test_clean():
    assert clean("plain \u00e9 \u6f22") == "plain \u00e9 \u6f22"
    assert clean("\x00\u200b\ue000\U000e0001") == "\\x00\\u200b\\ue000\\U000e0001"
