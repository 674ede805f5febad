"""Populates and read-ahead on a real mount: the limit holds, and only what is touched is charged."""

import errno
import subprocess
from typing import Any

import pytest

from shmfs.fuse.rewrite import Rewriter
from tests.mount.conftest import MakeActor, eventually

pytestmark = pytest.mark.mount

FULL = """
def fill():
    fd, offset = new('filler'), 0
    while isinstance(stored := tried(os.pwrite, fd, b'f' * 65536, offset), int):
        offset += stored
    os.close(fd)
f = new('f')
os.ftruncate(f, 64 * PAGE)
os.pwrite(f, b'b' * 8 * PAGE, 56 * PAGE)
fill()
"""
MAPPED = "f = os.open('f', os.O_RDWR); m = Mapping(f, 64 * PAGE)"
LOCK = "[tried(call, 'mlock', m.address, 64 * PAGE) for _ in range(%d)]"
HUGEPAGE = 14


@pytest.fixture
def options() -> str:
    return "size=1m,nr_inodes=100"


@pytest.fixture(params=["with the extension", "without"])
def managed(request: pytest.FixtureRequest, options: str, shmfs_mount: Any, monkeypatch: Any) -> Any:
    """A mount with managed pages."""
    if request.param == "without":
        monkeypatch.setenv("SHMFS_EXTENSION", "0")
    return shmfs_mount(options=f"{options},pages=managed")


def test_populates_beyond_the_limit_end(managed: Any, actor: MakeActor) -> None:
    one, two = actor(managed.path), actor(managed.path)
    one(FULL + MAPPED)
    two(MAPPED + "\nm.load(56 * PAGE, 8 * PAGE)")
    assert one(LOCK % 5) == ["ENOMEM"] * 5
    for how in ("POPULATE", "LOCKED"):
        one(f"m = Mapping(f, 64 * PAGE, flags=SHARED | {how})")
        assert one("os.fstat(f).st_size // 4096, m.load(60 * PAGE)") == (
            64,
            b"b",
        )  # stat waits for the repair
    assert one("[tried(m.advise, how) for how in (22, 23)]") == ["EFAULT"] * 2
    assert two("set(m.load(56 * PAGE, 8 * PAGE)), os.fstat(f).st_size // 4096, blocks('f')") == ({98}, 64, 8)
    assert two("m.store(b'x', 57 * PAGE), os.pread(f, 1, 57 * PAGE)") == (None, b"x")
    assert two("child(m.store, b'x', PAGE)") == "SIGBUS"
    assert managed.statistics().used == managed.statistics().size_limit
    one("os.truncate('filler', 0)")
    assert eventually(lambda: one("free()[0] > 64"))
    assert one(LOCK % 1) == [0]
    assert two("m.store(b'x', PAGE), blocks('f')") == (None, 64)


def test_a_populate_is_one_refusal(managed: Any, actor: MakeActor) -> None:
    one = actor(managed.path)
    one(FULL + MAPPED)
    before = managed.segment("f").refused
    assert one(LOCK % 20) == ["ENOMEM"] * 20
    assert managed.segment("f").refused == before + 1


def test_populates_of_many_threads_and_files_end(managed: Any, actor: MakeActor) -> None:
    """While another process writes and frees what they want."""
    one = actor(managed.path)
    one("for name in 'ab': os.ftruncate(new(name), 200 * PAGE)")
    lockers = [actor(managed.path) for _ in range(4)]
    for number, locker in enumerate(lockers):
        locker(f"f = os.open('{'ab'[number % 2]}', os.O_RDWR); answers = set(); end = time.monotonic() + 3")
        locker.order("""
def lock():
    while time.monotonic() < end:
        m = Mapping(f, 200 * PAGE)
        answers.add(tried(call, 'mlock', m.address, 200 * PAGE))
        m.unmap()
        if random.random() < 0.3:
            tried(call, 'fallocate', f, 3, random.randrange(200) * PAGE, 50 * PAGE)
threads = [threading.Thread(target=lock) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
sorted(map(str, answers))
""")
    one("""
end = time.monotonic() + 3
while time.monotonic() < end:
    w = os.open('w', os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for n in range(100): tried(os.pwrite, w, b'w' * PAGE, n * PAGE)
    os.close(w)
""")
    for locker in lockers:
        assert set(locker.answer()) <= {"0", "ENOMEM"}
    assert one("os.stat('a').st_size // 4096, os.stat('b').st_size // 4096") == (200, 200)
    one("[os.truncate(name, 0) for name in 'abw']")
    assert eventually(lambda: managed.statistics().used == 0)


