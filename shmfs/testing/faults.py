"""The page faults of a test, to be counted and looked at."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.tracefile.stream import ACCESSES, KINDS

if TYPE_CHECKING:
    from shmfs.tracefile.stream import Trace


class Fault(NamedTuple):
    """One page fault."""

    time: int
    """Nanoseconds since the epoch."""
    path: str
    """Of the segment, as for shm_open: "/frames"."""
    page: int
    pid: int
    command: str
    kind: str
    """minor, major (it had to wait for the page) or failed (SIGBUS)."""
    access: str | None
    """read, write or execute; None where that cannot be seen (without root)."""


class Faults:
    """Page faults in the order of their time. Called with a filter it gives those that pass.

    shmfs.faults(path="/frames", kind="major"); len(shmfs.faults); shmfs.faults(pid=child.pid).pages
    """

    def __init__(
        self, array: NDArray[np.void], segments: list[str], processes: list[tuple[int, str]]
    ) -> None:
        self.array = array
        """Rows of `shmfs.tracefile.stream.FAULT`."""
        self._segments = segments
        self._processes = processes

    @classmethod
    def of(cls, trace: "Trace", *roots: str) -> "Faults":
        """Of a trace of a mount that processes saw at `roots`."""
        array = trace.fault_array()
        array = array[array["source"] == 0]  # what is mapped around a fault is none
        segments = [_below(str(one.get("path", "")), roots) for one in trace.segments]
        processes = [(int(one.get("pid", 0)), str(one.get("command", ""))) for one in trace.processes]
        return cls(np.sort(array, order="time"), segments, processes)

    def __call__(
        self,
        *,
        path: str | None = None,
        pid: int | None = None,
        kind: str | None = None,
        access: str | None = None,
    ) -> "Faults":
        """Those of one segment, by one process, of one kind (minor, major, failed), or of one access.

        Raises ValueError for a kind or an access that there is none of, or where the access cannot be seen.
        """
        keep = np.ones(len(self.array), bool)
        if path is not None:
            wanted = "/" + path.lstrip("/")
            keep &= np.isin(
                self.array["segment"], [i for i, one in enumerate(self._segments) if one == wanted]
            )
        if pid is not None:
            keep &= np.isin(
                self.array["process"], [i for i, one in enumerate(self._processes) if one[0] == pid]
            )
        if kind is not None:
            keep &= self.array["kind"] == _index(kind, KINDS[1:], "kind")
        if access is not None:
            number = _index(access, ACCESSES[1:], "access")
            if not self.array["access"].all():
                raise ValueError(
                    "reads cannot be distinguished from writes here: that takes root, and the tracepoints"
                    " that `shmfs doctor` reports"
                )
            keep &= self.array["access"] == number
        return Faults(self.array[keep], self._segments, self._processes)

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Fault]:
        for row in self.array:
            yield self._fault(row)

    def __getitem__(self, index: int) -> Fault:
        return self._fault(self.array[index])

    def __repr__(self) -> str:
        counts = np.bincount(self.array["kind"], minlength=len(KINDS)).tolist()
        kinds = ", ".join(f"{count} {kind}" for kind, count in zip(KINDS, counts, strict=True) if count)
        return f"<{len(self)} faults{': ' if kinds else ''}{kinds}>"

    @property
    def pages(self) -> list[int]:
        """Which pages there were faults on, each once, in ascending order."""
        return list(np.unique(self.array["page"]).tolist())

    @property
    def paths(self) -> list[str]:
        """Of which segments, each once."""
        return sorted({self._segments[number] for number in np.unique(self.array["segment"])})

    @property
    def pids(self) -> list[int]:
        """By which processes, each once."""
        return sorted({self._processes[number][0] for number in np.unique(self.array["process"])})

    def _fault(self, row: Any) -> Fault:
        pid, command = self._processes[int(row["process"])]
        return Fault(
            time=int(row["time"]),
            path=self._segments[int(row["segment"])],
            page=int(row["page"]),
            pid=pid,
            command=command,
            kind=KINDS[int(row["kind"])],
            access=ACCESSES[int(row["access"])],
        )


def _below(path: str, roots: tuple[str, ...]) -> str:
    """The path from the mount's root, wherever the process saw that."""
    for root in roots:
        if path.startswith(root.rstrip("/") + "/"):
            return path[len(root.rstrip("/")) :]
    return path


def _index(name: str, names: "tuple[str | None, ...]", what: str) -> int:
    if name not in names:
        raise ValueError(f"{name!r} is no {what} of fault: it is one of {', '.join(map(str, names))}")
    return names.index(name) + 1
