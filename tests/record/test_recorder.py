"""What the recorder writes, by the records that the kernel would have written."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from shmfs.analysis.deaths import Touched
from shmfs.record import pending, recorder, signals
from shmfs.record.outcomes import FAILED, MAJOR, MINOR, UNKNOWN
from shmfs.record.recorder import Recorder
from shmfs.record.tasks import Life
from shmfs.tracefile import stream
from shmfs.tracefile.format import Meta
from shmfs.tracefile.writer import Writer
from shmfs.tracing.changes import Change, Exec, Exit, Fork, Mmap, Signal
from shmfs.tracing.decode import Decoded
from shmfs.tracing.perf import Event
from tests.cli.conftest import SHMFS
from tests.record.test_outcomes import samples

DEVICE = 0, 57
FAULT = Event.FAULT
GONE = 1 << 30
"""A pid above the largest that the kernel gives."""


class Ring(NamedTuple):
    records: list[Decoded]

    def read(self) -> Any:
        return self.records.pop() if self.records else b""


class FakePerf:
    """Events as if the kernel had written them."""

    def __init__(self, *, tracepoints: bool, ends: bool) -> None:
        self.tracepoints = tracepoints
        self.ends = ends or not tracepoints
        self.returns = not self.ends
        self.device = DEVICE
        self.faults = True
        self.filemap = False
        self.events: dict[int, Event] = {}
        self.rings = [Ring([])]
        self.pipe = os.pipe()
        self.followed: list[list[int]] = []
        self.refusal: OSError | None = None

    def fileno(self) -> int:
        return self.pipe[0]

    def enable(self) -> None:
        """Nothing is to be begun."""

    def tidy(self) -> None:
        """No events have ended."""

    def follow(self, tids: Iterable[int]) -> None:
        self.followed.append(list(tids))
        if self.refusal:
            raise self.refusal

    def close(self) -> None:
        for fd in self.pipe:
            os.close(fd)


class Explained:
    """In place of Deaths."""

    def __init__(self) -> None:
        self.faults: list[Touched] = []

    def failed(self, fault: Touched, survey: None = None) -> None:
        self.faults.append(fault)

    def told(self, event: dict[str, Any]) -> None:
        """The recorder looks at it itself."""

    def settle(self, *, last: bool = False) -> None:
        """Nothing waits."""

    def ended(self, process: Touched, status: int | None) -> None:
        """The faults are looked at."""

    def survey(self, pid: int) -> None:
        """There is no mount."""

    def stray(self, pid: int, why: str, when: int, *, sent: bool = False) -> None:
        """The faults are looked at."""


class Session:
    """A recorder that is fed by hand. Times are nanoseconds after its beginning."""

    def __init__(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        tracepoints: bool,
        everybody: bool,
        ends: bool,
    ) -> None:
        self.path = path / "trace"
        self.perf = FakePerf(tracepoints=tracepoints, ends=ends)
        self.events, events = os.pipe()
        self.daemon = os.fdopen(events, "wb", buffering=0)
        self.writer = Writer(self.path, Meta.here(mount="/nowhere", device="0:57", store="managed"))
        self.clock = time.monotonic()
        monkeypatch.setattr(recorder, "decode", lambda data, events, cpu: data)
        monkeypatch.setattr(recorder.time, "monotonic", lambda: self.clock)
        self.recorder = Recorder(
            *(self.writer, self.perf, DEVICE, "/nowhere"), everybody=everybody, events=self.events
        )
        self.deaths = Explained()
        self.recorder.deaths = self.deaths
        self.lives: dict[int, Life] = {}
        self.threads: list[int] = []
        """Those of process GONE beside the first; other threads have their process's number."""
        self.statuses: dict[int, int] = {}
        self.recorder._attribution.tasks._look = self.lives.get
        monkeypatch.setattr(self.recorder._statuses, "of", self.statuses.get)
        self.recorder._pending._status = self.statuses.get
        self.start = time.monotonic_ns()

    def round(
        self, *changes: Change, faults: list[tuple[Any, ...]] | None = None, lost: int = 0, last: bool = False
    ) -> None:
        """Hand in what has happened until now."""
        changes = tuple(change._replace(time=change.time + self.start) for change in changes)
        timed = [(when + self.start, *one) for when, *one in faults or []]
        read = samples(timed)
        read = read._replace(pid=np.where(np.isin(read.tid, self.threads), np.uint32(GONE), read.tid))
        found = Decoded([read] if timed else [], list(changes), lost)
        self.perf.rings[0].records.append(found)
        self.recorder._take_events()
        self.recorder._round(everything=True, last=last)

    def refuse(self, page: int, time: int, **fields: Any) -> None:
        """Have the daemon report a refusal."""
        event = {"event": "refuse", "inode": 1, "page": page, "pages": 1, "limit": "size", "path": "/a"}
        when = time + self.start + self.recorder._offset
        self.report(event | {"time": when, "source": "mm"} | fields)

    def report(self, event: dict[str, Any]) -> None:
        """Have the daemon report an event."""
        self.daemon.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def kinds(self) -> dict[int, list[int]]:
        """The kinds of the faults by page; ends the recording."""
        self.end()
        found: dict[int, list[int]] = {}
        for fault in np.sort(stream.Trace(self.path).fault_array(), order="time"):
            found.setdefault(int(fault["page"]), []).append(int(fault["kind"]))
        return found

    def end(self) -> None:
        self.round(last=True)
        self.writer.close({"status": None, "lost": 0})

    def close(self) -> None:
        self.daemon.close()
        os.close(self.events)
        self.perf.close()
        for fd in (self.recorder._wake_read, self.recorder._wake_write):
            os.close(fd)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: list[Session] = []

    def make(*, tracepoints: bool = False, everybody: bool = False, ends: bool = False) -> Session:
        how = {"tracepoints": tracepoints, "everybody": everybody, "ends": ends}
        made.append(Session(tmp_path, monkeypatch, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def begin(pid: int = GONE, time: int = 1) -> tuple[Change, ...]:
    """A process that maps the pages of inode 1 from its page 0 on."""
    return (
        Fork(time, pid, os.getpid(), pid),
        Exec(time + 1, pid, b"program"),
        Mmap(time + 2, pid, 0, 1 << 30, 0, DEVICE, 1, 3, 1, b"/nowhere/a"),
    )


def test_a_fault_without_an_end_is_no_failure(session: Any) -> None:
    one = session()
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.round(Exit(20, GONE, GONE))
    assert one.kinds() == {7: [UNKNOWN]}
    assert not one.deaths.faults


def test_a_repeated_fault_is_written_once(session: Any) -> None:
    one = session()
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.round(faults=[(11, GONE, FAULT, 7, 9), (12, GONE, Event.MINOR, 7, 9)])
    assert one.kinds() == {7: [MINOR]}


@pytest.mark.parametrize("fields", [{}, {"pid": GONE, "errno": 28}])
def test_a_refusal_proves_it_and_is_waited_for(session: Any, fields: dict[str, Any]) -> None:
    """The daemon's events and the kernel's records come by two ways."""
    one = session()
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.round(Exit(20, GONE, GONE))
    assert not one.deaths.faults
    one.clock += 0.1
    one.refuse(7, 15, **fields)
    one.round()
    ((fault),) = one.deaths.faults  # while the command lives on
    assert (fault.pid, fault.command, fault.page, fault.path) == (GONE, "program", 7, "/a")
    assert one.kinds() == {7: [FAILED]}


@pytest.mark.parametrize(
    ("page", "time", "fields"),
    [(8, 15, {}), (7, -(10**10), {}), (7, 15, {"pid": GONE + 1})],
    ids=["page", "time", "thread"],
)
def test_the_refusal_of_something_else_proves_nothing(
    session: Any, page: int, time: int, fields: dict[str, Any]
) -> None:
    one = session()
    one.refuse(page, time, **fields)
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.round(Exit(20, GONE, GONE))
    assert one.kinds() == {7: [UNKNOWN]}


def test_a_thread_that_lives_on_after_a_refusal(session: Any) -> None:
    """Its handler has jumped out: the fault is settled after a moment, and is not repeated."""
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.refuse(7, 15)
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.round(faults=[(20, GONE, FAULT, 8, 10), (21, GONE, Event.MINOR, 8, 10)])
    assert not one.deaths.faults
    one.clock += pending.PATIENCE
    one.round()
    assert [fault.page for fault in one.deaths.faults] == [7]
    assert one.kinds() == {7: [FAILED], 8: [MINOR]}


def test_a_refused_fault_that_was_aborted_and_repeated_is_one_failure(session: Any) -> None:
    one = session()
    one.refuse(7, 11)
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.refuse(7, 21)
    one.round(Exit(30, GONE, GONE), faults=[(20, GONE, FAULT, 7, 9)])
    assert one.kinds() == {7: [FAILED]}
    assert len(one.deaths.faults) == 1


def test_a_repetition_may_fail_without_a_refusal_of_its_own(session: Any) -> None:
    """The store has refused the fault that was aborted, and the kernel does not ask again."""
    one = session()
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9)])
    one.refuse(7, 11)
    one.round(Exit(30, GONE, GONE), faults=[(20, GONE, FAULT, 7, 9)])
    assert one.kinds() == {7: [FAILED]}


