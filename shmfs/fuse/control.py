"""The control socket of a mount: one JSON object a line, each answered by one.

The socket belongs to the user who serves the mount (mode 0600), in `runtime_directory`, named after the
mount's device number; only he and root are answered (SO_PEERCRED).
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shmfs.errors import ShmfsError
from shmfs.fuse import mounts, namespaces
from shmfs.fuse.mounts import Mount
from shmfs.trace.records import Statistics

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
TIMEOUT = 30.0
"""Seconds that a client waits for an answer."""

Handler = Callable[[dict[str, Any]], Any]


def runtime_directory() -> Path:
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
    return runtime_directory() / f"{device}.sock"


def log_path(device: str) -> Path:
    """What the daemon of that mount says on standard error, if it is in the background."""
    return runtime_directory() / f"{device}.log"


def remove_traces(device: str) -> None:
    """Remove the socket of a daemon that has ended, and its log if that is empty.

    The number may be another mount's by now: then nothing is removed.
    """
    path, log = socket_path(device), log_path(device)
    with _locked(path.parent):
        if not _answered(path):
            if path.exists():  # else unlink(2) fails where the file system is read-only
                path.unlink(missing_ok=True)
            if log.exists() and log.stat().st_size == 0:
                log.unlink()


def listen(device: str) -> socket.socket:
    """The daemon's end; a socket left by a dead daemon is replaced. Raises ShmfsError."""
    path = socket_path(device)
    new = path.with_name(f"{device}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        new.unlink(missing_ok=True)
        listener.bind(str(new))
        listener.listen()
        with _locked(path.parent):
            new.replace(path)
    except OSError as failure:
        listener.close()
        raise ShmfsError(f"cannot make a socket in {path.parent}: {failure.strerror}") from None
    finally:
        os.umask(mask)
    return listener


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _answered(path: Path) -> bool:
    """Say whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        return connection.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def peer_allowed(connection: socket.socket) -> bool:
    """Whether the other end is root or the user of this process."""
    return _peer(connection)[1] in (0, os.geteuid())


def _peer(connection: socket.socket) -> tuple[int, ...]:
    """Pid, uid and gid of the other end."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(raw)


class StoppedError(ShmfsError):
    """The daemon is stopped, by a signal or a debugger, and would not answer."""


class EndedError(ShmfsError):
    """The daemon has ended, but for a thread that waits in the kernel and keeps the socket open."""


def _check_runs(pid: int, device: str) -> None:
    """Raise StoppedError or EndedError for a daemon that would not answer."""
    state = namespaces.state(pid)
    if state in ("T", "t"):
        raise StoppedError(
            f"the daemon of mount {device}, process {pid}, is stopped; continue it with `kill -CONT {pid}`"
        )
    if state in ("Z", "X"):
        raise EndedError(f"the daemon of mount {device} has ended; `shmfs umount` clears the mount away")


def answer(line: bytes, handlers: dict[str, Handler]) -> bytes:
    """Carry out one request; whatever is wrong with it is told in the answer, and never ends the mount."""
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as malformed:
        return _error(f"malformed request: {malformed}")
    command = request.pop("command", None)
    handler = handlers.get(command) if isinstance(command, str) else None
    if handler is None:
        return _error(f"unknown or missing command {command!r}")
    try:
        return msgspec.json.encode({"ok": handler(request)}) + b"\n"
    except KeyError as missing:
        return _error(f"the command {command!r} needs {missing}")
    except OSError as failure:
        return _error(failure.strerror or str(failure))
    except ShmfsError as failure:
        return _error(str(failure))
    except Exception:
        log.exception("the command %r failed", command)
        return _error(f"the command {command!r} failed; the log of the daemon says why")


def _error(message: str) -> bytes:
    return msgspec.json.encode({"error": message.encode(errors="replace").decode()}) + b"\n"


def call(device: str, command: str, **arguments: Any) -> Any:
    """Ask the daemon of a mount; raises ShmfsError with its answer, or that it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return _ask(connection, device, {"command": command, **arguments})


def events(device: str, *, io: bool = False) -> int:
    """A descriptor from which what happens in a mount can be read as JSON lines; raises ShmfsError.

    With `io` read(2) and write(2) as well, of files that are opened until it is closed (native pages only).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # What follows the answer is not for us.
        _ask(connection, device, {"command": "events", "io": io}, room=1)
        connection.settimeout(None)
        return connection.detach()


def _ask(connection: socket.socket, device: str, request: dict[str, Any], *, room: int = 1 << 20) -> Any:
    """Send a request and read its answer, no more than `room` bytes at once; raises ShmfsError."""
    reply = bytearray()
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(str(socket_path(device)))
        _check_runs(_peer(connection)[0], device)
        connection.sendall(msgspec.json.encode(request) + b"\n")
        while not reply.endswith(b"\n"):
            data = connection.recv(room)
            if not data:
                raise ConnectionResetError
            reply += data
    except TimeoutError:
        raise ShmfsError(
            f"the daemon of mount {device} does not answer within {TIMEOUT:.0f} seconds"
        ) from None
    except OSError:
        raise ShmfsError(
            f"no daemon of yours serves the mount {device}; run this as the user who mounted it"
        ) from None
    answered = msgspec.json.decode(bytes(reply), type=dict[str, Any])
    if "error" in answered:
        raise ShmfsError(answered["error"])
    return answered.get("ok")


def statistics(mount: Mount) -> Statistics:
    """What the daemon knows of its mount; raises ShmfsError."""
    return msgspec.convert(call(mount.device, "statistics"), Statistics)


def is_dead(mount: Mount, failure: ShmfsError) -> bool:
    """Whether nobody serves the mount any more, where to ask has failed so; else it is silent."""
    if isinstance(failure, StoppedError):
        return False  # the kernel would wait for it
    return isinstance(failure, EndedError) or mounts.is_dead(mount)
