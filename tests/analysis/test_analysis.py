"""What a trace says, of traces that a Writer wrote."""

import pytest

from shmfs.analysis.analysis import killed_by
from shmfs.analysis.findings import Calls, Who
from shmfs.analysis.sizing import Usage
from tests.record.recording import MIB, SECOND, START, Recording, analysed


@pytest.fixture
def recording(tmp_path):
    return Recording(tmp_path / "x.shmtrace", command=["python3", "x.py"])


def at(seconds):
    return START + round(seconds * SECOND)


def statistics(*segments, **changes):
    return {
        "mount": "/dev/shm", "device": "0:57", "options": "", "size_limit": 64 * MIB,
        "used": 0, "peak": 5 * MIB, "inode_limit": 0, "inodes_used": 1, "inodes_peak": 2,
        "readahead": 0, "store": "managed", "pid": 1,
        "started": START, "lost_records": 0, "notes": [], "segments": list(segments),
    } | changes  # fmt: skip


def known(inode, path, **changes):
    return {
        "inode": inode, "path": path, "size": MIB, "resident": 256, "peak_resident": 256, "page_ins": 256,
        "created_by": {"pid": 10, "command": "maker", "start_time": 5}, "opened_by": [], "created": at(1),
        "nlink": 1, "open_handles": 0, "evicted": False, "refused": 0,
    } | changes  # fmt: skip


def test_a_life(recording):
    maker, worker = recording.process(10, "maker", 0.1), recording.process(11, "python3", 0.2, 0)
    segment = recording.segment(5, "/x", 0.5)
    recording.create(5, "/x", 0.5, 10)
    recording.told("resize", 0.6, 5, "/x", old_size=0, size=3 * MIB, pid=10)
    recording.told("open", 0.7, 5, "/x", flags=2, pid=11)
    for process in (maker, worker):
        recording.map(process, segment, 0.8, 3 * MIB)
    recording.told("allocate", 0.9, 5, "/x", page=0, pages=512)
    recording.touch(worker, 11, segment, range(300), 1, 2)
    recording.touch(maker, 10, segment, range(200, 512), 1.5, 2)
    recording.told("free", 2.5, 5, "/x", page=0, pages=100)
    recording.told("rename", 2.6, 5, "/y", old_path="/x", pid=10)
    recording.event("exec", 2.7, "perf", process=worker, command="sleep")
    recording.told("unlink", 3, 5, "/y", nlink=0, pid=11)
    recording.told("free", 3.4, 5, "/y", page=100, pages=412)
    recording.told("evict", 3.5, 5, "/y")
    recording.exit(worker, 4, 1)
    found = analysed(recording.close(status=3))
    [one] = found.segments
    assert (found.status, found.complete, found.damage, bool(found.losses)) == (3, True, "", False)
    assert (one.segment, one.inode, one.path, one.size) == (0, 5, "/y", 3 * MIB)
    assert (one.resident, one.peak_resident, one.end) == (0, 512, "gone")
    assert (one.created, one.unlinked, one.evicted) == (at(0.5), at(3), at(3.5))
    assert one.created_by == Who(10, "maker", maker)
    assert one.unlinked_by == Who(11, "sleep", worker)
    assert one.opened_by == [Who(10, "maker", maker), Who(11, "sleep", worker)]
    assert (one.pages, one.shared, one.sharing) == (512, 100, {1: 412, 2: 100})
    assert [(use.process, use.mapped, use.pages) for use in one.used_by] == [
        (maker, 3 * MIB, 312),
        (worker, 3 * MIB, 300),
    ]
    assert one.first_toucher == worker
    assert one.died_with_it == []
    assert found.faults.total == one.faults.total == 612
    process = found.processes[worker]
    assert (process.command, process.former, process.parent) == ("sleep", ["python3"], maker)
    assert (process.ended, process.status, process.segments, process.pages) == (at(4), 1, [0], 300)
    assert found.sizing.basis == "exact"
    assert (found.sizing.peak, found.sizing.declared, found.sizing.size) == (2 * MIB, 3 * MIB, "2m")


