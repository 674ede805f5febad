"""Budgets: how they are written, and what is said of one that was exceeded."""

from typing import Any

import msgspec
import pytest

from shmfs.analysis import budgets
from shmfs.analysis.budgets import Ended, Faults, parse
from shmfs.daemon.history import MAX_ENDED, History
from shmfs.errors import ShmfsError
from shmfs.events.records import Process, Segment, Statistics

STATISTICS = {
    "mount": "/dev/shm",
    "device": "0:57",
    "options": "",
    "size_limit": 0,
    "used": 0,
    "peak": 3 << 20,
    "inode_limit": 0,
    "inodes_used": 1,
    "inodes_peak": 1,
    "readahead": 0,
    "store": "managed",
    "pid": 1,
    "started": 0,
    "lost_records": 0,
    "notes": [],
    "segments": [],
    "page_ins": 7,
}
SEGMENT = Segment(
    inode=2,
    path="/frames",
    size=12288,
    resident=3,
    peak_resident=3,
    page_ins=3,
    created_by=Process(77, "render", 5),
    opened_by=[],
    created=0,
    nlink=1,
    open_handles=0,
    evicted=False,
    refused=0,
)
GONE = msgspec.structs.replace(SEGMENT, path="/gone", nlink=0, evicted=True)


def ended(status: int = 0, faults: Faults | None = None, **fields: Any) -> Ended:
    return Ended(status, msgspec.convert(STATISTICS, Statistics) if not fields else made(fields), faults)


def made(fields: dict[str, Any]) -> Statistics:
    return msgspec.structs.replace(msgspec.convert(STATISTICS, Statistics), **fields)


@pytest.mark.parametrize(
    ("text", "figure", "comparison", "limit"),
    [
        ("leak", "leak", ">", 0),
        (" refused ", "refused", ">", 0),
        ("sigbus", "sigbus", ">", 0),
        ("faults.major>100", "faults.major", ">", 100),
        ("faults >= 3", "faults", ">=", 3),
        ("peak<=64m", "peak", "<=", 64 << 20),
        ("peak>64 MiB", "peak", ">", 64 << 20),
        ("segments==0", "segments", "==", 0),
        ("leak<1", "leak", "<", 1),
    ],
)
def test_what_is_a_budget(text: str, figure: str, comparison: str, limit: int) -> None:
    assert parse(text)[1:] == (figure, comparison, limit)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("leek", "'leek' is no budget: it is leak, refused, sigbus, or a comparison"),
        ("", "is no budget"),
        ("faults=>3", "is no budget"),
        ("faults!=3", "is no budget"),
        ("faults.huge>3", "faults.major"),
        ("faults", "'faults' lacks a comparison, as in faults>100"),
        ("peak", "as in peak>64m"),
        ("peak>", "'' is no number"),
        ("faults>64m", "'64m' is no number, as in faults>100"),
        ("faults>-1", "no number"),
        ("faults>²", "no number"),
    ],
)
def test_what_is_none(text: str, complaint: str) -> None:
    with pytest.raises(ShmfsError) as raised:
        parse(text)
    assert complaint in str(raised.value)
    assert raised.value.status == 2


def test_every_figure_is_in_the_hint_and_can_be_measured() -> None:
    everything = ended(faults=Faults(minor=1))
    for name, figure in budgets.FIGURES.items():
        with pytest.raises(ShmfsError, match=name.replace(".", r"\.")):
            parse("leek")
        assert figure.measure(everything) is not None


@pytest.mark.parametrize(
    ("text", "fields", "sentence"),
    [
        (
            "leak",
            {"segments": [SEGMENT, GONE]},
            "1 segment left behind with a name: /frames (12 KiB, made by render 77) (fuse, exact)",
        ),
        ("leak", {"segments": [GONE]}, None),
        ("peak>2m", {"peak": 3 << 20}, "3 MiB (3145728 bytes in use at once) (mm, exact)"),
        ("peak>3m", {"peak": 3 << 20}, None),
        ("peak>=3m", {"store": "native"}, "3 MiB (3145728 bytes in use at once) (mm, sampled)"),
        ("segments>1", {"segments": [SEGMENT], "segments_dropped": 4}, "5 segments (fuse, exact)"),
        ("segments==1", {"segments": [SEGMENT]}, "1 segment (fuse, exact)"),
        ("page_ins>6", {"page_ins": 7}, "7 page-ins (fuse, exact)"),
        (
            "page_ins>6",
            {"page_ins": None, "store": "native"},
            "page-ins could not be measured: with native pages the kernel serves them by itself; use"
            " -o pages=managed",
        ),
        ("refused", {"refused": 2}, "2 allocations that a limit refused (mm, exact)"),
        ("refused", {"refused": 0}, None),
        ("lost>0", {"lost_records": 2}, "2 lost records (perf, fuse, mm)"),
    ],
)
def test_what_the_daemon_knows(text: str, fields: dict[str, Any], sentence: str | None) -> None:
    expected = sentence and f"--fail-on {text}: {sentence}"
    assert parse(text).broken(ended(**fields)) == expected


@pytest.mark.parametrize(
    ("text", "faults", "sentence"),
    [
        ("faults.major>2", Faults(major=3), "3 major page faults (perf, exact)"),
        ("faults.major>2", Faults(minor=9, major=2), None),
        ("faults>=6", Faults(1, 2, 3), "6 page faults (perf, exact)"),
        ("faults.minor<1", Faults(), "0 minor page faults (perf, exact)"),
        ("faults.failed>0", Faults(failed=1), "1 failed page fault (perf, exact)"),
        ("sigbus", Faults(failed=1), "1 touched page that ended in SIGBUS (perf, exact)"),
        ("sigbus", Faults(major=1), None),
        ("faults>0", Faults(1, lost=4), "1 page fault (perf, at least: 4 records were lost)"),
        ("faults>0", Faults(1, note="few are seen"), "1 page fault (perf, exact; few are seen)"),
        ("lost>3", Faults(lost=4), "4 lost records (perf, fuse, mm)"),
        ("faults>0", Faults(seen=False, note="forbidden"), "page faults could not be measured: forbidden"),
        ("faults>0", None, "page faults could not be measured: nothing was recorded"),
    ],
)  # fmt: skip
def test_what_was_recorded(text: str, faults: Faults | None, sentence: str | None) -> None:
    assert parse(text).recorded
    expected = sentence and f"--fail-on {text}: {sentence}"
    assert parse(text).broken(ended(faults=faults)) == expected


def test_a_sigbus_shows_in_the_exit_status_too() -> None:
    unseen = Faults(seen=False, note="it is forbidden")
    told = parse("sigbus").broken(ended(135, unseen))
    assert told == "--fail-on sigbus: 1 touched page that ended in SIGBUS (the command's exit status)"
    assert "could not be measured" in str(parse("sigbus").broken(ended(0, unseen)))


def test_what_was_forgotten_is_counted() -> None:
    """More segments than the daemon remembers, and refusals that are of no segment."""
    history = History()
    for inode in range(2, MAX_ENDED + 12):
        history.create(inode, f"/{inode}", 0o100600, 0)
        history.page_in(inode, 0, 2)
        history.evict(inode)
    history.refuse(1, 0, 0, "nr_inodes")
    assert history.segments_dropped == 10
    assert history.page_ins() == 2 * (MAX_ENDED + 10)
    assert history.refused == 1
