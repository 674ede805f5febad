"""A process of a program: carries out operations in a directory, with descriptors and mappings of its own.

Operations answer with plain data that both file systems must agree on. An OSError becomes its name.
"""

import ctypes
import errno
import fcntl
import os
import signal
import stat
import time
import zlib
from collections.abc import Callable, Collection
from itertools import count
from multiprocessing.connection import Connection
from random import Random
from typing import Any, NoReturn

from tests.differential.masks import masked

PAGE = 4096
PATTERN = Random(0).randbytes(1 << 20)
"""What is written: a slice of it, so that what was written where can be told."""
PATIENCE = 1.0
"""Seconds that the figures of statfs may take to settle: FUSE tells of a last close after it has returned."""

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p

Figures = tuple[int, int]
"""Blocks and inodes in use."""
Answer = tuple[Any, Figures | None]
"""What an operation gave, and the figures after it if they were looked at."""


class Missing(Exception):  # noqa: N818  it is no error
    """The program names a descriptor or mapping that is not there, so the step does nothing."""


class Actor:
    """The state of the process."""

    def __init__(self, store: str) -> None:
        self.store = store
        """That is compared with tmpfs: its masks hold on both sides."""
        self.files: dict[int, int] = {}
        self.mappings: dict[int, Any] = {}
        self.names: Collection[str] = ()
        """Names of the operations in the program."""
        self.patience: float = PATIENCE
        self.root = -1
        """A descriptor of the mount, for statfs: the working directory may be closed to the actor."""
        self.pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.apart = count(1 << 44, 1 << 34)
        """Addresses for mappings that do not meet."""

    def masks(self, name: str) -> bool:
        """Whether a difference is known of the store."""
        return masked(name, self.store)

    def calls(self, *names: str) -> bool:
        """Whether the program has one of these operations."""
        return not set(names).isdisjoint(self.names)

    def fd(self, slot: int) -> int:
        """The descriptor of that number; raises Missing."""
        if slot not in self.files:
            raise Missing
        return self.files[slot]

    def keep(self, slot: int, fd: int) -> None:
        """Name a descriptor; one that had the name is closed."""
        old = self.files.pop(slot, None)
        self.files[slot] = fd
        if old is not None:
            os.close(old)

    def reset(self) -> None:
        """Let everything go, as at exit."""
        for fd in self.files.values():
            os.close(fd)
        self.files.clear()
        for mapping in self.mappings.values():
            mapping.unmap()
        self.mappings.clear()


Operation = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {}
"""By name: functions of an Actor and a step's arguments."""


def operation(function: Operation) -> Operation:
    """Enter a function in the table."""
    OPERATIONS[function.__name__.rstrip("_")] = function
    return function


def call(name: str, *arguments: Any) -> int:
    """A function of the C library; raises OSError where it answers -1."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(libc, name)(*converted)
    if result in (-1, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result or 0)


def data(tag: int, size: int) -> bytes:
    """`size` bytes to write, others for another `tag`."""
    start = tag * 251 % (len(PATTERN) // 2)
    return PATTERN[start : start + size]


def digest(content: bytes | memoryview) -> Any:
    """Content short enough to be printed: itself, or its length and a checksum."""
    return bytes(content) if len(content) <= 16 else (len(content), zlib.crc32(content))


def is_written(fd: int, *, unknown: bool) -> bool:
    """Whether somebody has the file open for writing; `unknown` where that may not be known.

    A read lease tells: it is refused while somebody has (fcntl(2), F_SETLEASE), and to all but the owner.
    """
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
        return True
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return unknown
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def loses_bits(status: os.stat_result) -> bool:
    """Whether a change of the file by this process takes its set-id bits."""
    return os.geteuid() != 0 and bool(status.st_mode & (stat.S_ISUID | stat.S_ISGID))


def data_end(fd: int, offset: int) -> int:
    """Where the data that hold `offset` end; `offset` itself in a hole."""
    place = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        if os.lseek(fd, offset, os.SEEK_DATA) > offset:
            return offset
        return os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError:
        return offset
    finally:
        os.lseek(fd, place, os.SEEK_SET)


def readable(actor: Actor, fd: int, offset: int | None, size: int) -> int:
    """How much of a read is compared ("read of a writer's hole")."""
    if not size and actor.masks("empty read"):
        raise Missing
    if not actor.masks("read of a writer's hole") or not is_written(fd, unknown=True):
        return size
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return size
    offset = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
    if offset < 0 or offset >= status.st_size:
        return size
    return min(size, data_end(fd, offset) - offset)


def writable(actor: Actor, fd: int, offset: int | None, size: int) -> int:
    """How much of a write is made ("failed write over a store", "failed write over a mapped page")."""
    if not actor.masks("failed write over a store") or size + PAGE <= os.fstatvfs(actor.root).f_bfree * PAGE:
        return size
    try:
        os.fsync(fd)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
            offset = os.fstat(fd).st_size
        place = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
    except OSError:  # what cannot be written cannot be synced, and a fifo has no places
        return size
    if actor.calls("mmap") and actor.masks("failed write over a mapped page"):
        size -= (place + size) % PAGE if place % PAGE + size > PAGE else 0
    return size


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it answers, an errno's name, or that there was nothing to do it with."""
    try:
        return function(*arguments)
    except OSError as failure:
        return errno.errorcode.get(failure.errno or 0, failure.errno)
    except Missing:
        return "missing"


def figures(root: int) -> Figures:
    """What is in use in the file system."""
    status = os.fstatvfs(root)
    return status.f_blocks - status.f_bfree, status.f_files - status.f_ffree


def settled(actor: Actor, expected: Figures) -> Figures:
    """The figures, once they are the expected ones or time is over; then nothing is waited for any more."""
    deadline = time.monotonic() + actor.patience
    while (seen := figures(actor.root)) != expected:
        if time.monotonic() >= deadline:
            actor.patience = 0
            break
        time.sleep(0.0005)
    return seen


def become(user: int) -> None:
    """Take the user and group of that number."""
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def serve(connection: Connection, store: str) -> NoReturn:
    """Carry out what is ordered: lists of (name, arguments, expected figures), answered in lists.

    With True for the figures they are as they come, with None they are not looked at.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end goes, and this one with it
    os.umask(0o022)
    actor = Actor(store)
    try:
        while True:
            answers: list[Answer] = []
            for name, arguments, expected in connection.recv():
                answer = tried(OPERATIONS[name], actor, *arguments)
                if isinstance(expected, tuple):
                    answers.append((answer, settled(actor, expected)))
                else:
                    answers.append((answer, figures(actor.root) if expected else None))
            connection.send(answers)
    except (EOFError, BrokenPipeError):
        os._exit(0)
