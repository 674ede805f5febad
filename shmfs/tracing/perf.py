"""Page faults and mappings as the kernel reports them: perf_event_open(2), a ring buffer per processor.

For one's own processes no rights are needed. As root, tracepoints say more with one record a fault: whether
it was a read or a write (exceptions:page_fault_user), what became of mappings that moved
(syscalls:sys_exit_mremap), and which fault ended in SIGBUS (signal:signal_generate).
"""

import contextlib
import errno
import fcntl
import os
import resource
import select
import struct
import sys
from collections.abc import Iterable
from enum import IntEnum

from shmfs.errors import ShmfsError
from shmfs.system.syscalls import syscall
from shmfs.tracing import ring, tracefs
from shmfs.tracing.bpf import BpfRefusedError
from shmfs.tracing.probe import Probe
from shmfs.tracing.processors import online
from shmfs.tracing.ring import Ring

_SOFTWARE, _TRACEPOINT = 1, 2
_PAGE_FAULTS, _PAGE_FAULTS_MIN, _PAGE_FAULTS_MAJ, _DUMMY, _BPF_OUTPUT = 2, 5, 6, 9, 10

IP, TID, TIME, ADDR, PERIOD, RAW, _REGS_USER = (1 << bit for bit in (0, 1, 2, 3, 8, 10, 12))
_CPU_AND_STREAM = 1 << 7 | 1 << 9  # samples as long as those of a fault's tracepoint: decoded together
_USER_IP = 1 << 8  # PERF_REG_X86_IP: tracepoints of faults are x86's
WEIGHT, DATA_SRC, IDENTIFIER = (1 << bit for bit in (14, 15, 16))

_INHERIT, _EXCLUDE_USER, _EXCLUDE_KERNEL, _MMAP, _COMM, _ENABLE_ON_EXEC = (
    1 << 1,
    1 << 4,
    1 << 5,
    1 << 8,
    1 << 9,
    1 << 12,
)
_DISABLED, _TASK, _WATERMARK, _MMAP_DATA, _SAMPLE_ID_ALL = 1 << 0, 1 << 13, 1 << 14, 1 << 17, 1 << 18
_MMAP2, _COMM_EXEC, _USE_CLOCKID = 1 << 23, 1 << 24, 1 << 25

_IOC_ENABLE, _IOC_SET_OUTPUT, _IOC_SET_FILTER, _IOC_ID = 0x2400, 0x2405, 0x40082406, 0x80082407
_ATTR = struct.Struct("<IIQQQQQIIQQQQIiQIHH")  # struct perf_event_attr, PERF_ATTR_SIZE_VER5
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC

_RINGS = 16 << 20
"""Bytes of all rings together that are tried; RLIMIT_MEMLOCK and perf_event_mlock_kb may permit less."""
_SMALL_RINGS = 1 << 22
"""The same where no faults are recorded: a mapping takes 150 bytes. `LastFaults` needs some of the rest."""


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
    SIGNAL = 6
    """SIGBUS or SIGXFSZ was generated, or a call failed: what the programs of `Probe` emit."""
    DELIVER = 7
    """A thread took a signal: signal:signal_deliver, with the instruction that it was at."""
    RETURN = 8
    """A thread returns from a handler: syscalls:sys_enter_rt_sigreturn."""
    UNCOUNTED = 9
    """A fault ended in SIGSEGV, or in a SIGBUS that its process does not take because it is exiting."""


_MARK = {Event.MINOR: WEIGHT, Event.FAULT: PERIOD, Event.MAJOR: DATA_SRC}
MARKED = Event.MINOR, Event.FAULT, Event.MAJOR
"""Software events by the last word of their samples: 0 (a weight), 1 (a period), or more (a data source).

An identifier does not tell them: who else has the same event open may be told first, and then the samples of
both have the other's (kernel/events/core.c:do_perf_sw_event has one perf_sample_data for all).
"""


