r"""The records that trace's producers and reporters exchange; JSON by `msgspec.json`, nothing omitted.

Times are nanoseconds since the epoch, sizes are bytes, pages are pages of 4096 bytes unless a field says
otherwise. Every `str` here is valid Unicode: names that are not UTF-8 come with `\xNN` escapes
(`names.printable`).
"""

from typing import Any

from msgspec import Struct, field

from shmfs.events.amounts import clock
from shmfs.events.names import segment_name

PAGE = 4096
"""Bytes of a page of the interface."""


class Process(Struct, frozen=True):
    """A process, told from a later one with the same pid by its start time."""

    pid: int
    command: str
    """/proc/PID/comm; "" when the process was gone before it could be read."""
    start_time: int
    """Field 22 of /proc/PID/stat in clock ticks since boot; 0 is unknown."""


class Segment(Struct):
    """A regular file of the mount seen as shared memory. Source: fuse and mm, exact."""

    inode: int
    path: str
    """Its last name, from the mount's root; "" when it never had one (O_TMPFILE)."""
    size: int
    resident: int
    """Pages charged now."""
    peak_resident: int
    page_ins: int | None
    """Pages given to the kernel's cache in answer to READs; None where the kernel serves them by itself."""
    created_by: Process | None
    opened_by: list[Process]
    """Distinct processes, in the order of their first open; at most `history.MAX_OPENERS`."""
    created: int
    nlink: int
    open_handles: int
    evicted: bool
    """Gone: the last name and the last reference of the kernel (descriptors, mappings) are."""
    refused: int
    """Charges that a limit refused."""
    kind: str = "posix"
    """By which door it came: posix (a name), sysv (shmget) or anon (a shared anonymous mapping)."""
    key: int | None = None
    """Of System V, as it was made with; None for other kinds."""
    id: int | None = None
    """Of System V; None for other kinds."""
    opens_dropped: int = 0
    """Opens by further processes than `opened_by` has room for."""
    shrunk: int = 0
    """When its size last decreased, ns since the epoch; 0: never, or not known."""
    grown: int = 0
    """When its size last increased, likewise; with native pages, when the daemon noticed it."""

    @property
    def name(self) -> str:
        """Its path, with its inode number where that does not say which segment it is."""
        return segment_name(self.path, f"inode {self.inode}", self.kind)


class Holder(Struct, frozen=True):
    """A file that held space when something was refused; or, of other limits, what one process created."""

    path: str
    """Of the file; otherwise a count and a noun, as "3 segments"."""
    bytes: int
    pid: int = 0
    """Of the process that created it; 0 is not known."""
    command: str = ""


class Refusal(Struct):
    """What a limit refused: one record for each errno, call, limit, path and process, with their `count`.

    The other fields are those of the first one. Sources: fuse and mm, exact; perf for calls that the
    kernel serves by itself.
    """

    errno: str
    """"ENOSPC"; what the caller got, or "SIGBUS" for a page fault."""
    call: str
    """"page fault", "write", "fallocate" …; "" is not known."""
    limit_name: str
    """The mount option or other limit: size, nr_inodes, shmmax, shmall, shmmni, RLIMIT_FSIZE, quota."""
    limit: int
    """Its value then: bytes, inodes (nr_inodes), segments (shmmni); 0 is not known."""
    asked: int
    """What the call needed beyond what it had, in the unit of `limit`; 0 is not known."""
    pid: int
    tid: int
    process: str
    """The command of the process."""
    path: str
    inode: int
    page: int | None
    time: int
    holders: list[Holder]
    """The largest first, at that time."""
    enough: str | None
    """The least value of the option that would hold what existed then, and what was asked: "37m"."""
    count: int = 1
    kind: str = "refusal"
    held_after: int = 0
    """Nanoseconds from the call to the moment at which `holders` were looked at; 0: exact."""
    more_holders: int = 0
    """Further holders, which `holders` has no room for."""

    @property
    def key(self) -> tuple[int, int, str, str, str]:
        """What tells it from others: an event and what the daemon has of it at the end are the same one."""
        return self.time, self.pid, self.errno, self.call, self.path


class Death(Struct):
    """A SIGBUS: who touched which page, and why there was no memory behind it."""

    pid: int
    tid: int
    process: str
    """The command of the process."""
    path: str
    """"" if the page is not known to be of this mount."""
    inode: int
    page: int | None
    reason: str
    """What follows "touched page N of PATH": a sentence's end."""
    limit: int
    """Bytes of `size=`, where that was the reason; else 0."""
    holders: list[Holder]
    enough: str | None
    """The least `size=` that holds all files of then in full; None where size was not the reason."""
    time: int
    fatal: bool | None = None
    """Whether the process ended by it; None where its end is not known."""
    count: int = 1
    """How often this process got SIGBUS on this file."""
    held_after: int = 0
    """Nanoseconds from the fault to the moment at which `holders` were looked at; 0: exact."""
    more_holders: int = 0
    """Further holders, which `holders` has no room for."""
    sent: bool = False
    """Whether a process sent the signal, so that no page was touched."""
    kind: str = "sigbus"


