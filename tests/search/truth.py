"""What a program knows of itself: its log, made into touches, processes and segments."""

import signal
from collections import defaultdict
from dataclasses import dataclass, field

from tests.search.execute import Outcome
from tests.search.program import Record

NEVER = 1 << 62
START, FORKED, THREAD, DAEMON, EXECUTED = range(5)
"""How a role began: the first argument of the record "start"."""
HANDLER, BY_KERNEL = 1, 4
"""How a touch is made: the fourth argument of the record "begin"; 0: by the program itself."""


@dataclass
class Touch:
    """One access to one page, by the program or by the kernel for it."""

    begin: int
    end: int
    pid: int
    tid: int
    inode: int
    page: int
    store: bool
    nested: bool
    kernel: bool
    minor: int = 0
    major: int = 0
    signal: int = 0
    """That it ended in; negative: an error number of the kernel's access."""
    where: int = -1
    """Page of si_addr."""
    finished: bool = True
    moved: bool = False
    """Whether mremap(2) had moved the mapping."""
    early: bool = False
    """Whether the recording began while it lasted: which of its faults are in the trace is not known."""
    step: str = ""

    def __str__(self) -> str:
        what = "store" if self.store else "load"
        what += " in a handler" * self.nested + " by the kernel" * self.kernel
        ended = {True: f"signal {self.signal}", False: f"error {-self.signal}"}[self.signal > 0]
        result = f"minor={self.minor} major={self.major} {ended if self.signal else 'done'}"
        where = f"pid {self.pid} tid {self.tid} {what} inode {self.inode} page {self.page}"
        return f"{where}: {result if self.finished else 'not finished'} [{self.step}]"


@dataclass
class Process:
    """One process of the program."""

    pid: int
    parent: int | None = None
    """None for the first."""
    began: int = NEVER
    last: int = 0
    """End of its last record."""
    before: bool = False
    """Whether it ran before the recording began."""
    status: int | None = None
    """As a shell shows it; None where nobody knows."""
    forked_at: int = 0
    """When its parent called fork(2)."""
    executed_at: int = NEVER
    """When it ran as what it executed."""
    command: str = ""
    """What it is named at its end; "" where it was killed in execve(2), or just after."""
    mapped: set[int] = field(default_factory=set)
    """Inodes."""
    forked: list[int] = field(default_factory=list)
    interrupted: bool = False
    """Whether one of its threads may have been in a call that it did not log when the process ended."""

    @property
    def killed(self) -> bool:
        """Whether it did not end by itself."""
        return self.status is None or self.status >= 128