def test_a_page_behind_the_end_of_the_file(session: Any) -> None:
    one = session()
    event = {"event": "resize", "time": 1, "source": "fuse", "inode": 1, "old_size": 0, "size": 7 << 12}
    one.report(event)
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 9), (11, GONE + 1, FAULT, 6, 9)])
    one.round(Exit(20, GONE, GONE))
    assert one.kinds()[7] == [FAILED]


@pytest.mark.parametrize("code", [2, 0])
def test_the_signal_is_the_proof_where_it_is_seen(session: Any, code: int) -> None:
    """But kill(2) has sent that with a code of 0; it is of the newest fault of its thread, not of others."""
    one = session()
    one.lives[GONE] = Life(0, frozenset({GONE}))
    one.round(*begin(), faults=[(10, GONE, FAULT, 6, 9), (11, GONE, FAULT, 7, 9)])
    signal = Signal(one.start + 12, GONE, GONE, signals.SIGBUS, code, 7 << 12, 0, 0, (0, 0, 0))
    one.perf.rings[0].records.append(Decoded(signals=[signal]))
    one.recorder._round(everything=True, last=False)
    one.round()
    assert one.kinds() == {6: [UNKNOWN], 7: [FAILED if code else UNKNOWN]}
    assert [fault.page for fault in one.deaths.faults] == ([7] if code else [])


