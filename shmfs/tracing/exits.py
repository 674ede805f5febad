"""How processes ended; perf records that a thread ended, and not how.

The process connector (netlink(7), <linux/cn_proc.h>) reports it of every process of the machine, to root in
the first namespaces only. Elsewhere a zombie has its status in /proc/PID/stat, and of one that its parent has
waited for a pidfd has it that was opened before: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shmfs.system import proc
from shmfs.tracing.changes import Change, Fork

_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC = 11, 1, 1
_NLMSG_DONE, _LISTEN, _EXEC, _EXIT = 3, 1, 2, 0x80000000
_SO_ATTACH_FILTER = 26
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_MESSAGE = struct.Struct("=IIIIHH")  # struct cn_msg
_EVENT = struct.Struct("=IIQIII")  # struct proc_event: what, cpu, time, then pid, tgid and exit code
_BUFFER, _BUFFER_OF_EXECS = 1 << 22, 1 << 18
_MOST = 1 << 16

_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), of which the first 64 bytes are used
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=Q52xi")  # mask, and behind what is not asked for the exit code
_PIDFDS = 256
"""Descriptors that are open at once; of more processes the status is known only while they are zombies."""


class _Ended(NamedTuple):
    code: int
    led: bool
    """Whether the leader is among the threads that have ended."""
    time: int = 0
    """When that was, in nanoseconds of CLOCK_MONOTONIC; 0 is not known."""


class _Event(NamedTuple):
    """The part of a struct proc_event that an exec and an exit have in common."""

    what: int
    processor: int
    time: int
    """Nanoseconds of CLOCK_MONOTONIC."""
    thread: int
    process: int
    code: int


class Exits:
    """The newest of them, by pid."""

    def __init__(self) -> None:
        """Listen from now on; raises OSError where that is not permitted."""
        self._ended: OrderedDict[int, _Ended] = OrderedDict()
        self.works = False
        """Whether the kernel has answered: it ignores who asks from within a container."""
        self._socket = _listen(_BUFFER)
        try:
            self.read()
        except BaseException:
            self._socket.close()
            raise

    def read(self) -> None:
        """Take in what the kernel has told since; what did not fit into the buffer stays unknown."""
        for event in _events(self._socket):
            self.works = True
            if event and event.what == _EXIT:
                self.take(event.thread, event.process, event.code, event.time)

    def take(self, thread: int, process: int, code: int, time: int = 0) -> None:
        """Take the exit code of a thread: that of the leader is the process's.

        Where the leader had ended before, it is the code with which a later thread ended all of them. Threads
        that end by themselves have 0, and may be the last. Compare kernel/exit.c:wait_task_zombie.
        """
        known = self._ended.get(process)
        leads = thread == process
        if leads or known is None or not known.led or code:
            self._ended[process] = _Ended(code, leads or (known is not None and known.led), time)
            self._ended.move_to_end(process)
        if len(self._ended) > _MOST:
            self._ended.popitem(last=False)

    def status(self, pid: int) -> int | None:
        """Return how the process ended, as a shell has it: 128+N for signal N; None if not known.

        It is not known before the leader has ended: other threads may be reported earlier, with other codes.
        """
        ended = self._ended.get(pid)
        return _status(ended.code) if ended is not None and ended.led else None

    def time(self, pid: int) -> int | None:
        """Return when the process ended, in nanoseconds of CLOCK_MONOTONIC; None if not known."""
        ended = self._ended.get(pid)
        return ended.time or None if ended is not None else None

    def forget(self, pid: int) -> None:
        """Drop what is known of a process: another may get its pid."""
        self._ended.pop(pid, None)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class Execs:
    """Which processes execute a program, as soon as the kernel has done so and before the program runs."""

    def __init__(self) -> None:
        """Listen from now on; raises OSError where that is not permitted."""
        self._socket = _listen(_BUFFER_OF_EXECS, only=_EXEC)

    def fileno(self) -> int:
        """A descriptor for poll(2)."""
        return self._socket.fileno()

    def read(self) -> list[int]:
        """Return the pids of those that have done so; what did not fit into the buffer is found later."""
        return [event.process for event in _events(self._socket) if event and event.what == _EXEC]

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _events(connector: socket.socket) -> Iterator[_Event | None]:
    """The new messages, None for one that is no event; what did not fit into the buffer is missing."""
    while True:
        try:
            data = connector.recv(1 << 12)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                continue
            return
        whole = len(data) >= _HEADER.size + _MESSAGE.size + _EVENT.size
        yield _Event(*_EVENT.unpack_from(data, _HEADER.size + _MESSAGE.size)) if whole else None


def _listen(size: int, *, only: int | None = None) -> socket.socket:
    """Return a socket of the process connector with a buffer of `size` bytes (`only` one kind of event)."""
    connector = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
    try:
        if only is not None:
            _keep(connector, only)
        connector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        connector.bind((0, _CN_IDX_PROC))
        connector.setblocking(False)
        body = _MESSAGE.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
        connector.send(_HEADER.pack(_HEADER.size + len(body), _NLMSG_DONE, 0, 0, os.getpid()) + body)
    except BaseException:
        connector.close()
        raise
    return connector


def _keep(connector: socket.socket, what: int) -> None:
    """Have the kernel drop all events but one kind; see <linux/filter.h>, whose loads are big-endian."""
    word = int.from_bytes(what.to_bytes(4, sys.byteorder), "big")
    place = _HEADER.size + _MESSAGE.size
    load, compare, accept, drop = (
        (0x20, 0, 0, place),
        (0x15, 0, 1, word),
        (0x06, 0, 0, 1 << 16),
        (0x06, 0, 0, 0),
    )
    code = b"".join(struct.pack("=HBBI", *one) for one in (load, compare, accept, drop))
    buffer = ctypes.create_string_buffer(code, len(code))
    connector.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(buffer))
    )


class Statuses:
    """The exit statuses of the processes that are recorded. Called by the recorder's thread alone."""

    def __init__(self, connector: Exits | None) -> None:
        """Ask the `connector`, which stays its owner's to close, and where it knows nothing the kernel."""
        self._connector = connector
        self._pidfds: dict[int, int] = {}

    def follow(self, pid: int) -> None:
        """Keep the status of a process that has just begun beyond the time when its parent asks for it."""
        if self._connector and self._connector.works:
            return
        self.forget(pid)  # it was another's
        if len(self._pidfds) < _PIDFDS:
            with contextlib.suppress(OSError):
                self._pidfds[pid] = os.pidfd_open(pid)

    def follow_forked(self, changes: Iterable[Change]) -> None:
        """Do that for the processes that were forked."""
        for change in changes:
            if isinstance(change, Fork) and change.tid == change.pid:
                self.follow(change.pid)

    def follows(self, pid: int) -> bool:
        """Whether the status of a process is kept already, by whomever."""
        return pid in self._pidfds or (self._connector is not None and self._connector.works)

    def read(self) -> None:
        """Take in what the kernel has reported since."""
        if self._connector:
            self._connector.read()

    def of(self, pid: int) -> int | None:
        """Return how a process ended, as a shell has it; None if that is not known or it has not."""
        status = self._connector.status(pid) if self._connector else None
        if status is not None:
            return status
        code = _of_zombie(pid)
        if code is None and pid in self._pidfds:
            code = _of_reaped(self._pidfds[pid])
        return None if code is None else _status(code)

    def end_of(self, pid: int) -> int | None:
        """Return when a process ended, in nanoseconds of CLOCK_MONOTONIC; None if that is not known."""
        return self._connector.time(pid) if self._connector else None

    def forget(self, pid: int) -> None:
        """Drop what is known of a process: it has ended, or another has its pid."""
        if self._connector:
            self._connector.forget(pid)
        pidfd = self._pidfds.pop(pid, None)
        if pidfd is not None:
            os.close(pidfd)

    def close(self) -> None:
        """Close the descriptors."""
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()


def _status(code: int) -> int:
    return 128 + (code & 0x7F) if code & 0x7F else code >> 8 & 0xFF


def _of_zombie(pid: int) -> int | None:
    """Return the exit code of a process that nobody has waited for; see fs/proc/array.c:do_task_stat."""
    try:
        stat = proc.stat(pid)
        if stat.state != "Z" or len(proc.threads(pid)) > 1:
            return None
        proc.read(pid, "io")  # EACCES for who would also read 0 for an exit code
        return stat.exit_code
    except OSError:
        return None


def _of_reaped(pidfd: int) -> int | None:
    info = bytearray(64)
    _INFO.pack_into(info, 0, _INFO_EXIT, 0)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:  # an older kernel, or it is a zombie
        return None
    mask, code = _INFO.unpack_from(info)
    return code if mask & _INFO_EXIT else None
