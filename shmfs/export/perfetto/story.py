"""The events of a trace as events of Perfetto: lives of processes and segments, counters, deaths."""

import stat
from collections.abc import Callable

from shmfs.export.perfetto.packets import BEGIN, INSTANT, Value
from shmfs.export.perfetto.tracks import Tracks
from shmfs.tracefile.format import Event, Meta

FREQUENT = {"map", "open", "release", "link", "rename", "resize"}
"""Events that are left out beyond `ROOM`; the others tell how lives begin and end, or move a counter only."""

ROOM = 1_000_000
"""Events of FREQUENT that are written at most."""

INODE = {"create", "open", "release", "link", "unlink", "rename", "resize", "evict", "refuse"}
"""Events of the daemon about one inode; `HOOKS` says what is in them."""

COUNTED = {"page_in", "allocate", "free", "usage"}
"""The same, of those that move a counter only."""

SKIPPED = {"event", "time", "inode", "path", "process", "segment"}
"""Fields that are told otherwise than as an argument."""


class Counter:
    """A track of numbers that is thinned out: of a window of time the peak and the last value are kept."""

    def __init__(self, put: Callable[[int, int], None], window: int) -> None:
        self._put = put
        self._window = window
        self._until = -1
        self._peak: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None
        self.value = 0
        self.thinned = 0
        """Values that were left out."""

    def set(self, time: int, value: int) -> None:
        """Take a value; times do not decrease much."""
        if time > self._until:
            self.flush()
            self._put(time, value)
            self._until = time + self._window
        else:
            self.thinned += self._last is not None and self._last != self._peak
            self._last = time, value
            if self._peak is None or value > self._peak[1]:
                self._peak = self._last
        self.value = value

    def flush(self) -> None:
        """Write what is kept of the window."""
        if self._peak and self._last:
            if self._peak != self._last:
                self._put(*self._peak)
            self._put(*self._last)
        self._peak = self._last = None


