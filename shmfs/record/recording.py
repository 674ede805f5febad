"""A trace from its beginning to its end: what the command line makes of recorder, deaths and stream.

Called by the thread that supervises or records; `counts` may be called while the recorder runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from shmfs.analysis import budgets
from shmfs.analysis.deaths import Deaths
from shmfs.errors import ShmfsError
from shmfs.events.records import Statistics
from shmfs.record.recorder import Recorder
from shmfs.record.sampler import Sampler
from shmfs.system import maps
from shmfs.tracefile.format import Faults, Meta, Source
from shmfs.tracefile.writer import Writer
from shmfs.tracing.exits import Execs, Exits
from shmfs.tracing.last_faults import LastFaults
from shmfs.tracing.perf import Perf


class Subject(NamedTuple):
    """What is recorded."""

    mount: str
    """Where the processes see the file system."""
    device: str
    """As in mountinfo: "0:57"."""
    store: str
    """managed, native, or the type of a file system that is not shmfs."""
    options: str = ""
    size_limit: int = 0
    """Bytes; 0 is unlimited."""
    command: Sequence[str] | None = None
    backing: str = ""
    """The device that has the pages, where it is another one (native store)."""
    io: bool = False
    """Whether the daemon tells read(2) and write(2), too."""


class Discard:
    """A sink for recordings of which only counts, deaths and refusals are wanted."""

    dropped = 0

    def faults(self, faults: Faults) -> None:
        """Drop rows of FAULT."""

    def event(self, event: str, source: str, **fields: Any) -> None:
        """Drop one event."""

    def events(self, lines: bytes) -> None:
        """Drop lines of JSON."""

    def flush(self, age: float = 0.0) -> None:
        """Do nothing."""

    def close(self, done: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""


class Recording:
    """Faults, mappings, the daemon's events and samples of one mount, on their way into a file."""

    def __init__(
        self,
        path: str | None,
        subject: Subject,
        *,
        pid: int = -1,
        running: bool = False,
        faults: bool = True,
        events: int | None = None,
        ask: Callable[[], Statistics | None] = lambda: None,
        say: Callable[[str], None] = lambda sentence: None,
        max_size: int = 0,
        when_full: Literal["ring", "stop"] = "ring",
    ) -> None:
        """Record process `pid` and what it starts, or everybody; begin with `start`.

        A process that is not `running` yet is recorded from its next exec on. Without `path` nothing is
        written; without `faults` only deaths and refusals are followed, which costs next to nothing.

        `events` is a descriptor to read the daemon's own events from, which is closed at the end; `ask` asks
        the daemon; `say` tells the user at once why something failed. Raises ShmfsError where the kernel
        does not permit to watch, or the file would be too small, and OSError where it cannot be made.
        """
        self.path = path or ""
        self._sampler: Sampler | None = None
        self._exits: Exits | None = None
        self._execs: Execs | None = None
        self._calls = subject.store != "managed"  # the kernel refuses others by itself
        self._perf, notes = _perf(pid, subject, faults=faults, calls=self._calls)
        self._notes = notes
        if notes and not self._perf and faults:
            say(notes)
        self._last_faults: LastFaults | None = None
        try:
            if self._perf and not faults and not self._perf.signals and pid >= 0:
                self._last_faults = _last_faults(pid)
            self._exits = _connected(Exits) if self._perf else None
            self._execs = _connected(Execs) if self._perf and pid >= 0 else None
            about = _meta(subject, notes, perf=self._perf, daemon=events is not None)
            if self._exits:
                about.sources.append(Source(source="cn_proc", figures=["exit status"]))
            self._writer: Writer | Discard = (
                Discard() if path is None else Writer(path, about, max_size=max_size, when_full=when_full)
            )
        except BaseException:
            self._end_perf()
            raise
        major, minor = (int(part) for part in subject.device.split(":"))
        self.recorder = Recorder(
            self._writer,
            self._perf,
            (major, minor),
            subject.mount,
            everybody=pid < 0,
            running=pid if running else -1,
            events=events,
            exits=self._exits,
            execs=self._execs,
            last_faults=self._last_faults,
            clock_offset=about.clock_offset,
        )
        self.explained = Deaths(
            ask, say, self.recorder.event, signals_seen=self._signals_seen, calls_seen=self._calls_seen
        )
        """The deaths and refusals until now."""
        self.recorder.deaths = self.explained

    @property
    def _signals_seen(self) -> bool:
        return self._perf is not None and (self._perf.signals or self._perf.tracepoints)

    @property
    def _calls_seen(self) -> bool:
        return self._perf is not None and self._perf.signals and self._calls

    def start(self) -> None:
        """Begin."""
        self.recorder.start()

    def sample(self, device: str) -> None:
        """Look now and then at all processes for what they have present."""
        self._sampler = Sampler(device, lambda: maps.processes_mapping(device).mappings, self.event)
        self._sampler.start()

    def catch_up(self) -> None:
        """Return when what has happened is written, and what failed is explained."""
        self.recorder.catch_up()

    def event(self, **fields: Any) -> None:
        """Write down what somebody else has seen; from any thread."""
        self.recorder.event(**fields)

    def counts(self) -> budgets.Faults:
        """How many faults of each kind there were, also of those that the file has no room for."""
        unknown, minor, major, failed = self.recorder.kinds.tolist()
        why = self.recorder.failure
        seen = self._perf is not None and not why
        return budgets.Faults(
            *(minor, major, failed, unknown, self.recorder.lost, why or self._notes, seen),
            unfollowed=self.recorder.gaps.processes,
        )

    @property
    def dropped(self) -> int:
        """Faults for which the file had no room."""
        return self._writer.dropped

    def stop(self, status: int | None = None, statistics: Statistics | None = None) -> None:
        """Write what has happened until now and end; raises ShmfsError if recording failed.

        Call it once, also where `start` was not called or failed.
        """
        if statistics is not None:
            self.event(event="statistics", source="fuse", statistics=msgspec.to_builtins(statistics))
        if self._sampler:
            self._sampler.stop()
        try:
            self.recorder.stop()
        finally:
            self._end_perf()
            self._writer.close({"status": status, "lost": self.recorder.lost})
        if self.recorder.failure:
            raise ShmfsError(self.recorder.failure)

    def _end_perf(self) -> None:
        if self._perf:
            self._perf.close()
        if self._last_faults:
            self._last_faults.close()
        for listener in (self._exits, self._execs):
            if listener:
                listener.close()


