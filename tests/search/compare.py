"""Compare what shmfs reports with what the program knows: a sentence for each difference."""

from bisect import bisect_right
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from shmfs import trace
from tests.search.execute import Outcome
from tests.search.masks import MASKS, masked
from tests.search.program import PAGE
from tests.search.reports import SIGBUS, Reports
from tests.search.truth import Process, Touch, Truth

UNKNOWN, MINOR, MAJOR, FAILED = range(4)
KINDS = ("unknown", "minor", "major", "failed")
READ, WRITE = 1, 2
SLACK = 20_000_000
"""Nanoseconds by which a start time may be late: /proc counts in ticks of 10 ms."""


class Comparison:
    """Of one program. `differences` are sentences, `tolerated` counts what the table of masks let pass."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.truth = Truth(outcome)
        self.differences: list[str] = []
        self.tolerated: Counter[str] = Counter()
        self.rows = 0
        with trace.open(outcome.trace) as opened:
            self.meta, self.done = opened.meta, opened.done
            self.processes, self.segments = opened.processes, opened.segments
            self.events = list(opened.events())
            faults = opened.fault_array()
        self.faults = faults[np.argsort(faults["time"], kind="stable")]
        self.has_access = bool((self.faults["access"] != 0).any())
        self.lost = bool(self.done and (self.done.lost or self.done.dropped or self.done.dropped_events))
        self.offset = self.meta.clock_offset
        self.pids = {number: one["pid"] for number, one in enumerate(self.processes) if one}
        numbers = [number for number, pid in self.pids.items() if pid in self.truth.processes]
        mine = np.isin(self.faults["process"], np.array(numbers, np.uint32))
        if outcome.alone and (~mine).any():
            self._differs(f"{(~mine).sum()} faults of processes that the program does not have")
        inodes = [segment.get("inode", 0) for segment in self.segments]
        self.mine = [
            (int(row["time"]), int(row["tid"]), inodes[int(row["segment"])], int(row["page"]), row)
            for row in self.faults[mine & (self.faults["source"] == 0)]
        ]
        self.rows = len(self.mine)
        self.reports = Reports(self.truth, self.differences, self.tolerated)
        self.maps: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for event in self.events:
            if event["event"] == "map" and event["process"] in self.pids:
                self.maps[self.pids[event["process"]], inodes[event["segment"]]].append(event)
        self.around = self.faults[mine & (self.faults["source"] == 1)]

    def run(self) -> "Comparison":
        """Compare everything."""
        if self.done is None:
            self._differs("the trace has no end")
        self._compare_processes()
        self._compare_faults()
        self._compare_around()
        self._compare_segments()
        self._compare_mappings()
        self.truth.offset, self.truth.has_access = self.offset, self.has_access
        self.reports.run(self.events, self.pids, self.segments)
        return self

    def _differs(self, sentence: str) -> None:
        self.differences.append(sentence)

    def _tolerate(self, name: str, count: int = 1) -> None:
        assert self.outcome.target in MASKS[name].targets
        self.tolerated[name] += count

    # ---- processes

    def _compare_processes(self) -> None:
        ids: dict[int, list[int]] = defaultdict(list)
        for number, one in enumerate(self.processes):
            if not one:
                self._differs(f"process {number} is used and not introduced")
                continue
            ids[one["pid"]].append(number)
        known = self.truth.processes
        for pid, process in known.items():
            found = ids.get(pid, [])
            if len(found) > 1:
                self._differs(f"process {pid} is there {len(found)} times")
            if not found and self._must_be_there(process):
                self._differs(f"process {pid} (parent {process.parent}) is not in the trace")
            for number in found[:1]:
                self._compare_process(process, self.processes[number])
        if self.outcome.alone:
            for pid in ids.keys() - known.keys():
                self._differs(
                    f"process {pid} is in the trace, and the program has none: {self.processes[ids[pid][0]]}"
                )
        self._compare_exits(ids)

    def _must_be_there(self, process: Process) -> bool:
        if self.outcome.target.startswith("run"):
            return True
        return any(touch.pid == process.pid and touch.minor + touch.major for touch in self.truth.touches)

    def _compare_process(self, process: Process, reported: dict[str, Any]) -> None:
        pid, offset = process.pid, self.offset
        start = reported.get("start_time") or reported["time"]
        if start - offset > process.began + SLACK and not process.before:
            self._differs(f"process {pid} begins {(start - offset - process.began) / 1e6:.1f} ms late")
        if process.parent is not None and not process.before:
            number = reported.get("parent")
            parent = self.pids.get(number) if number is not None else None
            if parent != process.parent and (parent is not None or self.outcome.target.startswith("run")):
                self._differs(f"process {pid} has the parent {parent}, not {process.parent}")
        if reported["command"] == "exe" and masked("early names", self.outcome.target):
            self._tolerate("early names", int(process.command != "exe"))
        elif process.command and reported["command"] != process.command:
            self._differs(f"process {pid} is named {reported['command']!r}, it is {process.command!r}")
        ended = reported.get("exit")
        if ended is not None:
            if ended < start:
                self._differs(f"process {pid} ends before it starts")
            if ended - offset + 1_000_000 < process.last:
                late = (process.last - ended + offset) / 1e6
                self._differs(f"process {pid} is reported to end {late:.1f} ms before its last record")
        elif process.status is not None:
            self._differs(f"process {pid} has ended with {process.status}, and is reported to live")
        status = reported.get("status")
        if ended is None or status == process.status:
            return
        if process.status is None:
            self._tolerate("nobody waited")
        elif status is None:
            self._tolerate("status is unknown")
        else:
            self._differs(f"process {pid} is reported to end with {status}, not {process.status}")

    def _compare_exits(self, ids: dict[int, list[int]]) -> None:
        exits = Counter(event["process"] for event in self.events if event["event"] == "exit")
        for pid in self.truth.processes:
            count = sum(exits[number] for number in ids.get(pid, []))
            if count > 1:
                self._differs(f"process {pid} ends {count} times")

    # ---- faults

    def _compare_faults(self) -> None:
        by_tid: dict[int, list[Touch]] = defaultdict(list)
        for touch in self.truth.touches:
            by_tid[touch.tid].append(touch)
        for touches in by_tid.values():
            touches.sort(key=lambda touch: touch.begin)
        given: dict[int, list[Any]] = defaultdict(list)
        for time, tid, inode, page, row in self.mine:
            when = time - self.offset
            if when < self.truth.gate:
                continue
            found = _at(by_tid.get(tid, []), when, inode, page)
            if found is None:
                self._differs(
                    f"a fault of pid {self.pids[int(row['process'])]} tid {tid} on inode {inode} page {page}"
                    f" ({KINDS[row['kind']]}) at {when}, where its log has no touch of that page"
                    f"{self._near(by_tid.get(tid, []), when)}"
                )
            else:
                given[id(found)].append(row)
        died = self._finish_of_dead(given)
        for touch in self.truth.touches:
            self._compare_touch(touch, given.get(id(touch), []), died)

    @staticmethod
    def _near(touches: list[Touch], when: int) -> str:
        before = [touch for touch in touches if touch.begin <= when]
        return f"; the last one before: {before[-1]}, {when - before[-1].begin} ns earlier" if before else ""

    def _finish_of_dead(self, given: dict[int, list[Any]]) -> dict[int, bool]:
        """Of each process whether it died of SIGBUS; and that then one unfinished touch has failed."""
        died: dict[int, bool] = {}
        for pid, process in self.truth.processes.items():
            died[pid] = self.truth.died_of_bus(pid) is True
            unfinished = [touch for touch in self.truth.touches if touch.pid == pid and not touch.finished]
            sent = any(one.name == "kill" and one.a[1] == 7 and one.a[0] == pid for one in self.outcome.log)
            if died[pid] and not sent and unfinished and not process.before:
                failed = [
                    touch
                    for touch in unfinished
                    if any(row["kind"] == FAILED for row in given.get(id(touch), []))
                ]
                if not failed:
                    touches = "; ".join(map(str, unfinished))
                    self._missing(
                        f"process {pid} died of SIGBUS, and no failed fault is reported: {touches}", None
                    )
        return died

    def _missing(self, sentence: str, touch: Touch | None) -> None:
        if self.lost:
            self._tolerate("records were lost")
        elif touch is not None and touch.moved and not self.has_access:
            self._tolerate("moved mappings")
        else:
            self._differs(sentence)

    def _compare_touch(self, touch: Touch, rows: list[Any], died: dict[int, bool]) -> None:
        if touch.early:
            return
        kinds = Counter(int(row["kind"]) for row in rows)
        process = self.truth.processes[touch.pid]
        if not touch.finished:
            self._compare_unfinished(touch, kinds, died, process)
        else:
            failed = touch.signal == SIGBUS  # a handler may touch what its thread is unmapping: SIGSEGV
            expected = Counter({MINOR: touch.minor, MAJOR: touch.major, FAILED: int(failed)})
            if touch.kernel and touch.signal < 0 and kinds[UNKNOWN]:
                self._tolerate("kernel access that fails", kinds[UNKNOWN])
                kinds[UNKNOWN] = 0
            expected, kinds = +expected, +kinds
            if kinds != expected:
                sentence = f"reported {_words(kinds)}, expected {_words(expected)}: {touch}"
                fewer = all(kinds[kind] <= expected[kind] for kind in kinds)
                self._missing(sentence, touch) if fewer else self._differs(sentence)
        for row in rows:
            if int(row["process"]) in self.pids and self.pids[int(row["process"])] != touch.pid:
                self._differs(f"the fault is of process {self.pids[int(row['process'])]}: {touch}")
            access = int(row["access"])
            if not access and not self.has_access:
                self._tolerate("access is unknown")
            elif access != (WRITE if touch.store else READ):
                self._differs(f"the access is {access}: {touch}")

    def _compare_unfinished(
        self, touch: Touch, kinds: Counter[int], died: dict[int, bool], process: Process
    ) -> None:
        total = sum(kinds.values())
        if not total:
            return
        if kinds[FAILED] and not died[touch.pid]:
            if process.status is None:
                self._tolerate("nobody waited")
            elif self.reports.may_fail(touch):
                self._tolerate("killed in a touch")
            else:
                self._differs(f"a failed fault of a process that ended with {process.status}: {touch}")
        elif total > 1 + (kinds[FAILED] > 0):
            self._differs(f"reported {_words(kinds)} of one touch: {touch}")
        elif not kinds[FAILED]:
            self._tolerate("killed in a touch")

    def _compare_around(self) -> None:
        """Pages that were mapped around a fault: each once for a process, and near a touch."""
        seen: set[tuple[int, int, int]] = set()
        touches: dict[int, list[Touch]] = defaultdict(list)
        for touch in self.truth.touches:
            touches[touch.tid].append(touch)
        for row in self.around:
            inode, page = self.segments[int(row["segment"])]["inode"], int(row["page"])
            pid = self.pids[int(row["process"])]
            when = int(row["time"]) - self.offset
            if when < self.truth.gate:
                continue
            about = f"page {page} of inode {inode} mapped around a fault of pid {pid} tid {int(row['tid'])}"
            if (pid, inode, page) in seen:
                self._differs(f"{about}: a second time")
            seen.add((pid, inode, page))
            near = [
                touch
                for touch in touches[int(row["tid"])]
                if touch.begin <= when <= touch.end and touch.inode == inode and abs(touch.page - page) < 16
            ]
            if not near and self._populates(int(row["tid"]), inode, when):
                self._tolerate("pages that a call maps")
            elif not near:
                self._differs(f"{about} at {when}: no touch of a page near it")
            elif near[-1].finished and not near[-1].minor + near[-1].major + near[-1].signal:
                self._differs(f"{about}: {near[-1]} had no fault")

    def _populates(self, tid: int, inode: int, when: int) -> bool:
        """Whether a thread was in a call that maps pages of an inode without faults."""
        calls = ("mlock", "mmap", "mremap")
        return any(
            one.tid == tid and one.name in calls and one.a[1] == inode and one.begin <= when <= one.end
            for one in self.outcome.log
        )

    # ---- segments

    def _compare_mappings(self) -> None:
        """Each mmap(2) is an event; the kernel may have merged it with the mapping beside it."""
        for record in self.truth.mappings:
            address, pages, first, how = record.a[2], record.a[3], record.a[4], record.a[5]
            if record.begin < self.truth.gate:
                continue
            begin, end = (time + self.offset for time in (record.begin, record.end))
            found = [
                event
                for event in self.maps[record.pid, record.a[1]]
                if begin <= event["time"] <= end
                and event["address"] <= address
                and event["address"] + event["length"] >= address + pages * PAGE
            ]
            about = f"the mapping of {pages} pages of inode {record.a[1]} by pid {record.pid} at {address:#x}"
            if len(found) != 1:
                self._missing(f"{about} is {len(found)} events", None)
                continue
            event = found[0]
            if event["page"] + (address - event["address"]) // PAGE != first:
                self._differs(f"{about} begins at page {first}: {event}")
            if event["shared"] == bool(how & 1) or event["protection"][:2] != ("r-" if how & 4 else "rw"):
                self._differs(f"{about} is {'private' * (how & 1) or 'shared'}, {how & 4}: {event}")

    def _compare_segments(self) -> None:
        found = Counter(segment["inode"] for segment in self.segments if segment)
        for inode, count in found.items():
            if count > 1:
                self._differs(f"inode {inode} is {count} segments")
        faulted = {touch.inode for touch in self.truth.touches if touch.minor + touch.major}
        for inode in faulted - found.keys():
            self._missing(f"inode {inode} had faults and is no segment", None)
        for segment in self.segments:
            names = self.truth.names.get(segment.get("inode", -1))
            if names is None:
                if self.outcome.alone and not self.truth.killed:
                    self._differs(f"a segment that nobody opened: {segment}")
                continue
            self._compare_name(segment, names)

    def _compare_name(self, segment: dict[str, Any], names: set[str]) -> None:
        path = segment["path"]
        renamed = any(record.name == "rename" and record.a[0] == 0 for record in self.outcome.log)
        if path in names or ("" in names and (path == "" or path.startswith("/#"))):
            return
        if not (renamed and path.removeprefix("/s").isdecimal()):
            self._differs(
                f"the segment of inode {segment['inode']} is named {path}, opened as {sorted(names)}"
            )


def _words(kinds: Counter[int]) -> str:
    return " ".join(f"{count} {KINDS[kind]}" for kind, count in sorted(kinds.items())) or "nothing"


def _at(touches: list[Touch], when: int, inode: int, page: int) -> Touch | None:
    """The innermost touch of that page at a time."""
    for at in range(bisect_right(touches, when, key=lambda touch: touch.begin) - 1, -1, -1):
        touch = touches[at]
        if touch.end >= when and (touch.inode, touch.page) == (inode, page):
            return touch
        if not touch.nested and touch.end < when:
            break  # it began after all that is before it had ended
    return None


def compare(outcomes: list[Outcome]) -> list[Comparison]:
    """Compare the programs of one trace each, or of one trace."""
    comparisons = [Comparison(outcome) for outcome in outcomes]
    for comparison in comparisons:
        if not comparison.outcome.alone:
            comparison.reports.named.update(*(other.reports.named for other in comparisons))
            comparison.reports.pids.update(*(other.truth.processes for other in comparisons))
            comparison.truth.renamed = any(other.truth.renamed for other in comparisons)
    return [comparison.run() for comparison in comparisons]