def test_a_process_killed_in_a_populate_leaves_nothing(managed: Any, actor: MakeActor) -> None:
    one = actor(managed.path)
    one(FULL)
    for _ in range(20):
        victim = actor(managed.path)
        victim(MAPPED)
        victim.order("while True: tried(call, 'mlock', m.address, 64 * PAGE)")
        victim.kill()
    assert one(MAPPED + "\nset(m.load(56 * PAGE, 8 * PAGE)), os.fstat(f).st_size // 4096") == ({98}, 64)
    assert one(LOCK % 1) == ["ENOMEM"]


# ---- read-ahead


@pytest.mark.parametrize("options", ["size=16m", "size=16m,readahead=32"])
def test_only_the_window_around_a_touch_is_charged(managed: Any, actor: MakeActor, options: str) -> None:
    window = 32 if "readahead" in options else 1
    one = actor(managed.path)
    one("f = new('f'); os.ftruncate(f, 64 << 20); m = Mapping(f, 64 << 20)")
    advised = one(f"tried(m.advise, {HUGEPAGE})")
    if advised != 0:
        pytest.skip(f"no transparent huge pages: {advised}")
    one("for n in range(16): m.store(b'x', n << 21)\nfor n in range(16, 32): m.load(n << 21)")
    assert 32 <= one("blocks('f')") <= 32 * window


@pytest.mark.parametrize("options", ["size=16m", "size=16m,readahead=32", "size=16m,readahead=4"])
def test_no_read_fails_for_the_size_it_has(managed: Any, actor: MakeActor) -> None:
    """Of a file with holes that is open for writing, in all the ways that make the kernel read much."""
    one = actor(managed.path)
    one("f = new('f'); os.ftruncate(f, 4 << 20)")
    one("for n in range(0, 1024, 9): os.pwrite(f, b'%d' % n, n * PAGE)")
    one("expected = b''.join((b'' if n % 9 else b'%d' % n).ljust(PAGE, bytes(1)) for n in range(1024))")
    again = "os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED); "
    for advice in ("NORMAL", "RANDOM", "SEQUENTIAL", "WILLNEED"):
        one(f"{again}os.posix_fadvise(f, 0, 0, os.POSIX_FADV_{advice})")
        assert one("os.pread(f, 4 << 20, 0) == expected"), advice
    for advice in (0, 1, 2, 3, HUGEPAGE):
        one(again + f"m = Mapping(f, 4 << 20); tried(m.advise, {advice})")
        assert one("m.load(0, 4 << 20) == expected"), advice
    one(again + "call('readahead', f, 0, 4 << 20)")
    assert one("os.pread(f, 4 << 20, 0) == expected")
    one("g = new('g')")
    assert one(again + "os.sendfile(g, f, 0, 1 << 20) > 0, content('g') == expected[:os.fstat(g).st_size]")
    assert one(again + "r, w = os.pipe(); os.splice(f, w, 65536, offset_src=0)") > 0
    one("d = os.open('f', os.O_RDWR | os.O_DIRECT); room = mmap.mmap(-1, 4 << 20)")
    assert one(again + "os.preadv(d, [room], 0), room[:] == expected") == (4 << 20, True)
    assert one("k = mmap.mmap(f, 4 << 20); k[:] == expected")


