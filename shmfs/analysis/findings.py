"""What a trace says: the records that `analysis` makes, and that the report prints or gives as JSON.

Times are nanoseconds since the epoch, sizes bytes, pages those of `Analysis.page_size`. Counts of faults come
from perf (around: filemap) and are exact but for `Losses`; what is sampled says so; None is not known.
"""

from msgspec import Struct, field

from shmfs.events.names import segment_name
from shmfs.events.records import Refusal, Stale
from shmfs.tracefile.format import Source


class FaultCount(Struct):
    """Page faults, each counted once. Source: perf; `around`: filemap."""

    total: int = 0
    minor: int = 0
    major: int = 0
    failed: int = 0
    """Ended in SIGBUS."""
    unknown: int = 0
    """Of unknown kind."""
    reads: int = 0
    writes: int = 0
    executes: int = 0
    """The rest of `total` is of unknown access."""
    around: int = 0
    """Pages that the kernel mapped around a fault, without one (fault-around); not in `total`."""


class Calls(Struct):
    """Calls of read(2) and write(2), where they were traced. Source: fuse."""

    reads: int = 0
    bytes_read: int = 0
    writes: int = 0
    bytes_written: int = 0


class TimeLine(Struct):
    """Faults over time."""

    start: int = 0
    width: int = 0
    """Nanoseconds a bucket."""
    counts: list[int] = field(default_factory=list)


class Who(Struct, frozen=True):
    """Somebody who called: FUSE tells the pid of a thread, which is mostly that of a process of the trace."""

    pid: int
    command: str = ""
    process: int | None = None
    """The id, if it is a process of the trace."""


class Use(Struct):
    """What one process did with one segment."""

    process: int
    mapped: int = 0
    """Length of its largest mapping. Source: perf."""
    faults: FaultCount = field(default_factory=FaultCount)
    pages: int = 0
    """Distinct pages on which it had a fault that did not fail."""
    calls: Calls | None = None
    first: int | None = None
    """The first of those faults, and the last one."""
    last: int | None = None
    present: int | None = None
    """Most pages it had present in a sample, and the most of pss and uss. Source: pagemap, sampled."""
    pss: int | None = None
    uss: int | None = None


class TracedSegment(Struct):
    """One segment: its life, and the faults on it."""

    segment: int | None
    """The id in the trace; None if nobody mapped it."""
    inode: int
    path: str
    """Its last name; "" when it never had one."""
    seen: int
    """When it appeared in the trace."""
    kind: str = "posix"
    """By which door it came: posix, sysv or anon."""
    key: int | None = None
    """Of System V, and its id."""
    id: int | None = None
    size: int | None = None
    """Source of this and of the next ones: fuse and mm."""
    resident: int | None = None
    """Pages charged at the end."""
    peak_resident: int | None = None
    page_ins: int | None = None
    refused: int = 0
    """Charges that a limit refused."""
    calls: Calls | None = None
    """Of everybody, also of who is no process of the trace; None where calls were not traced."""
    created: int | None = None
    created_by: Who | None = None
    opened_by: list[Who] = field(default_factory=list)
    unlinked: int | None = None
    """When it lost its last name."""
    unlinked_by: Who | None = None
    evicted: int | None = None
    end: str = "unknown"
    """gone; linked: left with a name; held: without one, but open or mapped; unknown: no source saw it."""
    used_by: list[Use] = field(default_factory=list)
    """The processes that mapped it, had faults on it, read or wrote it, most faults first."""
    died_with_it: list[int] = field(default_factory=list)
    """Those of them that a signal ended while it had not been unlinked."""
    faults: FaultCount = field(default_factory=FaultCount)
    pages: int = 0
    """Distinct pages on which somebody had a fault that did not fail."""
    sharing: dict[int, int] = field(default_factory=dict)
    """Pages by how many processes touched them, or had them mapped around a fault, at any time."""
    shared: int = 0
    """Pages that two or more processes touched."""
    shared_at_once: int | None = None
    """Most pages that two or more processes had present in one sample. Source: pagemap, sampled."""
    first_toucher: int | None = None
    """The process of the first fault that did not fail."""
    timeline: list[int] | None = None
    """Faults in each bucket of `Analysis.timeline`; None for the last of very many segments."""

    @property
    def name(self) -> str:
        """Its path, with its number where that does not say which segment it is."""
        number = f"inode {self.inode}" if self.inode else f"segment {self.segment} of the trace"
        return segment_name(self.path, number, self.kind)