class Orphan(Struct, frozen=True):
    """A segment that nobody is left to remove. Source: fuse and mm, exact."""

    inode: int
    path: str
    kind: str
    key: int | None
    id: int | None
    uid: int
    """Of its owner."""
    size: int
    bytes: int
    """Charged for it."""
    created: int
    created_by: Process


class Stale(Struct, frozen=True):
    """Figures that are not brought up to date any more, or are wrong, because an observer failed."""

    observer: str
    figures: list[str]
    """Names of fields of the records and of events: resident, page_ins, events, mapped_by …"""
    since: int
    reason: str
    """The exception and the hook where it was raised."""

    def event(self) -> dict[str, Any]:
        """The fields of the event `stale` of a trace, but for its source."""
        about = {"observer": self.observer, "figures": self.figures, "reason": self.reason}
        return {"event": "stale", "time": self.since} | about

    @property
    def sentence(self) -> str:
        """For people: the figures, the time of day, the observer and the reason."""
        at = clock(self.since)
        what = ", ".join(self.figures).replace("_", " ") or "some figures"
        return (
            f"{what}: as of {at}, stale since then, for the observer {self.observer!r} failed: {self.reason}"
        )


def stale(several: list[Stale], *figures: str) -> Stale | None:
    """Return the first failure that made one of `figures` stale."""
    return next((one for one in several if not set(one.figures).isdisjoint(figures)), None)


class Statistics(Struct):
    """What the daemon knows of its mount. Source: fuse and mm, exact."""

    mount: str
    device: str
    """As in mountinfo: decimal "major:minor"."""
    options: str
    size_limit: int
    """0 is unlimited."""
    used: int
    peak: int
    inode_limit: int
    """0 is unlimited."""
    inodes_used: int
    inodes_peak: int
    readahead: int
    """Pages that the kernel may read ahead; 0 is one page per READ."""
    store: str
    pid: int
    """The daemon's."""
    started: int
    lost_records: int
    notes: list[str]
    segments: list[Segment]
    """Live and ended regular files; of the ended ones the newest `history.MAX_ENDED`."""
    segments_dropped: int = 0
    refused: int = 0
    """What limits refused: pages, and inodes, which are of no segment; also to segments that were dropped."""
    refusals: list[Refusal] = []
    """The first of each kind, at most `refusals.MOST`."""
    backing: str = ""
    """The device of the tmpfs that has the pages, as `device`; "" where the daemon has them."""
    page_ins: int | None = None
    """Of all segments, those that were dropped too; None where the kernel serves them by itself."""
    stale: list[Stale] = field(default_factory=list)
    """What is not exact any more."""


class Mapped(Struct):
    """A process seen with a segment mapped. Source: pagemap, sampled."""

    process: Process
    pages: int
    """Most distinct pages of the segment it had present in one sample."""
    mapped: int
    """Most bytes of it that it had mapped in one sample."""


class Observation(Struct):
    """What the sampler saw of one segment. Source: pagemap, sampled."""

    inode: int
    path: str
    """The name in the last sample, as /proc/PID/maps gives it, without " (deleted)"."""
    mapped_by: list[Mapped]
    shared: int
    """Most pages that two or more processes had present in the same sample."""
    samples: int
    """Samples in which somebody had it mapped."""
    attaches: int = 0
    """Most shared mappings (VMAs, as nattch counts them) of it in one sample."""


class Observations(Struct):
    """What the sampler saw of one mount."""

    device: str
    samples: int = 0
    interval: float = 0.0
    """Mean seconds from one sample to the next."""
    hidden: int = 0
    """Processes whose /proc files could not be read for lack of rights."""
    segments: list[Observation] = field(default_factory=list)
    stale: Stale | None = None
    """Why there are no newer samples."""


class PageHolder(Struct, frozen=True):
    """One process that has a page present."""

    pid: int
    frame: int | None
    """Page frame number; None where the kernel hides it (no CAP_SYS_ADMIN)."""
    private: bool = False
    """The process's own copy (MAP_PRIVATE after a store), not the file's page."""


class PageHolders(Struct, frozen=True):
    """One page of a file and who has it present."""

    page: int
    processes: list[PageHolder]


class MappingProcess(Struct, frozen=True):
    """One process that maps a file."""

    pid: int
    command: str
    pages: int
    """Distinct pages of the file present."""
    private: int
    """Distinct pages of which it has its own copy."""
    mapped: int
    """Bytes mapped, each mapping counted."""


class Sharing(Struct, frozen=True):
    """The matrix of pages and processes of one file. Source: pagemap, exact when each was read."""

    path: str
    device: str
    inode: int
    size: int
    page_size: int
    source: str
    exact: bool
    frames_visible: bool
    shared: int
    """Pages of the file that two or more processes have present."""
    hidden: int
    """Processes that could not be looked at for lack of rights."""
    processes: list[MappingProcess]
    pages: list[PageHolders]
