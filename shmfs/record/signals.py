"""Failures that the kernel reports by itself: SIGBUS with its address, and calls that a limit refused.

They come for every process of the machine, also for those that are not followed. The file system is surveyed
at once. Which file is mapped at an address is looked up a round later, in what was mapped at the time of the
signal. All methods are called in the recorder's thread.
"""

import os

import numpy as np

from shmfs.analysis.deaths import Deaths, Touched
from shmfs.events.records import Refusal
from shmfs.record.attribution import Attribution
from shmfs.record.populates import ERRNOS, Populates
from shmfs.record.registry import Registry
from shmfs.system import proc
from shmfs.system.processes import Processes
from shmfs.system.syscall_table import WRITERS
from shmfs.tracing.changes import FailedCall, Failure, Signal
from shmfs.tracing.last_faults import LastFault
from shmfs.tracing.probe import SIGBUS, SIGXFSZ, UNLIMITED

_EFBIG, _EDQUOT = 27, 122
_ERRNOS = {_EFBIG: "EFBIG", 28: "ENOSPC", _EDQUOT: "EDQUOT"}
_LIMITS = {_EFBIG: "RLIMIT_FSIZE", _EDQUOT: "quota"}
"""What refused it; otherwise the size of the file system."""


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
        served: bool = False,
    ) -> None:
        """`recorded` says that each SIGBUS is among the faults, too; `offset` leads to the epoch (ns).

        `served` says that a daemon serves the mount and reports what it refuses.
        """
        self.deaths: Deaths | None = None
        self._device = device
        self._known = known
        self._attribution = attribution
        self._offset = offset
        self._recorded = recorded
        self._served = served
        self._processes = Processes()
        self._populates = Populates(known, attribution, offset)
        self._unnamed: dict[Failure, Refusal] = {}
        """Refusals whose processes may not be known yet."""

    def take(self, signals: list[Signal], calls: list[FailedCall]) -> list[Failure]:
        """Take what is new; returns what is to be explained when the changes before it have been handled."""
        if self.deaths is None:
            return []
        for signal in signals:
            if signal.number == SIGBUS and signal.code > 0:
                self.deaths.survey(signal.pid)
            elif signal.number == SIGXFSZ:
                self._refused(signal, _EFBIG)
        if populates := [call for call in calls if call.error in ERRNOS]:
            self._populates.take(populates, self.deaths)
        for call in calls:
            if call.error in _ERRNOS and call.error != _EFBIG:  # SIGXFSZ came with that
                self._refused(call, call.error)
        return [*signals, *calls]

    def explain(self, failure: Failure) -> None:
        """Explain what failed by what its process has mapped now."""
        if self.deaths is None:
            return
        if refusal := self._unnamed.pop(failure, None):
            refusal.process = self._known.name(refusal.pid) or refusal.process
        elif isinstance(failure, FailedCall):
            self._populates.explain(failure, self.deaths)
        elif failure.number == SIGBUS:
            self._explain(failure, self.deaths)

    def _explain(self, signal: Signal, deaths: Deaths) -> None:
        process = self._known.find(signal.pid)
        if process is None:
            return
        when = signal.time + self._offset
        if signal.code <= 0:
            deaths.stray(signal.pid, f"{_sender(signal)} sent it", when, sent=True)
            return
        space = self._attribution.spaces.get(signal.pid)
        segments, pages = space.find(np.array([signal.address], np.uint64)) if space else ([-1], [0])
        segment = int(segments[0])
        if segment < 0:
            why = "where no file of this mount is mapped"
            if self._attribution.tasks.has_gap(signal.pid):
                why = "of an unknown file, because the kernel ended perf's monitoring of it at an exec"
            why = f"it touched address {signal.address:#x}, {why}"
            deaths.stray(signal.pid, why, when)
        elif not self._recorded:
            inode, path = self._known.file(segment)
            who = process, signal.pid, signal.tid, self._known.command(process)
            deaths.failed(Touched(*who, segment, inode, path, int(pages[0]), when))

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
        """Report a call that was refused, if it was to write to a file of the mount."""
        if self.deaths is None or failed.call not in WRITERS:
            return
        call, amount, descriptor = WRITERS[failed.call]
        if self._served and call == "fallocate" and error != _EFBIG:
            return  # the daemon reports it, and the mmap(2) that the preloaded library makes of one
        found = self._file(failed, failed.arguments[descriptor] & 0xFFFF_FFFF)
        if found is None:
            return
        inode, path = found
        process = self._processes.get(failed.pid)
        refusal = Refusal(
            errno=_ERRNOS[error],
            call=call,
            limit_name=_LIMITS.get(error, "size"),
            limit=_file_size_limit(failed) if error == _EFBIG else 0,
            asked=failed.arguments[amount] if amount is not None else 0,
            pid=failed.pid,
            tid=failed.tid,
            process=process.command if process else "",
            path=path,
            inode=inode,
            page=None,
            time=failed.time + self._offset,
            holders=[],
            enough=None,
        )
        self._unnamed[failed] = refusal
        self.deaths.refused(refusal)

    def _file(self, failed: Signal | FailedCall, descriptor: int) -> tuple[int, str] | None:
        """The inode of the file of the mount that was to be written to, and its path; "" is not known.

        The kernel reports the inode. Where it does not, and for the path, the process must still live.
        """
        written = failed.file
        if written is not None and written.device != self._device:
            return None
        link = f"/proc/{failed.tid}/fd/{descriptor}"
        try:
            status, path = os.stat(link), os.readlink(link)
        except OSError:
            pass
        else:
            is_it = written is None or written.inode == status.st_ino
            if is_it and status.st_dev == os.makedev(*self._device):
                return status.st_ino, self._known.path_of(path)
        if written is None:
            return None
        segment = self._known.find_segment(written.inode)
        return written.inode, "" if segment is None else self._known.file(segment)[1]


def _sender(signal: Signal) -> str:
    if signal.sender == signal.pid:
        return "the process itself"
    return f"process {signal.sender}" if signal.sender else "another process"


def _file_size_limit(failed: Signal | FailedCall) -> int:
    """Return the soft RLIMIT_FSIZE of the process in bytes; 0 is not known."""
    if failed.file is not None and failed.file.size_limit:
        return failed.file.size_limit if failed.file.size_limit != UNLIMITED else 0
    try:
        return int(proc.line_of(proc.read(failed.pid, "limits"), b"Max file size")[0])
    except (OSError, ValueError, IndexError):
        return 0
