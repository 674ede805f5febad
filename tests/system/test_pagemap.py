"""pagemap, with files of the kernel's tmpfs and real processes."""

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

from shmfs.events.records import Sharing
from shmfs.system import maps, pagemap, proc

PAGE = 4096


@pytest.fixture(params=["scan", "read"])
def way(request, monkeypatch):
    """With PAGEMAP_SCAN, where the kernel has it, and without."""
    if request.param == "read":
        monkeypatch.setattr(pagemap._Pagemap, "scan", False)


def device_of(path):
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def make(shm, name="segment", pages=16, touched=()):
    path = shm / name
    with path.open("wb") as file:
        file.truncate(pages * PAGE)
        for page in touched:
            file.seek(page * PAGE)
            file.write(b"x")
    return path


def look(path, *children):
    return pagemap.matrix(device_of(path), path.stat().st_ino, [child.pid for child in children])


@pytest.mark.usefixtures("way")
def test_two_processes_share_frames(shm, child):
    path = make(shm)
    one, two = child(), child()
    for each in (one, two):
        each.map(path, 16 * PAGE)
    for page in (0, 1, 5):
        one.store(page)
    for page in (5, 1, 9):
        two.store(page)
    matrix = look(path, one, two)
    assert matrix.path == str(path)
    first, second = matrix.processes
    # The kernel's fault-around may map neighbours that exist already; what was not touched never exists.
    assert {0, 1, 5} <= set(first.pages.tolist()) <= {0, 1, 5, 9}
    assert {1, 5, 9} <= set(second.pages.tolist()) <= {0, 1, 5, 9}
    assert {1, 5} <= set(matrix.shared().tolist())
    assert len(first.copies) == len(second.copies) == 0
    assert first.mapped == 16 * PAGE
    assert first.command.startswith("python")
    if matrix.frames_visible:
        frames = dict(zip(first.pages.tolist(), first.frames.tolist(), strict=True))
        others = dict(zip(second.pages.tolist(), second.frames.tolist(), strict=True))
        assert all(frames.values())
        assert len(set(frames.values())) == len(frames)
        for page in set(frames) & set(others):
            assert frames[page] == others[page]


@pytest.mark.usefixtures("way")
def test_a_private_copy_is_not_shared(shm, child):
    path = make(shm, pages=1, touched=[0])
    one, two = child(), child()
    one.map(path, PAGE)
    one.read(0)
    two.map(path, PAGE, "MAP_PRIVATE")
    two.read(0)
    assert look(path, one, two).shared().tolist() == [0]
    two.store(0)
    matrix = look(path, one, two)
    first, second = matrix.processes
    assert matrix.shared().tolist() == []
    assert (first.pages.tolist(), first.copies.tolist()) == ([0], [])
    assert (second.pages.tolist(), second.copies.tolist()) == ([], [0])
    if matrix.frames_visible:
        assert first.frames[0] != second.copy_frames[0]
    record = matrix.sharing()
    assert [holder.private for holder in record.pages[0].processes] == [False, True]
    assert [process.private for process in record.processes] == [0, 1]
    by_inode = {path.stat().st_ino: maps.mappings(two.pid, device_of(path))}
    assert pagemap.present_pages(two.pid, by_inode)[path.stat().st_ino].tolist() == []


@pytest.mark.usefixtures("way")
def test_pages_mapped_twice_count_once_and_offsets_count(shm, child):
    path = make(shm, pages=4)
    one = child()
    one.map(path, 2 * PAGE, offset=2 * PAGE)
    one.map(path, 4 * PAGE)
    for page in (0, 2, 3):
        one.store(page, which=1)
    one.store(0, which=0)
    one.store(1, which=0)
    matrix = look(path, one)
    assert matrix.processes[0].pages.tolist() == [0, 2, 3]
    assert matrix.processes[0].mapped == 6 * PAGE
    assert matrix.shared().tolist() == []
    by_inode = {path.stat().st_ino: maps.mappings(one.pid, device_of(path))}
    assert pagemap.present_pages(one.pid, by_inode)[path.stat().st_ino].tolist() == [0, 2, 3]


@pytest.mark.usefixtures("way")
def test_a_sparse_mapping_of_16_gib_is_fast(shm, child):
    pages = 2**34 // PAGE
    path = make(shm, pages=pages)
    one = child()
    one.map(path, pages * PAGE)
    touched = [0, 7, 100_000, 2_000_000, pages - 1]
    for page in touched:
        one.store(page)
    vmas = {path.stat().st_ino: maps.mappings(one.pid, device_of(path))}
    best = 1e9
    for _ in range(3):
        before = time.perf_counter()
        assert look(path, one).processes[0].pages.tolist() == touched
        assert pagemap.present_pages(one.pid, vmas)[path.stat().st_ino].tolist() == touched
        best = min(best, time.perf_counter() - before)
    assert best < 2


@pytest.mark.usefixtures("way")
def test_many_regions(shm, child):
    """More than fit one PAGEMAP_SCAN, some close together and some far apart."""
    touched = list(range(0, 4 * pagemap.REGIONS, 2)) + list(range(100_000, 160_000, 3000))
    path = make(shm, pages=200_000)
    one = child()
    one.map(path, 200_000 * PAGE)
    one.do(f"for page in {touched}: maps[0][page * 4096] = 1")
    assert look(path, one).processes[0].pages.tolist() == touched
    vmas = {path.stat().st_ino: maps.mappings(one.pid, device_of(path))}
    assert pagemap.present_pages(one.pid, vmas)[path.stat().st_ino].tolist() == touched


