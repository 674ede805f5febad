"""Failures that the kernel reports by itself: SIGBUS with its address, and calls that a limit refused.

They come for every process of the machine, also for those that are not followed. A SIGBUS is matched with a
mapping when all mappings before it are known, a round later; the file system is surveyed at once. All methods
are called in the recorder's thread.
"""

import os
import platform

import numpy as np

from shmfs.system.probe import SIGBUS, SIGXFSZ
from shmfs.trace.attribution import Attribution
from shmfs.trace.deaths import Deaths, Touched
from shmfs.trace.decode import FailedCall, Signal
from shmfs.trace.last_faults import LastFault
from shmfs.trace.processes import Processes, read_file
from shmfs.trace.records import Refusal
from shmfs.trace.registry import Registry

_EFBIG = 27
_ERRNOS = {_EFBIG: "EFBIG", 28: "ENOSPC", 122: "EDQUOT"}
_SECOND, _THIRD = 1, 2
_CALLS: dict[int, tuple[str, int | None]] = {
    "x86_64": {
        1: ("write", _THIRD), 18: ("pwrite64", _THIRD), 20: ("writev", None), 40: ("sendfile", None),
        77: ("ftruncate", _SECOND), 275: ("splice", None), 285: ("fallocate", None), 296: ("pwritev", None),
        326: ("copy_file_range", None), 328: ("pwritev2", None),
    },
    "aarch64": {
        46: ("ftruncate", _SECOND), 47: ("fallocate", None), 64: ("write", _THIRD), 66: ("writev", None),
        68: ("pwrite64", _THIRD), 70: ("pwritev", None), 71: ("sendfile", None), 76: ("splice", None),
        285: ("copy_file_range", None), 287: ("pwritev2", None),
    },
}.get(platform.machine(), {})  # fmt: skip
"""System calls that write to their first argument, and which argument is the amount in bytes."""


_PASSED_THROUGH = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "splice"}
"""Calls that the kernel serves from native pages without the daemon."""


class Failures:
    """Takes them, and hands them to `Deaths`."""

    def __init__(
        self,
        device: tuple[int, int],
        known: Registry,
        attribution: Attribution,
        offset: int,
        *,
        recorded: bool,
        served: bool,
    ) -> None:
        """`recorded` says that each SIGBUS is among the faults, too; `offset` leads to the epoch (ns).

        `served` says that a daemon serves the mount, and reports what it refuses by itself.
        """
        self._served = served
        self.deaths: Deaths | None = None
        self._device = os.makedev(*device)
        self._known = known
        self._attribution = attribution
        self._offset = offset
        self._recorded = recorded
        self._processes = Processes()
        self._waiting: list[Signal] = []

    def take(self, signals: list[Signal], calls: list[FailedCall]) -> None:
        """Take what is new. Who is followed is not known yet: changes before it wait for the next round."""
        if self.deaths is None:
            return
        for signal in signals:
            if signal.number == SIGBUS:
                if signal.code > 0:
                    self.deaths.survey(signal.pid)
                self._waiting.append(signal)
            elif signal.number == SIGXFSZ:
                self._refused(signal, _EFBIG)
        for call in calls:
            if call.error != _EFBIG:  # SIGXFSZ came with that
                self._refused(call, call.error)

    def work(self, horizon: int | None) -> None:
        """Match those before `horizon` (ns of CLOCK_MONOTONIC; None: all) with what was mapped."""
        due = [one for one in self._waiting if horizon is None or one.time < horizon]
        self._waiting = [one for one in self._waiting if one not in due]
        for signal in due:
            self._explain(signal)

    def _explain(self, signal: Signal) -> None:
        process = self._known.find(signal.pid)
        if self.deaths is None or process is None:
            return
        if signal.code <= 0:
            self.deaths.stray(signal.pid, f"{_sender(signal)} sent it")
            return
        space = self._attribution.spaces.get(signal.pid)
        segments, pages = space.find(np.array([signal.address], np.uint64)) if space else ([-1], [0])
        segment = int(segments[0])
        if segment < 0:
            self.deaths.stray(
                signal.pid, f"it touched address {signal.address:#x}, where no file of this mount is mapped"
            )
        elif not self._recorded:
            inode, path = self._known.file(segment)
            command, when = self._known.command(process), signal.time + self._offset
            who = process, signal.pid, signal.tid, command
            self.deaths.failed(Touched(*who, segment, inode, path, int(pages[0]), when))

    def died(self, pid: int, faults: list[LastFault]) -> None:
        """A process has died of signal 7, by the newest of its faults that was on a segment."""
        process, space = self._known.find(pid), self._attribution.spaces.get(pid)
        if self.deaths is None or process is None or space is None or not faults:
            return
        segments, pages = space.find(np.array([fault.address for fault in faults], np.uint64))
        for fault, segment, page in zip(faults, segments.tolist(), pages.tolist(), strict=True):
            if segment >= 0:
                who = process, pid, fault.tid, self._known.command(process)
                file = segment, *self._known.file(segment)
                self.deaths.failed(Touched(*who, *file, page, fault.time + self._offset))
                return

    def _refused(self, failed: Signal | FailedCall, error: int) -> None:
        """Report a call that was refused, if it was about a file of the mount, which the caller has open."""
        call, amount = _CALLS.get(failed.call, ("", None))
        if self._served and error != _EFBIG and call not in _PASSED_THROUGH:
            return
        try:
            link = f"/proc/{failed.tid}/fd/{failed.arguments[0]}"
            status, path = os.stat(link), os.readlink(link)
        except OSError:
            return
        if status.st_dev != self._device or self.deaths is None:
            return
        process = self._processes.get(failed.pid)
        refusal = Refusal(
            errno=_ERRNOS[error],
            call=call,
            limit_name="RLIMIT_FSIZE" if error == _EFBIG else "size",
            limit=_file_size_limit(failed.pid) if error == _EFBIG else 0,
            asked=failed.arguments[amount] if amount is not None else 0,
            pid=failed.pid,
            tid=failed.tid,
            process=process.command if process else "",
            path=self._known.path_of(path),
            inode=status.st_ino,
            page=None,
            time=failed.time + self._offset,
            holders=[],
            enough=None,
        )
        self.deaths.refused(refusal)


def _sender(signal: Signal) -> str:
    if signal.sender == signal.pid:
        return "the process itself"
    return f"process {signal.sender}" if signal.sender else "another process"


def _file_size_limit(pid: int) -> int:
    """Return the soft RLIMIT_FSIZE of a process in bytes; 0 is not known."""
    try:
        line = next(
            one for one in read_file(f"/proc/{pid}/limits").splitlines() if one.startswith(b"Max file")
        )
        return int(line.split()[3])
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
