"""Faults on the kernel's own tmpfs, as the recorder sees them and as the processes know them."""

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmfs.client import launch
from shmfs.errors import ShmfsError
from shmfs.record.attribution import Area, Space
from shmfs.record.outcomes import FAILED, MAJOR, MINOR
from shmfs.record.recording import Recording, Subject
from shmfs.testing.plugin import why_absent
from shmfs.tracefile import stream
from shmfs.tracing import perf, processors
from shmfs.tracing.decode import WRITE, decode
from shmfs.tracing.exits import Exits
from tests.record.conftest import SHM, Traced, refuse, seen
from tests.record.touching import PRELUDE


def test_every_fault_of_several_processes_in_order(traced: Traced) -> None:
    trace, told = traced(
        """
fds = [segment(f"s{n}", 300) for n in range(4)]
places = [map(fd, 300) for fd in fds]
for child in range(5):
    if os.fork() == 0:
        order = [(n, page) for n in range(4) for page in range(0, 300, 1 + child)]
        random.Random(child).shuffle(order)
        for n, page in order:
            store(places[n], page)
        tell(*((f"s{n}", page) for n, page in order))
        os._exit(0)
for child in range(5):
    os.wait()
"""
    )
    assert len(told) == 5
    assert seen(trace) == told
    assert set(trace.fault_array()["access"]) <= {0, WRITE}
    assert {one["path"].rsplit("/")[-1] for one in trace.segments} == {"s0", "s1", "s2", "s3"}


def test_offsets_and_addresses_that_are_used_again(traced: Traced) -> None:
    trace, told = traced(
        """
a, b = segment("a", 64), segment("b", 64)
place = map(a, 32, first=16)
store(place, 3)
map(b, 8, at=place + 8 * PAGE, first=40)     # into the middle of the other
store(place, 7), store(place, 8), store(place, 15), store(place, 16)
libc.munmap(place, 32 * PAGE)
map(-1, 4, at=place, flags=0x22)              # memory of its own, where a was
store(place, 0)
map(b, 4, at=place)
store(place, 2)
tell(("a", 19), ("a", 23), ("b", 40), ("b", 47), ("a", 32), ("b", 2))
"""
    )
    assert seen(trace) == told


def test_mappings_that_move_and_grow(traced: Traced, request: pytest.FixtureRequest) -> None:
    trace, told = traced(
        """
a = segment("a", 64)
place = map(a, 8)
store(place, 1)
room = libc.mmap(0, 64 * PAGE, 0, 0x22, -1, 0)
place = libc.mremap(place, 8 * PAGE, 32 * PAGE, 3, room)
store(place, 2), store(place, 30)
place = libc.mremap(place, 32 * PAGE, 16 * PAGE, 0, None)
store(place, 15)
import time
time.sleep(0.3)                               # where mremap(2) is not seen, /proc is looked at now and then
store(place, 14)
tell(("a", 1), ("a", 2), ("a", 30), ("a", 15), ("a", 14))
"""
        if "tracepoints" in request.node.name
        else """
a = segment("a", 64)
place = map(a, 8)
store(place, 1)
place = libc.mremap(place, 8 * PAGE, 9 * 1024 * 1024, 1, None)
store(place, 2), store(place, 30)
import time
time.sleep(0.5)
tell(("a", 1), ("a", 2), ("a", 30))
"""
    )
    assert seen(trace) == told


def test_unlinked_forked_executed(traced: Traced) -> None:
    trace, told = traced(
        """
fd = segment("gone", 16)
place = map(fd, 16)
os.unlink("gone")
store(place, 1)
if os.fork() == 0:
    store(place, 1), store(place, 2)
    tell(("gone", 1), ("gone", 2))
    segment("other", 4)
    program = sys.argv[-1] if len(sys.argv) > 2 else None
    code = "import mmap, os, json; f = os.open('other', 2); m = mmap.mmap(f, 16384); m[4096] = 1;"
    code += "os.write(1, json.dumps([os.getpid(), [['other', 1]]]).encode() + b'\\\\n')"
    os.execv(sys.executable, [sys.executable, "-S", "-c", code])
os.wait()
store(place, 3)
tell(("gone", 1), ("gone", 3))
"""
    )
    assert seen(trace) == told
    events = Counter(event["event"] for event in trace.events())
    assert events["exit"] == 2
    assert events["exec"] >= 1