def test_record(shm, child):
    path = make(shm, pages=2)
    one = child()
    one.map(path, 2 * PAGE)
    one.store(1)
    matrix = look(path, one)
    record = matrix.sharing("/segment", 2 * PAGE)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Sharing) == record
    assert (record.path, record.size, record.source, record.exact) == ("/segment", 8192, "pagemap", True)
    assert [process.pages for process in record.processes] == [1]
    (page,) = record.pages
    assert page.page == 1
    assert page.processes[0].pid == one.pid
    assert (page.processes[0].frame is not None) == record.frames_visible == maps.frames_visible()


def test_maps_names(shm, child):
    path = make(shm, "odd \n name (deleted)", pages=1)
    one = child()
    one.map(path, PAGE)
    (vma,) = (vma for vma in maps.mappings(one.pid, device_of(path)) if vma.inode == path.stat().st_ino)
    assert (vma.path, vma.deleted) == (str(path).removesuffix(" (deleted)"), True)  # nobody can tell
    assert (vma.permissions, vma.offset, vma.end - vma.start) == ("rw-s", 0, PAGE)
    inode, device = path.stat().st_ino, device_of(path)
    path.unlink()
    (vma,) = (vma for vma in maps.mappings(one.pid, device) if vma.inode == inode)
    assert (vma.path, vma.deleted) == (str(path), True)
    assert vma in maps.mappings(one.pid)
    assert vma.device == device


def test_nobody_maps_it(shm, child):
    path = make(shm)
    matrix = look(path, child())
    assert (matrix.processes, matrix.path, matrix.hidden) == ([], "", 0)
    assert matrix.frames_visible == maps.frames_visible()
    assert matrix.sharing("/x").pages == []


def test_everybody_is_looked_at_by_default(shm, child):
    path = make(shm)
    one = child()
    one.map(path, PAGE)
    found = maps.processes_mapping(device_of(path))
    assert path.stat().st_ino in {vma.inode for vma in found.mappings[one.pid]}
    assert os.getpid() not in look(path, one).processes


def test_a_vanished_process_is_left_out(shm, child):
    path = make(shm)
    one = child()
    one.map(path, PAGE)
    one.end()
    assert look(path, one) == pagemap.Matrix(
        device_of(path), path.stat().st_ino, "", [], maps.frames_visible(), 0
    )


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ESRCH])
def test_a_process_that_vanishes_between_maps_and_pagemap(shm, child, monkeypatch, error):
    path = make(shm)
    one = child()
    one.map(path, PAGE)

    def gone(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(pagemap, "_Pagemap", gone)
    monkeypatch.setattr(maps, "frames_visible", lambda: False)
    assert look(path, one).processes == []


def test_refused_processes_are_counted(shm, child, monkeypatch):
    path = make(shm)
    one = child()
    one.map(path, PAGE)
    real = proc.read

    def refuse(pid, name, *rest):
        if name == "maps":
            raise PermissionError(errno.EACCES, "no")
        return real(pid, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(proc, "read", refuse)
        assert look(path, one).hidden == 1
        assert maps.processes_mapping(device_of(path), [2**22 + 1]).hidden == 0

    def refuse_pagemap(*arguments):
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(pagemap, "_Pagemap", refuse_pagemap)
    monkeypatch.setattr(maps, "frames_visible", lambda: False)
    assert look(path, one).hidden == 1


def test_a_kernel_without_pagemap_scan(shm, child, monkeypatch):
    path = make(shm)
    one = child()
    one.map(path, PAGE)
    one.store(0)

    def unknown(*arguments):
        raise OSError(errno.ENOTTY, "no")

    monkeypatch.setattr(pagemap._Pagemap, "scan", True)
    monkeypatch.setattr(fcntl, "ioctl", unknown)
    assert look(path, one).processes[0].pages.tolist() == [0]
    assert not pagemap._Pagemap.scan


def test_expand():
    regions = np.array([[3, 5, 0], [9, 10, 0]], np.int64)
    assert pagemap._expand(regions).tolist() == [3, 4, 9]
    assert pagemap._expand(regions[:0]).tolist() == []


def test_the_constants_are_the_kernels():
    assert pagemap.PAGEMAP_SCAN == 0xC0606610
    assert mmap.PAGESIZE == PAGE


@pytest.mark.parametrize("far", [0, 2**22])
def test_shared_pages(far):
    runs = [[0, 3, 9], [], [3, 4, 9 + far], [9, 9 + far]]
    arrays = [np.array(sorted(set(run)), np.int64) for run in runs]
    assert pagemap.shared_pages(arrays).tolist() == sorted({3, 9, 9 + far})
    assert pagemap.shared_pages(arrays[:2]).tolist() == []


def test_without_rights_frames_are_hidden(shm, child):
    """A user without CAP_SYS_ADMIN sees the pages of his own processes, and no frames."""
    if os.geteuid() != 0:
        pytest.skip("already without rights: the other tests show it")
    shm.chmod(0o755)
    path = make(shm)
    path.chmod(0o666)
    program = f"""
import mmap, os
from ctypes import CDLL
from shmfs.system import pagemap# now: another user may be unable to read Python's files
os.setgroups([]); os.setgid(65534); os.setuid(65534)
CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which setuid cleared: /proc/self belongs to us again
with open({str(path)!r}, "r+b") as file:
    memory = mmap.mmap(file.fileno(), {16 * PAGE})
memory[{3 * PAGE}] = 1
matrix = pagemap.matrix({device_of(path)!r}, {path.stat().st_ino})
print(matrix.frames_visible, matrix.hidden > 0, [one.pages.tolist() for one in matrix.processes])
print(all(holder.frame is None for page in matrix.sharing().pages for holder in page.processes))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["False True [[3]]", "True"], done.stderr
