"""What a look sees of real processes, on the kernel's tmpfs and on shmfs, beside the kernel's own figures."""

import mmap
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shmfs.client import launch
from shmfs.errors import ShmfsError
from shmfs.live import faults, files
from shmfs.live.model import Rates
from shmfs.live.watch import Watch
from shmfs.testing import PrivateMount
from shmfs.tracefile.format import FAULT
from tests.record.conftest import child, shm  # noqa: F401

PAGE = 4096
root = pytest.mark.skipif(os.geteuid() != 0, reason="faults of every process take root")


@pytest.fixture
def watch():
    made = []

    def start(target):
        made.append(Watch(str(target)))
        return made[-1]

    yield start
    for one in made:
        one.close()


def segment(snapshot, name):
    return next(one for one in snapshot.segments if one.path.endswith(name))


def smaps(pid: int, name: str, figure: str) -> int:
    """Bytes of the mappings of a file, as the kernel adds them up."""
    total, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = name in line
        elif ours and line.startswith(f"{figure}:"):
            total += int(line.split()[1]) * 1024
    return total


def share_of(snapshot, pid, inode):
    return next(one for one in snapshot.shares if (one.pid, one.inode) == (pid, inode))


def scene(directory: Path, child):  # noqa: F811
    """A file of 64 pages: one process has 0-31 present, another 16-47."""
    path = directory / "segment"
    path.write_bytes(bytes(64 * PAGE))
    one, two = child(), child()
    for process, pages in ((one, range(32)), (two, range(16, 48))):
        process.map(path, 64 * PAGE)
        process.do(f"[maps[0].__setitem__(page * 4096, 1) for page in range({pages.start}, {pages.stop})]")
    return path, one, two


def check_shares(snapshot, path, one, two):
    inode = path.stat().st_ino
    seen = next(found for found in snapshot.segments if found.inode == inode)
    assert (seen.size, seen.resident, seen.processes) == (64 * PAGE, path.stat().st_blocks // 8, 2)
    for process in (one, two):
        share = share_of(snapshot, process.pid, inode)
        assert share.mapped == 64 * PAGE
        assert share.pages * PAGE == smaps(process.pid, str(path), "Rss")
        assert abs(share.pss - smaps(process.pid, str(path), "Pss")) < 2 * 1024  # in kB there
        row = next(row for row in snapshot.processes if row.pid == process.pid)
        assert (row.segments, row.pages) == (1, share.pages)
    # Pages that are mapped around a fault make more of them shared than were touched by both.
    assert seen.shared >= 16
    assert seen.shared * PAGE == smaps(one.pid, str(path), "Rss") - share_of(snapshot, one.pid, inode).uss


def test_shares_on_the_kernels_tmpfs(watch, shm, child):  # noqa: F811
    path, one, two = scene(shm, child)
    watched = watch("/dev/shm")
    snapshot = watched.look()
    assert snapshot.store == "tmpfs"
    assert snapshot.trouble == ""
    check_shares(snapshot, path, one, two)
    assert segment(snapshot, f"{shm.name}/segment").path == f"/{shm.name}/segment"
    room = os.statvfs("/dev/shm")
    assert snapshot.limits.size == room.f_blocks * room.f_frsize
    assert snapshot.faults is None  # rates need two looks
    matrix = watched.matrix(path.stat().st_ino)
    assert {process.pid for process in matrix.processes} == {one.pid, two.pid}


@pytest.mark.mount
@pytest.mark.parametrize("shmfs", ["size=8m,pages=managed", "size=8m"], indirect=True)
def test_shares_on_a_mount(watch, shmfs: PrivateMount, child):  # noqa: F811
    path, one, two = scene(shmfs.path, child)
    snapshot = watch(shmfs.path).look()
    known = shmfs.statistics()
    check_shares(snapshot, path, one, two)
    assert (snapshot.store, snapshot.device) == (known.store, shmfs.server.device)
    assert (snapshot.limits.size, snapshot.limits.used) == (8 << 20, known.used)
    assert segment(snapshot, "/segment").created_by.endswith(f" {os.getpid()}")
    assert (snapshot.limits.refused is None) == (known.store == "native")


@pytest.mark.mount
@pytest.mark.parametrize("shmfs", ["size=8m,pages=managed"], indirect=True)
def test_page_ins_are_those_of_the_daemon(watch, shmfs: PrivateMount, child):  # noqa: F811
    path = shmfs.path / "segment"
    path.touch()
    os.truncate(path, 64 * PAGE)
    process = child()
    process.map(path, 64 * PAGE)
    watched = watch(shmfs.path)
    watched.look()
    before = shmfs.segment("segment").page_ins
    process.do("[maps[0].__setitem__(page * 4096, 1) for page in range(40)]")
    snapshot = watched.look()
    assert shmfs.segment("segment").page_ins - before == 40
    assert round(segment(snapshot, "/segment").page_ins * snapshot.seconds) == 40
    assert round(snapshot.page_ins * snapshot.seconds) == 40


@root
def test_faults_by_segment_and_process(watch, shm, child):  # noqa: F811
    path = shm / "segment"
    path.write_bytes(bytes(64 * PAGE))
    process = child()
    process.map(path, 64 * PAGE)
    watched = watch("/dev/shm")
    watched.look()
    process.do("[maps[0].__setitem__(page * 4096, 1) for page in range(0, 64)]")
    late = child()  # begins to map while it is watched
    late.map(path, 64 * PAGE)
    late.store(5)
    inode = path.stat().st_ino
    counts: Counter[int] = Counter()
    total = 0
    deadline = time.monotonic() + 60
    while counts[late.pid] == 0 or counts[process.pid] == 0:  # on a busy machine perf is read later
        assert time.monotonic() < deadline
        for one in (process, late):
            one.do("bytearray(1 << 22)")  # a fault is told when its thread has gone on to the next
        snapshot = watched.look()
        total += round(segment(snapshot, f"{shm.name}/segment").faults.all * snapshot.seconds)
        for share in snapshot.shares:
            if share.inode == inode:
                counts[share.pid] += round(share.faults.all * snapshot.seconds)
    assert counts[late.pid] == 1
    assert 1 <= counts[process.pid] <= 64  # 64, unless the kernel maps several pages at once
    assert total == counts.total()
    process.end()
    snapshot = watched.look()
    assert [share.pid for share in snapshot.shares if share.inode == inode] == [late.pid]


def test_a_file_without_a_name_is_found_by_who_maps_it(watch, shm, child):  # noqa: F811
    path, _one, _two = scene(shm, child)
    path.unlink()
    seen = segment(watch("/dev/shm").look(), "/segment")
    assert seen.unlinked
    assert (seen.size, seen.resident, seen.processes) == (64 * PAGE, None, 2)


def test_names_are_told_as_valid_unicode(watch, shm):  # noqa: F811
    name = os.fsdecode(b"bad\xff\n")
    (shm / name).touch()
    assert segment(watch(shm).look(), "\n").path.endswith("/bad\\xff\n")


@pytest.mark.mount
@pytest.mark.parametrize("shmfs", ["size=8m"], indirect=True)
def test_a_daemon_that_dies_and_comes_again(watch, shmfs: PrivateMount):
    (shmfs.path / "file").write_bytes(bytes(PAGE))
    watched = watch(shmfs.path)
    watched.look()
    shmfs.server.process.kill()
    shmfs.server.process.wait()
    snapshot = watched.look()
    assert "its daemon is gone" in snapshot.trouble
    assert segment(snapshot, "/file").size == PAGE  # what was seen last
    launch.umount(str(shmfs.path))
    assert "not mounted any more" in watched.look().trouble


def test_what_cannot_be_watched(tmp_path):
    with pytest.raises(ShmfsError, match="does not exist; name a directory"):
        files.find(str(tmp_path / "nothing"))
    with pytest.raises(ShmfsError, match="is on proc, whose files are no shared memory"):
        files.find("/proc")
    with pytest.raises(ShmfsError, match="not on a shmfs mount"):
        files.find("4095:4095")


def test_faults_of_whole_processes():
    meter = faults.StatMeter()
    own = os.getpid()
    assert meter.rates(1.0, [own]) == {}
    before = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])
    block = mmap.mmap(-1, 100 * PAGE)
    for page in range(100):
        block[page * PAGE] = 1
    found = meter.rates(0.5, [own, 1 << 30])
    after = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])
    assert 0 < found[own, 0].minor * 0.5 <= after - before + 100  # huge pages need but one
    assert set(found) == {(own, 0)}