class TracedProcess(Struct):
    """One process."""

    process: int
    pid: int
    command: str
    """The newest one."""
    parent: int | None = None
    started: int | None = None
    ended: int | None = None
    status: int | None = None
    """As the recorder tells it: 128+N or -N for signal N."""
    former: list[str] = field(default_factory=list)
    """Commands before it executed others."""
    segments: list[int] = field(default_factory=list)
    """Those that it mapped, had faults on, read or wrote."""
    faults: FaultCount = field(default_factory=FaultCount)
    pages: int = 0
    calls: Calls | None = None


class TracedHolder(Struct):
    """Who held space when somebody died for lack of it."""

    path: str
    bytes: int
    processes: list[int] = field(default_factory=list)
    pid: int = 0
    """Of the process that created it; 0 is not known."""
    command: str = ""


class TracedDeath(Struct):
    """A SIGBUS, as it was explained when it happened."""

    time: int
    process: int | None = None
    """Id in the trace."""
    pid: int = 0
    """0 is not known."""
    tid: int | None = None
    command: str = ""
    """Of the process; "" is not known."""
    segment: int | None = None
    page: int | None = None
    path: str = ""
    reason: str = ""
    limit: int = 0
    """0: none."""
    holders: list[TracedHolder] = field(default_factory=list)
    enough: str | None = None
    """The least size= that would have held all files of that moment in full."""
    fatal: bool | None = None
    """Whether the process ended by it; None where its end is not known."""
    held_after: int = 0
    """Nanoseconds from the fault to the moment at which `holders` were looked at; 0: exact."""
    more_holders: int = 0
    """Further holders, which `holders` has no room for."""
    kind: str = "sigbus"


class Losses(Struct):
    """What is missing."""

    records: dict[str, int]
    """Records that an instrument lost."""
    faults: int
    """Faults that were dropped because the size of the file is bounded, or it could not be written."""
    events: int
    """The same of events."""
    unreadable: int
    """Events that are not as they should be."""
    unfollowed: list[str] = []
    """Processes that perf did not follow from an exec on, for a moment or to the end: "COMMAND (pid N)"."""

    def __bool__(self) -> bool:
        """Say whether anything is."""
        return any(self.records.values()) or self.faults + self.events + self.unreadable > 0


class Sizing(Struct):
    """The size that the run needed."""

    peak: int | None
    """Most bytes in use at once. Source: fuse and mm, exact; with the native store seen by looking."""
    declared: int | None
    """Most bytes that the live segments could have taken at once, if every page of them had been touched."""
    touched: int
    """Bytes of all pages on which there were faults. Source: perf."""
    refused: int
    """Charges that a limit refused."""
    basis: str
    """What `needed` is: the peak, "exact", "looked" at or "partial" (records are missing); the "least", as
    something was refused; "full", where native pages were all in use and something may have been refused; an
    "estimate", from faults."""
    needed: int
    size: str | None
    """`needed` rounded up, for size= of tmpfs, --shm-size of Docker and shm_size of compose: "37m"."""
    quantity: str | None
    """The same for sizeLimit of a Kubernetes emptyDir: "37Mi"."""
    inodes_refused: int = 0
    """Files that could not be made for nr_inodes=."""


class Analysis(Struct):
    """All of it."""

    path: str
    version: str
    host: str
    kernel: str
    command: list[str] | None
    mount: str
    device: str
    store: str
    options: str
    size_limit: int
    """0 is unlimited."""
    page_size: int
    started: int
    ended: int | None
    """None if the trace does not come to its end."""
    duration: float | None
    """Seconds."""
    status: int | None
    complete: bool
    damage: str
    """What is wrong with the rest of the file; "" if nothing is."""
    faults: FaultCount
    timeline: TimeLine
    segments: list[TracedSegment]
    """Most faults first, then by their peaks."""
    processes: list[TracedProcess]
    deaths: list[TracedDeath]
    refusals: list[Refusal]
    """What limits refused, once for each errno, call, limit, path and process; not what `deaths` explain."""
    losses: Losses
    sizing: Sizing
    sources: list[Source]
    stale: list[Stale] = []
    """Figures that were not brought up to date any more since an observer failed."""
