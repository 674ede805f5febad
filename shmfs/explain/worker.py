"""A process of the story: `python -m shmfs.explain.worker DAEMON IN OUT`, an order a line, in JSON.

It joins the sandbox of the daemon, does what it is told by plain calls of libc, and answers what came of
it, with its page faults where they are asked for. IN and OUT are pipes for the child that it may have to
fork. It ends at the end of its input, and removes then the System V segments that it made.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from shmfs.system import namespaces, syscalls
from shmfs.system.syscalls import checked, libc

_NOBODY = 65534
_POINTERS = {"mmap", "shmat", "syscall"}
"""Functions of libc that return 64 bits; the others an int."""


class _Usage(ctypes.Structure):
    """See getrusage(2)."""

    _fields_ = (
        ("times", ctypes.c_long * 4),
        ("memory", ctypes.c_long * 4),
        ("minflt", ctypes.c_long),
        ("majflt", ctypes.c_long),
        ("rest", ctypes.c_long * 8),
    )


_usage = _Usage()
_usage_address = ctypes.byref(_usage)
_getrusage = libc.getrusage
_own = ctypes.create_string_buffer(1)


def call(name: str, *arguments: Any) -> int:
    """Call libc; raises OSError."""
    function = libc[name]
    function.restype = ctypes.c_long if name in _POINTERS else ctypes.c_int
    words = [one.encode() if isinstance(one, str) else ctypes.c_long(_signed(one)) for one in arguments]
    result: int = function(*words)
    if result == -1:
        checked(result)
    return result


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _measured(cell: ctypes.c_char, value: bytes | None) -> dict[str, Any]:
    """Load a byte, or store one; nothing else happens between the two looks at the counters."""
    _getrusage(resource.RUSAGE_SELF, _usage_address)
    minor, major = _usage.minflt, _usage.majflt
    if value is None:
        value = cell.value
    else:
        cell.value = value
    _getrusage(resource.RUSAGE_SELF, _usage_address)
    return {"value": value.decode("latin-1"), "minor": _usage.minflt - minor, "major": _usage.majflt - major}


def touch(address: int, value: str | None) -> dict[str, Any]:
    """Load (`value` None) or store one byte; returns it, with the faults that it took."""
    data = None if value is None else value.encode("latin-1")
    cell = ctypes.c_char.from_address(address)
    for _ in range(2):  # the way there must not fault itself: pages of ours that a fork has made read-only
        _measured(ctypes.c_char.from_buffer(_own), data)
    return _measured(cell, data)


def in_child(function: Callable[[], Any]) -> dict[str, Any]:
    """Call in a child, which may die of it; returns its signal, or what came of the call."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(BaseException):
            os.write(writer, json.dumps(_tried(function)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        return {"value": signal.Signals(-status).name}
    found: dict[str, Any] = json.loads(said)
    return found


def limited(limit: str, value: int, name: str, *arguments: Any) -> dict[str, Any]:
    """Call libc in a child that has no rights and that limit: "RLIMIT_AS" in bytes, say."""

    def run() -> dict[str, Any]:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        resource.setrlimit(getattr(resource, limit), (value, value))
        return {"value": call(name, *arguments)}

    return in_child(run)


def _figures(name: str, *arguments: Any) -> dict[str, Any]:
    """Call a function of `os`: stat, statvfs."""
    found = getattr(os, name)(*arguments)
    return {one: getattr(found, one) for one in dir(found) if one.startswith(("st_", "f_"))}


def _buffer(name: str, size: int, *arguments: Any) -> dict[str, Any]:
    """Call libc with a buffer where it says "BUFFER" or "BUFFER+16"; returns what it holds then, in hex."""
    memory = ctypes.create_string_buffer(size)
    places = {"BUFFER": ctypes.addressof(memory), "BUFFER+16": ctypes.addressof(memory) + 16}
    words = [places.get(one, one) for one in arguments]
    call(name, *words)
    return {"value": memory.raw.hex()}


class Worker:
    """The loop of orders."""

    def __init__(self, spare: tuple[int, int]) -> None:
        self.spare = spare
        self.children: list[int] = []
        self.segments: list[int] = []

    def serve(self) -> None:
        """Obey until the end of the input."""
        while line := _line():
            _answer(_tried(partial(self.obey, *json.loads(line))))

    def obey(self, what: str, *arguments: Any) -> Any:
        """Carry out one order; raises OSError."""
        if what == "call":
            result = call(*arguments)
            if arguments[0] == "shmget":
                self.segments.append(result)
            return {"value": result}
        if what == "touch":
            return touch(*arguments)
        if what == "touch in child":
            return in_child(lambda: touch(*arguments))
        if what == "fork":
            return {"value": self.fork()}
        orders: dict[str, Callable[..., Any]] = {"limited": limited, "figures": _figures, "buffer": _buffer}
        return orders[what](*arguments)

    def fork(self) -> int:
        """Make a child that takes orders from the spare pipes; returns its pid."""
        pid = os.fork()
        if pid == 0:
            self.children, self.segments = [], []
            for spare, standard in zip(self.spare, (0, 1), strict=True):
                os.dup2(spare, standard)
                os.close(spare)
            return 0
        for spare in self.spare:
            os.close(spare)
        self.children.append(pid)
        return pid

    def end(self) -> None:
        """Leave nothing behind."""
        for segment in self.segments:
            with contextlib.suppress(OSError):
                call("shmctl", segment, 0, 0)  # IPC_RMID
        for pid in self.children:
            os.waitpid(pid, 0)


def _tried(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except OSError as failure:
        return {"errno": failure.errno}


def _line() -> bytes:
    """The next order; read without a buffer, which a fork would double."""
    line = bytearray()
    while not line.endswith(b"\n") and (data := os.read(0, 1 << 16)):
        line += data
    return bytes(line)


def _answer(answer: Any) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main(arguments: list[str]) -> None:
    """Join the sandbox and serve."""
    daemon, spare_in, spare_out = map(int, arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if daemon:
        namespaces.join(daemon)
    # Joining a user namespace hides /proc/self from its own user; compare kernel/cred.c:commit_creds.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    gc.disable()
    worker = Worker((spare_in, spare_out))
    try:
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
            _answer({"value": os.getpid()})
            worker.serve()
    finally:
        worker.end()


if __name__ == "__main__":
    main(sys.argv[1:])
