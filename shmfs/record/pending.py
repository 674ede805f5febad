"""Faults whose outcome is not known yet, and what decides it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmfs.record.outcomes import FAILED, PENDING, REPEATED, UNFINISHED, UNKNOWN, Key
from shmfs.record.proofs import Proofs
from shmfs.tracefile.format import Faults
from shmfs.tracing.decode import READ, WRITE

PATIENCE = 0.25
"""Seconds in which the proof of a failure may come by another way than the fault: more than two rounds."""
FORGET = 10.0
"""Seconds after which a fault without an end and without proof is written as unknown."""
_SIGBUS = 128 + 7
_KERNEL = np.uint64(1 << 63)


@dataclass(slots=True)
class _Open:
    row: Faults
    """One row."""
    pid: int
    inode: int
    path: str
    unfinished: bool
    """It has no end; else it may run still."""
    since: float
    """When that was seen, in seconds."""
    proved: float = 0.0
    """When the proof was seen; 0.0: there is none."""
    died: int = 0
    """When its thread ended, if it was the last fault of it; in nanoseconds of CLOCK_MONOTONIC."""
    status: int | None = None
    """The exit status of its process, once that has ended."""
    repeated: bool = False
    """Whether a later fault of the process maps the page for the same access."""

    @property
    def by_kernel(self) -> bool:
        """Whether a system call took it, which then fails; nobody gets a signal."""
        return bool(self.row["ip"][0] >= _KERNEL)


class Pending:
    """Holds them, and hands on what is decided. Called by the recorder's thread alone."""

    def __init__(
        self,
        proofs: Proofs,
        status: Callable[[int], int | None],
        write: Callable[[Faults, int], None],
        failures_seen: Callable[[], bool] = lambda: False,
    ) -> None:
        """Decide by `proofs`, and by the exit `status` of a pid; `write` takes a row and its pid.

        `failures_seen` returns whether no SIGBUS of a fault can have been missed. Then a fault of user mode
        without an end was aborted, and is dropped: the kernel counts only its repetition. No other proof is
        needed then.
        """
        self._proofs = proofs
        self._status = status
        self._write = write
        self._failures_seen = failures_seen
        self._open: dict[Key, _Open] = {}
        self._blamed: dict[int, float] = {}
        """When a fault of a process was found to have failed, by pid: it may be what ended the process."""

    def add(self, key: Key, row: Faults, pid: int, inode: int, path: str, now: float) -> None:
        """Hold a fault, one row, whose kind is PENDING or UNFINISHED."""
        held = _Open(row, pid, inode, path, int(row["kind"][0]) == UNFINISHED, now)
        if held.unfinished:
            if self._was_aborted(held):
                return
            self._proofs.look(inode, path)
        self._open[key] = held

    def repeat(self, rows: Faults, pids: NDArray[Any]) -> None:
        """Take faults, which may repeat earlier ones that are held: in any thread of the process.

        The handler of a signal may switch to another task (Go's scheduler does), and then any thread may
        repeat the instruction. A page that is mapped for writing can be read, too.
        """
        places: dict[tuple[int, int, int], list[_Open]] = {}
        for held in self._open.values():
            if not held.repeated and not held.by_kernel:
                row = held.row[0]
                places.setdefault((held.pid, int(row["segment"]), int(row["page"])), []).append(held)
        if not places:
            return
        for at in np.flatnonzero(np.isin(rows["page"], [page for _, _, page in places])).tolist():
            row = rows[at]
            for held in places.get((int(pids[at]), int(row["segment"]), int(row["page"])), ()):
                first = held.row[0]
                covers = row["access"] == first["access"] or (
                    row["access"] == WRITE and first["access"] == READ
                )
                held.repeated |= bool(row["time"] > first["time"] and covers)

    def settle(self, outcomes: dict[Key, int], now: float) -> None:
        """Take what became of some, also of others than are held."""
        for key in [key for key in self._open if key in outcomes]:
            kind = outcomes[key]
            held = self._open[key]
            if kind == REPEATED or (kind == UNFINISHED and self._was_aborted(held)):
                del self._open[key]
            elif kind == UNFINISHED:
                held.unfinished, held.since = True, now
                self._proofs.look(held.inode, held.path)
            elif kind != PENDING:
                self._decide(key, kind, now)

    def died(self, tid: int, time: int, outcomes: dict[Key, int], now: float) -> None:
        """A thread has ended, and that was its last."""
        self.settle(outcomes, now)
        last = max((key for key in self._open if key[0] == tid and key[1] <= time), default=None)
        for key in [key for key in self._open if key[0] == tid and key[1] <= time]:
            held = self._open[key]
            held.unfinished, held.since = True, now
            held.died = time if key == last else 0
            if key != last and not held.proved and not self._has_proof(key, held):
                self._decide(key, REPEATED if held.repeated else UNKNOWN, now)

    def settle_all(self, kind: int, now: float) -> None:
        """Decide all alike, but those of system calls, which have an end if they completed."""
        self.settle({key: UNKNOWN if held.by_kernel else kind for key, held in self._open.items()}, now)

    def over(self, pid: int, status: int | None) -> None:
        """A process has ended."""
        for held in self._open.values():
            if held.pid == pid:
                held.status = status

    def threads(self, pid: int, before: int) -> set[int]:
        """Return the threads of a process that have faults older than a time here."""
        return {key[0] for key, held in self._open.items() if held.pid == pid and key[1] < before}

    def review(self, now: float, *, last: bool = False) -> None:
        """Decide what can be decided; at the `last` look everything."""
        for key, held in list(self._open.items()):
            if not held.proved and self._has_proof(key, held):
                held.proved = now
            if held.proved and (held.died or last or now - held.proved >= PATIENCE):
                self._decide(key, FAILED, now)
        dead = sorted((held.died, key) for key, held in self._open.items() if held.died)
        for _, key in dead:
            held = self._open[key]
            blamed = now - self._blamed.get(held.pid, -FORGET) < FORGET
            status = self._status(held.pid) if held.status is None else held.status
            if not blamed and not held.by_kernel and status == _SIGBUS:
                self._decide(key, FAILED, now)
            elif last or now - held.since >= PATIENCE:
                self._decide(key, REPEATED if held.repeated else UNKNOWN, now)
        for key, held in list(self._open.items()):
            if last or (held.unfinished and now - held.since >= (PATIENCE if held.repeated else FORGET)):
                self._decide(key, REPEATED if held.repeated else UNKNOWN, now)

    def _was_aborted(self, held: _Open) -> bool:
        """Whether the fault, which has no end, can have failed in no way."""
        return not held.by_kernel and self._failures_seen()

    def _has_proof(self, key: Key, held: _Open) -> bool:
        page, since = int(held.row["page"][0]), int(held.row["time"][0])
        if held.by_kernel or self._failures_seen():
            return False
        return self._proofs.failed(held.inode, held.path, page, key[0], since)

    def _decide(self, key: Key, kind: int, now: float) -> None:
        held = self._open.pop(key)
        if kind == REPEATED:
            return
        if kind == FAILED:
            self._blamed[held.pid] = now
        held.row["kind"] = kind
        self._write(held.row, held.pid)
