"""History: what it makes of the hooks, and what it costs."""

import os
import stat
import subprocess
import sys
import threading
import timeit
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from shmfs.daemon import history as history_module
from shmfs.daemon.history import History
from shmfs.events.hooks import HOOKS, Instruments
from shmfs.events.records import Segment
from shmfs.system import processes as processes_module
from shmfs.system.processes import Processes

FILE = stat.S_IFREG | 0o600
DIRECTORY = stat.S_IFDIR | 0o700


@pytest.fixture
def history() -> History:
    return History()


def only(history: History) -> Segment:
    (segment,) = history.segments()
    return segment


def test_it_listens_to_every_hook(history):
    instruments = Instruments()
    instruments.install(history)
    assert set(instruments) == set(HOOKS) - {
        "refusal",
        "read",
        "write",
    }  # `refusal` is made from its figures, and it does not count calls


def test_a_life(history):
    me = os.getpid()
    history.create(5, "/psm_1", FILE, me)
    history.open(5, os.O_RDWR, me)
    history.resize(5, 0, 8192, me)
    history.allocate(5, 0, 2)
    history.page_in(5, 0, 1)
    history.page_in(5, 1, 1)
    history.free(5, 1, 1)
    history.refuse(5, 2, 1, "size")
    segment = only(history)
    assert (segment.inode, segment.path, segment.size, segment.nlink) == (5, "/psm_1", 8192, 1)
    assert (segment.resident, segment.peak_resident, segment.page_ins, segment.refused) == (1, 2, 2, 1)
    assert segment.open_handles == 1
    assert not segment.evicted
    assert segment.created > 0
    assert segment.created_by is not None
    assert segment.created_by.pid == me
    assert segment.created_by.command == Path("/proc/self/comm").read_text().rstrip("\n")
    assert segment.created_by.start_time > 0
    assert segment.opened_by == [segment.created_by]

    history.unlink(5, "/psm_1", 0, me)
    assert only(history).nlink == 0
    history.release(5, os.O_RDWR)
    history.evict(5)
    ended = only(history)
    assert (ended.evicted, ended.resident, ended.peak_resident, ended.path) == (True, 0, 2, "/psm_1")
    history.page_in(5, 0, 1)  # late hooks of an ended segment change nothing
    history.free(5, 0, 1)
    assert only(history) == ended


def test_only_regular_files_are_segments(history):
    for inode, kind in enumerate((stat.S_IFDIR, stat.S_IFIFO, stat.S_IFLNK, stat.S_IFSOCK), 2):
        history.create(inode, f"/{inode}", kind | 0o600, 1)
        history.link(inode, "/other", 1)
        history.unlink(inode, "/other", 1, 1)
        history.evict(inode)
    assert history.segments() == []


def test_names_follow_links_and_renames(history):
    history.create(5, "/a", FILE, 0)
    history.link(5, "/b", 0)
    assert (only(history).path, only(history).nlink) == ("/b", 2)
    history.unlink(5, "/b", 1, 0)
    assert (only(history).path, only(history).nlink) == ("/a", 1)
    history.rename(5, "/a", "/c", 0)
    assert only(history).path == "/c"
    history.link(5, "/d", 0)
    history.rename(5, "/c", "/e", 0)
    history.unlink(5, "/e", 1, 0)
    assert only(history).path == "/d"


def test_a_file_without_a_name(history):
    history.create(5, "", FILE, 0)
    assert (only(history).path, only(history).nlink) == ("", 0)
    history.link(5, "/named", 0)
    assert (only(history).path, only(history).nlink) == ("/named", 1)


def paths(history: History) -> dict[int, str]:
    return {segment.inode: segment.path for segment in history.segments()}


def test_a_renamed_directory_takes_its_files_along(history):
    history.create(2, "/d", DIRECTORY, 0)
    history.create(3, "/d/sub", DIRECTORY, 0)
    history.create(4, "/d/sub/file", FILE, 0)
    history.create(5, "/dd", FILE, 0)
    history.rename(2, "/d", "/e", 0)
    assert paths(history) == {4: "/e/sub/file", 5: "/dd"}
    history.rename(3, "/e/sub", "/sub", 0)
    assert paths(history)[4] == "/sub/file"


def test_exchanged_directories(history):
    history.create(2, "/a", DIRECTORY, 0)
    history.create(3, "/b", DIRECTORY, 0)
    history.create(4, "/a/one", FILE, 0)
    history.create(5, "/b/two", FILE, 0)
    history.link(5, "/b/three", 0)
    history.rename(2, "/a", "/b", 0)
    history.rename(3, "/b", "/a", 0)
    assert paths(history) == {4: "/b/one", 5: "/a/three"}
    history.unlink(5, "/a/three", 1, 0)
    assert paths(history)[5] == "/a/two"
    history.rename(2, "/b", "/c", 0)
    assert paths(history)[4] == "/c/one"


def test_a_directory_renamed_over_an_empty_one(history):
    history.create(2, "/a", DIRECTORY, 0)
    history.create(3, "/b", DIRECTORY, 0)
    history.create(4, "/a/one", FILE, 0)
    history.rename(2, "/a", "/b", 0)
    history.unlink(3, "/b", 0, 0)
    history.evict(3)
    assert paths(history) == {4: "/b/one"}


def test_names_that_are_not_utf8_become_json(history):
    history.create(5, os.fsdecode(b"/\xff\xc3\xa9"), FILE, 0)
    assert only(history).path == "/\\xff\u00e9"
    assert msgspec.json.decode(msgspec.json.encode(history.segments()), type=list[Segment]) == [only(history)]