def test_why_faults_are_not_by_segment(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    meter, note = faults.meter("0:5", "/dev/shm")
    assert not meter.by_segment
    assert "take root" in note


def test_a_tally_counts_also_for_processes_that_ended():
    tally = faults._Tally()
    tally.event("segment", "perf", segment=0, inode=17)
    tally.event("process", "perf", process=3, pid=100)
    rows = np.zeros(5, FAULT)
    rows["process"], rows["kind"] = 3, [1, 1, 2, 3, 1]
    tally.event("exit", "perf", process=3)
    tally.faults(rows)
    assert tally.pids() == set()
    assert tally.take() == {(100, 17, 1): 3, (100, 17, 2): 1, (100, 17, 3): 1}
    assert tally.take() == {}


@root
def test_what_costs_too_much_is_given_up(watch, shm, monkeypatch):  # noqa: F811
    monkeypatch.setattr(faults, "DEAR", -1.0)
    watched = watch("/dev/shm")
    for _ in range(faults.PATIENCE + 2):
        snapshot = watched.look()
    assert any("took" in note for note in snapshot.notes)
    assert any(source.source == "/proc/PID/stat" for source in snapshot.sources)


@root
def test_faults_that_were_lost_are_told_and_no_figure_is_exact_then(watch, shm, monkeypatch):  # noqa: F811
    monkeypatch.setattr(faults.PerfMeter, "lost", 12)
    snapshot = watch(shm).look()
    assert snapshot.lost == 12
    [source] = [source for source in snapshot.sources if source.figures == "faults"]
    assert (source.source, source.exact) == ("perf, 12 lost", False)


def test_rates_add_up():
    assert (Rates(1, 2, 3) + Rates(10)).all == 16


@pytest.mark.mount
def test_a_mount_by_its_device_number(shmfs: PrivateMount):
    assert files.find(shmfs.server.device).mount == str(shmfs.path)