def _perf(pid: int, subject: Subject, *, faults: bool, calls: bool) -> tuple[Perf | None, str]:
    """The faults of a command are worth much, but its trace is worth something without them, too."""
    ends = subject.store not in _MEMORY
    try:
        major, minor = (int(part) for part in (subject.backing or subject.device).split(":"))
        perf = Perf(pid, (major, minor), faults=faults, signals=True, calls=calls, ends=ends)
    except ShmfsError as failure:
        if pid < 0:
            raise
        return None, str(failure)
    return perf, "; ".join(perf.notes)


_MEMORY = "native", "tmpfs"
"""Stores whose faults do not wait for a server or a disk, so that signals do not abort them."""
_AROUND = (
    "each page once for each process; at least, for a page that was only written with write(2) is not known"
    " to be present; one that was punched out is not known to be gone"
)


def _last_faults(pid: int) -> LastFaults | None:
    try:
        return LastFaults(pid)
    except (OSError, ShmfsError):
        return None


_Listener = TypeVar("_Listener", Exits, Execs)


def _connected(kind: type[_Listener]) -> _Listener | None:
    try:
        return kind()
    except OSError:  # without root, or in a container
        return None


def _meta(subject: Subject, notes: str, *, perf: Perf | None, daemon: bool) -> Meta:
    sources = [
        Source(source="perf", figures=["fault", "map", "process"] if perf else [], exact=True, note=notes)
    ]
    if perf and perf.filemap:
        sources.append(Source(source="filemap", figures=["around"], exact=False, note=_AROUND))
    if daemon:
        sources += [
            Source(
                source="fuse",
                figures=["create", "open", "unlink", "rename", "resize", *(["read", "write"] * subject.io)],
                exact=True,
            ),
            Source(source="mm", figures=["allocate", "free", "refuse"], exact=True),
        ]
    sources.append(Source(source="pagemap", figures=["sample", "shared"], exact=False))
    return Meta.here(
        command=None if subject.command is None else list(subject.command),
        mount=subject.mount,
        device=subject.device,
        store=subject.store,
        options=subject.options,
        size_limit=subject.size_limit,
        sources=sources,
    )
