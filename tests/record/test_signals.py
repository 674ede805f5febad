"""Signals and failed calls as the kernel reports them: what becomes of each."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shmfs.analysis.deaths import Touched
from shmfs.events.records import Refusal
from shmfs.record.attribution import Area, Attribution
from shmfs.record.registry import Registry
from shmfs.record.signals import Failures
from shmfs.system import syscall_table
from shmfs.tracing.changes import Change, FailedCall, Failure, Mmap, Signal, Unfollow, Written
from shmfs.tracing.decode import in_order
from shmfs.tracing.probe import SI_KERNEL, SIGBUS, SIGXFSZ

pytestmark = pytest.mark.skipif(
    not syscall_table.NAMES, reason="system calls of this architecture are not known"
)

GONE = (1 << 22) + 7
"""No pid."""
DEVICE = 0, 57
BASE = 0x7000_0000
OFFSET = 10**18
NUMBERS = {name: number for number, name in syscall_table.NAMES.items()}


class Explained:
    """In place of Deaths."""

    def __init__(self) -> None:
        self.surveyed: list[int] = []
        self.strays: list[tuple[int, str, int]] = []
        self.faults: list[Touched] = []
        self.calls: list[Refusal] = []

    def survey(self, pid: int) -> None:
        self.surveyed.append(pid)

    def stray(self, pid: int, why: str, when: int, *, sent: bool = False) -> None:
        self.strays.append((pid, why, when))

    def failed(self, fault: Touched) -> None:
        self.faults.append(fault)

    def refused(self, refusal: Refusal) -> None:
        self.calls.append(refusal)


class Sink:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **fields: None


class Session:
    def __init__(
        self, device: tuple[int, int] = DEVICE, *, recorded: bool = False, served: bool = False
    ) -> None:
        self.known = Registry(Sink(), device, "/dev/shm", OFFSET)
        attribution = Attribution(
            self.known.segment, None, lambda pid: self.known.process(pid, 0), self._change,
            written=self.known.is_written,
        )  # fmt: skip
        self.known.begin(GONE, 0, command="x")
        segment = self.known.segment(Mmap(0, GONE, BASE, 4096, 0, device, 5, 3, 1, b"/dev/shm/a"))
        attribution.add(GONE, [Area(BASE, BASE + 8 * 4096, 100, segment)])
        self.failures = Failures(device, self.known, attribution, OFFSET, recorded=recorded, served=served)
        self.deaths = Explained()
        self.failures.deaths = self.deaths  # type: ignore[assignment]

    def _change(self, change: Change, areas: list[Area]) -> None:
        if isinstance(change, Failure):
            self.failures.explain(change)

    def take(self, *happened: Signal | FailedCall) -> Explained:
        return self.feed(*self.read(*happened))

    def read(self, *happened: Signal | FailedCall) -> list[Failure]:
        return self.failures.take(
            [one for one in happened if isinstance(one, Signal)],
            [one for one in happened if isinstance(one, FailedCall)],
        )

    def feed(self, *changes: Change) -> Explained:
        self.failures._attribution.feed(in_order([]), sorted(changes, key=lambda one: one.time))
        return self.deaths


def signal(**fields: Any) -> Signal:
    made = Signal(1000, GONE, GONE, SIGBUS, 2, BASE + 3 * 4096 + 5, 0, 0, (0, 0, 0), None)
    return made._replace(**fields)


def failed(name: str, *arguments: int, **fields: Any) -> FailedCall:
    padded = (*arguments, 0, 0, 0)[:3]
    return FailedCall(1000, GONE, GONE, NUMBERS[name], padded, 28, written())._replace(**fields)


def written(inode: int = 5, device: tuple[int, int] = DEVICE, limit: int = 4096) -> Written:
    return Written(device, inode, limit)


def test_a_page_of_the_mount() -> None:
    found = Session().take(signal(tid=GONE + 1))
    assert found.faults == [Touched(0, GONE, GONE + 1, "x", 0, 5, "/a", 103, OFFSET + 1000)]
    assert (found.surveyed, found.strays) == ([GONE], [])


def test_faults_that_are_recorded_are_not_reported_twice() -> None:
    found = Session(recorded=True).take(signal())
    assert (found.faults, found.surveyed) == ([], [GONE])


def test_what_is_not_mapped_from_the_mount_is_not_its_fault() -> None:
    found = Session().take(signal(address=0xDEAD000))
    [(pid, why, when)] = found.strays
    assert (found.faults, pid, when) == ([], GONE, OFFSET + 1000)
    assert why == "it touched address 0xdead000, where no file of this mount is mapped"


def test_where_mappings_are_missing_nothing_is_claimed() -> None:
    one = Session()
    one.failures._attribution.tasks.unfollowed(Unfollow(0, GONE))
    [(_, why, _)] = one.take(signal(address=0xDEAD000)).strays
    assert why.startswith("it touched address 0xdead000, of an unknown file, because the kernel ended")


@pytest.mark.parametrize(
    ("sender", "who"), [(9, "process 9"), (GONE, "the process itself"), (0, "another process")]
)
def test_a_signal_that_was_sent(sender: int, who: str) -> None:
    found = Session().take(signal(code=0, address=0, sender=sender))
    assert [why for _, why, _ in found.strays] == [f"{who} sent it"]
    assert (found.faults, found.surveyed) == ([], [])


def test_processes_that_are_not_followed() -> None:
    found = Session().take(signal(pid=GONE + 1), signal(pid=GONE + 2, code=0))
    assert (found.faults, found.strays) == ([], [])


def test_a_fault_waits_for_the_mappings_before_it_but_the_survey_does_not() -> None:
    one = Session()
    waiting = one.read(signal(time=2000), signal(time=1000))
    assert (one.deaths.faults, one.deaths.surveyed) == ([], [GONE, GONE])
    assert [fault.time - OFFSET for fault in one.feed(*waiting).faults] == [1000, 2000]


def test_a_handler_that_maps_over_the_page_does_not_hide_why_it_was_called() -> None:
    one = Session()
    waiting = one.read(signal(time=1000), signal(time=3000))
    over = Mmap(2000, GONE, BASE, 8 * 4096, 0, (0, 1), 9, 3, 0x32, b"//anon")
    found = one.feed(over, *waiting)
    assert [fault.time - OFFSET for fault in found.faults] == [1000]
    assert [when - OFFSET for _, _, when in found.strays] == [3000]


@pytest.mark.parametrize(
    ("call", "arguments", "asked"),
    [("write", (3, 0, 4000), 4000), ("pwrite64", (3, 0, 4000), 4000), ("writev", (3, 0, 2), 0),
     ("sendfile", (3, 4, 0), 0), ("splice", (4, 0, 3), 0), ("copy_file_range", (4, 0, 3), 0),
     ("fallocate", (3, 0, 0), 0)],
)  # fmt: skip
def test_a_call_without_space(call: str, arguments: tuple[int, ...], asked: int) -> None:
    [refusal] = Session().take(failed(call, *arguments)).calls
    name = syscall_table.WRITERS[NUMBERS[call]].name
    assert (refusal.errno, refusal.call, refusal.limit_name, refusal.limit) == ("ENOSPC", name, "size", 0)
    assert (refusal.pid, refusal.process, refusal.path, refusal.inode) == (GONE, "x", "/a", 5)
    assert (refusal.asked, refusal.time, refusal.page) == (asked, OFFSET + 1000, None)


@pytest.mark.parametrize(("call", "arguments"), [("write", (3, 0, 4000)), ("ftruncate", (3, 4000, 0))])
@pytest.mark.parametrize("limit", [100, 0, (1 << 64) - 1])
def test_a_file_that_may_not_be_so_large(call: str, arguments: tuple[int, ...], limit: int) -> None:
    about = {
        "number": SIGXFSZ,
        "code": SI_KERNEL,
        "address": 0,
        "call": NUMBERS[call],
        "arguments": arguments,
    }
    [refusal] = Session().take(signal(**about, file=written(limit=limit))).calls
    assert (refusal.errno, refusal.limit_name, refusal.asked) == ("EFBIG", "RLIMIT_FSIZE", 4000)
    assert refusal.limit == (100 if limit == 100 else 0)


def test_the_call_that_sigxfsz_came_with_is_reported_once() -> None:
    assert Session().take(failed("write", 3, 0, 1, error=27)).calls == []


@pytest.mark.parametrize("served", [True, False])
def test_fallocate_is_left_to_the_daemon(served: bool) -> None:
    one = Session(served=served)
    calls = [failed("fallocate", 3, 0, 0), failed("write", 3, 0, 1, time=2000)]
    assert [refusal.call for refusal in one.take(*calls).calls] == ["fallocate"] * (not served) + ["write"]


def test_a_quota() -> None:
    [refusal] = Session().take(failed("write", 3, 0, 1, error=122)).calls
    assert (refusal.errno, refusal.limit_name) == ("EDQUOT", "quota")


@pytest.mark.parametrize(
    "fields",
    [
        {"file": written(device=(0, 58))},
        {"file": None},  # and its process has ended
        {"call": 0},  # of 32 bits
        {"call": 9999},  # one that writes to no descriptor
    ],
)
def test_calls_that_are_not_about_the_mount(fields: dict[str, Any]) -> None:
    assert Session().take(failed("write", 0, 0, 1, **fields)).calls == []


def test_a_file_that_nobody_has_mapped_has_no_path() -> None:
    """Its process has ended; who explains it surveys the file system."""
    [refusal] = Session().take(failed("write", 3, 0, 1, file=written(inode=6))).calls
    assert (refusal.path, refusal.inode) == ("", 6)


def test_the_name_of_a_process_whose_exec_was_not_read_yet() -> None:
    one = Session()
    one.known.begin(GONE + 1, 0, command="sh")
    waiting = one.read(failed("write", 3, 0, 1, pid=GONE + 1))
    [refusal] = one.deaths.calls
    assert refusal.process == ""
    one.known.execute(GONE + 1, 0, "dd")
    one.feed(*waiting)
    assert refusal.process == "dd"


def test_the_name_of_a_process_that_maps_nothing() -> None:
    """A recording of everybody only notes what it executes."""
    one = Session()
    one.known.note(GONE + 1, "dd")
    [refusal] = one.take(failed("write", 3, 0, 1, pid=GONE + 1)).calls
    assert refusal.process == "dd"


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., tuple[int, int, os.stat_result]]:
    """A descriptor of this process, and its file."""

    def make(name: str) -> tuple[int, int, os.stat_result]:
        fd = os.open(tmp_path / name, os.O_CREAT | os.O_RDWR)
        status = os.fstat(fd)
        return fd, status.st_ino, status

    return make


@pytest.mark.parametrize("known", [True, False])
def test_the_path_of_a_process_that_lives(mine: Any, known: bool) -> None:
    fd, inode, status = mine("file")
    device = os.major(status.st_dev), os.minor(status.st_dev)
    file = written(inode, device) if known else None
    try:
        about = {"pid": os.getpid(), "tid": os.getpid(), "file": file}
        [refusal] = Session(device).take(failed("write", fd, 0, 1, **about)).calls
    finally:
        os.close(fd)
    assert refusal.path.endswith("/file")
    assert (refusal.inode, refusal.pid) == (inode, os.getpid())


def test_a_descriptor_that_is_of_another_file_by_now(mine: Any) -> None:
    fd, inode, status = mine("file")
    device = os.major(status.st_dev), os.minor(status.st_dev)
    try:
        about = {"pid": os.getpid(), "tid": os.getpid(), "file": written(inode + 1, device)}
        [refusal] = Session(device).take(failed("write", fd, 0, 1, **about)).calls
    finally:
        os.close(fd)
    assert (refusal.inode, refusal.path) == (inode + 1, "")


def test_without_deaths_nothing_is_kept() -> None:
    one = Session()
    one.failures.deaths = None
    assert one.read(signal(), failed("write", 3, 0, 1)) == []
    assert (one.failures._unnamed, one.failures._populates._waiting) == ({}, {})


def test_numbers_of_this_machine() -> None:
    assert platform.machine() in ("x86_64", "aarch64")
    assert {"write", "ftruncate", "fallocate", "copy_file_range"} <= set(NUMBERS)
