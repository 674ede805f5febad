"""The lives of a trace's segments and processes, from its events.

Events of several instruments come in about the order of their time, not exactly: who is told by a pid is
found out when all of them are known.
"""

import stat
from collections.abc import Callable
from signal import SIGBUS
from typing import Any

import msgspec

from shmfs.analysis.findings import Calls, TracedDeath, TracedProcess, TracedSegment, Use, Who
from shmfs.analysis.sizing import Usage
from shmfs.events import records
from shmfs.events.names import Names

Event = dict[str, Any]

KINDS = (
    {"process", "exec", "exit", "segment", "map", "sample", "shared", "lost", "stale", "sigbus"}
    | {"refusal", "statistics"}
    | {"create", "door", "open", "link", "unlink", "rename", "evict", "resize"}
    | {"page_in", "allocate", "free", "usage", "refuse", "read", "write"}
)
"""Events that say something here; `Lifecycle` has a method for each."""

FREQUENT = {"page_in", "allocate", "free", "read", "write"}
"""There may be millions of these: they are not checked, for their numbers are added at once."""

FIELDS = (
    dict.fromkeys(("time", "process", "pid", "parent", "segment", "inode", "pages", "page", "length"), int)
    | dict.fromkeys(
        ("count", "pss", "uss", "size", "mode", "nlink", "status", "start_time", "key", "id"), int
    )
    | dict.fromkeys(("source", "command", "path", "old_path", "of", "kind"), str)
)
"""Types of fields, whatever the event."""

NULLABLE = {
    "process": {"parent", "start_time"},
    "exit": {"status"},
    "sigbus": {"process", "tid", "segment", "page", "path", "enough"},
}
"""Fields that may be null."""

SECOND = 1_000_000_000
"""In nanoseconds."""

SLACK = SECOND
"""Nanoseconds that a process may seem to act after its end: the clocks of the instruments differ a little."""


def _check(event: Event) -> None:
    """Raise TypeError if a field is of the wrong type: other recorders may write other things."""
    for name, value in event.items():
        if value is None:
            if name in FIELDS and name not in NULLABLE.get(event["event"], ()):
                raise TypeError(name)
        elif type(value) is not FIELDS.get(name, type(value)):
            raise TypeError(name)


def add(total: Calls | None, more: Calls) -> Calls:
    """Return the sum."""
    total = total or Calls()
    for name in Calls.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(more, name))
    return total


class _Life:
    """What is known of a segment beyond `TracedSegment`."""

    def __init__(self, segment: TracedSegment) -> None:
        self.segment = segment
        self.uses: dict[int, Use] = {}
        self.nlink: int | None = None
        self.created: tuple[int, int] | None = None  # time, pid
        self.unlinked: tuple[int, int] | None = None
        self.openers: dict[int, tuple[int, int]] = {}  # pid: first and last time
        self.calls: dict[tuple[int, int], Calls] = {}  # by second and pid, which comes round no faster

    def use(self, process: int) -> Use:
        return self.uses.setdefault(process, Use(process))


