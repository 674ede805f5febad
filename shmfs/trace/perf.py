"""Page faults and mappings as the kernel reports them: perf_event_open(2), a ring buffer per processor.

For one's own processes no rights are needed. As root, tracepoints say more with one record a fault: whether
it was a read or a write (exceptions:page_fault_user), what became of mappings that moved
(syscalls:sys_exit_mremap), and which fault ended in SIGBUS (signal:signal_generate).
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
from enum import IntEnum
from pathlib import Path

from shmfs.errors import ShmfsError

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

_SOFTWARE, _TRACEPOINT = 1, 2
_PAGE_FAULTS, _PAGE_FAULTS_MIN, _PAGE_FAULTS_MAJ, _DUMMY = 2, 5, 6, 9

IP, TID, TIME, ADDR, PERIOD, RAW = (1 << bit for bit in (0, 1, 2, 3, 8, 10))
WEIGHT, DATA_SRC, IDENTIFIER = (1 << bit for bit in (14, 15, 16))

_INHERIT, _EXCLUDE_KERNEL, _MMAP, _COMM, _ENABLE_ON_EXEC = 1 << 1, 1 << 5, 1 << 8, 1 << 9, 1 << 12
_DISABLED, _TASK, _WATERMARK, _MMAP_DATA, _SAMPLE_ID_ALL = 1 << 0, 1 << 13, 1 << 14, 1 << 17, 1 << 18
_MMAP2, _COMM_EXEC, _USE_CLOCKID = 1 << 23, 1 << 24, 1 << 25

_IOC_ENABLE, _IOC_SET_OUTPUT, _IOC_SET_FILTER, _IOC_ID = 0x2400, 0x2405, 0x40082406, 0x80082407
_ATTR = struct.Struct("<IIQQQQQIIQQQQIiQIHH")  # struct perf_event_attr, PERF_ATTR_SIZE_VER5
_HEAD, _TAIL, _DATA = 1024, 1032, mmap.PAGESIZE  # in struct perf_event_mmap_page, and behind it

_RINGS = 16 << 20
"""Bytes of all rings together that are tried; RLIMIT_MEMLOCK and perf_event_mlock_kb may permit less."""

_libc = ctypes.CDLL(None, use_errno=True)


class Event(IntEnum):
    """What a sample is of."""

    FAULT = 0
    """A fault began: software event page-faults, or the tracepoints of exceptions."""
    MINOR = 1
    """A fault ended, with the page at hand."""
    MAJOR = 2
    """A fault ended, after waiting for the page."""
    SIGBUS = 3
    MREMAP = 4
    AROUND = 5
    """Pages were mapped around a fault: filemap:mm_filemap_map_pages."""
    DELIVER = 6
    """A thread took a signal: signal:signal_deliver."""
    RETURN = 7
    """A thread returns from a handler: syscalls:sys_enter_rt_sigreturn."""


_MARK = {Event.MINOR: WEIGHT, Event.FAULT: PERIOD, Event.MAJOR: DATA_SRC}
MARKED = Event.MINOR, Event.FAULT, Event.MAJOR
"""Software events by the last word of their samples: 0 (a weight), 1 (a period), or more (a data source).

