"""Why a touch or a write failed: said at once, in a sentence, and written down.

A limit refuses a charge, which the daemon tells, with who held the space then; a fault ends in SIGBUS, which
perf tells. Where the kernel charges by itself (native store) the daemon is asked, a moment later.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from shmfs.trace.amounts import size as human
from shmfs.trace.history import Full, Holder
from shmfs.trace.names import printable
from shmfs.trace.records import Segment, Statistics

PAGE = 4096
_LIMIT = "the limit of the mount is reached"
_NAMED = 3
"""Holders that a sentence names."""
_PATIENCE = 0.3
"""Seconds in which a refusal is expected whose fault was seen, and the other way round."""
_REPEAT = 10.0
"""Seconds for which the same failure is not said again."""


class Touched(NamedTuple):
    """The fault that ended in SIGBUS."""

    process: int
    pid: int
    tid: int
    command: str
    segment: int
    inode: int
    path: str
    page: int
    time: int


class Deaths:
    """Explains what failed. Not for the thread that serves the mount: it asks the daemon."""

    def __init__(
        self,
        statistics: Callable[[], Statistics | None],
        say: Callable[[str], None],
        write: Callable[..., None],
    ) -> None:
        self._statistics = statistics
        self._say = say
        self._write = write
        self._refused: list[tuple[float, dict[str, Any]]] = []
        self._failed: list[tuple[float, Touched, Full]] = []
        self._dead: set[tuple[int, int]] = set()
        """Inode and page of what ended in SIGBUS."""
        self._full: Full | None = None
        self._said: dict[tuple[int, int], float] = {}

    def told(self, event: dict[str, Any]) -> None:
        """Take note of `refuse` and `full`; the fault that follows, if any, tells what was refused."""
        if event["event"] == "full":
            self._full = Full.of(event)
        else:
            self._refused.append((time.monotonic(), event))

    def failed(self, fault: Touched) -> None:
        """Take note of a SIGBUS; the daemon is asked at once, for what held the space may soon be gone."""
        if not self._first(fault.inode, fault.pid):
            return
        statistics = None if self._refusal(fault) else self._statistics()
        known = _segment(statistics, fault.inode)
        if known is not None and fault.page * PAGE >= known.size:
            self._explain(fault, f"that is beyond the end of the file, which has {human(known.size)}", Full())
        else:
            self._failed.append((time.monotonic(), fault, _full(statistics)))

    def _refusal(self, fault: Touched) -> tuple[float, dict[str, Any]] | None:
        """The refused charge that the fault was about, if that was told."""
        return next(
            (
                one
                for one in self._refused
                if one[1]["inode"] == fault.inode
                and 0 <= fault.page - one[1]["page"] < max(1, one[1]["pages"])
            ),
            None,
        )

    def _explain(self, fault: Touched, why: str, full: Full) -> None:
        """Write it down with its figures, and say it in a sentence that has them all."""
        path, reason = printable(fault.path), _LIMIT if full.limit else why
        self._write(
            event="sigbus", source="perf", time=fault.time, process=fault.process, tid=fault.tid,
            segment=fault.segment, page=fault.page, path=path, reason=reason, **_fields(full),
        )  # fmt: skip
        who = f"process {fault.pid} ({fault.command})" if fault.command else f"process {fault.pid}"
        self._say(f"SIGBUS: {who} touched page {fault.page} of {path}, and {why}")

    def settle(self, *, last: bool = False) -> None:
        """Explain what has failed, once both sides of it were told or one must be missing.

        Without a fault a refusal was a system call's, which was answered ENOSPC.
        """
        now = time.monotonic()
        waiting, self._failed = self._failed, []
        for when, fault, asked in waiting:
            refusal = self._refusal(fault)
            if refusal is None and not last and now - when < _PATIENCE:
                self._failed.append((when, fault, asked))
                continue
            full = self._full if refusal and self._full else asked
            self._dead.add((fault.inode, fault.page))  # the kernel may have tried it twice
            self._explain(fault, _why(full), full)
        patience = 0 if last else 2 * _PATIENCE
        due = [event for when, event in self._refused if now - when >= patience]
        self._refused = [one for one in self._refused if one[1] not in due]
        for event in due:
            if (event["inode"], event["page"]) in self._dead or not self._first(int(event["inode"]), 0):
                continue
            path, page, full = printable(str(event["path"])), int(event["page"]), self._full or Full()
            inodes = event["limit"] == "nr_inodes"
            why = "there are as many inodes as nr_inodes= permits" if inodes else _why(full)
            self._write(
                event="enospc", source="mm", time=event["time"], path=path, page=page,
                reason=_LIMIT if full.limit and not inodes else why,
                **_fields(Full() if inodes else full),
            )  # fmt: skip
            what = "a new inode" if inodes else f"page {page} of {path}"
            self._say(f"ENOSPC: {what} could not be had, for {why}")

    def _first(self, inode: int, pid: int) -> bool:
        now = time.monotonic()
        before = self._said.get((inode, pid))
        self._said[inode, pid] = now
        return before is None or now - before > _REPEAT


def _segment(statistics: Statistics | None, inode: int) -> Segment | None:
    found = [one for one in statistics.segments if one.inode == inode] if statistics else []
    return found[0] if found else None


def _full(statistics: Statistics | None) -> Full:
    """What the daemon says when it is asked."""
    if statistics is None:
        return Full()
    alive = [one for one in statistics.segments if not one.evicted]
    holders = [Holder.of(one.path, one.resident, one.created_by) for one in alive if one.resident]
    holders.sort(key=lambda holder: -holder.bytes)
    wanted = sum(max(one.resident, -(-one.size // PAGE)) for one in alive)
    return Full(statistics.size_limit, holders, wanted * PAGE)


def _why(full: Full) -> str:
    """A sentence's end: the limit, who holds the space, and what would have been enough."""
    if not full.limit:
        return "there was no memory for it"
    named = ", ".join(
        f"{holder.path or 'a file without a name'} {human(holder.bytes)}"
        + (f" (made by {holder.pid} {holder.command})" if holder.command else "")
        for holder in full.holders[:_NAMED]
    )
    more = f" and {len(full.holders) - _NAMED} more" if len(full.holders) > _NAMED else ""
    reason = f"the limit of {human(full.limit)} is reached; it is held by {named or 'nobody'}{more}"
    return reason + (f"; size={full.enough} would hold every file in full" if full.enough else "")


def _fields(full: Full) -> dict[str, Any]:
    holders = [{"path": one.path, "bytes": one.bytes, "pid": one.pid} for one in full.holders]
    return {"limit": full.limit, "holders": holders, "enough": full.enough}