class Lifecycle:
    """Takes events one by one; then `finish`."""

    def __init__(self, page_size: int, device: str = "") -> None:
        self._device = device
        self.processes: dict[int, TracedProcess] = {}
        self.deaths: list[TracedDeath] = []
        self._refusals: dict[tuple[int, int, str, str, str], records.Refusal] = {}
        self.lost: dict[str, int] = {}
        self.unfollowed: list[int] = []
        """Processes that were not followed for some time."""
        self.stale: list[records.Stale] = []
        self.unreadable = self.inodes_refused = 0
        self.statistics: records.Statistics | None = None
        self.usage = Usage(page_size)
        self.looked = False
        """Whether usage was looked at rather than told (native store)."""
        self.sources: set[str] = set()
        self.last = 0
        """Time of the newest event."""
        self._lives: list[_Life] = []
        self._by_id: dict[int, _Life] = {}
        self._by_inode: dict[int, _Life] = {}
        self._others: set[int] = set()
        """Inodes that are no regular files."""
        self._names = Names()
        self._by_pid: dict[int, list[TracedProcess]] = {}
        self._handlers: dict[Any, Callable[[Event], None]] = {
            kind: getattr(self, f"_{kind}") for kind in KINDS
        }

    def take(self, event: Event) -> None:
        """Learn from one event; those of unknown kinds say nothing."""
        try:
            kind = event["event"]
            handler = self._handlers.get(kind)
            if handler is None:
                return
            if kind not in FREQUENT:
                _check(event)
            handler(event)
            if event["time"] > self.last:
                self.last = event["time"]
            self.sources.add(event["source"])
        except (KeyError, TypeError, ValueError, OverflowError, msgspec.MsgspecError):
            self.unreadable += 1

    # Processes.

    def process(self, number: int, time: int = 0) -> TracedProcess:
        """Return the process with an id; one that no event introduced has no pid."""
        if number not in self.processes:
            self.processes[number] = TracedProcess(number, 0, "", started=time or None)
        return self.processes[number]

    def _process(self, event: Event) -> None:
        process = self.process(event["process"], event["time"])
        process.pid, process.command = event["pid"], event["command"]
        process.parent = event.get("parent")
        process.started = event.get("start_time") or event["time"]

    def _exec(self, event: Event) -> None:
        process = self.process(event["process"], event["time"])
        if process.command != event["command"]:
            process.former.append(process.command)
        process.command = event["command"]

    def _exit(self, event: Event) -> None:
        process = self.process(event["process"])
        process.ended, process.status = event["time"], event.get("status")

    # Segments, by id.

    def _segment(self, event: Event) -> None:
        number, inode = event["segment"], event["inode"]
        life = self._by_id.get(number)
        if life is None and self._device in ("", event["device"]):  # else it is no inode of the daemon's
            life = self._by_inode.get(inode)
            if life is None or life.segment.segment is not None:
                life = self._begin(inode, event["path"], event["time"])
            self._by_id[number] = life
        life = life or self.segment(number, event["time"])
        life.segment.segment, life.segment.inode = number, inode
        life.segment.path = life.segment.path or event["path"]

    def _map(self, event: Event) -> None:
        use = self.segment(event["segment"], event["time"]).use(event["process"])
        use.mapped = max(use.mapped, event["length"])

    def _sample(self, event: Event) -> None:
        use = self.segment(event["segment"], event["time"]).use(event["process"])
        use.present = max(use.present or 0, event["pages"])
        use.pss, use.uss = max(use.pss or 0, event["pss"]), max(use.uss or 0, event["uss"])

    def _shared(self, event: Event) -> None:
        segment = self.segment(event["segment"], event["time"]).segment
        segment.shared_at_once = max(segment.shared_at_once or 0, event["pages"])

    def segment(self, number: int, time: int = 0) -> _Life:
        """Return the segment with an id; one that no event introduced has no name."""
        if number not in self._by_id:
            self._by_id[number] = _Life(TracedSegment(number, 0, "", time))
            self._lives.append(self._by_id[number])
        return self._by_id[number]

    # Segments, by inode: what the daemon tells.

    def _begin(self, inode: int, path: str, time: int) -> _Life:
        life = _Life(TracedSegment(None, inode, path, time))
        self._lives.append(life)
        self._by_inode[inode] = life
        return life

    def _told(self, event: Event) -> _Life | None:
        """Return the segment that an event of the daemon is about; None if it is about no regular file."""
        inode: int = event["inode"]
        if inode in self._others:
            return None
        life = self._by_inode.get(inode)
        if life is None or life.nlink is None:
            _check(event)  # also a FREQUENT one: what it says of the segment stays
            life = life or self._begin(inode, event["path"], event["time"])
            life.nlink = 1 if event["path"] else 0
            self._names.open(inode, event["path"])
        return life

    def _create(self, event: Event) -> None:
        inode, path, mode = event["inode"], event["path"], event["mode"]
        self._names.create(inode, path, mode)
        self._others.discard(inode)
        if not stat.S_ISREG(mode):
            self._others.add(inode)
            return
        life = self._by_inode.get(inode)
        if life is None or life.created or life.segment.evicted:
            life = self._begin(inode, path, event["time"])
        life.created = event["time"], event["pid"]
        life.nlink = 1 if path else 0
        life.segment.created = event["time"]

    def _door(self, event: Event) -> None:
        life = self._told(event)
        if life:
            life.segment.kind = event["kind"]
            if event["kind"] == "sysv":
                life.segment.key, life.segment.id = event["key"], event["id"]
            else:
                life.nlink = 0

    def _open(self, event: Event) -> None:
        life = self._told(event)
        if life:
            first, last = life.openers.get(event["pid"], (event["time"], event["time"]))
            life.openers[event["pid"]] = min(first, event["time"]), max(last, event["time"])

    def _link(self, event: Event) -> None:
        life = self._told(event)
        if life:
            life.nlink = (life.nlink or 0) + 1
            life.unlinked = None
            self._names.link(event["inode"], event["path"])

    def _unlink(self, event: Event) -> None:
        life = self._told(event)
        if life:
            life.nlink = event["nlink"]
            if not life.nlink:
                life.unlinked = event["time"], event["pid"]
        self._names.unlink(event["inode"], event["path"], event["nlink"])

    def _rename(self, event: Event) -> None:
        self._told(event)
        self._names.rename(event["inode"], event["old_path"], event["path"])

    def _evict(self, event: Event) -> None:
        life = self._told(event)
        if life:
            life.segment.evicted = event["time"]
            life.segment.resident = 0 if self.usage.known else None
            life.segment.path = self._names.get(event["inode"]) or life.segment.path
        self._names.evict(event["inode"])
        self._others.discard(event["inode"])
        self.usage.evict(event["inode"])

    def _resize(self, event: Event) -> None:
        life = self._told(event)
        if life:
            life.segment.size = event["size"]
            self.usage.resize(event["inode"], event["size"])

    def _page_in(self, event: Event) -> None:
        life = self._told(event)
        if life:
            life.segment.page_ins = (life.segment.page_ins or 0) + event["pages"]

    def _allocate(self, event: Event) -> None:
        self._charge(event, event["pages"])

    def _free(self, event: Event) -> None:
        self._charge(event, -event["pages"])

    def _charge(self, event: Event, pages: int) -> None:
        life = self._told(event)
        self.usage.charge(event["inode"], pages)
        if life:
            self._resident(life.segment, max(0, (life.segment.resident or 0) + pages))

    def _usage(self, event: Event) -> None:
        life = self._told(event)
        self.looked = True
        self.usage.look(event["inode"], event["size"], event["pages"])
        if life:
            life.segment.size = event["size"]
            self._resident(life.segment, event["pages"])

    def _resident(self, segment: TracedSegment, pages: int) -> None:
        segment.resident = pages
        segment.peak_resident = max(segment.peak_resident or 0, pages)

    def _read(self, event: Event) -> None:
        calls = self._calls(event)
        if calls:
            calls.reads += 1
            calls.bytes_read += event["length"]

    def _write(self, event: Event) -> None:
        calls = self._calls(event)
        if calls:
            calls.writes += 1
            calls.bytes_written += event["length"]

    def _calls(self, event: Event) -> Calls | None:
        life = self._told(event)
        return life.calls.setdefault((event["time"] // SECOND, event["pid"]), Calls()) if life else None

    def _refuse(self, event: Event) -> None:
        if event["limit"] != "size":
            self.inodes_refused += 1
            return
        life = self._told(event)
        if life:
            life.segment.refused += 1

    # The rest.

    def _lost(self, event: Event) -> None:
        self.lost[event["of"]] = self.lost.get(event["of"], 0) + event["count"]
        if "process" in event and event["process"] not in self.unfollowed:
            self.unfollowed.append(event["process"])

    def _stale(self, event: Event) -> None:
        failed = msgspec.convert({"since": event["time"]} | event, records.Stale)
        if not 0 <= failed.since < 1 << 63:
            raise ValueError("since")  # no time of day
        if all((one.observer, one.figures) != (failed.observer, failed.figures) for one in self.stale):
            self.stale.append(failed)

    def _sigbus(self, event: Event) -> None:
        known = {name: value for name, value in event.items() if value is not None}
        self.deaths.append(msgspec.convert(known, TracedDeath))

    def _refusal(self, event: Event) -> None:
        refusal = msgspec.convert(event["refusal"], records.Refusal)
        known = self._refusals.setdefault(refusal.key, refusal)
        known.count = max(known.count, refusal.count)  # written once more at the end

    def _statistics(self, event: Event) -> None:
        self.statistics = msgspec.convert(event["statistics"], records.Statistics)
        self._refusals |= {one.key: one for one in self.statistics.refusals}  # with their counts
        for one in self.statistics.stale:  # also of a log that could not write it itself
            self._stale({"time": one.since} | msgspec.to_builtins(one))

    def refusals(self) -> list[records.Refusal]:
        """Return what was refused, but for page faults that a death explains."""
        pids = {number: process.pid for number, process in self.processes.items()}
        died = {
            (one.pid or pids.get(-1 if one.process is None else one.process), one.path) for one in self.deaths
        }
        return [
            one for one in self._refusals.values() if one.errno != "SIGBUS" or (one.pid, one.path) not in died
        ]

    # The end.

    def finish(self, threads: dict[int, int]) -> list[TracedSegment]:
        """Return the segments, with all that events say of them; `threads` are processes by tid."""
        for process in sorted(self.processes.values(), key=lambda one: one.started or 0):
            self._by_pid.setdefault(process.pid, []).append(process)
        for life in self._lives:
            segment = life.segment
            if life.created:
                segment.created_by = self._who(*life.created, threads)
            if life.unlinked:
                segment.unlinked = life.unlinked[0]
                segment.unlinked_by = self._who(*life.unlinked, threads)
            openers = [(time, pid) for pid, times in life.openers.items() for time in times]
            segment.opened_by = list(dict.fromkeys(self._who(*one, threads) for one in sorted(openers)))
            if segment.evicted is None and self._by_inode.get(segment.inode) is life:
                segment.path = self._names.get(segment.inode) or segment.path
            if segment.evicted is not None:
                segment.end = "gone"
            elif life.nlink is not None:
                segment.end = "linked" if life.nlink else "held"
            self._add_calls(life)
            segment.used_by = list(life.uses.values())
        for death in self.deaths:
            died = self.processes.get(death.process) if death.process is not None else None
            if died and died.status is not None:
                last = max(one.time for one in self.deaths if one.process == death.process)
                death.fatal = died.status == 128 + SIGBUS and death.time == last
        if self.statistics is not None:
            self._merge(self.statistics)
        return [life.segment for life in self._lives if not _was_refused(life.segment)]

    def _add_calls(self, life: _Life) -> None:
        for (second, pid), calls in life.calls.items():
            life.segment.calls = add(life.segment.calls, calls)
            number = self._who(second * SECOND, pid, {}).process
            if number is not None:
                use, process = life.use(number), self.process(number)
                use.calls, process.calls = add(use.calls, calls), add(process.calls, calls)

    def _who(self, time: int, pid: int, threads: dict[int, int]) -> Who:
        found = [one for one in self._by_pid.get(pid, []) if (one.started or 0) <= time + SLACK]
        if not found and pid in threads:
            found = [self.process(threads[pid])]
        if not found or (found[-1].ended or time) + SLACK < time:
            return Who(pid)
        return Who(found[-1].pid, found[-1].command, found[-1].process)

    def _merge(self, statistics: records.Statistics) -> None:
        """Take over what the daemon knew at the end, which is exact also where events were dropped."""
        for known in statistics.segments:
            life = self._by_inode.get(known.inode) or self._begin(known.inode, known.path, known.created)
            segment = life.segment
            segment.path, segment.size, segment.created = known.path, known.size, known.created
            segment.resident, segment.peak_resident = known.resident, known.peak_resident
            segment.page_ins, segment.refused = known.page_ins, known.refused
            segment.kind, segment.key, segment.id = known.kind, known.key, known.id
            segment.end = "gone" if known.evicted else "linked" if known.nlink else "held"
            if known.created_by:
                segment.created_by = self._known(known.created_by, known.created)
            if known.opened_by:
                segment.opened_by = [self._known(one, known.created) for one in known.opened_by]

    def _known(self, process: records.Process, time: int) -> Who:
        """Return a process that the daemon looked up; it knows also those that perf never saw."""
        several = self._by_pid.get(process.pid, [])
        found = [one for one in several if one.command == process.command] or several
        return Who(process.pid, process.command, found[-1].process if found else None)


def _was_refused(segment: TracedSegment) -> bool:
    """Whether it is a shared anonymous mapping for which mmap(2) failed, so that nobody ever had it."""
    never_mapped = segment.kind == "anon" and segment.end == "gone" and segment.segment is None
    return never_mapped and segment.refused > 0 and not segment.size and not segment.peak_resident
