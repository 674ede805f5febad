"""A daemon that is killed while a thread of it waits in the kernel for who waits for the daemon."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Actor, MakeActor, eventually

from shmfs.fuse import control, launch, mounts

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to end a connection by force (MNT_FORCE)"),
]
DAEMON = """
import runpy
from shmfs.fuse import notify, operations

def store_again(self, handle, start, end):  # the last page, too, which its writer has locked
    pages = [(4096, b"o" * 4095)]
    self.superblock.defer(lambda: self.cache_again(self._file(handle).ino, pages), lambda: None)

notify._PATIENCE = 3600
operations.Operations.not_stored = store_again
runpy.run_module("shmfs.fuse.daemon", run_name="__main__")
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