def test_an_exit_by_signal_7(session: Any) -> None:
    one = session()
    one.round(*begin(), faults=[(10, GONE, FAULT, 6, 9), (11, GONE, FAULT, 7, 9)])
    one.statuses[GONE] = 128 + 7
    one.round(Exit(20, GONE, GONE))
    assert [fault.page for fault in one.deaths.faults] == [7]
    assert one.kinds() == {6: [UNKNOWN], 7: [FAILED]}


def test_one_thread_of_a_process_that_signal_7_ended(session: Any) -> None:
    """The others were killed in the middle of theirs."""
    one = session()
    one.statuses[GONE] = 128 + 7
    second = [(11, GONE + 1, FAULT, 7, 9)]
    one.round(*begin(), Fork(4, GONE, GONE, GONE + 1), faults=[(10, GONE, FAULT, 6, 9)])
    fed = samples([(when + one.start, *rest) for when, *rest in second])
    one.perf.rings[0].records.append(Decoded([fed._replace(pid=np.array([GONE], "<u4"))]))
    one.recorder._round(everything=True, last=False)
    one.round(Exit(20, GONE, GONE + 1), Exit(21, GONE, GONE))
    assert one.kinds() == {6: [UNKNOWN], 7: [FAILED]}


def test_a_system_call_that_fails_gets_no_signal(session: Any) -> None:
    one = session()
    one.refuse(7, 15)
    one.round(*begin(), faults=[(10, GONE, FAULT, 7, 1 << 63)])
    one.round(Exit(20, GONE, GONE))
    assert one.kinds() == {7: [UNKNOWN]}


def test_with_tracepoints_the_signal_is_the_proof(session: Any) -> None:
    one = session(tracepoints=True)
    one.refuse(7, 15)
    one.round(
        *begin(), faults=[(10, GONE, FAULT, 7, 9), (16, GONE, Event.DELIVER, 1), (17, GONE, Event.RETURN)]
    )
    one.round(faults=[(20, GONE, FAULT, 7, 9), (30, GONE, Event.SIGBUS)])
    assert [fault.page for fault in one.deaths.faults] == [7]
    assert one.kinds() == {7: [FAILED]}


def threads(one: Session) -> None:
    """Have the process run on with three threads."""
    one.threads = [GONE + 1, GONE + 2]
    one.lives[GONE] = Life(0, frozenset({GONE, *one.threads}))


ABORTED = [(10, GONE, FAULT, 7, 9), (11, GONE, FAULT, 50, 90), (12, GONE, Event.MINOR, 50, 90)]
"""The handler of the signal touches page 50, and the thread goes on with something else."""


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("tracepoints", [False, True])
def test_a_fault_that_another_thread_repeats_is_one(session: Any, tracepoints: bool, rounds: int) -> None:
    """Go's handler switches to another goroutine; the first one is run by another thread later."""
    one = session(tracepoints=tracepoints, ends=True)
    threads(one)
    repeated = [(20, GONE + 1, FAULT, 7, 9), (21, GONE + 1, Event.MAJOR, 7, 9)]
    one.round(*begin(), faults=ABORTED + repeated * (rounds == 1))
    if rounds > 1:
        one.round(faults=repeated)
    one.clock += 1
    assert one.kinds() == {7: [MAJOR], 50: [MINOR]}


