"""Where the daemons of a user keep their sockets and logs."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from shmfs.errors import ShmfsError


def directory() -> Path:
    """Where this user's daemons keep sockets and logs; made if missing. Raises ShmfsError."""
    if os.geteuid() == 0:
        path = Path("/run/shmfs")
    else:
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        usable = base and os.access(base, os.W_OK | os.X_OK)
        path = Path(base) / "shmfs" if usable else Path(f"/tmp/shmfs-{os.geteuid()}")  # noqa: S108
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as failure:
        raise ShmfsError(f"cannot make the directory {path}: {failure.strerror}") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ShmfsError(f"{path} is not a directory of yours alone; remove it and try again")
    return path


def socket_path(device: str) -> Path:
    """The control socket of the mount with that device number, if this user serves it."""
    return directory() / f"{device}.sock"


def log_path(device: str) -> Path:
    """What the daemon of that mount says on standard error, if it is in the background."""
    return directory() / f"{device}.log"


def remove_traces(device: str) -> None:
    """Remove the socket of a daemon that has ended, and its log if that is empty.

    The number may be another mount's by now: then nothing is removed.
    """
    path, log = socket_path(device), log_path(device)
    with locked(path.parent):
        if not _answered(path):
            if path.exists():  # else unlink(2) fails where the file system is read-only
                path.unlink(missing_ok=True)
            if log.exists() and log.stat().st_size == 0:
                log.unlink()


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """Let nobody else replace or remove a socket in `place` meanwhile."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _answered(path: Path) -> bool:
    """Say whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        return connection.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