class Story:
    """Takes events one by one, in the order of the file; then `finish`."""

    def __init__(self, tracks: Tracks, meta: Meta, window: int) -> None:
        """Thin counters out in windows of so many nanoseconds."""
        self.left_out = self.unreadable = 0
        self._tracks = tracks
        self._packets = tracks.packets
        self._page_size = meta.page_size
        self._limit = meta.size_limit
        self._window = window
        self._room = ROOM
        self._counters: dict[tuple[int, str], Counter] = {}
        self._pids: dict[int, int] = {}
        """pid → id of the process that has it."""
        self._living: set[int] = set()
        self._begun: set[int] = set()
        """Tracks of segments whose life is drawn."""
        self._others: set[int] = set()
        """Inodes that are no regular files."""
        self._pages: dict[int, int] = {}
        """Resident pages by inode."""
        self._used = self._last = 0

    def take(self, event: Event) -> None:
        """Tell of one event; those of unknown kinds and malformed ones say nothing."""
        try:
            kind, time = event["event"], event["time"]
            if kind in FREQUENT:
                if not self._room:
                    self.left_out += 1
                    return
                self._room -= 1
            if kind in INODE:
                self._daemon(kind, time, event)
            elif kind in COUNTED:
                self._resident(kind, time, event)
            elif handler := getattr(self, f"_on_{kind}", None):
                handler(time, event)
            self._last = max(self._last, time)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.unreadable += 1

    def finish(self, end: int) -> int:
        """Write what was held back; returns how many values of counters were left out."""
        if (self._tracks.mount, "limit") in self._counters:
            self._count(self._tracks.mount, "limit", "bytes", max(end, self._last), self._limit)
        for counter in self._counters.values():
            counter.flush()
        return sum(counter.thinned for counter in self._counters.values())

    # Processes.

    def _on_process(self, time: int, event: Event) -> None:
        number = event["process"]
        self._pids[event["pid"]] = number
        above = self._tracks.known.process(event.get("parent")).get("pid")
        self._packets.event(
            *(BEGIN, time, self._tracks.of_process(number), event["command"] or "process", "process"),
            {"pid": event["pid"], "parent pid": above, "start time (ns)": event.get("start_time")},
        )
        self._living.add(number)

    def _on_exec(self, time: int, event: Event) -> None:
        track = self._tracks.of_process(event["process"])
        command = event["command"]
        self._packets.event(INSTANT, time, track, f"exec {command}", "process", {"command": command})

    def _on_exit(self, time: int, event: Event) -> None:
        track = self._tracks.of_process(event["process"])
        self._packets.event(INSTANT, time, track, "exit", "process", {"status": event.get("status")})
        if event["process"] in self._living:
            self._packets.end(time, track)
            self._living.discard(event["process"])

    def _on_sigbus(self, time: int, event: Event) -> None:
        holders = [
            f"{one.get('path')}: {one.get('bytes')} bytes, held by "
            + (", ".join(self._who(number) for number in one.get("processes", ())) or "nobody known")
            for one in event.get("holders") or ()
        ]
        process = event["process"]
        tid = event.get("tid")
        track = self._tracks.of_process(process) if tid is None else self._tracks.of_thread(process, tid)
        self._packets.event(
            *(INSTANT, time, track, "SIGBUS", "death"),
            {"reason": event.get("reason"), "segment": event.get("path"), "page": event.get("page")}
            | {"limit (bytes)": event.get("limit") or None, "holders": holders or None}
            | {"size= that is enough": event.get("enough")},
        )

    def _who(self, number: int) -> str:
        known = self._tracks.known.process(number)
        return f"{known.get('command')} ({known.get('pid')})" if known else f"process {number}"

    # Segments.

    def _on_segment(self, time: int, event: Event) -> None:
        self._begin(self._tracks.of_segment(event["segment"]), time, event["path"], event["inode"])

    def _begin(self, track: int, time: int, path: str, inode: int) -> None:
        """Draw the life of a segment from the first time that it is heard of."""
        if track not in self._begun and track != self._tracks.rest:
            self._begun.add(track)
            self._packets.event(BEGIN, time, track, path or f"inode {inode}", "segment", {"inode": inode})

    def _on_map(self, time: int, event: Event) -> None:
        track = self._tracks.of_segment(event["segment"])
        told: dict[str, Value] = {"process": self._who(event["process"]), "bytes": event["length"]}
        told |= {"first page": event.get("page"), "protection": event.get("protection")}
        told |= {"shared": event.get("shared"), "source": event.get("source")}
        self._packets.event(INSTANT, time, track, "mmap", "segment", told)

    def _on_sample(self, time: int, event: Event) -> None:
        track = self._tracks.of_segment(event["segment"])
        if track != self._tracks.rest:
            name = f"present in {self._who(event['process'])}, sampled"
            self._count(track, name, "pages", time, event["pages"])

    def _on_shared(self, time: int, event: Event) -> None:
        track = self._tracks.of_segment(event["segment"])
        if track != self._tracks.rest:
            self._count(track, "in two or more processes, sampled", "pages", time, event["pages"])

    def _daemon(self, kind: str, time: int, event: Event) -> None:
        """Tell what the daemon saw of a file."""
        inode, path = event["inode"], event["path"]
        if kind == "create":
            (self._others.discard if stat.S_ISREG(event["mode"]) else self._others.add)(inode)
        other = inode in self._others
        created = kind == "create"
        track = self._tracks.mount if other else self._tracks.of_inode(inode, path, created=created)
        told = {name: value for name, value in event.items() if name not in SKIPPED}
        pid = event.get("pid")
        told["process"] = self._who(self._pids[pid]) if pid in self._pids else None
        if not other:
            self._begin(track, time, path, inode)
        self._packets.event(INSTANT, time, track, kind, "segment", {"path": path} | told)
        if kind == "evict":
            self._charge(time, inode, path, 0)
            if track in self._begun:
                self._begun.discard(track)
                self._packets.end(time, track)

    def _resident(self, kind: str, time: int, event: Event) -> None:
        inode, path, pages = event["inode"], event["path"], event["pages"]
        if kind != "page_in":
            before = 0 if kind == "usage" else self._pages.get(inode, 0)
            self._charge(time, inode, path, max(0, before - pages if kind == "free" else before + pages))

    def _charge(self, time: int, inode: int, path: str, pages: int) -> None:
        before = self._pages.get(inode, 0)
        if pages == before:
            return
        self._pages[inode] = pages
        track = self._tracks.of_inode(inode, path)
        if track != self._tracks.rest:
            self._count(track, "resident", "pages", time, pages)
        self._used += (pages - before) * self._page_size
        self._count(self._tracks.mount, "used", "bytes", time, self._used)
        if self._limit and (self._tracks.mount, "limit") not in self._counters:
            self._count(self._tracks.mount, "limit", "bytes", time, self._limit)

    def _count(self, track: int, name: str, unit: str, time: int, value: int) -> None:
        key = track, name
        if key not in self._counters:
            uuid = self._packets.counter(name, track, unit)
            self._counters[key] = Counter(
                lambda when, number: self._packets.value(uuid, when, number), self._window
            )
        self._counters[key].set(time, value)

    # The rest.

    def _on_lost(self, time: int, event: Event) -> None:
        text = f"{event['count']} records of {event['of']} were lost"
        self._packets.event(
            INSTANT, time, self._tracks.recording, text, "recording", {"count": event["count"]}
        )

    def _on_refusal(self, time: int, event: Event) -> None:
        one = event["refusal"]
        figures: dict[str, Value] = {
            name: one.get(name) for name in ("errno", "call", "limit_name", "limit", "asked", "enough")
        }
        self._packets.event(INSTANT, time, self._tracks.mount, "refusal", "mount", figures)

    def _on_full(self, time: int, event: Event) -> None:
        told: dict[str, Value] = {"limit (bytes)": event.get("limit"), "wanted (bytes)": event.get("wanted")}
        self._packets.event(INSTANT, time, self._tracks.mount, "full", "mount", told)