def test_every_opener_once(history):
    history.create(5, "/x", FILE, 0)
    assert only(history).created_by is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for pid in (os.getpid(), child.pid, os.getpid(), child.pid, 0):
            history.open(5, 0, pid)
        segment = only(history)
        assert [process.pid for process in segment.opened_by] == [os.getpid(), child.pid]
        assert segment.open_handles == 5
    finally:
        child.communicate(b"\n")


def test_openers_are_capped(history, monkeypatch):
    monkeypatch.setattr(history_module, "MAX_OPENERS", 3)
    history.create(5, "/x", FILE, 0)
    for pid in range(2**22 + 1, 2**22 + 6):  # beyond the kernel's PID_MAX_LIMIT, so never a process
        history.open(5, 0, pid)
    segment = only(history)
    assert len(segment.opened_by) == 3
    assert segment.opens_dropped == 2
    assert segment.opened_by[0].command == ""


def test_ended_segments_are_capped_and_counted(monkeypatch):
    monkeypatch.setattr(history_module, "MAX_ENDED", 3)
    history = History()
    for inode in range(2, 7):
        history.create(inode, f"/{inode}", FILE, 0)
        history.evict(inode)
    assert [segment.inode for segment in history.segments()] == [4, 5, 6]
    assert history.segments_dropped == 2


def test_an_anonymous_mapping_that_was_refused_is_no_segment(history):
    for inode, pages in ((5, 0), (6, 3)):
        history.create(inode, "", FILE, 0)
        history.door(inode, "anon", 0, 0)
        if pages:  # it was there, and was refused more later
            history.resize(inode, 0, pages * 4096, 0)
        history.refuse(inode, 0, 8, "size")
        history.evict(inode)
    history.create(7, "/empty", FILE, 0)
    history.refuse(7, 0, 8, "size")
    history.evict(7)
    assert [(one.inode, one.refused) for one in history.segments()] == [(6, 1), (7, 1)]
    assert (history.refused, history.segments_dropped) == (3, 0)


def test_an_inode_number_that_comes_again_is_another_segment(history):
    history.create(5, "/x", FILE, 0)
    history.create(5, "/y", FILE, 0)
    assert [(s.path, s.evicted) for s in history.segments()] == [("/y", False), ("/x", True)]


def write_process(proc: Path, pid: int, command: str, start: int, group: int | None = None) -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "status").write_text(f"Name:\tx\nTgid:\t{group or pid}\nPid:\t{pid}\n")
    fields = " ".join(["S", *["0"] * 18, str(start), "0"])
    (proc / str(pid) / "stat").write_text(f"{pid} ({command}) {fields}\n")


def test_processes_are_read_again_after_a_while(tmp_path, monkeypatch):
    processes = Processes(str(tmp_path))
    write_process(tmp_path, 7, "sh", 100)
    first = processes.get(7)
    assert (first.pid, first.command, first.start_time) == (7, "sh", 100)
    write_process(tmp_path, 7, "a) (b", 100)  # it has executed another program, with a nasty name
    assert processes.get(7) is first
    monkeypatch.setattr(processes_module, "RECHECK", -1.0)
    assert processes.get(7).command == "a) (b"
    write_process(tmp_path, 7, "new", 200)  # the pid came round again
    assert processes.get(7).start_time == 200
    again = processes.get(7)
    (tmp_path / "7" / "stat").unlink()
    assert processes.get(7) is again  # gone: the last known answer
    assert processes.get(8) == processes_module.Process(8, "", 0)
    assert processes.get(0) is None


def test_a_thread_is_its_process(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(Processes().get(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [Processes().get(os.getpid())]


def test_an_exec_does_not_make_two_openers(history, tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "RECHECK", -1.0)
    history = History(Processes(str(tmp_path)))
    history.create(5, "/x", FILE, 0)
    for command in ("sh", "cat"):
        write_process(tmp_path, 7, command, 100)
        history.open(5, 0, 7)
    assert [process.command for process in only(history).opened_by] == ["cat"]


def test_hot_hooks_cost_little(history):
    history.create(5, "/x", FILE, os.getpid())
    for hook in (history.page_in, history.allocate, history.free):
        best = min(timeit.repeat(lambda hook=hook: hook(5, 1, 1), number=1000, repeat=20)) / 1000
        assert best < 5e-6, hook
    best = min(timeit.repeat(lambda: history.open(5, 0, os.getpid()), number=100, repeat=20)) / 100
    assert best < 10e-6


def test_an_empty_segment_is_small(history):
    names = [f"/file-{inode}" for inode in range(10_000)]
    tracemalloc.start()
    try:
        for inode, name in enumerate(names, 2**20):
            history.create(inode, name, FILE, os.getpid())
            history.open(inode, 0, os.getpid())
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used / 10_000 < 500


def test_the_daemon_s_part_imports_nothing_heavy():
    program = (
        "import sys, shmfs.daemon.history, shmfs.daemon.log; "
        "print(*{'numpy', 'rich', 'click'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "\n"


def test_doors(history):
    history.create(5, "/SYSV00001234 (id 1)", FILE, os.getpid())
    history.door(5, "sysv", 0x1234, 1)
    history.create(6, "/dev/zero", FILE, os.getpid())
    history.door(6, "anon", 0, 0)
    history.create(7, "/psm_1", FILE, os.getpid())
    history.door(8, "sysv", 1, 2)  # of which nothing is known
    known = [(one.kind, one.key, one.id, one.nlink) for one in history.segments()]
    assert known == [("sysv", 0x1234, 1, 1), ("anon", None, None, 0), ("posix", None, None, 1)]
