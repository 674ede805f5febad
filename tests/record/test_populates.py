"""Which of the calls that could not bring pages in are refusals: what is proven, and by what."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shmfs.analysis.surveys import Survey
from shmfs.client import tmpfs
from shmfs.events.records import Refusal, Segment, Statistics
from shmfs.record import populates
from shmfs.record.attribution import Area, Attribution, Space
from shmfs.record.populates import Populates
from shmfs.record.recording import Recording, Subject
from shmfs.system import mounts, syscall_table, syscalls
from shmfs.tracing import probe
from shmfs.tracing.changes import FailedCall

PAGE = 4096
BASE = 0x7F00_0000_0000
PID = 10
NUMBERS = {name: number for number, name in syscall_table.NAMES.items()}

pytestmark = pytest.mark.skipif(not NUMBERS, reason="the numbers of system calls are not known")


class Known:
    """In place of the registry: one process and its files."""

    def file(self, segment: int) -> tuple[int, str]:
        return 100 + segment, f"/file{segment}"

    def name(self, pid: int) -> str:
        return "python3"


class Explained:
    """In place of `Deaths`: keeps what it gets, and says what is in the file system."""

    def __init__(self, statistics: Statistics | None) -> None:
        self.statistics = statistics
        self.surveys = 0
        self.refusals: list[Refusal] = []

    def look(self) -> Survey:
        self.surveys += 1
        return Survey(self.statistics, 0)

    def refused(self, refusal: Refusal, survey: Survey | None = None) -> None:
        self.refusals.append(refusal)


def full(*, used: int = 64, resident: int = 4, size: int = 16, limit: int = 64) -> Statistics:
    """A file system of `limit` pages with two files; all in pages."""
    files = [
        Segment(inode=100 + number, path=f"/file{number}", size=size * PAGE, resident=resident,
                peak_resident=resident, page_ins=0, created_by=None, opened_by=[], created=0, nlink=1,
                open_handles=0, evicted=False, refused=0, opens_dropped=0)
        for number in range(2)
    ]  # fmt: skip
    return Statistics(
        pid=1, started=0, mount="/m", options="", store="native", readahead=0, size_limit=limit * PAGE,
        used=used * PAGE, peak=used * PAGE, inode_limit=0, inodes_used=0, inodes_peak=0, refused=0,
        page_ins=0, lost_records=0, notes=[], segments=files, segments_dropped=0, device="0:1", backing="",
    )  # fmt: skip


def call(name: str = "madvise", first: int = 0, pages: int = 16, **more: Any) -> FailedCall:
    place = BASE + first * PAGE, pages * PAGE, 23
    error = 14 if name == "madvise" else 12
    return FailedCall(more.pop("time", 5), PID, PID, NUMBERS[name], place, error, **more)


def report(failed: FailedCall, statistics: Statistics | None) -> list[tuple[str, str, str, int]]:
    """Errno, call, limit and inode of what is reported; two files are mapped, 16 pages each."""
    attribution = Attribution(lambda mapped: -1, None, lambda pid: 0, lambda change, areas: None)
    attribution.spaces[PID] = Space()
    for number in range(2):
        start = BASE + 32 * number * PAGE
        attribution.spaces[PID].put(Area(start, start + 16 * PAGE, 0, number))
    explained: Any = Explained(statistics)
    known: Any = Known()
    tried = Populates(known, attribution, 0)
    tried.take([failed], explained)
    assert explained.refusals == []
    for _ in range(2):
        tried.explain(failed, explained)
    assert tried._waiting == {}
    return [(one.errno, one.call, one.limit_name, one.inode) for one in explained.refusals]


@pytest.mark.parametrize(("first", "inode"), [(0, 100), (15, 100), (16, 101), (40, 101), (-4, 100)])
def test_the_segment_that_the_range_overlaps(first: int, inode: int) -> None:
    pages = 17 if first == 16 else 16
    assert report(call(first=first, pages=pages), full()) == [("EFAULT", "madvise", "size", inode)]


@pytest.mark.parametrize(
    ("failed", "statistics"),
    [
        (call(first=16), full()),  # between the files
        (call(first=100), full()),
        (call(first=-16), full()),
        (call(), full(used=63)),  # there is a page
        (call(), full(limit=0)),  # no limit: a control group, or no memory at all
        (call(), full(resident=16)),  # it has all of its pages, so the range goes beyond the end
        (call(), full(size=0, resident=0)),
        (call(), None),
        (call("mlock"), full()),  # RLIMIT_MEMLOCK is not known
    ],
)
def test_nothing_without_proof(failed: FailedCall, statistics: Statistics | None) -> None:
    assert report(failed, statistics) == []


@pytest.mark.parametrize(
    ("memlock", "locked", "limit"),
    [
        (probe.UNLIMITED, None, "size"),
        (15, 0, "RLIMIT_MEMLOCK"),  # the call alone is beyond it
        (15, None, "RLIMIT_MEMLOCK"),
        (16, 0, "size"),
        (20, 10, "RLIMIT_MEMLOCK"),  # 10 of others; the range is not among them
        (40, 24, "size"),
        (20, 16, None),  # the range, or others
        (20, None, None),
    ],
)
def test_what_may_be_locked(
    memlock: int, locked: int | None, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(populates, "_locked", lambda pid: None if locked is None else locked * PAGE)
    allowed = memlock if memlock == probe.UNLIMITED else memlock * PAGE
    expected = [] if limit is None else [("ENOMEM", "mlock", limit, 100)]
    for name in ("mlock", "mlock2"):
        assert report(call(name, memlock=allowed), full()) == expected


def test_what_this_process_has_locked() -> None:
    assert populates._locked(os.getpid()) is not None
    assert populates._locked(1 << 30) is None


def test_one_survey_for_all() -> None:
    explained: Any = Explained(full())
    known: Any = Known()
    attribution = Attribution(lambda mapped: -1, None, lambda pid: 0, lambda change, areas: None)
    Populates(known, attribution, 0).take([call(time=time) for time in range(100)], explained)
    assert explained.surveys == 1


PROGRAM = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
for name in ("mlock", "madvise"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * (name == "madvise")
fd = os.open(sys.argv[1] + "/f", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 300 * 4096)
address = libc.mmap(None, 300 * 4096, 3, 1, fd, 0)
os.close(fd)
libc.madvise(address, 300 * 4096, 23), libc.mlock(address, 300 * 4096)
"""


