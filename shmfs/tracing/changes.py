"""What happened to processes and their mappings, as perf and the probe report it; `decode` makes these.

Times are those of CLOCK_MONOTONIC in nanoseconds.
"""

from typing import NamedTuple


class Mmap(NamedTuple):
    """PERF_RECORD_MMAP2."""

    time: int
    pid: int
    address: int
    length: int
    offset: int
    """In bytes."""
    device: tuple[int, int]
    inode: int
    protection: int
    flags: int
    path: bytes


class Fork(NamedTuple):
    """PERF_RECORD_FORK: a process, or where `tid` is another a thread of one."""

    time: int
    pid: int
    parent: int
    tid: int


class Exec(NamedTuple):
    """PERF_RECORD_COMM by an exec."""

    time: int
    pid: int
    command: bytes


class Exit(NamedTuple):
    """PERF_RECORD_EXIT of a thread."""

    time: int
    pid: int
    tid: int


class Unfollow(NamedTuple):
    """Not a record: an Exit by which the kernel ended perf's monitoring, not the process; see `Gaps`."""

    time: int
    pid: int


class Mremap(NamedTuple):
    """sys_enter_mremap (with `result` None) or sys_exit_mremap."""

    time: int
    pid: int
    tid: int
    arguments: tuple[int, ...]
    result: int | None


class Written(NamedTuple):
    """The file that a call was to write to."""

    device: tuple[int, int]
    inode: int
    size_limit: int
    """RLIMIT_FSIZE of the process then, in bytes; RLIM_INFINITY is 2**64 - 1."""


class Signal(NamedTuple):
    """SIGBUS or SIGXFSZ was generated for a thread of any process of the machine."""

    time: int
    pid: int
    """As in this pid namespace; 0 in another one, or where the kernel's layout is not known."""
    tid: int
    number: int
    code: int
    """si_code: positive for a fault (2 is BUS_ADRERR), SI_KERNEL for SIGXFSZ, otherwise a process sent it."""
    address: int
    """The address of the fault, exact to the byte; 0 otherwise."""
    sender: int
    """The pid of the process that sent it; 0 for the kernel, its timers, and other pid namespaces."""
    call: int
    """The number of the system call that SIGXFSZ is of; 0 where not known, and for SIGBUS."""
    arguments: tuple[int, int, int]
    """Of the call: the first is the descriptor of write(2) and ftruncate(2)."""
    file: Written | None = None
    """What the call was to write to; None where not known."""


class FailedCall(NamedTuple):
    """A system call that failed with one of `probe.FAILURES`, of any process of the machine.

    With one of `probe.POPULATE_FAILURES` it is mlock(2), mlock2(2), or madvise(2) that populates.
    """

    time: int
    pid: int
    tid: int
    call: int
    """0 where not known."""
    arguments: tuple[int, int, int]
    """The first three, as unsigned numbers of 64 bits."""
    error: int
    """The errno."""
    file: Written | None = None
    """What the call was to write to; None where not known."""
    memlock: int = 0
    """RLIMIT_MEMLOCK of the process then, in bytes, RLIM_INFINITY with CAP_IPC_LOCK; 0 where not known."""


Failure = Signal | FailedCall
"""What is explained by the mappings of its moment."""
Mapped = Mmap | Fork | Exec | Exit | Unfollow | Mremap
"""What changes mappings, or whose they are."""
Change = Mapped | Failure
"""What is handled in the order of its time."""