An identifier does not tell them: who else has the same event open may be told first, and then the samples of
both have the other's (kernel/events/core.c:do_perf_sw_event has one perf_sample_data for all).
"""


class Ring:
    """The ring buffer of one processor."""

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, mmap.PAGESIZE + size)
        self._view = memoryview(self._map)
        self._size = size

    def read(self) -> bytes:
        """Take what is there: whole records, as the kernel advances the head by such."""
        head, tail = struct.unpack_from("<QQ", self._view, _HEAD)
        if head == tail:
            return b""
        first, length = tail % self._size, head - tail
        rest = max(0, first + length - self._size)
        data = bytes(self._view[_DATA + first : _DATA + first + length - rest])
        if rest:
            data += bytes(self._view[_DATA : _DATA + rest])
        struct.pack_into("<Q", self._view, _TAIL, head)
        return data

    def close(self) -> None:
        """Unmap."""
        self._view.release()
        self._map.close()


class Perf:
    """The events of one process and all that descend from it, or of every process."""

    def __init__(self, pid: int = -1, device: tuple[int, int] | None = None) -> None:
        """Follow `pid` from its next exec on, or with -1 everybody, from `enable` on.

        Where the kernel permits it, also what fault-around does with files of `device`, the one that has the
        pages.

        Raises ShmfsError where the kernel refuses: kernel.perf_event_paranoid, a missing right, descriptors.
        """
        self.events: dict[int, Event] = {}
        """What the identifier in a sample stands for; those of software events are not among them."""
        self.notes: list[str] = []
        """What the kernel did not permit, a sentence each."""
        self.tracepoints = False
        """Whether a fault is a record of exceptions:page_fault_user, with its error code."""
        self.rings: list[Ring] = []
        self.filemap = False
        """Whether fault-around is seen."""
        self.returns = False
        """Whether returns from handlers of signals are seen."""
        self._pid = pid
        self._device = device
        self._ends = contextlib.ExitStack()
        try:
            self._open_all()
        except OSError as failure:
            self.close()
            raise ShmfsError(_why_not(failure, pid)) from None
        except BaseException:
            self.close()
            raise

    def enable(self) -> None:
        """Begin, where no exec does it."""
        for fd in self._opened:
            fcntl.ioctl(fd, _IOC_ENABLE, 0)

    def fileno(self) -> int:
        """A descriptor for poll(2): readable when a ring is half full, which is what no watermark means."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Stop and give everything back."""
        self._ends.close()

    def _open_all(self) -> None:
        tracing = next((root for root in _TRACEFS if os.path.exists(f"{root}/events/exceptions")), "")
        if os.geteuid() == 0 and tracing:
            try:
                self._open_plan(self._by_tracepoints(tracing) + self._by_filemap(tracing))
            except PermissionError:
                self.filemap = False
                self._ends.close()
            else:
                self.tracepoints = True
                return
        self.notes = [
            "reads are not told from writes, and mappings that mremap(2) moves are found a moment later: more"
            " takes root, and tracefs in /sys/kernel/tracing"
        ]
        self._open_plan([(_SOFTWARE, number, event, "") for number, event in _BY_SOFTWARE])

    def _open_plan(self, plan: "list[Plan]") -> None:
        self._opened: list[int] = []
        self.rings, self.events = [], {}
        self._exclude_kernel = 0
        self._epoll = select.epoll()
        self._ends.callback(self._epoll.close)
        self.returns = any(event is Event.RETURN for _, _, event, _ in plan)
        processors = _online()
        for processor in processors:
            self._open_processor(processor, plan, len(processors))

    def _by_filemap(self, tracing: str) -> "list[Plan]":
        """Return what tells of fault-around, for one device only: elsewhere it happens all the time."""
        if self._device is None:
            return []
        condition = f"s_dev=={self._device[0] << 20 | self._device[1]}"
        try:
            number = _number(tracing, "filemap/mm_filemap_map_pages")
        except FileNotFoundError:  # older kernels
            return []
        self.filemap = True
        return [(_TRACEPOINT, number, Event.AROUND, condition)]

    @staticmethod
    def _by_tracepoints(tracing: str) -> "list[Plan]":
        def number(name: str) -> int:
            return _number(tracing, name)

        plans = [
            (_TRACEPOINT, number("exceptions/page_fault_user"), Event.FAULT, ""),
            (_TRACEPOINT, number("exceptions/page_fault_kernel"), Event.FAULT, ""),
            (_SOFTWARE, _PAGE_FAULTS_MAJ, Event.MAJOR, ""),
            (_TRACEPOINT, number("signal/signal_generate"), Event.SIGBUS, _BY_FAULT),
            (_TRACEPOINT, number("signal/signal_deliver"), Event.DELIVER, ""),
        ]
        with contextlib.suppress(FileNotFoundError):  # without CONFIG_FTRACE_SYSCALLS
            plans.append((_TRACEPOINT, number("syscalls/sys_enter_mremap"), Event.MREMAP, ""))
            plans.append((_TRACEPOINT, number("syscalls/sys_exit_mremap"), Event.MREMAP, ""))
            plans.append((_TRACEPOINT, number("syscalls/sys_enter_rt_sigreturn"), Event.RETURN, ""))
        return plans

    def _open_processor(self, processor: int, plan: "list[Plan]", processors: int) -> None:
        # The leader of the ring samples nothing: it brings mappings, forks, execs and exits.
        leader = self._open(_SOFTWARE, _DUMMY, processor, leader=True)
        size = _power_of_two(_RINGS // processors)
        while True:
            try:
                ring = Ring(leader, size)
                self._ends.callback(ring.close)
                break
            except PermissionError:
                if size <= 1 << 15:
                    raise
                size //= 2
        self.rings.append(ring)
        self._epoll.register(leader)
        for kind, config, event, condition in plan:
            fd = self._open(kind, config, processor, mark=_MARK.get(event, 0))
            if condition:
                fcntl.ioctl(fd, _IOC_SET_FILTER, condition.encode() + b"\0")
            fcntl.ioctl(fd, _IOC_SET_OUTPUT, leader)
            if kind == _TRACEPOINT:
                number = struct.unpack("<Q", fcntl.ioctl(fd, _IOC_ID, bytes(8)))[0]
                self.events[number] = event

    def _open(self, kind: int, config: int, processor: int, *, leader: bool = False, mark: int = 0) -> int:
        sample = IDENTIFIER | TID | TIME | (RAW if kind == _TRACEPOINT else IP | ADDR | mark)
        flags = _DISABLED | _SAMPLE_ID_ALL | _USE_CLOCKID | _WATERMARK
        flags |= _INHERIT | _ENABLE_ON_EXEC if self._pid >= 0 else 0
        flags |= _MMAP | _MMAP2 | _MMAP_DATA | _COMM | _COMM_EXEC | _TASK if leader else 0
        while True:
            attr = _ATTR.pack(
                *(kind, _ATTR.size, config, 1, sample, 0, flags | self._exclude_kernel, 0),
                *(0, 0, 0, 0, 0, 0, _CLOCK_MONOTONIC, 0, 0, 0, 0),
            )
            fd = _libc.syscall(
                _SYSCALL[os.uname().machine], attr, self._pid, processor, -1, 8
            )  # PERF_FLAG_FD_CLOEXEC
            if fd >= 0:
                self._ends.callback(os.close, fd)
                self._opened.append(fd)
                return int(fd)
            number = ctypes.get_errno()
            if number not in (errno.EACCES, errno.EPERM) or self._exclude_kernel or kind == _TRACEPOINT:
                raise OSError(number, os.strerror(number))
            self._exclude_kernel = _EXCLUDE_KERNEL  # kernel.perf_event_paranoid 2: faults of user space alone
            self.notes.append("faults that the kernel takes in a system call are not seen without root")


_BY_FAULT = "sig==7&&code>0&&code!=5"
"""The signal of a fault goes to the thread that took it. kill(2) has codes up to 0, and BUS_MCEERR_AO, of a
broken page that nobody has touched, goes to another thread."""
Plan = tuple[int, int, Event, str]
_CLOCK_MONOTONIC = 1
_BY_SOFTWARE = (
    (_PAGE_FAULTS, Event.FAULT),
    (_PAGE_FAULTS_MIN, Event.MINOR),
    (_PAGE_FAULTS_MAJ, Event.MAJOR),
)


def _number(tracing: str, name: str) -> int:
    return int(Path(f"{tracing}/events/{name}/id").read_text())


def _online() -> list[int]:
    """The processors that are online, by number ("0-3,6")."""
    parts = Path("/sys/devices/system/cpu/online").read_text().strip().split(",")
    ranges = [part.split("-") for part in parts]
    return [cpu for one in ranges for cpu in range(int(one[0]), int(one[-1]) + 1)]


def _power_of_two(size: int) -> int:
    return 1 << (size.bit_length() - 1)


def _why_not(failure: OSError, pid: int) -> str:
    if failure.errno in (errno.EACCES, errno.EPERM):
        whose = "this process's children" if pid >= 0 else "all processes"
        return (
            f"the kernel does not permit to watch the page faults of {whose}; run as root, or"
            " `sysctl kernel.perf_event_paranoid=1`"
        )
    if failure.errno == errno.ESRCH:
        return f"there is no process {pid} to watch"
    return f"page faults cannot be watched: {failure.strerror}"
