"""What the story is made of, as `--json` has it. Sizes are bytes unless a field says pages."""

from typing import Any

from msgspec import Struct, field


class Vma(Struct):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    device: str
    """Decimal "major:minor"."""
    inode: int
    path: str

    def line(self) -> str:
        """As the kernel prints it."""
        major, minor = map(int, self.device.split(":"))
        return (
            f"{self.start:x}-{self.end:x} {self.permissions} {self.offset:08x} "
            f"{major:02x}:{minor:02x} {self.inode} {self.path}"
        ).rstrip()


class Page(Struct):
    """What a process has of a page. Source: /proc/PID/pagemap, and for the frame /proc/kpage* (root)."""

    page: int
    """Index in the file."""
    present: bool
    swapped: bool = False
    of_file: bool = False
    """A page of the file (or of shared anonymous memory); a private copy is not."""
    alone: bool = False
    """Nobody else maps the frame."""
    soft_dirty: bool = False
    frame: int | None = None
    """None where the kernel hides it (no CAP_SYS_ADMIN)."""
    mappings: int | None = None
    """/proc/kpagecount."""
    flags: list[str] | None = None
    """/proc/kpageflags, those that tell something here."""


class View(Struct):
    """One mapping as one process has it."""

    process: str
    """A, B, or C for a child."""
    pid: int
    vma: Vma | None
    pages: list[Page]


class Cache(Struct):
    """The first page in the page cache. Source: mincore(2); cachestat(2), None before Linux 6.5."""

    resident: list[bool]
    cached: int | None = None
    """Pages."""
    dirty: int | None = None
    """Pages."""
    place: str = "page cache"
    """Or swap cache, which mincore does not tell apart."""


class Touch(Struct):
    """A load or a store of one byte. Source: getrusage(2) before and after."""

    process: str
    what: str
    page: int
    minor: int
    major: int
    value: str
    """What was loaded or stored; or the signal that killed the child that tried."""

    def faults(self) -> str:
        """As people say it."""
        return faults(self.minor, self.major)


def faults(minor: int, major: int) -> str:
    """Return "no fault", "1 minor fault", "1 minor and 2 major faults"."""
    kinds = [f"{count} {kind}" for count, kind in ((minor, "minor"), (major, "major")) if count]
    return f"{' and '.join(kinds) or 'no'} fault{'s' if minor + major > 1 else ''}"


class Claim(Struct):
    """What should be so, and what was seen."""

    text: str
    expected: Any
    observed: Any
    reason: str = ""
    """Why the kernel does so, where that is to be told."""
    function: str = ""
    """The kernel's that does so."""
    holds: bool = True
    """Whether it is so."""

    def __post_init__(self) -> None:
        self.holds = bool(self.expected == self.observed)


class Step(Struct):
    """One thing that happened."""

    title: str
    sentence: str
    functions: list[str]
    """Of the kernel, in the order of the calls."""
    views: list[View]
    touches: list[Touch]
    cache: Cache | None
    used: int
    """Pages charged on the mount. Source: shmfs."""
    blocks: int | None
    """Pages of the file, by st_blocks."""
    events: list[dict[str, Any]]
    """What shmfs logged meanwhile."""
    claims: list[Claim]
    facts: list[tuple[str, str]] = field(default_factory=list)
    """Further figures: source and value."""


class Chapter(Struct):
    """Some steps that belong together."""

    name: str
    title: str
    steps: list[Step] = field(default_factory=list)
    skipped: str = ""
    """Why there are no steps, or fewer than there might be."""


class Telling(Struct):
    """The story on one store."""

    store: str
    kernel: str
    """uname -r."""
    frames_visible: bool
    chapters: list[Chapter] = field(default_factory=list)
    impossible: str = ""
    """Why nothing could be told: a sentence."""

    def claims(self) -> list[Claim]:
        """All of them."""
        return [claim for chapter in self.chapters for step in chapter.steps for claim in step.claims]


class Story(Struct):
    """All of it."""

    stores: list[Telling]
    claims: int
    failed: int
    """Claims that did not hold."""
