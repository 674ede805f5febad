"""Page faults of now: counted as perf tells of them, or where that is refused as /proc/PID/stat has them."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from shmfs.errors import ShmfsError
from shmfs.live.model import Rates
from shmfs.record.recorder import Recorder
from shmfs.system import proc
from shmfs.tracefile.format import Faults as Rows
from shmfs.tracing.perf import Perf

_KIND = {1: "minor", 2: "major", 3: "failed"}
ALL = 15
"""Of so many looks one is at every process, to find out who has been missed."""
DEAR = 0.4
"""The part of a processor that following faults may take."""
PATIENCE = 3
"""Looks for which it may take more."""
Found = dict[tuple[int, int], Rates]
"""By pid and inode."""


class Meter(Protocol):
    """Where rates come from."""

    by_segment: bool
    """Whether faults are told by segment, or only of all memory of a process (inode 0)."""
    behind: bool
    """Whether some of the last faults are told later only."""

    @property
    def lost(self) -> int:
        """Faults that nobody had room to tell of."""

    @property
    def failure(self) -> str:
        """Why nothing is counted any more, a sentence; "" while it is."""

    def mapping(self) -> set[int] | None:
        """Who maps something, or did; None where only a look at every process tells."""

    def rates(self, seconds: float, pids: Iterable[int]) -> Found:
        """Faults since the last call, `seconds` ago; `pids` are who maps something."""

    def too_much(self) -> str:
        """Why counting costs more than it may, a sentence; "" while it does not."""

    def close(self) -> None:
        """Give everything back."""


class _Tally:
    """What a recorder writes to: counts faults instead of keeping them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inodes: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._gone: list[int] = []
        self._counts: Counter[tuple[int, int, int]] = Counter()

    def take(self) -> Counter[tuple[int, int, int]]:
        """Faults by pid, inode and kind since the last time."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            for process in self._gone:
                self._pids.pop(process, None)
            self._gone = []
        return counts

    def pids(self) -> set[int]:
        """Who was seen to map a segment, and has not ended."""
        with self._lock:
            gone = set(self._gone)
            return {pid for process, pid in self._pids.items() if process not in gone}

    # ---- the recorder's thread

    def faults(self, faults: Rows) -> None:
        """Count."""
        keys, counts = np.unique(faults[["process", "segment", "kind"]], return_counts=True)
        with self._lock:
            for (process, segment, kind), count in zip(keys.tolist(), counts.tolist(), strict=True):
                self._counts[self._pids.get(process, 0), self._inodes.get(segment, 0), kind] += count

    def event(self, event: str, source: str, **fields: Any) -> None:
        """Learn who the numbers are; faults of a process that ended may still be written."""
        if event == "segment":
            self._inodes[fields["segment"]] = fields["inode"]
        elif event == "process":
            with self._lock:
                self._pids[fields["process"]] = fields["pid"]
        elif event == "exit":
            with self._lock:
                self._gone.append(fields["process"])

    def events(self, lines: bytes) -> None:
        """None of the daemon's are asked for."""

    def flush(self, age: float = 0.0) -> None:
        """Nothing waits."""


class PerfMeter:
    """Every fault on a segment of `device`, of every process; raises ShmfsError where that is refused."""

    by_segment = True
    behind = False

    def __init__(self, device: str, root: str) -> None:
        self._perf = Perf()
        self._tally = _Tally()
        major, minor = (int(part) for part in device.split(":"))
        self._recorder = Recorder(self._tally, self._perf, (major, minor), root, everybody=True)
        try:
            self._recorder.start()
        except BaseException:
            self.close()
            raise
        self._looks = 0
        self._cpu = self._since = 0.0
        self._dear = 0
        self._missed = 0

    @property
    def lost(self) -> int:
        """Faults that the rings had no room for."""
        return self._recorder.lost

    @property
    def failure(self) -> str:
        """Why the recorder gave up."""
        return self._recorder.failure

    def mapping(self) -> set[int] | None:
        """The kernel tells of each mapping; all are looked at now and then, and if something was lost."""
        self.behind = not self._recorder.catch_up(1.0)
        lost, self._missed = self.lost - self._missed, self.lost
        self._looks += 1
        return None if self.behind or lost or self._looks % ALL == 1 else self._tally.pids()

    def rates(self, seconds: float, pids: Iterable[int]) -> Found:
        """Faults since the last call; right after `mapping`."""
        counts: dict[tuple[int, int], dict[str, float]] = {}
        for (pid, inode, kind), count in self._tally.take().items():
            one = counts.setdefault((pid, inode), {})
            name = _KIND.get(kind, "minor")
            one[name] = one.get(name, 0.0) + count / seconds
        return {key: Rates(**one) for key, one in counts.items()}

    def too_much(self) -> str:
        """The faults of all processes come in here; a machine may have more than we want to spend on."""
        cpu, now = self._recorder.cpu(), time.monotonic()
        part = (cpu - self._cpu) / (now - self._since) if self._since else 0.0
        self._cpu, self._since = cpu, now
        self._dear = self._dear + 1 if part > DEAR else 0
        if self._dear < PATIENCE:
            return ""
        return f"following every page fault of this machine took {100 * part:.0f} % of a processor"

    def close(self) -> None:
        """Stop; what still waits to be read is not waited for."""

        def stop() -> None:
            self._recorder.stop()
            self._perf.close()

        ending = threading.Thread(target=stop, name="shmfs-top-end", daemon=True)
        ending.start()
        ending.join(1.0)


class StatMeter:
    """Faults of whole processes, on all of their memory: min_flt and maj_flt of /proc/PID/stat."""

    by_segment = behind = False
    lost = 0
    failure = ""

    def __init__(self) -> None:
        self._before: dict[int, proc.Stat] = {}

    def mapping(self) -> set[int] | None:
        """Nobody tells."""
        return None

    def rates(self, seconds: float, pids: Iterable[int]) -> Found:
        """Faults since the last call; none of a process that was not known then."""
        found: Found = {}
        now: dict[int, proc.Stat] = {}
        for pid in pids:
            try:
                stat = now[pid] = proc.stat(pid)
            except OSError:
                continue
            before = self._before.get(pid)
            if before and before.start_time == stat.start_time:
                minor, major = (
                    stat.minor_faults - before.minor_faults,
                    stat.major_faults - before.major_faults,
                )
                found[pid, 0] = Rates(minor / seconds, major / seconds)
        self._before = now
        return found

    def too_much(self) -> str:
        """It never is."""
        return ""

    def close(self) -> None:
        """Nothing is open."""


def meter(device: str, root: str) -> tuple[Meter, str]:
    """The best that the kernel permits, and a sentence about what it does not."""
    try:
        if os.geteuid() == 0:
            return PerfMeter(device, root), ""
        why = "faults of every process on a segment take root"
    except ShmfsError as failure:
        why = str(failure)
    return StatMeter(), coarse(why)


def coarse(why: str) -> str:
    """Say why faults are not by segment."""
    return f"faults are of the whole process, on all of its memory: {why}"