def test_what_is_left_and_who_died_with_it(recording):
    first, second = recording.process(10, "a"), recording.process(11, "b")
    for inode, path in ((5, "/linked"), (6, "/held"), (7, "/in time")):
        segment = recording.segment(inode, path)
        recording.create(inode, path, 1, 10)
        recording.told("allocate", 1, inode, path, page=0, pages=inode)
        for process in (first, second):
            recording.map(process, segment, 1)
    recording.told("unlink", 2, 6, "/held", nlink=0, pid=10)
    recording.told("unlink", 2, 7, "/in time", nlink=0, pid=10)
    recording.told("evict", 2, 7, "/in time")
    recording.exit(first, 3, 0)
    recording.exit(second, 3, 137)
    ends = {one.path: one for one in analysed(recording.close()).segments}
    assert {path: one.end for path, one in ends.items()} == {
        "/linked": "linked",
        "/held": "held",
        "/in time": "gone",
    }
    assert {path: one.resident for path, one in ends.items()} == {"/linked": 5, "/held": 6, "/in time": 0}
    assert {path: one.died_with_it for path, one in ends.items()} == {
        "/linked": [second],
        "/held": [],
        "/in time": [],
    }


def test_the_statistics_have_the_last_word(recording):
    recording.process(10, "maker")
    recording.create(5, "/x", 1, 10)
    recording.told("allocate", 1, 5, "/x", page=0, pages=1)
    ended = known(6, "/only there", evicted=True, resident=0, nlink=0, created_by=None)
    record = statistics(known(5, "/x", refused=0), ended, lost_records=4)
    recording.event("statistics", 9, "fuse", statistics=record)
    found = analysed(recording.close())
    by_path = {one.path: one for one in found.segments}
    assert by_path["/x"].resident == 256
    assert by_path["/x"].page_ins == 256
    assert by_path["/x"].created_by == Who(10, "maker", 0)
    assert by_path["/only there"].end == "gone"
    assert by_path["/only there"].segment is None
    assert (found.sizing.peak, found.sizing.size, found.sizing.basis) == (5 * MIB, "5m", "exact")
    assert found.losses.records == {"fuse": 4}


def test_a_pid_that_comes_round_again(recording):
    old = recording.process(10, "old", 0)
    recording.exit(old, 10)
    new = recording.process(10, "new", 20)
    recording.exit(new, 30)
    for inode, when in ((5, 5), (6, 15), (7, 25), (8, 50)):
        recording.create(inode, f"/{inode}", when, 10)
    recording.told("open", 26, 5, "/5", flags=0, pid=10)
    found = {one.inode: one for one in analysed(recording.close()).segments}
    assert [found[inode].created_by for inode in (5, 6, 7, 8)] == [
        Who(10, "old", old),
        Who(10),
        Who(10, "new", new),
        Who(10),
    ]
    assert found[5].opened_by == [Who(10, "old", old), Who(10, "new", new)]


def test_calls_of_a_pid_that_comes_round_again(recording):
    """Also of who is not known, and of who did not map it: it did not die holding it either."""
    old = recording.process(10, "old", 0)
    recording.create(5, "/x", 1, 10)
    recording.exit(old, 10, 137)
    new = recording.process(10, "new", 20)
    for call, when, length, pid in (
        ("read", 5.0, 100, 10),
        ("write", 5.1, 7, 10),
        ("read", 9.9, 0, 10),
        ("write", 15, 1, 10),
        ("read", 20.1, 30, 10),
        ("read", 20.2, 5, 4242),
    ):
        recording.told(call, when, 5, "/x", offset=0, length=length, pid=pid, tid=pid)
    found = analysed(recording.close())
    [one] = found.segments
    assert one.calls == Calls(reads=4, bytes_read=135, writes=2, bytes_written=8)
    assert {use.process: use.calls for use in one.used_by} == {old: Calls(2, 100, 1, 7), new: Calls(1, 30)}
    assert [process.calls for process in found.processes] == [Calls(2, 100, 1, 7), Calls(1, 30)]
    assert one.died_with_it == []


def test_a_thread_stands_for_its_process(recording):
    process, segment = recording.process(10, "threads"), recording.segment(5, "/x")
    recording.create(5, "/x", 1, 4242)
    recording.touch(process, 4242, segment, range(3), 1, 2)
    [one] = analysed(recording.close()).segments
    assert one.created_by == Who(10, "threads", process)


