"""What one look at a file system has seen.

Sizes are bytes, pages are pages of 4096 bytes, rates are per second since the look before. Every `str` is
valid Unicode, and not yet escaped for a terminal. None is a figure that is not to be had here.
"""

from msgspec import Struct, field


class Rates(Struct, frozen=True):
    """Page faults per second."""

    minor: float = 0.0
    major: float = 0.0
    failed: float = 0.0
    """Those that ended in SIGBUS."""

    @property
    def all(self) -> float:
        """Faults of every kind."""
        return self.minor + self.major + self.failed

    def __add__(self, other: "Rates") -> "Rates":
        return Rates(self.minor + other.minor, self.major + other.major, self.failed + other.failed)


class Share(Struct):
    """What one process has of one segment. Source: pagemap, sampled; faults: perf, exact."""

    pid: int
    inode: int
    mapped: int
    """Bytes mapped, each mapping counted."""
    pages: int
    """Distinct pages of the file present; private copies are not."""
    pss: int
    """Its share: each page divided by the processes that have it."""
    uss: int
    """What it has alone."""
    faults: Rates | None = None


class SegmentRow(Struct):
    """A regular file."""

    inode: int
    path: str
    """From the root of the file system; "" if it never had a name."""
    size: int
    resident: int | None
    """Pages charged; None for one that is only known because somebody maps it."""
    unlinked: bool = False
    created_by: str = ""
    """Command and pid; "" is unknown."""
    refused: int | None = None
    page_ins: float | None = None
    """Pages given to the kernel's cache, per second."""
    processes: int = 0
    """That map it."""
    shared: int = 0
    """Pages that two or more processes have present."""
    faults: Rates | None = None


class ProcessRow(Struct):
    """A process that maps segments."""

    pid: int
    command: str
    segments: int = 0
    mapped: int = 0
    pages: int = 0
    pss: int = 0
    uss: int = 0
    faults: Rates | None = None


class Limits(Struct):
    """What the file system holds, and may."""

    used: int = 0
    size: int = 0
    """0 is unlimited."""
    peak: int | None = None
    inodes_used: int = 0
    inodes: int = 0
    """0 is unlimited."""
    refused: int | None = None
    """Charges that a limit refused."""


class SourceRow(Struct):
    """Where figures come from."""

    figures: str
    source: str
    exact: bool
    stale: str = ""
    """"as of HH:MM:SS" where some of the figures are not brought up to date; "" where all are."""


class Snapshot(Struct):
    """One look."""

    time: float
    """Seconds since the epoch."""
    mount: str
    device: str
    store: str
    """managed, native, or the type of a file system that is not shmfs."""
    seconds: float = 0.0
    """Since the look before; 0 for the first one, which has no rates."""
    cost: float = 0.0
    """CPU seconds that watching took since the look before, all threads."""
    limits: Limits = field(default_factory=Limits)
    faults: Rates | None = None
    """On all segments."""
    page_ins: float | None = None
    segments: list[SegmentRow] = field(default_factory=list)
    processes: list[ProcessRow] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    sources: list[SourceRow] = field(default_factory=list)
    hidden: int = 0
    """Processes that may not be looked at for lack of rights."""
    lost: int = 0
    """Faults, on any memory of the machine, that the kernel had no room to tell of, since the beginning."""
    trouble: str = ""
    """Why there is nothing newer, a sentence; the rest is what was seen last."""
    notes: list[str] = field(default_factory=list)
