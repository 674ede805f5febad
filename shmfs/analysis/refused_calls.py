"""Calls that the kernel refuses by itself: each is reported once, with who held the space, and then counted.

The kernel reports every call that fails (`signals.Failures`), also those that a daemon has refused and
reports, which are left to it. All methods are called in the recorder's thread.
"""

import time
from collections.abc import Callable

import msgspec

from shmfs.analysis import surveys
from shmfs.analysis.surveys import Survey
from shmfs.events.records import Refusal

MOST = 1000
"""Refusals that are kept; further kinds are not recorded."""

_Call = tuple[int, int | str, str, str]
"""Pid, inode or path, call and errno."""


class RefusedCalls:
    """The refusals of calls that the daemon does not know of."""

    def __init__(
        self, look: Callable[[], Survey], report: Callable[[Refusal], None], write: Callable[..., None]
    ) -> None:
        """`look` surveys the file system; `report` gets each refusal once, `write` the event of the trace."""
        self._look = look
        self._report = report
        self._write = write
        self._known: dict[_Call, Refusal] = {}
        self._unreported: list[tuple[float, Refusal]] = []
        """Those of them that the daemon may still report."""
        self._written: dict[int, int] = {}
        """How often each of them had been refused when it was written, by id()."""
        self._served: set[_Call] = set()

    @property
    def refusals(self) -> list[Refusal]:
        """All of them, in the order of the first of each kind."""
        return list(self._known.values())

    def serve(self, refusal: Refusal) -> None:
        """Take in what the daemon has refused: it counts the others of its kind."""
        self._served.add(_key(refusal, refusal.inode))
        if refusal.path:  # of one path, one inode is reported
            self._served.add(_key(refusal, refusal.path))

    def take(self, refusal: Refusal, survey: Survey | None = None) -> None:
        """Take in a call that failed; unless the daemon reports it too, the kernel refused it by itself.

        Without a `survey` of that moment, space is surveyed at once. The name of the process may be filled in
        until the next `settle`.
        """
        if self._is_served(refusal):
            return
        call = _key(refusal, refusal.inode)
        known = self._known.get(call)
        if known is not None:
            known.count += 1
            return
        if len(self._known) >= MOST:
            return
        self._known[call] = refusal
        self._unreported.append((time.monotonic(), refusal))
        if survey is None:
            wanted = refusal.limit_name == "size" or not refusal.path
            survey = self._look() if wanted else Survey(None, 0)
        seen = survey.statistics
        if seen is None:
            return
        segment = surveys.segment(seen, refusal.inode)
        refusal.path = refusal.path or (segment.path if segment else "")
        if refusal.limit_name == "size":
            refusal.limit = seen.size_limit
            refusal.holders, refusal.more_holders = surveys.holders(seen)
            # A call that populates asks for pages of files, which count in full already.
            refusal.enough = surveys.enough(seen, refusal.asked if refusal.errno == "ENOSPC" else 0)
            refusal.held_after = max(0, survey.time - refusal.time)

    def settle(self, overdue: float, *, last: bool) -> None:
        """Report what the daemon has not reported; at the end once more what was refused again since."""
        waiting, self._unreported = self._unreported, []
        for when, refusal in waiting:
            if when > overdue:
                self._unreported.append((when, refusal))
            elif self._is_served(refusal):
                self._known.pop(_key(refusal, refusal.inode), None)
            else:
                self._write_one(refusal)
                self._report(refusal)
        for refusal in self._known.values() if last else ():
            if refusal.count > self._written.get(id(refusal), refusal.count):
                self._write_one(refusal)

    def _is_served(self, refusal: Refusal) -> bool:
        return any(_key(refusal, file) in self._served for file in (refusal.inode, refusal.path))

    def _write_one(self, refusal: Refusal) -> None:
        self._written[id(refusal)] = refusal.count
        self._write(
            event="refusal", source="perf", time=refusal.time, path=refusal.path,
            refusal=msgspec.to_builtins(refusal),
        )  # fmt: skip


def _key(refusal: Refusal, file: int | str) -> _Call:
    return refusal.pid, file, refusal.call, refusal.errno