def test_an_inode_number_that_is_used_again(recording):
    recording.create(5, "/first", 1, 10)
    recording.told("unlink", 2, 5, "/first", nlink=0, pid=10)
    recording.told("evict", 2, 5, "/first")
    recording.create(5, "/second", 3, 10)
    segments = analysed(recording.close()).segments
    assert {one.path: one.end for one in segments} == {"/first": "gone", "/second": "linked"}


def test_inodes_of_another_device_are_others(recording):
    recording.create(5, "/ours", 1, 10)
    recording.event("segment", 1, "perf", segment=0, device="0:99", inode=5, path="/theirs")
    recording.event("segment", 1, "perf", segment=1, device="0:57", inode=5, path="/ours")
    found = {one.segment: one for one in analysed(recording.close()).segments}
    assert {number: (one.path, one.end) for number, one in found.items()} == {
        0: ("/theirs", "unknown"),
        1: ("/ours", "linked"),
    }


def test_names_follow_links_and_directories(recording):
    recording.told("create", 1, 2, "/d", mode=0o40700, pid=10)
    recording.create(5, "/d/x", 1, 10)
    recording.create(6, "", 1, 10)
    recording.told("link", 2, 6, "/named", pid=10)
    recording.told("rename", 2, 2, "/e", old_path="/d", pid=10)
    recording.told("allocate", 2, 2, "/e", page=0, pages=1)
    found = {one.inode: one for one in analysed(recording.close()).segments}
    assert {inode: (one.path, one.end) for inode, one in found.items()} == {
        5: ("/e/x", "linked"),
        6: ("/named", "linked"),
    }