class Perf:
    """The events of one process and all that descend from it, or of every process."""

    def __init__(
        self,
        pid: int = -1,
        device: tuple[int, int] | None = None,
        *,
        faults: bool = True,
        signals: bool = False,
        calls: bool = False,
        ends: bool = False,
    ) -> None:
        """Follow `pid` from its next exec on, or with -1 everybody, from `enable` on.

        Where the kernel permits it, also what fault-around does with files of `device`, the one that has the
        pages. Without `faults` there are no samples, only mappings, forks, execs and exits. With `ends` each
        fault that completes has a record of its end, also where tracepoints record its beginning.

        With `signals`, and where the kernel permits it, SIGBUS and SIGXFSZ are reported too, and with `calls`
        the calls that fail for lack of space. Each wakes who polls the rings. They are recorded from now on
        and of all processes, whatever `pid` is: ignore those of processes whose fork was not reported.

        Raises ShmfsError where the kernel refuses: kernel.perf_event_paranoid, a missing right, descriptors;
        and on a machine where rings cannot be read (`ring.access`), or the system call's number is not known.
        """
        self.events: dict[int, Event] = {}
        """What the identifier in a sample stands for; those of software events are not among them."""
        self.notes: list[str] = []
        """What the kernel did not permit, a sentence each."""
        self.faults = faults
        """Whether there are samples of faults."""
        self.tracepoints = False
        """Whether a fault is a record of exceptions:page_fault_user, with its error code."""
        self.ends = False
        """Whether each fault that completes has a record of its end."""
        self.rings: list[Ring] = []
        self.device = device
        self.filemap = False
        """Whether fault-around is seen."""
        self.signals = False
        """Whether signals of failure are seen."""
        self.returns = False
        """Whether returns from handlers of signals are seen."""
        self._pid = pid
        self._want_ends = ends
        self._ends = contextlib.ExitStack()
        try:
            self._open_all()
            if signals:
                self._open_signals(calls=calls)
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

    def follow(self, tids: Iterable[int]) -> None:
        """Follow threads from now on, and what they start, whose events the kernel has removed.

        The records go to the same rings. Raises OSError: PermissionError, ESRCH if all of them have ended, or
        EMFILE where that takes more than half of the descriptors of this process. Call it in the thread
        that reads the rings.
        """
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        followed = False
        for tid in tids:
            for processor, leader in self._leaders.items():
                if sum(map(len, self._again.values())) + len(self._plan) >= most:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                try:
                    self._open_again(tid, processor, leader)
                except ProcessLookupError:
                    break
                followed = True
        if not followed:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def tidy(self) -> None:
        """Drop the events of processes that have ended. What they wrote stays in the rings.

        Such an event is ready for poll(2) for ever. Closing it would end those of children that live.
        """
        for fd, ready in self._epoll.poll(0):
            if ready & select.EPOLLHUP:
                self._epoll.unregister(fd)
                for one in self._again.pop(fd, ()):
                    os.close(one)

    def close(self) -> None:
        """Stop and give everything back."""
        self._ends.close()

    def _open_all(self) -> None:
        ring.access()  # before anything is opened whose records could not be read
        if not self.faults:
            self._open_plan([])
            return
        plan, reason = self._plan_of_tracepoints()
        if plan:
            try:
                self._open_plan(plan)
            except PermissionError as failure:
                reason = _refused(failure)
                self._ends.close()
            else:
                self.tracepoints = True
                self.ends = self._want_ends
                return
        self.filemap = False
        self.ends = True
        self.notes = [
            "reads are not distinguished from writes, and mappings moved by mremap(2) are found a moment"
            f" later, because {reason}"
        ]
        self._open_plan([(_SOFTWARE, number, event, "") for number, event in _BY_SOFTWARE])

    def _plan_of_tracepoints(self) -> "tuple[list[Plan], str]":
        """Return what to open, or nothing and the reason."""
        if os.geteuid() != 0:
            return [], "tracepoints take root"
        try:
            with tracefs.directory() as root:
                if not os.path.exists(f"{root}/events/exceptions"):
                    return [], "this kernel has no tracepoints of faults"
                plan = self._by_tracepoints(root)
                return (_with_ends(plan) if self._want_ends else plan) + self._by_filemap(root), ""
        except OSError as failure:
            return [], _refused(failure)

    def _open_plan(self, plan: "list[Plan]") -> None:
        self._opened: list[int] = []
        self.rings, self.events = [], {}
        self._plan = plan
        self._leaders: dict[int, int] = {}
        self._again: dict[int, list[int]] = {}
        """What `follow` has opened for one thread on one processor, by the descriptor of its leader."""
        self._ends.callback(self._close_again)
        self._exclude_kernel = 0
        self._epoll = select.epoll()
        self._ends.callback(self._epoll.close)
        self.returns = any(event is Event.RETURN for _, _, event, _ in plan)
        processors = online()
        for processor in processors:
            self._open_processor(processor, plan, len(processors))

    def _by_filemap(self, tracing: str) -> "list[Plan]":
        """Return what tells of fault-around, for one device only: elsewhere it happens all the time."""
        if self.device is None:
            return []
        condition = f"s_dev=={self.device[0] << 20 | self.device[1]}"
        try:
            number = tracefs.event_id(tracing, "filemap/mm_filemap_map_pages")
        except FileNotFoundError:  # older kernels
            return []
        self.filemap = True
        return [(_TRACEPOINT, number, Event.AROUND, condition)]

    @staticmethod
    def _by_tracepoints(tracing: str) -> "list[Plan]":
        def number(name: str) -> int:
            return tracefs.event_id(tracing, name)

        plans = [
            (_TRACEPOINT, number("exceptions/page_fault_user"), Event.FAULT, ""),
            (_TRACEPOINT, number("exceptions/page_fault_kernel"), Event.FAULT, ""),
            (_SOFTWARE, _PAGE_FAULTS_MAJ, Event.MAJOR, ""),
            (_SOFTWARE, _PAGE_FAULTS_MIN, Event.MINOR, _OF_KERNEL),
            (_TRACEPOINT, number("signal/signal_generate"), Event.SIGBUS, f"{_BY_FAULT}&&result!=1"),
            (_TRACEPOINT, number("signal/signal_generate"), Event.UNCOUNTED, _NO_FAILURE),
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
        self._opened.append(leader)
        self._ends.callback(os.close, leader)
        size = 1 << ((_RINGS if self.faults else _SMALL_RINGS) // processors).bit_length() - 1
        while True:
            try:
                buffer = Ring(leader, size)
                self._ends.callback(buffer.close)
                break
            except PermissionError:
                if size <= 1 << 15:
                    raise
                size //= 2
        self.rings.append(buffer)
        self._epoll.register(leader)
        self._leaders[processor] = leader
        for one in plan:
            fd = self._open_one(one, processor)
            self._opened.append(fd)
            self._ends.callback(os.close, fd)
            self._output(fd, one, leader)

    def _open_again(self, tid: int, processor: int, ring: int) -> None:
        fds = [self._open(_SOFTWARE, _DUMMY, processor, leader=True, tid=tid)]
        try:
            fcntl.ioctl(fds[0], _IOC_SET_OUTPUT, ring)
            for one in self._plan:
                fds.append(self._open_one(one, processor, tid))
                self._output(fds[-1], one, ring)
            self._epoll.register(fds[0])
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        self._again[fds[0]] = fds

    def _close_again(self) -> None:
        for fds in self._again.values():
            for fd in fds:
                os.close(fd)
        self._again.clear()

    def _open_one(self, one: "Plan", processor: int, tid: int | None = None) -> int:
        kind, config, event, condition = one
        only = _EXCLUDE_USER if condition == _OF_KERNEL else 0
        mark = _REGS_USER if event is Event.DELIVER else 0
        if kind == _SOFTWARE:
            mark = _MARK.get(event, 0) | _CPU_AND_STREAM * any(kind == _TRACEPOINT for kind, *_ in self._plan)
        return self._open(kind, config, processor, mark=mark, only=only, tid=tid)

    def _output(self, fd: int, one: "Plan", ring: int) -> None:
        """Have the samples of an event written to the ring of another one."""
        kind, _, event, condition = one
        if condition and condition != _OF_KERNEL:
            fcntl.ioctl(fd, _IOC_SET_FILTER, condition.encode() + b"\0")
        fcntl.ioctl(fd, _IOC_SET_OUTPUT, ring)
        if kind == _TRACEPOINT:
            self.events[_identifier(fd)] = event

    def _open_signals(self, *, calls: bool) -> None:
        """Have what the programs emit on a processor written to its ring; a note where that is refused."""
        try:
            probe = Probe(calls=calls)
            self._ends.callback(probe.close)
            for processor, leader in self._leaders.items():
                # Enabled, for all processes, and without a watermark: each record wakes who polls the ring.
                sample, flags = IDENTIFIER | TID | TIME | RAW, _SAMPLE_ID_ALL | _USE_CLOCKID
                fd = _perf_event_open(_SOFTWARE, _BPF_OUTPUT, sample, flags, -1, processor, wakeup=1)
                self._ends.callback(os.close, fd)
                fcntl.ioctl(fd, _IOC_SET_OUTPUT, leader)
                self.events[_identifier(fd)] = Event.SIGNAL
                probe.emit_to(processor, fd)
            probe.attach()
        except (BpfRefusedError, OSError) as refused:
            self.notes.append(f"signals of failed page faults are not seen: {refused}")
        else:
            self.signals = True

    def _open(
        self,
        kind: int,
        config: int,
        processor: int,
        *,
        leader: bool = False,
        mark: int = 0,
        only: int = 0,
        tid: int | None = None,
    ) -> int:
        """Open an event of what is followed, or of a running thread `tid`, where it is enabled at once."""
        sample = IDENTIFIER | TID | TIME | mark | (RAW if kind == _TRACEPOINT else IP | ADDR)
        pid = self._pid if tid is None else tid
        flags = _SAMPLE_ID_ALL | _USE_CLOCKID | _WATERMARK | only
        flags |= _DISABLED if tid is None else _INHERIT
        flags |= _INHERIT | _ENABLE_ON_EXEC if tid is None and pid >= 0 else 0
        flags |= _MMAP | _MMAP2 | _MMAP_DATA | _COMM | _COMM_EXEC | _TASK if leader else 0
        while True:
            try:
                return _perf_event_open(kind, config, sample, flags | self._exclude_kernel, pid, processor)
            except PermissionError:
                if self._exclude_kernel or kind == _TRACEPOINT or tid is not None:
                    raise
            self._exclude_kernel = _EXCLUDE_KERNEL  # kernel.perf_event_paranoid 2: faults of user space alone
            self.notes.append("faults that the kernel takes in a system call are not seen without root")


_OF_KERNEL = "kernel"
"""In place of a filter: the faults of system calls alone. No signal reports those that fail."""
_BY_FAULT = "sig==7&&code>0&&code!=5"
"""The signal of a fault goes to the thread that took it. kill(2) has codes up to 0, and BUS_MCEERR_AO, of a
broken page that nobody has touched, goes to another thread. Result 1 is TRACE_SIGNAL_IGNORED."""
_NO_FAILURE = f"({_BY_FAULT}&&result==1)||(sig==11&&(code==1||code==2||code==4))"
"""SEGV_MAPERR, SEGV_ACCERR and SEGV_PKUERR are of faults that no store was asked about."""
Plan = tuple[int, int, Event, str]


def _with_ends(plan: list[Plan]) -> list[Plan]:
    """Record the end of every fault; which signals were delivered does not matter then."""
    return [
        (kind, number, event, "" if condition == _OF_KERNEL else condition)
        for kind, number, event, condition in plan
        if event not in (Event.DELIVER, Event.RETURN)
    ]


_CLOCK_MONOTONIC = 1
_BY_SOFTWARE = (_PAGE_FAULTS, Event.FAULT), (_PAGE_FAULTS_MIN, Event.MINOR), (_PAGE_FAULTS_MAJ, Event.MAJOR)


def _perf_event_open(
    kind: int, config: int, sample: int, flags: int, pid: int, processor: int, *, wakeup: int = 0
) -> int:
    registers = _USER_IP if sample & _REGS_USER else 0
    attr = _ATTR.pack(
        *(kind, _ATTR.size, config, 1, sample, 0, flags, wakeup),
        *(0, 0, 0, 0, registers, 0, _CLOCK_MONOTONIC, 0, 0, 0, 0),
    )
    return syscall("perf_event_open", attr, pid, processor, -1, _CLOEXEC)


def open_faults(pid: int, processor: int, flags: int, ring: int | None = None) -> int:
    """Open faults of user mode, of a process and what it starts from its next exec on; raises OSError.

    With the `ring` of another event they are written there, from now on, and `pid` may be a thread.
    A sample is pid, tid, time and address. No right is needed for one's own processes.
    """
    flags |= _INHERIT | _EXCLUDE_KERNEL | _USE_CLOCKID
    flags |= _DISABLED | _ENABLE_ON_EXEC if ring is None else 0
    fd = _perf_event_open(_SOFTWARE, _PAGE_FAULTS, TID | TIME | ADDR, flags, pid, processor)
    if ring is not None:
        fcntl.ioctl(fd, _IOC_SET_OUTPUT, ring)
    return fd


def _refused(failure: OSError) -> str:
    return f"tracepoints cannot be opened: {failure.strerror}"


def _identifier(fd: int) -> int:
    """Return what stands for an event in the samples of a ring."""
    return int.from_bytes(fcntl.ioctl(fd, _IOC_ID, bytes(8)), sys.byteorder)


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
