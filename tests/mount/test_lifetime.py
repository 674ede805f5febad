"""From the first name to the last reference, and from mount to the end of the daemon."""

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from shmfs.client import launch
from shmfs.errors import ShmfsError
from shmfs.system import mounts
from tests.mount.conftest import MakeActor, eventually

pytestmark = pytest.mark.mount


def held(pid: int) -> int:
    """Bytes of memory that the daemon's frames take."""
    total = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/memfd:"):
                total += os.stat(f"/proc/{pid}/fd/{fd}").st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def nothing_left(mount: Any) -> bool:
    """Whether the model holds the root alone; the kernel gives up what it only remembers when asked to."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    figures = mount.statistics()
    return (figures.inodes_used, figures.used) == (1, 0)


@pytest.mark.parametrize("options", ["size=512m"])
def test_deleting_gives_memory_back(store: str, shmfs: Any, actor: MakeActor) -> None:
    one = actor(shmfs.path)

    def memory() -> int:  # of a native store the kernel tells, and statistics ask it
        return held(shmfs.server.pid) if store == "managed" else int(shmfs.statistics().used)

    before = memory()
    one("fd = new('f')\nfor i in range(256): os.pwrite(fd, b'%c' % i * (1 << 20), i << 20)")
    assert memory() >= before + (256 << 20)
    assert one("os.ftruncate(fd, 128 << 20)") is None
    eventually(lambda: memory() <= before + (129 << 20))
    one("os.unlink('f'); os.close(fd)")
    eventually(lambda: memory() <= before + (1 << 20))
    eventually(lambda: shmfs.statistics().used == 0)


def test_nothing_leaks(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("""
os.makedirs('a/b/c/d')
for index in range(300):
    os.close(new(f'a/b/f{index}', b'x' * index * 10))
    tried(os.stat, f'a/missing{index}')
os.link('a/b/f1', 'a/l1'), os.link('a/b/f1', 'a/l2')
os.symlink('b', 'a/s'), os.symlink('x' * 1000, 'a/long'), os.mkfifo('a/p')
os.setxattr('a/b/f2', 'user.x', b'y' * 1000)
held = new('held', b'x' * 9000)
m = Mapping(new('mapped', b'm' * 9000), 9000)
os.rename('a/b/f3', 'a/b/f4'), os.rename('a/b/f5', 'a/b/c/f6')
""")
    two("os.listdir('a/b'); [os.stat(f'a/b/{n}') for n in os.listdir('a/b')]; os.chdir('a/b/c')")
    one("import shutil; shutil.rmtree('a'); os.unlink('held'); os.unlink('mapped')")
    assert one("os.pread(held, 3, 0), m.load(8999), os.listdir('.')") == (b"xxx", b"m", [])
    assert two("os.listdir('.'), tried(new, 'x')") == ([], "ENOENT")
    one("os.close(held)")
    two("os.chdir('/')")
    one("m.unmap()")
    one.kill()
    eventually(lambda: nothing_left(shmfs))
    assert all(segment.evicted for segment in shmfs.segments())


@pytest.mark.slow
def test_a_tussle_leaves_nothing_behind(shmfs: Any, actor: MakeActor) -> None:
    """Eight processes make, move and remove the same few names: no error of ours, no leak."""
    lead = actor(shmfs.path)
    lead("""
def tussle(channel, seed):
    choose = random.Random(seed)
    def path(): return '/'.join(choose.choice('abc') for _ in range(choose.randrange(1, 4)))
    kept = []
    for step in range(400):
        action = choose.randrange(10)
        if action == 0: tried(os.mkdir, path())
        elif action == 1: kept.append(tried(os.open, path(), os.O_RDWR | os.O_CREAT))
        elif action == 2: tried(os.unlink, path())
        elif action == 3: tried(os.rmdir, path())
        elif action == 4: tried(os.rename, path(), path())
        elif action == 5: tried(call, 'renameat2', -100, path(), -100, path(), 2)
        elif action == 6: tried(os.link, path(), path(), follow_symlinks=False)
        elif action == 7: tried(os.listdir, path())
        elif action == 8 and kept and isinstance(kept[-1], int):
            tried(os.pwrite, kept[-1], b'x' * choose.randrange(9000), 0)
        elif action == 9 and len(kept) > 5:
            fd = kept.pop(0)
            if isinstance(fd, int): os.close(fd)
    channel.send('done')

def crowd():
    import contextlib
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process(tussle, seed)) for seed in range(8)]
        return [worker.receive() for worker in workers]
