"""Run a function in a process of its own, whatever it does to itself, with a limit of time."""

import ast
import os
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from shmfs.conformance.tools import NeedsRootError, libc

PATIENCE = 60.0
"""Seconds that a case may take."""
_LINGER = 5.0
"""Seconds that a killed process may take to be gone; one that sleeps in the kernel is left behind."""


class Said(NamedTuple):
    """How a function ended, and with what."""

    kind: str
    """value, error (with a traceback), refused (not permitted to this user) or hung."""
    value: Any


def in_child(function: Callable[[], Any], patience: float = PATIENCE) -> Said:
    """Run in a session of its own, and end whatever it leaves behind."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _obey(function, writer)
    os.close(writer)
    deadline = time.monotonic() + patience
    parts = []
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        parts.append(part)
    os.close(reader)
    hung = time.monotonic() >= deadline
    where = _stack(pid) if hung else ""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    status = _wait(pid)
    if hung or status is None:
        return Said("hung", f"no end after {patience:.0f} seconds{where}")
    if not parts:
        return Said("error", f"ended with status {os.waitstatus_to_exitcode(status)}")
    return Said(*ast.literal_eval(b"".join(parts).decode()))


def _obey(function: Callable[[], Any], writer: int) -> None:
    """The child's part: it does not return."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    try:
        if os.geteuid() != 0:
            _drop_capabilities()
        said = Said("value", ast.literal_eval(repr(function())))
    except BaseException as failure:
        # Who is not root fails where a case asks for what only root may.
        refused = isinstance(failure, OSError | NeedsRootError) and not _is_root()
        said = Said("refused" if refused else "error", traceback.format_exc())
    with os.fdopen(writer, "w") as pipe:
        pipe.write(repr(tuple(said)))
    os._exit(0)


def _is_root() -> bool:
    """Whether this is root, and every user and group there is may be given to a file."""
    whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str((1 << 32) - 1)]
    return os.geteuid() == 0 and whole


def _drop_capabilities() -> None:
    """Be the user and no more: in a user namespace of his own he would have rights. See capset(2)."""
    header = struct.pack("Ii", 0x20080522, 0)
    libc.capset(header, bytes(24))


def _stack(pid: int) -> str:
    try:
        return ", in\n" + Path(f"/proc/{pid}/stack").read_text()
    except OSError:
        return ""


def _wait(pid: int) -> int | None:
    """Its status; None where it does not end."""
    deadline = time.monotonic() + _LINGER
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(0.001)