def test_a_program_on_the_mount_runs(managed: Any) -> None:
    """execve(2) and ld.so map it, and nobody has it open for writing any more."""
    target = managed.path / "true"
    subprocess.run(["cp", "/bin/true", str(target)], check=True, timeout=30)
    assert subprocess.run([str(target)], timeout=30, check=False).returncode == 0


# ---- stores behind the refused page

STORES = """
d = os.open('f', os.O_RDONLY | os.O_DIRECT)
room = mmap.mmap(-1, 8 * PAGE)
def stored():  # what the daemon has, not the kernel's cache
    os.preadv(d, [room], 56 * PAGE)
    return room[:]
def lost(rounds, enough):
    late, lost = 0, []
    for n in range(rounds):
        if late == enough: break
        for page in range(56, 64):
            m.store(n.to_bytes(8, 'little'), page * PAGE + 8 * (n % 512))
        m.sync(4)
        expected = m.load(56 * PAGE, 8 * PAGE)
        if stored() != expected:  # its write-back was skipped
            late += 1
            if not eventually(lambda: stored() == expected, True):
                lost.append(n)
                m.store(b'again', 56 * PAGE)
    return late, lost
"""


def may_open_by_handle(mount: Any) -> bool:
    """Whether the daemon may, which runs as this process does."""
    rewriter = Rewriter(str(mount.path))
    try:
        rewriter.rewrite(1, [])
    except OSError as failure:
        return failure.errno != errno.EPERM
    finally:
        rewriter.close()
    return True


def test_no_store_behind_the_refused_page_is_lost(shmfs_mount: Any, actor: MakeActor, options: str) -> None:
    """Write-back that the kernel skips as behind the end is repeated, without another store.

    Stores until that has happened some times: each would be lost.
    With the extension only: without it no populate of a file that somebody has open with O_DIRECT is ended.
    """
    mount = shmfs_mount(options=f"{options},pages=managed")
    if not may_open_by_handle(mount):
        pytest.skip("files may not be opened by handle here")
    one, two = actor(mount.path), actor(mount.path)
    one(FULL + MAPPED)
    two(MAPPED + STORES)
    one("stop = os.open('stop', os.O_RDWR | os.O_CREAT)")
    one.order("while os.fstat(stop).st_nlink: tried(call, 'mlock', m.address, 64 * PAGE)")
    late, lost = two("lost(20_000, 5)", 300)
    two("os.unlink('stop')")
    one.answer()
    assert not lost, f"{len(lost)} of {late}"
    two("m.sync(4); expected = m.load(56 * PAGE, 8 * PAGE); m.unmap()")
    one("m.unmap()")
    two("os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)")
    assert two("os.pread(f, 8 * PAGE, 56 * PAGE) == stored() == expected, blocks('f')") == (True, 8)
    assert mount.statistics().used == mount.statistics().size_limit


def test_pages_are_written_again_without_a_trace(managed: Any, actor: MakeActor) -> None:
    """Also of a file without a name; nothing is charged, and pages that are not cached are not read."""
    one = actor(managed.path)
    ino = one(f"{FULL}os.close(f)\n{MAPPED}\nos.unlink('f'); os.fstat(f).st_ino")
    one("m.load(60 * PAGE), os.pread(f, PAGE, 0)")
    before = one("(s := os.fstat(f)).st_blocks, s.st_size, content(f'/proc/self/fd/{f}')")
    rewriter = Rewriter(str(managed.path))
    try:
        try:
            rewriter.rewrite(ino, [(56, 64), (9, 12), (100, 200)])
        except OSError as failure:
            if failure.errno == errno.EPERM:
                pytest.skip("files may not be opened by handle here")
            raise
        with pytest.raises(OSError, match="Stale"):
            rewriter.rewrite(12345, [(0, 1)])
    finally:
        rewriter.close()
    assert one("(s := os.fstat(f)).st_blocks, s.st_size, content(f'/proc/self/fd/{f}')") == before
    assert managed.statistics().used == managed.statistics().size_limit
    one("os.close(f); m.unmap()")
    assert eventually(lambda: managed.statistics().used < managed.statistics().size_limit)
