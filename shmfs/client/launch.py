"""Start a daemon, wait until its mount can be used, and end it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, NamedTuple

import msgspec

from shmfs.client import control
from shmfs.daemon import runtime
from shmfs.daemon.messages import Configuration, Ready
from shmfs.errors import ShmfsError
from shmfs.events.records import Statistics
from shmfs.fs import options as mount_options
from shmfs.system import mounts, proc

_GRACE = 10.0
"""Seconds that a daemon may take to end."""
_ENDING = 0.5
"""Seconds after which it is asked whether something keeps it from ending."""


class Server:
    """A daemon that was started, and its mount."""

    def __init__(self, process: "subprocess.Popen[bytes]", mountpoint: str, ready: Ready) -> None:
        self.process = process
        self.pid = process.pid
        self.mountpoint = mountpoint
        self.device = ready.device
        self.notes = ready.notes

    def statistics(self) -> Statistics:
        """What the daemon knows now; raises ShmfsError, which says how it ended where it did."""
        try:
            return control.statistics(self.device)
        except ShmfsError:
            try:  # its socket is closed a moment before it can be waited for
                status = self.process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                status = None
            if status is None:
                raise
            raise ShmfsError(f"the daemon of {self.mountpoint} {how_it_ended(status)}") from None

    def wait(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        return self.process.wait()

    def stop(self, timeout: float = _GRACE) -> None:
        """Unmount, detaching what is busy, and wait; a daemon that does not end in time is killed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                _clean_up(self.device, self.mountpoint)
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        _clean_up(self.device, self.mountpoint)


def start(
    mountpoint: str,
    options: str = "",
    *,
    sandbox: bool = False,
    lifeline: bool = True,
    exact: bool = False,
    log: int | None = None,
    log_hooks: list[str] | None = None,
    trace_io: bool = False,
    stderr: IO[bytes] | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> Server:
    """Serve a mount on `mountpoint` from a process of its own; raises ShmfsError with the reason why not.

    With `sandbox` the mount is in a mount namespace of the daemon's. With `lifeline` the daemon ends when
    this process does. `exact` asks for the store that counts every page, unless `options` choose one.
    `log` is a descriptor for the log in JSON lines, and `log_hooks` are its events (default: all). With
    `trace_io` read(2) and write(2) are among them, which asks for native pages. `meanwhile` is called while
    the daemon starts, which takes some tenths of a second.
    """
    given = mount_options.parse(options)  # a bad option is told before anything is started
    if trace_io:
        options = _native(given, options)
    elif exact and given.pages == "auto" and "pages" not in given.seen:
        options = f"{options},pages=managed".removeprefix(",")
    if not sandbox:
        mountpoint = mounts.check_mountpoint(mountpoint)
    configuration = Configuration(mountpoint, options, sandbox, lifeline, log, log_hooks, trace_io)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "shmfs.daemon.serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr or (None if sys.stderr else subprocess.DEVNULL),  # its log goes where ours goes
        bufsize=0,
        pass_fds=() if log is None else (log,),
        start_new_session=True,
        env=os.environ | {"SHMFS_PRELOAD": ""},  # a shell that `shmfs env` set up: never on its own mount
    )
    try:
        line = _converse(process, msgspec.json.encode(configuration) + b"\n", meanwhile)
    except BaseException:
        _abandon(process, mountpoint)
        raise
    ready = msgspec.json.decode(line, type=Ready) if line else Ready(error=_death(process, mountpoint))
    if process.stdin and (ready.error or not lifeline):
        process.stdin.close()
    if ready.error:
        process.wait()
        raise ShmfsError(ready.error)
    return Server(process, mountpoint, ready)


def _native(given: mount_options.MountOptions, options: str) -> str:
    """The options with the store that sees calls; to the other one READ and WRITE are the page cache's."""
    if given.pages == "managed" or given.readahead:
        wrong = "pages=managed" if given.pages == "managed" else "readahead"
        raise ShmfsError(f"read and write calls can be traced on native pages only; leave {wrong} out")
    return f"{options},pages=native".removeprefix(",")


def _converse(
    process: "subprocess.Popen[bytes]", line: bytes, meanwhile: Callable[[], object] | None
) -> bytes:
    """Send the configuration; returns the daemon's answer, or nothing where it died."""
    if process.stdin is None or process.stdout is None:
        return b""
    try:
        with process.stdout:
            process.stdin.write(line)
            if meanwhile:
                meanwhile()
            return process.stdout.readline()
    except BrokenPipeError:
        return b""


def _abandon(process: "subprocess.Popen[bytes]", mountpoint: str) -> None:
    """End a daemon that is starting, and clear away what it may have mounted."""
    process.terminate()
    try:
        process.communicate(timeout=_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    mount = mounts.find(mountpoint)
    if mount and mount.fstype == mounts.FSTYPE and mounts.is_dead(mount):
        mounts.clear(mountpoint)


def _death(process: "subprocess.Popen[bytes]", mountpoint: str) -> str:
    how = how_it_ended(process.wait())
    return f"the daemon for {mountpoint} {how} before the mount could be used"


def how_it_ended(status: int) -> str:
    """Say it of a process, for a message; `status` as of Server.wait."""
    if status >= 0:
        return f"ended with status {status}"
    hint = ", perhaps for lack of memory (see `dmesg`)" if status == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-status).name}{hint}"


def _clean_up(device: str, mountpoint: str) -> None:
    """After a daemon that was killed: its socket and its dead mount."""
    runtime.remove_traces(device)
    mount = mounts.find(mountpoint)
    if mount and mount.device == device:
        mounts.clear(mountpoint)


class Unmounted(NamedTuple):
    """A mount that is no more."""

    mountpoint: str
    device: str
    pid: int | None
    """Of its daemon; None if that was dead, or another user's."""
    kept: str = ""
    """Who still sees it in another mount namespace: the daemon serves on until they end."""


def umount(path: str) -> Unmounted:
    """Unmount and wait until the daemon has ended; a dead mount is cleared away. Raises ShmfsError.

    Where another mount namespace has a copy of the mount (`unshare -m`, a container, `shmfs run`), there is
    nothing to wait for: the result names who is in it.
    """
    mount = mounts.find(path)
    if mount is None or mount.fstype != mounts.FSTYPE:
        raise ShmfsError(f"{path} is not a shmfs mount; `shmfs ps` lists them")
    pid, dead = _daemon(mount)
    if dead:
        mounts.clear(mount.mountpoint)
        runtime.remove_traces(mount.device)
        return Unmounted(mount.mountpoint, mount.device, None)
    mounts.unmount(mount.mountpoint)
    begin = time.monotonic()
    while pid and proc.state(pid) not in ("", "Z") and time.monotonic() < begin + _GRACE:
        if time.monotonic() > begin + _ENDING and (kept := mounts.elsewhere(mount.device)):
            return Unmounted(mount.mountpoint, mount.device, pid, kept)
        time.sleep(0.01)
    return Unmounted(mount.mountpoint, mount.device, pid)


def _daemon(mount: mounts.Mount) -> tuple[int | None, bool]:
    """The daemon's pid, None of another user's, and whether nobody serves the mount any more."""
    try:
        return control.statistics(mount.device).pid, False
    except control.StoppedError:
        raise  # as to unmount would wait for it
    except ShmfsError as failure:
        return None, control.is_dead(mount, failure)