""")
    assert lead("crowd()", patience=110) == ["done"] * 8
    lead("import collections")
    lead("paths = [os.path.join(d, n) for d, ds, fs in os.walk('.') for n in ds + fs]")
    lead("found = collections.Counter(os.lstat(path).st_ino for path in paths)")
    links = lead(
        "[p for p in paths if (s := os.lstat(p)).st_mode & 0o100000 and s.st_nlink != found[s.st_ino]]"
    )
    assert links == []
    lead("import shutil; [shutil.rmtree(n) if os.path.isdir(n) else os.unlink(n) for n in os.listdir('.')]")
    eventually(lambda: nothing_left(shmfs))


def test_the_kernel_answers_for_a_daemon_that_is_stopped(store: str, shmfs: Any, actor: MakeActor) -> None:
    """What is known needs no round trip: names, missing names, listings' entries, cached and mapped pages.

    Stores through mappings change a native file that was open for writing at any time: stat asks there.
    """
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("os.close(new('f', b'content')); os.close(new('empty')); os.mkdir('d'); os.symlink('f', 's')")
    one("[os.close(new(f'd/{i}')) for i in range(20)]; os.readlink('s')")
    one("r = os.open('f', os.O_RDWR); os.read(r, 10); m = Mapping(new('m', b'm' * PAGE)); m.load()")
    two("os.listdir('d'), os.listdir('.'); m = Mapping(os.open('m', os.O_RDWR)); m.load()")
    one("os.close(r); r = os.open('f', os.O_RDONLY); os.read(r, 10)")
    eventually(lambda: shmfs.segment("f").open_handles == 1)  # the reader; while there is a writer, stat asks
    known = "os.stat('empty').st_size, tried(os.stat, 'none'), os.stat('d').st_nlink, os.lstat('s').st_size"
    one(known), one("os.stat('f')")
    os.kill(shmfs.server.pid, signal.SIGSTOP)
    try:
        for who in (one, two):
            assert who(known, patience=20) == (0, "ENOENT", 2, 1)
            assert who("os.access('empty', os.W_OK)", 20) is True
            if store == "managed":
                assert who("os.stat('f').st_size", 20) == 7
        assert two("[os.stat(f'd/{i}').st_size for i in range(20)]", 20) == [0] * 20
        assert one("os.pread(r, 10, 0), m.load(5)", 20) == (b"content", b"m")
        one("m.store(b'stored while nobody serves')", 20)
        assert two("m.load(0, 6)", 20) == b"stored"
    finally:
        os.kill(shmfs.server.pid, signal.SIGCONT)
    assert one("content('m')[:6]") == b"stored"


@pytest.mark.parametrize("options", ["size=2g"])
def test_work_on_gigabytes_does_not_stall_others(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("fd = new('f'); os.ftruncate(fd, 1 << 30)")
    one("[os.pwrite(fd, b'x', offset) for offset in range(0, 1 << 30, 1 << 17)]")
    two("w = new('other')")
    for work in ("os.ftruncate(fd, 1 << 20)", "os.ftruncate(fd, 1 << 30)", "os.unlink('f'); os.close(fd)"):
        one.order(work)
        assert two("[os.fstat(w).st_size for _ in range(200)]; os.pwrite(w, b'y', 0)") == 1
        assert one.answer() is None
    assert two("eventually(lambda: blocks('other'), 1)") == 1
    eventually(lambda: shmfs.statistics().used == 4096)


def test_a_killed_daemon_is_told_and_replaced(store: str, shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor("/")
    one("fd = new('f', b'x' * PAGE); os.ftruncate(fd, 8 * PAGE); m = Mapping(fd, 8 * PAGE); m.load()")
    os.kill(shmfs.server.pid, signal.SIGKILL)
    with pytest.raises(ShmfsError, match="was killed by SIGKILL"):
        shmfs.server.statistics()
    assert shmfs.server.wait() == -signal.SIGKILL
    path = str(shmfs.path)
    assert two(f"tried(os.listdir, {path!r}), tried(os.statvfs, {path!r})") == ("ENOTCONN", "ENOTCONN")
    assert one("tried(new, 'g'), m.load()") == ("ENOTCONN", b"x")
    if store == "managed":
        assert one("tried(os.pwrite, fd, b'x', 0)") == "ENOTCONN"
        assert one("child(m.load, 5 * PAGE)") == "SIGBUS"
    else:  # what is open is the kernel's, and lives on
        assert one("os.pwrite(fd, b'y', 5 * PAGE), child(m.load, 5 * PAGE), m.load(7 * PAGE)") == (
            1,
            b"y",
            b"\0",
        )
    mount = mounts.find(path)
    assert mount
    assert mounts.is_dead(mount)
    again = launch.start(path, "size=1m")
    try:
        assert two(f"os.listdir({path!r}), os.statvfs({path!r}).f_blocks") == ([], 256)
        assert sum(mount.mountpoint == path for mount in mounts.mounts()) == 1
        assert two(f"fd = new({path!r} + '/f', b'new'); os.pread(fd, 3, 0)") == b"new"
    finally:
        two.kill()
        again.stop()
    assert mounts.find(path) is None


def test_a_dead_mount_is_cleared_by_umount(shmfs: Any) -> None:
    os.kill(shmfs.server.pid, signal.SIGKILL)
    shmfs.server.wait()
    launch.umount(str(shmfs.path))
    assert mounts.find(str(shmfs.path)) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_busy_mount(number: signal.Signals, store: str, shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("fd = new('f', b'x' * 100000); m = Mapping(fd, 8192); m.load()")
    two.order(
        "fd = new('g')\nwhile True: os.pwrite(fd, b'y' * 50000, 0), os.close(os.open('g', os.O_RDONLY))"
    )
    os.kill(shmfs.server.pid, number)
    assert shmfs.server.process.wait(30) == 0
    assert mounts.find(str(shmfs.path)) is None
    assert two.answer() in ("ENOTCONN", "ECONNABORTED", "EIO")
    written = one("tried(os.pwrite, fd, b'x', 0)")
    assert written in (("ENOTCONN", "ECONNABORTED", "EIO") if store == "managed" else (1,))
    assert not any(shmfs.path.iterdir())


def test_a_busy_mount_is_not_unmounted(shmfs: Any, actor: MakeActor) -> None:
    one = actor("/")
    path = str(shmfs.path)
    for hold, release in (
        (f"os.chdir({path!r})", "os.chdir('/')"),
        (f"fd = os.open({path!r} + '/f', os.O_RDWR | os.O_CREAT)", "os.close(fd)"),
        (f"fd = new({path!r} + '/g', bytes(4096)); m = Mapping(fd); os.close(fd)", "m.unmap()"),
    ):
        one(hold)
        with pytest.raises(ShmfsError, match=rf"busy: held by .*\({one.pid}\)"):
            launch.umount(path)
        one(release)
        assert one(f"os.path.ismount({path!r})")
    reaper = threading.Thread(target=shmfs.server.wait)
    reaper.start()
    eventually(lambda: unmounted(path))
    reaper.join(30)
    assert shmfs.server.process.returncode == 0


def test_whoever_keeps_a_mount_busy_may_have_any_name(shmfs: Any, actor: MakeActor) -> None:
    """A name is cut after 15 bytes, which can be within a character (PR_SET_NAME)."""
    one, path = actor("/"), str(shmfs.path)
    one(f"os.chdir({path!r}); call('prctl', 15, b'abcdefghijklmn\\xc3', 0, 0, 0)")
    with pytest.raises(ShmfsError, match=rf"busy: held by .*abcdefghijklmn\udcc3 \({one.pid}\)"):
        launch.umount(path)
    one("os.chdir('/')")


def unmounted(path: str) -> bool:
    """Whether the mount could be ended; what was released is noticed a moment later."""
    with contextlib.suppress(ShmfsError):
        launch.umount(path)
        return True
    return False


def test_umount_of_the_system_ends_the_daemon(shmfs: Any, actor: MakeActor) -> None:
    if os.geteuid() != 0:
        pytest.skip("umount(8) of a mount made by another way than fstab needs root")
    one = actor(shmfs.path)
    one("os.close(new('f', b'x' * 100)); os.chdir('/')")
    subprocess.run(["umount", str(shmfs.path)], check=True, timeout=30)
    assert shmfs.server.process.wait(30) == 0
    assert not any(shmfs.path.iterdir())


def test_processes_that_are_killed_leave_nothing(shmfs: Any, actor: MakeActor) -> None:
    for _ in range(3):
        victim = actor(shmfs.path)
        victim("fd = new('f'); os.unlink('f'); os.ftruncate(fd, 1 << 20); m = Mapping(fd, 1 << 20)")
        victim.order(
            "while True: m.store(os.urandom(1), random.randrange(1 << 20)); os.pwrite(fd, b'x' * 9000, 0)"
        )
        assert not victim.answers_within(0.05)
        victim.kill()
    eventually(lambda: nothing_left(shmfs))
