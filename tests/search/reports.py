"""Compare deaths, refusals and segments as they are reported with what the program knows."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from shmfs.analysis.surveys import UNSURE
from shmfs.client.tmpfs import DELETED
from tests.search.masks import MASKS, masked
from tests.search.program import PAGE, Record
from tests.search.truth import NEVER, Touch, Truth

EFAULT, EFBIG, ENOSPC = 14, 27, 28
SIGBUS = 7
CALLS = {name: name for name in ("read", "write", "fallocate", "ftruncate", "open")}
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size_in_bytes(text: str) -> int:
    """Of a mount option like 37m."""
    return int(text.rstrip("kmg")) * UNITS[text[-1] if text[-1] in UNITS else ""]


class Bus(NamedTuple):
    """All SIGBUS that one process got on one file."""

    pid: int
    inode: int
    touches: list[Touch]
    """In the order of time."""
    certain: bool
    """Whether all of them surely happened."""
    unfinished: tuple[Touch, ...] = ()
    """Further ones that the process may not have logged, as something else ended it."""


class Reports:
    """Of one program; `differences` and `tolerated` as in `compare.Comparison`."""

    def __init__(self, truth: Truth, differences: list[str], tolerated: Counter[str]) -> None:
        self.truth = truth
        self.outcome = truth.outcome
        self.differences = differences
        self.tolerated = tolerated
        self.limit = self.outcome.program.size
        self.sizes = _sizes(self.outcome.log)
        self.named = {name for names in truth.names.values() for name in names}
        self.pids = set(truth.processes)
        """What files are named, and who creates them. Those of the programs that are recorded with it are
        added, because the survey of the file system may come late."""

    def _differs(self, sentence: str) -> None:
        self.differences.append(sentence)

    def _tolerate(self, name: str, count: int = 1) -> None:
        assert self.outcome.target in MASKS[name].targets
        self.tolerated[name] += count

    def run(self, events: list[dict[str, Any]], pids: dict[int, int], segments: list[dict[str, Any]]) -> None:
        """Compare the events of the trace, and the report of `shmfs run`."""
        deaths = [
            event | {"pid": pids[event["process"]], "inode": segments[event["segment"]]["inode"]}
            for event in events
            if event["event"] == "sigbus" and event["segment"] is not None and event["process"] in pids
            and pids[event["process"]] in self.truth.processes
        ]  # fmt: skip
        self._compare_deaths([one for one in deaths if self._is_recorded(one)], "trace")
        report = self.outcome.report
        if report is None:
            if self.outcome.target.startswith("run"):
                self._differs(f"there is no report: {self.outcome.messages[-500:]}")
            return
        self._compare_deaths([death for death in report.get("deaths", []) if death["inode"]], "report")
        self._compare_refusals(report.get("refusals", []))
        self._compare_segments(report)

    def _is_recorded(self, event: dict[str, Any]) -> bool:
        return bool(event["time"] >= self.truth.gate + self.truth.offset)

    # ---- deaths

    def _buses(self) -> Iterator[Bus]:
        groups: dict[tuple[int, int], list[Touch]] = defaultdict(list)
        for touch in self.truth.touches:
            if (touch.signal == SIGBUS and not touch.early) or not touch.finished:
                groups[touch.pid, touch.inode].append(touch)
        for (pid, inode), touches in groups.items():
            finished = [touch for touch in touches if touch.finished]
            died = self.truth.died_of_bus(pid)
            sent = pid in self.truth.sent_bus
            unfinished = [touch for touch in self.truth.touches if touch.pid == pid and not touch.finished]
            certain = len(finished) == len(touches) or (died is True and not sent and len(unfinished) == 1)
            more: tuple[Touch, ...] = ()
            if died is False:
                more = tuple(touch for touch in touches if not touch.finished)
                touches, certain = finished, True
            if touches or more:
                yield Bus(pid, inode, sorted(touches, key=lambda touch: touch.begin), certain, more)

    def _compare_deaths(self, deaths: list[dict[str, Any]], where: str) -> None:
        buses = {(bus.pid, bus.inode): bus for bus in self._buses()}
        seen = Counter((death["pid"], death["inode"]) for death in deaths)
        for (pid, inode), count in seen.items():
            if count > 1:
                self._differs(f"{where}: {count} deaths of process {pid} on inode {inode}")
        for death in deaths:
            bus = buses.get((death["pid"], death["inode"]))
            if bus is None:
                self._differs(f"{where}: a SIGBUS that did not happen: {_short(death)}")
            else:
                self._compare_death(death, bus, where)
        for key, bus in buses.items():
            if key in seen or not bus.certain or not bus.touches or self.truth.processes[bus.pid].before:
                continue
            if bus.touches[0].moved and not self.truth.has_access:
                self._tolerate("moved mappings")
            else:
                self._differs(
                    f"{where}: no death of process {bus.pid} on inode {bus.inode}: {bus.touches[0]}"
                )

    def _compare_death(self, death: dict[str, Any], bus: Bus, where: str) -> None:
        about = f"{where}: {_short(death)}"
        if not bus.touches:
            self._tolerate("killed in a touch")
            return
        possible = [*bus.touches, *bus.unfinished]
        pages = {touch.page for touch in possible}
        first = bus.touches[0]
        overlapping = {touch.page for touch in possible if touch.begin <= first.end}
        if death["page"] not in (overlapping if bus.certain else pages):
            self._differs(f"{about}: the first page is {sorted(overlapping)}: {first}")
        if death["tid"] not in {touch.tid for touch in possible}:
            self._differs(f"{about}: that thread got none: {first}")
        counted = range(len(bus.touches), len(possible) + 1)
        if bus.certain and "count" in death and death["count"] not in counted:
            self._differs(f"{about}: reported {death['count']} times, it was {len(bus.touches)} times")
        if "process" in death and where == "report" and death["process"] not in ("actor", "exe"):
            self._differs(f"{about}: the process is named {death['process']!r}")
        fatal = any(not touch.finished for touch in bus.touches)
        if bus.certain and where == "report" and death["fatal"] is not fatal:
            self._differs(f"{about}: fatal is {death['fatal']}, expected {fatal}")
        self._compare_reason(death, [touch for touch in bus.touches if touch.page == death["page"]], about)

    def _compare_reason(self, death: dict[str, Any], touches: list[Touch], about: str) -> None:
        reasons = {self._reason(touch) for touch in touches[:1]}
        limit = death["limit"]
        if UNSURE in death["reason"] and masked("the file is gone", self.outcome.target):
            self._tolerate("the file is gone")
            reasons = set()
        if reasons == {"end"} and limit:
            self._differs(f"{about}: the page lies behind the end of the file: {touches[0]}")
        if reasons == {"full"} and limit != self.limit:
            self._differs(f"{about}: the limit is {self.limit}: {touches[0]}")
        held = sum(holder["bytes"] for holder in death["holders"])
        if limit and held > limit:
            self._differs(f"{about}: holders have {held} bytes: {death['holders']}")
        if limit and not death["holders"]:
            self._differs(f"{about}: nobody holds the space")
        if limit and (not death["enough"] or size_in_bytes(death["enough"]) < limit + PAGE):
            self._differs(f"{about}: enough is {death['enough']}")
        names = self.named | {"", DELETED}
        for holder in death["holders"]:
            if holder["path"] not in names and not self.truth.renamed:
                self._differs(f"{about}: no file is named {holder['path']}")
            if holder.get("pid") and holder["pid"] not in self.pids:
                self._differs(f"{about}: {holder['path']} was not created by {holder['pid']}")

    def _reason(self, touch: Touch) -> str:
        """Why a touch has failed: "end", "full", or "" where the size changed meanwhile."""
        if touch.nested and not touch.finished:
            return ""  # the call that the handler came after is not in the log
        if any(process.interrupted and process.last < touch.end for process in self.truth.processes.values()):
            return ""  # what it was doing is not in the log
        sizes = self._sizes_at(touch)
        behind = {touch.page * PAGE >= size for size in sizes}
        return "" if len(behind) != 1 else "end" if behind == {True} else "full"

    def may_fail(self, touch: Touch) -> bool:
        """Whether the page may lie behind the end of the file, or the mount was full at some time."""
        if self._reason(touch) != "full":
            return True
        refused = any(record.a[0] == -ENOSPC for record in self.outcome.log if record.name in CALLS)
        return refused or any(
            other.signal == SIGBUS and self._reason(other) == "full" for other in self.truth.touches
        )

    def _sizes_at(self, touch: Touch) -> set[int]:
        """The sizes that the file may have had."""
        end = touch.end if touch.end != NEVER else touch.begin + 100_000_000
        if self.outcome.target == "record-tmpfs":  # whose file system is surveyed after the signal
            end = max(end, touch.begin + 1_000_000_000)
        found: set[int] = set()
        last = 0
        latest = -1
        for begin, done, size in self.sizes.get(touch.inode, []):
            if done <= touch.begin:
                if begin < latest:  # two at once: either may have been the last
                    found |= {last, size}
                last, latest = size, done
            elif begin < end:
                found.add(size)
        return found | {last}

    # ---- refusals

    def _compare_refusals(self, refusals: list[dict[str, Any]]) -> None:
        refused: Counter[tuple[str, int]] = Counter()
        short: Counter[tuple[str, int]] = Counter()
        for record in self.outcome.log:
            call = CALLS.get(record.name)
            if call and record.a[0] in (-ENOSPC, -EFBIG):
                refused[call, record.pid] += 1
            elif record.name in ("read", "write") and 0 <= record.a[0] < record.a[3]:
                short[record.name, record.pid] += 1
            elif record.name == "touched" and record.a[4] == -EFAULT:
                short["read" if record.a[2] & 1 else "write", record.pid] += 1
        reported: Counter[tuple[str, int]] = Counter()
        for one in refusals:
            call = one["call"]
            key = call, one["pid"]
            about = f"refusal of {one['call']} by {one['pid']} on {one['path']} ({one['errno']})"
            if call in CALLS.values():
                reported[key] += one["count"]
                self._compare_refusal(one, about)
                if one["errno"] not in ("ENOSPC", "EFBIG", "EFAULT"):
                    self._differs(f"{about}: no call ends so")
        for key in refused | reported:
            least, most = refused[key], refused[key] + short[key]
            process = self.truth.processes.get(key[1])
            if reported[key] == most + 1 and process and process.interrupted:
                self._tolerate("killed in a call")
            elif not least <= reported[key] <= most:
                self._differs(
                    f"{key[0]} by process {key[1]} was refused {least} times"
                    f"{f' and cut short {short[key]} times' * (most > least)}, reported {reported[key]} times"
                )
            elif reported[key] != least or short[key]:
                self._tolerate("short calls", short[key])

    def _compare_refusal(self, one: dict[str, Any], about: str) -> None:
        if one["errno"] == "EFBIG":
            if (one["limit_name"], one["limit"]) != ("RLIMIT_FSIZE", self.truth.file_size):
                self._differs(f"{about}: the limit is {one['limit_name']} {one['limit']}")
            return
        if one["limit"] != self.limit or one["limit_name"] != "size":
            self._differs(f"{about}: the limit is {one['limit_name']} {one['limit']}, not {self.limit}")
        asked = {
            -(-(record.a[3] + record.a[2] % PAGE) // PAGE) * PAGE if record.name == "write" else record.a[4]
            for record in self.outcome.log
            if record.name in ("write", "fallocate") and record.pid == one["pid"]
        }
        process = self.truth.processes.get(one["pid"])
        if process and process.interrupted:
            asked = set()  # it may be of a call that is not in the log
        if asked and not 0 < one["asked"] <= max(asked):  # in bytes, or in the pages that they take
            self._differs(f"{about}: asked for {one['asked']}, at most {max(asked)}")
        held = sum(holder["bytes"] for holder in one["holders"])
        if held > self.limit:
            self._differs(f"{about}: holders have {held} bytes")
        if not one["enough"] or size_in_bytes(one["enough"]) < self.limit + PAGE:
            self._differs(f"{about}: enough is {one['enough']}")
        if one["process"] not in ("actor", "exe"):
            self._differs(f"{about}: the process is named {one['process']!r}")

    # ---- segments of the report of `shmfs run`

    def _compare_segments(self, report: dict[str, Any]) -> None:
        rows = {row["segment"]["inode"]: row["segment"] for row in report["segments"]}
        if len(rows) != len(report["segments"]):
            self._differs("the report has a segment twice")
        for inode in self.truth.names.keys() - rows.keys():
            self._differs(f"the report has no segment of inode {inode}, opened as {self.truth.names[inode]}")
        for inode in rows.keys() - self.truth.names.keys():
            removed = rows[inode]["kind"] == "sysv" and any(
                record.name == "attach" and record.a[0] for record in self.outcome.log
            )  # by another process between shmget(2) and shmat(2)
            if not self.truth.killed and not removed:
                self._differs(f"the report has a segment that nobody opened: {rows[inode]}")
        for inode, row in rows.items():
            creators = self.truth.creators.get(inode, set())
            creator = (row["created_by"] or {}).get("pid")
            if creators and creator not in creators and not self.truth.killed:
                self._differs(f"{row['path']} was created by {sorted(creators)}, reported {creator}")
            openers = {process["pid"] for process in row["opened_by"]}
            if inode in self.truth.kinds:
                if row["kind"] != self.truth.kinds[inode]:
                    self._differs(f"inode {inode} is {self.truth.kinds[inode]}, reported {row['kind']}")
            elif openers != self.truth.openers.get(inode, set()) and not self.truth.killed:
                self._differs(
                    f"{row['path']} was opened by {self.truth.openers.get(inode)}, reported {openers}"
                )
        self._compare_end(rows, report)

    def _compare_end(self, rows: dict[int, dict[str, Any]], report: dict[str, Any]) -> None:
        """What the first process found at the end, when all others had ended."""
        census = self.truth.last_census()
        if census is None:
            return
        named = {record.a[0]: record for record in census if record.a[1] >= 0}
        for inode, one in rows.items():
            if inode not in self.truth.kinds and bool(one["nlink"]) != (inode in named):
                self._differs(
                    f"{one['path']} inode {inode}: nlink {one['nlink']}, at the end {named.get(inode)}"
                )
        for inode, record in named.items():
            row = rows.get(inode)
            if row is None:
                continue
            if (row["size"], row["resident"]) != (record.a[2], record.a[3]):
                self._differs(
                    f"{row['path']} has {record.a[2]} bytes and {record.a[3]} pages at the end,"
                    f" reported {row['size']} and {row['resident']}"
                )
            if row["path"] != f"/s{record.a[1]}":
                self._differs(f"inode {inode} is named /s{record.a[1]} at the end, reported {row['path']}")
        used = sum(record.a[3] for record in named.values()) * PAGE
        apart = sum(rows[inode]["size"] for inode in self.truth.kinds if inode in rows)
        if not used <= report["peak"] <= self.limit + apart:
            self._differs(f"the peak is {report['peak']}, {used} bytes are in use at the end of {self.limit}")
        if set(report["linked"]) - self.truth.kinds.keys() != set(named):
            self._differs(f"left with a name are {sorted(named)}, reported {report['linked']}")


def _short(death: dict[str, Any]) -> str:
    about = (f"{name} {death[name]}" for name in ("pid", "tid", "inode", "page", "limit"))
    return f"death of {' '.join(about)}"


def _sizes(log: list[Record]) -> dict[int, list[tuple[int, int, int]]]:
    """Of each inode the sizes that it got: when that began, when it was done, and the size."""
    sizes: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    current: dict[int, int] = defaultdict(int)
    for record in sorted(log, key=lambda one: one.end):
        inode, size = record.a[1], None
        if record.name == "ftruncate" and record.a[0] == 0:
            size = record.a[2]
        elif record.name == "fallocate" and record.a[0] == 0 and not record.a[2] & 1:
            size = max(current[inode], record.a[3] + record.a[4])
        elif record.name == "write" and record.a[0] > 0:
            size = max(current[inode], record.a[2] + record.a[0])
        elif record.name in ("attach", "anonymous") and record.a[0] == 0:
            size = max(current[inode], record.a[2] * PAGE)
        elif record.name == "open" and record.a[0] >= 0 and record.a[4] & 4:
            size = 0
        if size is not None:
            current[inode] = size
            sizes[inode].append((record.begin, record.end, size))
    return sizes
