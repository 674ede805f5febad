"""The daemon's end of its control socket: one JSON object a line, each answered by one.

The socket belongs to the user who serves the mount (mode 0600), in `runtime.directory()`, named after the
mount's device number; only this user and root are answered (SO_PEERCRED).
"""

import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from shmfs.daemon import runtime
from shmfs.errors import ShmfsError

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
TIMEOUT = 30.0
"""Seconds that a client waits for an answer."""

Handler = Callable[[dict[str, Any]], Any]


def listen(device: str) -> socket.socket:
    """The daemon's end; a socket left by a dead daemon is replaced. Raises ShmfsError."""
    path = runtime.socket_path(device)
    new = path.with_name(f"{device}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        new.unlink(missing_ok=True)
        listener.bind(str(new))
        listener.listen()
        with runtime.locked(path.parent):
            new.replace(path)
    except OSError as failure:
        listener.close()
        raise ShmfsError(f"cannot make a socket in {path.parent}: {failure.strerror}") from None
    finally:
        os.umask(mask)
    return listener


def peer_allowed(connection: socket.socket) -> bool:
    """Whether the other end is root or the user of this process."""
    return peer(connection)[1] in (0, os.geteuid())


def peer(connection: socket.socket) -> tuple[int, ...]:
    """Pid, uid and gid of the other end."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(raw)


def answer(line: bytes, handlers: dict[str, Handler]) -> bytes:
    """Carry out one request; the answer reports whatever is wrong with it, and the mount goes on."""
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
