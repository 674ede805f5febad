"""A daemon in the background, or in the foreground; and the change of what it serves."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from shmfs.client import control, launch
from shmfs.daemon import runtime
from shmfs.errors import ShmfsError
from shmfs.fs import options as mount_options
from shmfs.system import mounts, syscalls

_MS_REMOUNT = 1 << 5
_MS_FLAGS = {
    "ro": 1,
    "nosuid": 1 << 1,
    "nodev": 1 << 2,
    "noexec": 1 << 3,
    "sync": 1 << 4,
    "dirsync": 1 << 7,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
"""The options of include/uapi/linux/mount.h that the VFS carries out for the mount."""


def start_in_background(mountpoint: str, options: str) -> launch.Server:
    """Serve a mount until it is unmounted; raises ShmfsError with the reason why not.

    What the daemon says goes to `runtime.log_path`, which is removed when it ends without a word.
    """
    said = runtime.directory() / f"starting-{os.getpid()}.log"
    try:
        with said.open("wb") as stderr:
            server = launch.start(mountpoint, options, lifeline=False, stderr=stderr)
    except ShmfsError as error:
        if not said.stat().st_size:
            raise
        kept = said.replace(runtime.directory() / "failed.log")
        raise ShmfsError(f"{error} ({kept})") from None
    else:
        said.replace(runtime.log_path(server.device))
    finally:
        said.unlink(missing_ok=True)
    return server


def serve(mountpoint: str, options: str, ready: Callable[[launch.Server], object]) -> None:
    """Serve a mount until it is unmounted, or SIGINT, SIGTERM or SIGHUP asks for the end.

    `ready` is called when the mount can be used; signals wait until it has returned. Must be called in the
    main thread. Raises ShmfsError with the reason why it cannot, or when the daemon did not end as it should;
    KeyboardInterrupt when the end was asked for before.
    """
    with _asked_to_end() as asked:
        try:
            server = launch.start(mountpoint, options)
        except _EndError:
            raise KeyboardInterrupt from None
        status = 0
        try:
            # A signal that raises amid a write to a buffered stream has what was written come again at exit.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, asked)
            try:
                ready(server)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            status = server.wait()
        except _EndError:
            pass
        finally:
            asked.clear()  # once is enough
            server.stop()
    if status:
        raise ShmfsError(f"the daemon of {mountpoint} {launch.how_it_ended(status)}: its files are lost")


class _EndError(Exception):
    """A signal asked for the end."""


@contextmanager
def _asked_to_end() -> Iterator[set[int]]:
    """Have the signals in the set, which may be changed, raise _EndError; the others of ours are ignored."""
    listening = {int(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def end(number: int, frame: FrameType | None) -> None:
        if number in listening:
            raise _EndError

    before = {number: signal.signal(number, end) for number in listening}
    try:
        yield listening
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_flags(mount: mounts.Mount, options: str, wanted: str) -> None:
    """Have the VFS carry out its options of a list, and no others."""
    flags = sum(_MS_FLAGS.get(name, 0) for name in mount_options.parse(options).vfs)
    try:
        syscalls.mount(None, mount.mountpoint, None, _MS_REMOUNT | flags)
    except OSError as error:
        raise ShmfsError(f"cannot change {mount.mountpoint} to {wanted}: {error.strerror}") from None


def remount(path: str, options: str, *, whole: bool = False) -> mounts.Mount:
    """Change the limits of a mount, and where given the options that the VFS carries out.

    Raises ShmfsError, also where a change is not possible; then nothing was changed. Limits that are not
    given stay, and so do the VFS's options, but where the list is `whole`: as mount(2) has it, what is
    missing there is off, and those of atime stay where none is given.
    """
    mount = mounts.find(path)
    if mount is None or mount.fstype != mounts.FSTYPE:
        raise ShmfsError(f"{path} is not a shmfs mount, so it cannot be changed; mount it first")
    if mounts.is_dead(mount):
        raise ShmfsError(f"the mount {path} is dead; `shmfs umount {path}` clears it away")
    given = mount_options.parse(options)
    now = [name for name in mount.options.split(",") if name in mount_options.VFS_OPTIONS]
    kept = now
    if whole:
        no_atime = not any(name.endswith("atime") for name in given.vfs)
        kept = [name for name in now if no_atime and name.endswith("atime")]
    if given.vfs:
        _set_flags(mount, ",".join([*kept, options]), ",".join(sorted(given.vfs)))
    try:
        control.call(mount.device, "remount", options=options)
    except BaseException:
        if given.vfs:
            _set_flags(mount, ",".join(now), "what it was")
        raise
    return mounts.find(path) or mount
