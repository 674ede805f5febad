"""Daemons that end, or work on, while threads of theirs wait in the kernel for who waits for a daemon."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmfs.client import control, launch
from shmfs.system import mounts
from tests.mount.conftest import Actor, MakeActor, eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to end a connection by force (MNT_FORCE)"),
]
DAEMON = """
import runpy
from shmfs.fs.deferred import Deferred
from shmfs.fuse import notify, operations

def store_again(self, inode, start, end, answer):  # the last page, too, which its writer has locked
    pages = [(4096, b"o" * 4095)]
    return Deferred(lambda: self.cache_again(inode.ino, pages), answer)

notify._PATIENCE = 3600
operations.Operations._cache_again = store_again
runpy.run_module("shmfs.daemon.serve", run_name="__main__")
"""
PROGRAM = """
os.pwrite(new('f'), b'o' * 4095, 4096)
fd = os.open('f', os.O_RDWR)
os.fsync(fd), os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
os.pwrite(new('filler'), b'x' * 15 * 4096, 0)
"""


def waits_for_good(pid: int) -> bool:
    """Whether a thread is where no signal reaches it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return any(") D " in (task / "stat").read_text() for task in tasks)


@pytest.fixture
def stuck(
    tmp_path: Path, actor: MakeActor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[launch.Server, Actor]]:
    """The daemon, and who waits for it."""
    mountpoint, python = tmp_path / "mount", tmp_path / "python"
    mountpoint.mkdir()
    (tmp_path / "daemon.py").write_text(DAEMON)
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/daemon.py\n")
    python.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        patch.setenv("PYTHONPATH", str(Path(launch.__file__).parents[2]))
        server = launch.start(str(mountpoint), "size=64k,pages=managed")
    try:
        one = actor(mountpoint)
        one(PROGRAM)
        one.order("tried(os.pwrite, fd, b'n' * 8191, 0)")
        eventually(lambda: waits_for_good(server.pid))
        yield server, one
    finally:
        mounts.clear(str(mountpoint)) if mounts.find(str(mountpoint)) else None
        server.stop()


def killed(server: launch.Server) -> None:
    """Kill it, and unmount."""
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: ") Z " in Path(f"/proc/{server.pid}/stat").read_text())
    with pytest.raises(control.EndedError, match="has ended; `shmfs umount` clears the mount away"):
        control.call(server.device, "statistics")
    assert launch.umount(server.mountpoint).pid is None


def stopped(server: launch.Server) -> None:
    """Stop it."""
    server.stop(0.5)


@pytest.mark.parametrize("end", [killed, stopped])
def test_its_end_ends_the_mount(
    end: Callable[[launch.Server], None], stuck: tuple[launch.Server, Actor]
) -> None:
    server, one = stuck
    end(server)
    assert one.answer() in ("ENOTCONN", "ECONNABORTED", "EIO")
    assert server.wait() == -signal.SIGKILL
    assert mounts.find(server.mountpoint) is None


MANY = 41
"""More than trio has threads unless it is told otherwise."""
COUNTED = f"""
sys.path.append({str(Path(__file__).parent)!r})
import sysv
client = sysv.Client('.')
one = client.attach(client.get(0, 4096))
asking = [threading.Thread(target=client.nattch, args=(0,), daemon=True) for _ in range({MANY})]
[thread.start() for thread in asking]
time.sleep(0.3)
sum(thread.is_alive() for thread in asking)
"""


@pytest.fixture
def counting(tmp_path: Path, actor: MakeActor) -> Iterator[launch.Server]:
    """A daemon that counts attaches, and waits for a process that has its mmap_lock.

    That unmaps what it has stored into a mapping of another mount, whose daemon is stopped.
    """
    servers = []
    for name in "elsewhere", "mount":
        (tmp_path / name).mkdir()
        servers.append(launch.start(str(tmp_path / name), "size=1m,pages=managed,reserve=prefault"))
    elsewhere, server = servers
    try:
        holder, asking = actor(elsewhere.mountpoint), actor(server.mountpoint)
        holder("m = Mapping(new('f', b'x' * 4096)); m.store(b'y')")
        os.kill(elsewhere.pid, signal.SIGSTOP)
        holder.order("call('mmap', m.address, 4096, 3, PRIVATE | FIXED | 0x20, -1, 0)")
        eventually(lambda: waits_for_good(holder.pid))
        assert asking("import sys" + COUNTED) == MANY
        yield server
    finally:
        os.kill(elsewhere.pid, signal.SIGCONT)
        for one in servers:
            one.stop()


def test_counts_that_wait_hold_up_nothing_else(counting: launch.Server, actor: MakeActor) -> None:
    """Memory for a longer file is had in a thread, too."""
    assert actor(counting.mountpoint)("os.ftruncate(new('f'), 8192); blocks('f')", 10) == 2


def test_counts_that_wait_do_not_hold_up_the_end(counting: launch.Server) -> None:
    os.kill(counting.pid, signal.SIGTERM)
    assert counting.process.wait(10) == 0


STORM = f"""
sys.path.append({str(Path(__file__).parent)!r})
import sysv
client = sysv.Client('.')
shmid = client.get(1, 4096)
def attach():
    while True:
        os.close(client.open(shmid))
def attaching():
    pid = os.fork()
    if not pid:
        tried(attach)
        os._exit(0)
    return pid
pids = [attaching() for _ in range(4)]
"""


def test_a_name_being_dropped_does_not_hold_up_the_end(tmp_path: Path, actor: MakeActor) -> None:
    """The lookups under way, for which it waits, get their answers."""
    for _ in range(10):
        server = launch.start(str(tmp_path), "size=1m,pages=managed")
        one = actor(tmp_path)
        try:
            one("import sys" + STORM)
            time.sleep(0.2)
            os.kill(server.pid, signal.SIGTERM)
            assert server.process.wait(10) == 0
            assert one("[os.waitpid(pid, 0)[1] for pid in pids]", 10) == [0] * 4
        finally:
            one.kill()  # with them the wait of a daemon that hangs
            server.stop()