def test_how_processes_ended(traced: Traced) -> None:
    """Also those that nobody waited for; the status is as a shell says it."""
    if os.geteuid() != 0:
        pytest.skip("takes root")
    trace, told = traced("""
import threading, time
store(map(segment("a", 4), 4), 0)
def child(how):
    pid = os.fork()
    if pid == 0:
        how()
    tell((how.__name__, pid))
def seven(): os._exit(7)
def segv(): os.kill(os.getpid(), signal.SIGSEGV); time.sleep(9)
def threads():
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    threading.Thread(target=lambda: os._exit(3)).start()
    time.sleep(9)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
for how in (seven, segv, threads, kill): child(how)
while True:
    try: os.wait()
    except ChildProcessError: break
""")
    if not tells_of_exits():
        pytest.skip("the process connector tells nothing here: a container")
    statuses = {one["pid"]: one["status"] for one in trace.processes}
    ((_, children),) = told.items()
    assert [(name, statuses[pid]) for name, pid in children] == [
        ("seven", 7),
        ("segv", 128 + 11),
        ("threads", 3),
        ("kill", 128 + 9),
    ]


def tells_of_exits() -> bool:
    exits = Exits()
    try:
        child = subprocess.Popen(["true"])
        child.wait()
        time.sleep(0.1)  # it tells a moment after the parent has heard
        exits.read()
        return exits.status(child.pid) == 0
    finally:
        exits.close()


def test_what_is_mapped_around_a_fault(traced: Traced, request: pytest.FixtureRequest) -> None:
    """A page counts once for a process, if it was there, as /proc/PID/pagemap has it afterwards."""
    if "software" in request.node.name:
        pytest.skip("without root nothing tells of it")
    trace, told = traced("""
fd = segment("a", 70)
mine = map(fd, 70)
for page in [*range(3, 40), 44, 45]: store(mine, page)
if os.fork() == 0:
    at = map(fd, 70)
    for page in (5, 5, 20, 21, 33, 60): ctypes.c_char.from_address(at + page * PAGE).value
    store(at, 50)
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(at // PAGE * 8)
        entries = memoryview(file.read(70 * 8)).cast("Q")
    tell(*(("a", page) for page in range(70) if entries[page] >> 63))
    os._exit(0)
os.wait()
""")
    ((pid, present),) = told.items()
    faults = trace.fault_array()
    faults = faults[[trace.processes[number]["pid"] == pid for number in faults["process"]]]
    own, around = (faults["page"][faults["source"] == source].tolist() for source in (0, 1))
    assert {5, 60, 50} <= set(own) <= {5, 20, 21, 33, 60, 50}  # the range follows addresses
    assert len(around) > 20
    assert len(set(around) - set(own)) == len(around)
    assert {("a", page) for page in own + around} == {(name, page) for name, page in present}


def test_a_fault_that_ends_in_sigbus(traced: Traced) -> None:
    trace, _ = traced(
        """
fd = segment("short", 8)
place = map(fd, 8)
store(place, 0)
os.ftruncate(fd, 2 * PAGE)
if os.fork() == 0:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    store(place, 1)
    store(place, 5)
assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGBUS
store(place, 1)
"""
    )
    assert list(seen(trace, FAILED).values()) == [[("short", 5)]]
    assert sorted(seen(trace).values()) == [[("short", 0), ("short", 1)], [("short", 1)]]