@pytest.mark.skipif(bool(probe.why_not()), reason=probe.why_not() or "permitted")
def test_a_program_on_a_kernel_tmpfs_that_ends_at_once(tmp_path: Path) -> None:
    place = tmp_path / "mount"
    place.mkdir()
    syscalls.mount("tmpfs", str(place), "tmpfs", 0, f"size={256 * PAGE}")
    try:
        mount = mounts.find(str(place))
        assert mount is not None
        subject = Subject(str(place), mount.device, "tmpfs", mount.options, 256 * PAGE)
        survey = partial(tmpfs.survey, str(place), mount.device)
        recording = Recording(str(tmp_path / "trace"), subject, ask=survey)
        try:
            recording.start()
            subprocess.run([sys.executable, "-S", "-c", PROGRAM, str(place)], check=True, timeout=60)
            recording.catch_up()
        finally:
            recording.stop()
        found = recording.explained.calls
    finally:
        syscalls.umount(str(place))
    assert [(one.errno, one.call, one.path, one.asked) for one in found] == [
        ("EFAULT", "madvise", "/f", 300 * PAGE),
        ("ENOMEM", "mlock", "/f", 300 * PAGE),
    ]
    assert {(one.limit_name, one.limit, one.enough) for one in found} == {("size", 256 * PAGE, "2m")}
