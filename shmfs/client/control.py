"""Ask the daemon of a mount through its control socket; the other end is `daemon.control`."""

import socket
from typing import Any

import msgspec

from shmfs.daemon import runtime
from shmfs.daemon.control import TIMEOUT, peer
from shmfs.errors import ShmfsError
from shmfs.events.records import Statistics
from shmfs.system import mounts, proc
from shmfs.system.mounts import Mount


class StoppedError(ShmfsError):
    """The daemon is stopped, by a signal or a debugger, and would not answer."""


class EndedError(ShmfsError):
    """The daemon has ended, but for a thread that waits in the kernel and keeps the socket open."""


def _check_runs(pid: int, device: str) -> None:
    """Raise StoppedError or EndedError for a daemon that would not answer."""
    state = proc.state(pid)
    if state in ("T", "t"):
        raise StoppedError(
            f"the daemon of mount {device}, process {pid}, is stopped; continue it with `kill -CONT {pid}`"
        )
    if state in ("Z", "X"):
        raise EndedError(f"the daemon of mount {device} has ended; `shmfs umount` clears the mount away")


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
        connection.connect(str(runtime.socket_path(device)))
        _check_runs(peer(connection)[0], device)
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


def statistics(device: str) -> Statistics:
    """What the daemon knows of its mount; raises ShmfsError."""
    return msgspec.convert(call(device, "statistics"), Statistics)


def find_statistics(device: str) -> Statistics | None:
    """What the daemon knows of its mount; None where it does not answer."""
    try:
        return statistics(device)
    except ShmfsError:
        return None


def is_dead(mount: Mount, failure: ShmfsError) -> bool:
    """Whether nobody serves the mount any more, where to ask has failed so; else it is silent."""
    if isinstance(failure, StoppedError):
        return False  # the kernel would wait for it
    return isinstance(failure, EndedError) or mounts.is_dead(mount)