def test_the_end_decides_beside_the_tracepoints(session: Any) -> None:
    """Where each SIGBUS is seen, a fault without an end was aborted, and the kernel does not count it."""
    one = session(tracepoints=True, ends=True)
    one.refuse(7, 9)
    one.round(*begin(), faults=ABORTED)
    assert not one.deaths.faults
    one.round(faults=[(20, GONE, FAULT, 8, 9)])
    one.statuses[GONE] = 128 + 7
    one.round(Exit(30, GONE, GONE))
    assert one.kinds() == {50: [MINOR]}


def test_an_aborted_fault_that_fails_in_another_thread(session: Any) -> None:
    one = session(tracepoints=True, ends=True)
    threads(one)
    one.round(*begin(), faults=ABORTED)
    one.round(faults=[(20, GONE + 1, FAULT, 7, 9), (21, GONE + 1, Event.SIGBUS)])
    assert [fault.page for fault in one.deaths.faults] == [7]
    assert one.kinds() == {7: [FAILED], 50: [MINOR]}


def test_where_records_were_lost_an_end_may_be_missing(session: Any) -> None:
    one = session(tracepoints=True, ends=True)
    threads(one)
    one.round(*begin(), lost=1)
    one.round(faults=ABORTED)
    one.clock += 11
    assert one.kinds() == {7: [UNKNOWN], 50: [MINOR]}


@pytest.mark.parametrize(
    "other",
    [
        [(20, GONE + 1, FAULT, 8, 9), (21, GONE + 1, Event.MINOR, 8, 9)],  # another page
        [(5, GONE + 1, FAULT, 7, 9), (6, GONE + 1, Event.MINOR, 7, 9)],  # it came before
    ],
)
def test_what_does_not_repeat_a_fault_without_an_end(session: Any, other: list[Any]) -> None:
    one = session()
    threads(one)
    one.round(*begin(), faults=sorted(ABORTED + other))
    one.clock += 1
    assert UNKNOWN in one.kinds()[7]


def test_two_threads_that_are_refused_one_page_have_both_failed(session: Any) -> None:
    """The second does not repeat the fault of the first, whose proof comes later."""
    one = session()
    threads(one)
    one.round(*begin(), faults=[*ABORTED, (20, GONE + 1, FAULT, 7, 9), (21, GONE + 1, FAULT, 51, 9)])
    one.refuse(7, 11, pid=GONE)
    one.refuse(7, 22, pid=GONE + 1)
    one.round()
    one.clock += 1
    one.round()
    assert [(fault.tid, fault.page) for fault in one.deaths.faults] == [(GONE, 7), (GONE + 1, 7)]


@pytest.mark.parametrize("tracepoints", [False, True])
def test_lost_records_end_nobody(session: Any, tracepoints: bool) -> None:
    one = session(tracepoints=tracepoints, everybody=True)
    one.lives[GONE] = Life(0, frozenset({GONE, GONE + 1}))
    one.round(*begin())
    one.round(Exit(20, GONE, GONE), lost=3)
    one.lives[GONE] = Life(0, frozenset({GONE + 1}))
    one.round()
    fault = [(time.monotonic_ns() - one.start, GONE, FAULT, 7, 9)]
    one.round(faults=fault)
    assert stream_of(one)[0]["exit"] is None
    assert one.kinds() == {7: [MINOR if tracepoints else UNKNOWN]}


def stream_of(one: Session) -> Any:
    one.writer.flush()
    return stream.Trace(one.path).processes


def test_the_start_of_a_process_that_has_ended_is_its_fork(session: Any) -> None:
    """It maps a segment later, and /proc has nothing of it any more."""
    one = session(everybody=True)
    mapped = Mmap(9, GONE, 0, 4096, 0, DEVICE, 1, 3, 1, b"/nowhere/a")
    one.round(Fork(5, GONE, os.getpid(), GONE), mapped)
    [process] = stream_of(one)
    assert process["start_time"] == 5 + one.start + one.recorder._offset


def test_no_process_ends_before_it_starts(session: Any) -> None:
    """Also where /proc knows another process by the pid, or another time, by now."""
    one = session(everybody=True)
    program = Mmap(5, os.getpid(), 0, 4096, 0, DEVICE, 1, 3, 1, b"/nowhere/a")
    early = program._replace(pid=GONE, time=3)
    one.lives[os.getpid()] = Life(0, frozenset({os.getpid()}))
    one.round(early, program, Exit(4, GONE, GONE))
    late = threading.get_native_id()
    del one.lives[os.getpid()]
    one.round(Exit(1 - one.start, os.getpid(), os.getpid()), Exit(2 - one.start, os.getpid(), late))
    one.end()
    done = subprocess.run(
        [*SHMFS, "report", "--json", str(one.path)], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)["processes"]
    assert len(found) == 2
    for process in found:
        assert process["started"] <= process["ended"]