def test_threads_have_ids_of_their_own(traced: Traced) -> None:
    trace, _ = traced(
        """
import threading
place = map(segment("s", 40), 40)
def work(n):
    for page in range(n, 40, 4):
        store(place, page)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    )
    faults = trace.fault_array()
    assert sorted(faults["page"].tolist()) == list(range(40))
    assert len(set(faults["tid"].tolist())) == 4
    assert set(faults["process"].tolist()) == {0}


def test_times_are_those_of_the_monotonic_clock(traced: Traced) -> None:
    trace, told = traced(
        """
import time
place = map(segment("s", 1), 1)
before = time.monotonic_ns()
store(place, 0)
tell((before, time.monotonic_ns()))
"""
    )
    [[times]] = told.values()
    [fault] = trace.fault_array()
    assert times[0] <= int(fault["time"]) - trace.meta.clock_offset <= times[1]


def test_as_many_as_the_kernel_counts(traced: Traced) -> None:
    trace, told = traced(
        """
import resource
place = map(segment("s", 20000), 20000)
for page in range(50): store(place, page)      # what the interpreter touches at first
c_char = ctypes.c_char
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
ctypes.memset(place + 50 * PAGE, 1, 19950 * PAGE)
tell(("minor", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
"""
    )
    ((_, counted),) = next(iter(told.values()))
    assert len(next(iter(seen(trace).values()))) == 20000
    assert abs(counted - 19950) <= 2  # the kernel's count may have one of the interpreter's own


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to watch everybody")
def test_everybody_with_what_was_mapped_before(directory: Path, tmp_path: Path, child: Any) -> None:
    (directory / "old").write_bytes(bytes(40 * 4096))
    one = child()
    one.map(directory / "old", 40 * 4096)
    status = os.stat(directory)
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    recording = Recording(str(tmp_path / "trace"), Subject(SHM, device, "tmpfs"))
    recording.start()
    one.store(7)
    two = child()
    two.map(directory / "old", 40 * 4096)
    two.store(8)
    recording.stop()
    ours = {one.pid: [("old", 7)], two.pid: [("old", 8)]}
    assert {
        pid: faults for pid, faults in seen(stream.Trace(tmp_path / "trace")).items() if pid in ours
    } == ours


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to watch everybody")
@pytest.mark.parametrize("by", ["tracepoints", "software"])
def test_recorders_beside_each_other_see_the_same(
    by: str, tmp_path: Path, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have their samples carry the identifier of whoever is told first."""
    if reason := why_absent():
        pytest.skip(f"no FUSE here: {reason}")
    if by == "software":
        monkeypatch.setattr(perf.Perf, "_by_tracepoints", staticmethod(refuse))
    (tmp_path / "mount").mkdir()
    server = launch.start(str(tmp_path / "mount"), "pages=managed")
    try:
        path = tmp_path / "mount" / "a"
        path.touch()
        os.truncate(path, 40 * 4096)
        one = child()
        one.map(path, 40 * 4096)
        one.map(path, 40 * 4096)
        subject = Subject(str(tmp_path / "mount"), server.device, "managed")
        recordings = [Recording(str(tmp_path / f"trace{number}"), subject) for number in range(3)]
        for recording in recordings:
            recording.start()
        one.do("for page in range(80): maps[page // 40][page % 40 * 4096] = 1")
        for recording in recordings:
            recording.stop()
        one.end()
    finally:
        server.stop()
    if any(recording.recorder.lost for recording in recordings):
        pytest.skip("others on this machine fault faster than all three can read")
    for number in range(3):
        trace = stream.Trace(tmp_path / f"trace{number}")
        assert seen(trace, MAJOR) == {one.pid: [("a", page) for page in range(40)]}, number
        assert seen(trace, MINOR) == seen(trace, MAJOR), number
        assert not seen(trace, FAILED)


def test_what_does_not_fit_into_the_ring_is_counted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "_RINGS", 1 << 15)
    gate, opener = os.pipe()
    program = PRELUDE + 'ctypes.memset(map(segment("s", 9000), 9000), 1, 9000 * PAGE)'
    wait = f"import os, sys; os.read({gate}, 1); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-S", "-c", wait, sys.executable, "-S", "-c", program, str(directory)]
    process = subprocess.Popen(command, pass_fds=(gate,))
    os.close(gate)
    watch = perf.Perf(process.pid)
    try:
        os.close(opener)
        assert process.wait(60) == 0
        decoded = [decode(ring.read(), watch.events, 0) for ring in watch.rings]
    finally:
        watch.close()
    # The kernel tells of what was lost with the next record that fits.
    assert sum(part.rows for one in decoded for part in one.samples) < 9000
    assert len(decoded) == len(processors.online())


def test_a_kernel_that_permits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **more: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(perf.Perf, "_open", refused)
    with pytest.raises(ShmfsError, match=r"run as root, or `sysctl kernel.perf_event_paranoid=1`"):
        perf.Perf(os.getpid())
    with pytest.raises(ShmfsError, match="all processes"):
        perf.Perf()


def test_no_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch = perf.Perf(os.getpid())
    assert len(os.listdir("/proc/self/fd")) > before
    watch.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_recording_that_could_not_start(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped like any other, and leaves nothing open."""
    status = os.stat(directory)
    subject = Subject(SHM, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "tmpfs")
    before = len(os.listdir("/proc/self/fd"))

    def refused(watch: perf.Perf) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(perf.Perf, "enable", refused)
    recording = Recording(str(tmp_path / "trace"), subject, pid=os.getpid(), running=True)
    with pytest.raises(OSError, match="Too many open files"):
        recording.start()
    recording.stop()
    Recording(str(tmp_path / "other"), subject, pid=os.getpid()).stop()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not len(stream.Trace(tmp_path / "trace").fault_array())


def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, hard))
    try:
        with pytest.raises(ShmfsError, match="Too many open files"):
            perf.Perf(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


PAGES = 24
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            st.integers(0, PAGES - 1),
            st.integers(1, 8),
            st.integers(-1, 3),
            st.integers(0, 50),
        ),
        st.tuples(st.just("take"), st.integers(0, PAGES - 1), st.integers(1, 8)),
        st.tuples(st.just("move"), st.integers(0, PAGES - 9), st.integers(1, 8), st.integers(64, 80)),
    ),
    max_size=20,
)


@given(steps)
def test_a_space_is_a_table_of_pages(steps: list[tuple[Any, ...]]) -> None:
    space, table = Space(), {}
    for step in steps:
        first, count = step[1], step[2]
        if step[0] == "put":
            segment, page = step[3], step[4]
            space.put(Area(first << 12, (first + count) << 12, page, segment))
            table.update({first + n: (segment, page + n) for n in range(count)})
        elif step[0] == "take":
            space.take(first << 12, (first + count) << 12)
            for n in range(count):
                table.pop(first + n, None)
        else:
            # mremap(2) moves one mapping, whole pages of it
            if len({table.get(first + n, (None,))[0] for n in range(count)}) != 1 or first not in table:
                continue
            if any(table[first + n][1] != table[first][1] + n for n in range(count)):
                continue
            target = step[3]
            space.move(first << 12, count << 12, target << 12, count << 12)
            moved = {target + n: table.pop(first + n) for n in range(count)}
            for n in range(count):
                table.pop(target + n, None)
            table.update(moved)
    addresses = np.arange(0, 100, dtype=np.uint64) << np.uint64(12)
    segments, pages = space.find(addresses + np.uint64(17))
    for page in range(100):
        expected = table.get(page, (-2, 0))
        assert segments[page] == expected[0]
        if page in table:
            assert pages[page] == expected[1]
    assert space.areas == sorted(space.areas)
