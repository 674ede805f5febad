"""Traces as a recorder would write them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from shmfs.analysis.findings import Analysis
from shmfs.tracefile.format import FAULT, Meta
from shmfs.tracefile.writer import Writer

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
MIB = 1 << 20
REGULAR = 0o100600


class Recording:
    """A trace in the making; times are seconds from its beginning."""

    def __init__(self, path: Path, **meta: Any) -> None:
        about = {
            "version": "0.1.0",
            "host": "build7",
            "kernel": "6.18.0",
            "started": START,
            "mount": "/dev/shm",
        }
        about |= {"device": "0:57", "store": "managed", "size_limit": 64 * MIB, "options": "size=64m"}
        self.path = path
        self.writer = Writer(path, Meta(**about | meta))
        self.processes = self.segments = 0

    def event(self, name: str, at: float, source: str, **fields: Any) -> None:
        self.writer.event(name, source, time=START + round(at * SECOND), **fields)

    def process(self, pid: int, command: str, at: float = 0.0, parent: int | None = None) -> int:
        self.event("process", at, "perf", process=self.processes, pid=pid, parent=parent, command=command,
                   start_time=None)  # fmt: skip
        self.processes += 1
        return self.processes - 1

    def exit(self, process: int, at: float, status: int | None = 0) -> None:
        self.event("exit", at, "perf", process=process, status=status)

    def segment(self, inode: int, path: str, at: float = 0.0) -> int:
        self.event("segment", at, "perf", segment=self.segments, device="0:57", inode=inode, path=path)
        self.segments += 1
        return self.segments - 1

    def map(self, process: int, segment: int, at: float, length: int = MIB) -> None:
        self.event("map", at, "perf", process=process, segment=segment, address=0x7F0000000000, length=length,
                   page=0, protection="rw-", shared=True)  # fmt: skip

    def create(self, inode: int, path: str, at: float, pid: int, mode: int = REGULAR) -> None:
        self.event("create", at, "fuse", inode=inode, path=path, mode=mode, pid=pid)
        self.event("open", at, "fuse", inode=inode, path=path, flags=2, pid=pid)

    def told(self, name: str, at: float, inode: int, path: str, **fields: Any) -> None:
        mm = name in ("page_in", "allocate", "free", "refuse")
        self.event(name, at, "mm" if mm else "fuse", inode=inode, path=path, **fields)

    def faults(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows of seconds, page, segment, process, tid, kind, access, source."""
        listed = list(rows)
        faults = np.zeros(len(listed), FAULT)
        names = ("time", "page", "segment", "process", "tid", "kind", "access", "source")
        for name, column in zip(names, zip(*listed, strict=True), strict=False):
            faults[name] = [START + round(at * SECOND) for at in column] if name == "time" else column
        self.writer.faults(faults)

    def touch(self, process: int, tid: int, segment: int, pages: range, at: float, until: float,
              kind: int = 1, access: int = 2) -> None:  # fmt: skip
        step = (until - at) / max(1, len(pages))
        self.faults(
            (at + i * step, page, segment, process, tid, kind, access, 0) for i, page in enumerate(pages)
        )

    def close(self, **done: Any) -> Path:
        self.writer.close({"status": None, "lost": 0} | done)
        return self.path

    def cut(self) -> Path:
        """End as a recorder does that is killed."""
        self.writer.flush()
        return self.path


def analysed(path: Path) -> Analysis:
    from shmfs import trace
    from shmfs.analysis.analysis import analyse

    with trace.open(path) as opened:
        return analyse(opened)