def test_a_kernel_tmpfs_tells_nothing_of_lives(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace", store="tmpfs", size_limit=0)
    process, segment = recording.process(10, "a", -5), recording.segment(5, "/x")
    recording.map(process, segment, 0)
    recording.touch(process, 10, segment, range(600), 1, 2)
    recording.event("sample", 2, "pagemap", segment=segment, process=process, pages=700, pss=5, uss=4)
    recording.event("sample", 3, "pagemap", segment=segment, process=process, pages=650, pss=7, uss=3)
    recording.event("shared", 3, "pagemap", segment=segment, pages=9)
    found = analysed(recording.close())
    [one] = found.segments
    assert (one.end, one.size, one.created_by, one.page_ins) == ("unknown", None, None, None)
    assert one.shared_at_once == 9
    [use] = one.used_by
    assert (use.present, use.pss, use.uss) == (700, 7, 4)
    assert (found.sizing.basis, found.sizing.peak, found.sizing.needed) == ("estimate", None, 700 * 4096)
    assert found.sizing.size == "3m"


def test_deaths_and_the_size_that_is_enough(recording):
    process, segment = recording.process(10, "a"), recording.segment(5, "/x")
    recording.create(5, "/x", 1, 10)
    recording.told("resize", 1, 5, "/x", old_size=0, size=80 * MIB, pid=10)
    recording.told("allocate", 1, 5, "/x", page=0, pages=16384)
    recording.told("refuse", 2, 5, "/x", page=16384, pages=1, limit="size")
    recording.told("refuse", 2, 5, "/x", page=0, pages=0, limit="nr_inodes")
    recording.event(
        "sigbus", 2, "shmfs", process=process, tid=10, segment=segment, page=16384, path="/x", reason="full",
        limit=64 * MIB, holders=[{"path": "/x", "bytes": 64 * MIB, "processes": [process]}], enough="90m",
    )  # fmt: skip
    nothing = {"tid": 10, "segment": None, "page": None, "path": None, "holders": [], "enough": None}
    recording.event("sigbus", 1, "shmfs", process=process, reason="?", limit=0, **nothing)
    found = analysed(recording.close(status=135))
    assert [death.limit for death in found.deaths] == [0, 64 * MIB]
    assert found.deaths[1].holders[0].processes == [process]
    assert (found.segments[0].refused, found.sizing.refused, found.sizing.inodes_refused) == (1, 1, 1)
    assert (found.sizing.basis, found.sizing.needed) == ("least", 90 * MIB)
    assert found.sizing.declared == 80 * MIB
    assert (found.sizing.size, found.sizing.quantity) == ("92m", "92Mi")


@pytest.mark.parametrize(
    ("store", "pages", "basis", "needed"),
    [
        ("native", 16384, "full", 80 * MIB),
        ("native", 16383, "looked", 16383 * 4096),
        ("managed", 16384, "exact", 64 * MIB),  # the daemon has seen that nothing was refused
    ],
)
def test_full_native_pages_may_have_been_too_few(tmp_path, store, pages, basis, needed):
    recording = Recording(tmp_path / "x.shmtrace", store=store)
    recording.create(5, "/x", 1, 10)
    recording.told("resize", 1, 5, "/x", old_size=0, size=80 * MIB, pid=10)
    change = ("usage", {"size": 80 * MIB}) if store == "native" else ("allocate", {"page": 0})
    recording.told(change[0], 1, 5, "/x", pages=pages, **change[1])
    sizing = analysed(recording.close(status=0)).sizing
    assert (sizing.basis, sizing.needed) == (basis, needed)


def test_what_is_missing_is_said(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    recording.create(5, "/x", 1, 10)
    recording.told("allocate", 1, 5, "/x", page=0, pages=1)
    recording.event("lost", 1, "perf", of="perf", count=3)
    recording.event("lost", 2, "perf", of="perf", count=4)
    recording.event("exit", 2, "perf", process="no number")
    recording.event("map", 2, "perf", process=0)
    recording.writer.events(b'{"event":["a list"],"time":1,"source":"perf"}\n{"no event":1}\n')
    recording.event("segment", 2, "perf", segment=1, inode=7, device="0:57", path=None)
    recording.event("invented later", 2, "perf", anything=1)
    recording.touch(3, 10, 9, range(5), 1, 2)
    path = recording.close(lost=10)
    found = analysed(path)
    assert found.losses.records == {"perf": 7, "recorder": 3}
    assert found.losses.unreadable == 5
    assert found.losses
    assert found.sizing.basis == "partial"
    assert [(one.segment, one.path, one.pages) for one in found.segments if one.faults.total] == [(9, "", 5)]
    assert [(one.process, one.pid) for one in found.processes if one.faults.total] == [(3, 0)]


def test_a_trace_that_was_cut(tmp_path):
    recording = Recording(tmp_path / "x.shmtrace")
    process, segment = recording.process(10, "a"), recording.segment(5, "/x")
    recording.touch(process, 10, segment, range(5), 1, 2)
    path = recording.cut()
    found = analysed(path)
    assert (found.complete, found.damage, found.status, found.ended) == (False, "", None, None)
    assert found.faults.total == 5
    assert found.duration == pytest.approx(2, abs=0.3)
    recording.close()
    path.write_bytes(path.read_bytes()[:-3])
    found = analysed(path)
    assert not found.complete
    assert found.damage
    assert found.faults.total == 5


def test_an_empty_trace(recording):
    found = analysed(recording.close(status=0))
    assert (found.segments, found.processes, found.deaths, found.timeline.counts) == ([], [], [], [])
    assert (found.sizing.size, found.faults.total) == (None, 0)


def test_sources_are_those_of_the_recorder_and_those_seen(tmp_path):
    told = [{"source": "pagemap", "figures": ["pages"], "exact": False, "note": "every second"}]
    recording = Recording(tmp_path / "x.shmtrace", sources=told)
    recording.create(5, "/x", 1, 10)
    recording.faults([(1, 0, 0, 0, 10, 0, 0, 1)])
    found = {one.source: one for one in analysed(recording.close()).sources}
    assert set(found) == {"pagemap", "fuse", "filemap"}
    assert (found["pagemap"].exact, found["pagemap"].note, found["fuse"].exact) == (
        False,
        "every second",
        True,
    )


@pytest.mark.parametrize(
    ("status", "signal"), [(None, None), (0, None), (1, None), (128, None), (137, 9), (-9, 9), (-7, 7)]
)
def test_killed_by(status, signal):
    assert killed_by(status) == signal


def test_usage_follows_all_inodes():
    usage = Usage(4096)
    usage.charge(1, 10)
    usage.resize(2, 4096 * 100)
    usage.charge(2, 5)
    assert (usage.peak, usage.declared) == (15 * 4096, 110 * 4096)
    usage.evict(2)
    usage.charge(1, -4)
    usage.charge(3, 8)
    assert usage.peak == 15 * 4096
    usage.look(3, 4096 * 50, 40)
    assert (usage.peak, usage.declared) == (46 * 4096, 110 * 4096)
    usage.evict(4)