class Truth:
    """All of it."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.touches: list[Touch] = []
        self.processes: dict[int, Process] = {}
        self.names: dict[int, set[str]] = defaultdict(set)
        """Every name that an inode was opened by, "" for O_TMPFILE."""
        self.mappings: list[Record] = []
        self.creators: dict[int, set[int]] = {}
        """Who may have created each inode: several where they opened it at once."""
        self.openers: dict[int, set[int]] = defaultdict(set)
        self.kinds: dict[int, str] = {}
        """Of inodes that are System V ("sysv") or shared anonymous ("anon") memory."""
        self.file_size = max((one.a[1] for one in outcome.log if one.name == "fsize"), default=0)
        """RLIMIT_FSIZE, which is the same wherever it is set."""
        self.sent_bus: set[int] = set()
        """Processes that signal 7 was sent to by somebody."""
        self.renamed = any(one.name == "rename" and one.a[0] == 0 for one in outcome.log)
        self.offset = 0
        """Of CLOCK_MONOTONIC to the times of the trace."""
        self.has_access = False
        """Whether the trace has reads and writes, so that nothing about mappings is missing."""
        self.gate = 0
        gates = [record.end for record in outcome.log if record.name == "gate"]
        if outcome.target.startswith("record"):
            self.gate = max(gates) if len(gates) == 2 else NEVER  # another thread ended it at the gate
        self._open: dict[int, list[Touch]] = defaultdict(list)
        self._moved: dict[tuple[int, int], bool] = {}
        for record in outcome.log:
            self._take(record)
        self._finish()

    def _take(self, record: Record) -> None:
        process = self.processes.setdefault(record.pid, Process(record.pid))
        # Its beginning has the time before fork(2); it exists from some moment until the end on.
        process.began = min(process.began, record.end if record.name == "start" else record.begin)
        process.last = max(process.last, record.end)
        handler = getattr(self, f"_take_{record.name}", None)
        if handler:
            handler(record, process)

    def _take_start(self, record: Record, process: Process) -> None:
        how, parent = record.a[:2]
        if how in (FORKED, DAEMON):
            process.parent, process.forked_at = parent, record.begin
            if how == FORKED:
                process.mapped |= self.processes[parent].mapped if parent in self.processes else set()
        if how == EXECUTED:
            process.executed_at = min(process.executed_at, record.begin)
        if how in (START, EXECUTED):
            self._moved = {key: moved for key, moved in self._moved.items() if key[0] != record.pid}

    def _take_fork(self, record: Record, process: Process) -> None:
        child = record.a[0]
        if child > 0:
            process.forked.append(child)
            known = self.processes.setdefault(child, Process(child))
            known.parent, known.forked_at = record.pid, record.begin
            known.began = min(known.began, record.end)

    _take_daemon = _take_fork

    def _take_exit(self, record: Record, process: Process) -> None:
        process.status = record.a[0] & 0xFF

    def _take_wait(self, record: Record, process: Process) -> None:
        child, status = record.a[:2]
        known = self.processes.setdefault(child, Process(child))
        known.status = 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF

    def _take_open(self, record: Record, process: Process) -> None:
        if record.a[0] >= 0:
            self.names[record.a[1]].add("" if record.name == "tmpfile" else f"/s{record.a[3]}")
            self.openers[record.a[1]].add(record.pid)

    _take_tmpfile = _take_open

    def _take_attach(self, record: Record, process: Process) -> None:
        result, inode, _, key, number, _ = record.a
        if result == 0 and inode:
            self.kinds[inode] = "anon" if record.name == "anonymous" else "sysv"
            ipc = f"SYSV{key:08x}"
            self.names[inode] |= (
                {"/dev/zero", "/.shmfs//"}
                if record.name == "anonymous"
                else {f"/{ipc} (id {number})", f"/.shmfs/{ipc}.{number}"}
            )
            process.mapped.add(inode)
            self._moved[record.pid, record.a[5]] = False

    _take_anonymous = _take_attach

    def _find_creators(self) -> None:
        """Somebody who opened an inode before anybody else had it."""
        opens: dict[int, list[Record]] = defaultdict(list)
        for record in self.outcome.log:
            if record.name in ("open", "tmpfile", "attach", "anonymous") and record.a[0] >= 0:
                opens[record.a[1]].append(record)
        for inode, records in opens.items():
            first = min(record.end for record in records)
            self.creators[inode] = {record.pid for record in records if record.begin <= first}

    def _take_kill(self, record: Record, process: Process) -> None:
        if record.a[1] == signal.SIGBUS:
            self.sent_bus.add(record.a[0])

    def _take_mmap(self, record: Record, process: Process) -> None:
        if record.a[0] == 0:
            process.mapped.add(record.a[1])
            self.mappings.append(record)
            self._moved[record.pid, record.a[5] >> 8] = False

    def _take_mremap(self, record: Record, process: Process) -> None:
        if record.a[0] == 0:
            self._moved[record.pid, record.a[5]] = True

    def _take_begin(self, record: Record, process: Process) -> None:
        inode, page, store, how, slot, _ = record.a
        touch = Touch(
            record.begin, NEVER, record.pid, record.tid, inode, page, bool(store),
            nested=how == HANDLER,
            kernel=how == BY_KERNEL,
            finished=False,
            moved=self._moved.get((record.pid, slot), True),  # inherited: not known
            step=f"role {record.role} step {record.step}",
        )  # fmt: skip
        self.touches.append(touch)
        self._open[record.tid].append(touch)

    def _take_touched(self, record: Record, process: Process) -> None:
        touch = self._open[record.tid].pop()
        touch.begin, touch.end, touch.finished = record.begin, record.end, True
        touch.minor, touch.major = record.a[3] >> 32, record.a[3] & 0xFFFFFFFF
        touch.signal, touch.where = record.a[4:6]

    def _finish(self) -> None:
        self.touches = [touch for touch in self.touches if touch.end >= self.gate]
        for touch in self.touches:
            touch.early = touch.finished and touch.begin < self.gate
        self._find_creators()
        first = self.outcome.log[0].pid if self.outcome.log else None
        if first is not None:
            self.processes[first].status = self.outcome.status
            if self.outcome.target.startswith("record") and any(
                one.name == "gate" for one in self.outcome.log
            ):
                self.processes[first].before = True
        newest = {record.tid: record for record in sorted(self.outcome.log, key=lambda record: record.end)}
        for process in self.processes.values():
            process.interrupted = any(
                record.pid == process.pid and _may_be_in_call(record) for record in newest.values()
            )
            process.command = "exe" if self._has_executed(process, NEVER) else "actor"
            if any(one.name == "exec" and one.end == process.last for one in self.outcome.log):
                process.command = ""
        for touches in self._open.values():
            for touch in touches:
                touch.end = NEVER
        for process in self.processes.values():
            process.before = process.before or process.began < self.gate

    def _has_executed(self, process: Process, when: int) -> bool:
        """Whether it, or who it is a copy of, had executed the actor anew: by /proc/self/exe."""
        if process.executed_at < when:
            return True
        above = self.processes.get(process.parent or 0)
        return above is not None and self._has_executed(above, process.forked_at)

    @property
    def killed(self) -> bool:
        """Whether some process did not end by itself: what it did last is not in its log."""
        return any(process.killed for process in self.processes.values())

    def last_census(self) -> list[Record] | None:
        """What the first process found at its end, if nobody else was there any more."""
        log = self.outcome.log
        first = log[0].pid if log else 0
        found = [record for record in log if record.name == "census" and record.pid == first]
        if not found:
            return None
        last = [record for record in found if record.step == found[-1].step and record.role == found[-1].role]
        begin = last[0].begin
        others = [process for process in self.processes.values() if process.pid != first]
        quiet = all(process.last < begin and process.status is not None for process in others)
        after = [
            one for one in log if one.begin > last[-1].end and one.name not in ("exit", "census", "settled")
        ]
        return last if quiet and not after else None

    def died_of_bus(self, pid: int) -> bool | None:
        """Whether a process died of signal 7; None where that is not known."""
        status = self.processes[pid].status
        return None if status is None else status == 128 + signal.SIGBUS


def _may_be_in_call(newest: Record) -> bool:
    """Whether a thread may have been in a call when its process ended, by its newest record."""
    in_touch = newest.name == "begin" and newest.a[3] != HANDLER
    return not in_touch and newest.name not in ("thread_end", "exit")
