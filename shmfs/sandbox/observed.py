"""The main job: one command with a private /dev/shm that is shmfs, and the report on what it did there."""

import importlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from shmfs.analysis.budgets import Ended, Faults
from shmfs.client import control, launch
from shmfs.errors import ShmfsError
from shmfs.events.names import some
from shmfs.events.records import Stale, Statistics
from shmfs.ipc import library
from shmfs.sandbox import command as child
from shmfs.sandbox import supervisor
from shmfs.sandbox.command import SHM

if TYPE_CHECKING:
    from shmfs.analysis.deaths import Deaths
    from shmfs.record.recording import Recording
    from shmfs.report.run_report import RunReport

_SETTLE = 0.5
"""Seconds that the kernel gets to tell the daemon of the last references that a command has let go."""


class Result(NamedTuple):
    """How it went."""

    status: int
    """The exit status of the command, 128 + N when signal N killed it."""
    report: "RunReport | None"
    """None when it was not asked for, or the daemon died."""
    failure: str
    """Why the daemon or the recorder did not last as long as the command, a sentence; or ""."""
    ended: Ended | None = None
    """What budgets look at; None if the daemon died."""


class Trace(NamedTuple):
    """A trace that is wanted."""

    path: str
    """"" is a recording of which only the counts are kept."""
    max_size: int = 0
    """Bytes; 0 is unlimited."""
    io: bool = False
    """Record read(2) and write(2), too; that needs native pages."""
    exact: bool = False
    """Have each charge counted, beside each fault: that costs the program several times as much."""


def run(
    command: list[str],
    options: str = "",
    *,
    trace: Trace | None = None,
    observe: bool = True,
    say: Callable[[str], None] = lambda sentence: None,
    doors: Sequence[str] = (),
) -> Result:
    """Run `command` with a private, empty /dev/shm; returns when nothing of it is left.

    Without `observe` there is no report. `say` gets a sentence at each death and refusal. `doors` are what
    the preloaded library serves. Must be called in the main thread. Raises ShmfsError when the command does
    not exist (status 127), may not be run (126), or shmfs failed; nothing is left behind then either.
    """
    child.resolve(command)
    observer = _Observer() if observe or trace else None
    tracer = _Tracer(trace, command, say) if observe or trace else None
    server = launch.start(
        os.path.realpath(SHM),
        options,
        sandbox=True,
        exact=trace.exact if trace else observe,
        log=tracer.log if tracer else None,
        log_hooks=None if trace else ["refusal"],
        trace_io=trace.io if trace else False,
        meanwhile=partial(_import_all, report=observe) if observer else None,
    )
    outcome = statistics = None
    failure = ""
    try:
        if tracer:
            tracer.serve(server)
        sample = (
            observer.start(server.device, tracer.event if tracer and trace else None) if observer else None
        )
        attach = tracer.attach if tracer else None
        outcome = supervisor.run(command, server, sample=sample, attach=attach, doors=doors)
        if tracer:
            tracer.ended(outcome)
        statistics = _settled(server)
    finally:
        server.stop()
        if tracer:
            failure = tracer.stop(outcome, statistics)
    if statistics is None:
        return Result(outcome.status, None, _why_dead(server))
    if tracer and (failed := tracer.stale()):
        statistics.stale.append(failed)
    explained = tracer.explained() if tracer else None
    ended = Ended(outcome.status, statistics, tracer.counts() if tracer and trace else None, explained)
    if observer is None or not observe:
        return Result(outcome.status, None, failure, ended)
    if doors and library.path() is None:
        statistics.notes.append(_NO_LIBRARY)
    if outcome.left:
        statistics.notes.append(_left(outcome.left))
    if tracer and (lost := tracer.lost()):
        statistics.notes.append(
            f"the kernel lost {lost} records of processes and mappings, as the machine was too busy: deaths"
            " may be missing, or lack their page"
        )
    report = observer.report(statistics, command, outcome, explained)
    return Result(outcome.status, report, failure, ended)


class _Tracer:
    """Follows deaths and refusals of a command, and records its faults where a trace is wanted."""

    def __init__(self, trace: Trace | None, command: list[str], say: Callable[[str], None]) -> None:
        self._trace = trace
        self._command = command
        self._say = say
        self._pid = 0
        self._recording: Recording | None = None
        if trace and trace.path:
            _check_writable(trace.path)  # before a daemon is started for nothing
        self._events, self.log = os.pipe()

    def serve(self, server: launch.Server) -> None:
        """The daemon has started, and holds the other end of `log`."""
        os.close(self.log)
        self._server = server

    def attach(self, pid: int) -> None:
        """Record process `pid` from its exec on; raises ShmfsError."""
        from shmfs.record.recording import Recording, Subject

        self._pid = pid
        about = self._server.statistics()
        trace = self._trace
        subject = Subject(
            *(about.mount, about.device, about.store, about.options, about.size_limit),
            *(self._command, about.backing, trace.io if trace else False),
        )
        try:
            self._recording = Recording(
                trace.path or None if trace else None,
                subject,
                pid=pid,
                events=self._events,
                ask=partial(control.find_statistics, about.device),
                say=self._say,
                faults=trace is not None,
                max_size=trace.max_size if trace else 0,
            )
            self._recording.start()
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise ShmfsError(f"the command cannot be recorded: {where}{error.strerror}") from None

    def counts(self) -> Faults | None:
        """What was recorded; None where nothing was."""
        return self._recording.counts() if self._recording else None

    def lost(self) -> int:
        """Records that the kernel had no room for."""
        return self._recording.recorder.lost if self._recording else 0

    def explained(self) -> "Deaths | None":
        """The deaths and refusals."""
        return self._recording.explained if self._recording else None

    def stale(self) -> Stale | None:
        """What is missing since recording failed; None where it did not."""
        return self._recording.recorder.stale if self._recording else None

    def ended(self, outcome: supervisor.Outcome) -> None:
        """Explain what failed as long as the daemon can be asked."""
        if self._recording:
            self._recording.recorder.ended(self._pid, outcome.status)
            self._recording.catch_up()

    def event(self, **fields: Any) -> None:
        """Write down what somebody else has seen."""
        if self._recording:
            self._recording.event(**fields)

    def stop(self, outcome: supervisor.Outcome | None, statistics: Statistics | None) -> str:
        """End the trace; the daemon is gone. Returns why recording failed, or an empty string."""
        try:
            if self._recording:
                self._recording.stop(outcome.status if outcome else None, statistics)
        except ShmfsError as failure:
            return str(failure)
        finally:
            os.close(self._events)
        return ""


def _check_writable(path: str) -> None:
    """Raise OSError if a trace cannot be written to `path`; a file stays as it is, and none is left."""
    path = os.path.realpath(path)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    else:
        os.unlink(path)


class _Observer:
    """Samples who maps what, and makes the report."""

    def start(self, device: str, tell: Callable[..., None] | None) -> Callable[[set[int]], None]:
        """Return what the supervisor is to call with the pids of the sandbox."""
        from shmfs.record.sampler import Sampler

        pids: set[int] = set()
        self._sampler = Sampler(device, lambda: pids, tell)

        def sample(found: set[int]) -> None:
            pids.clear()
            pids.update(found)
            self._sampler.attempt()

        return sample

    def report(
        self,
        statistics: Statistics,
        command: list[str],
        outcome: supervisor.Outcome,
        explained: "Deaths | None",
    ) -> "RunReport":
        """Put together what was seen."""
        from shmfs.report import run_report

        seen = self._sampler.observations()
        seen.stale = seen.stale or outcome.stale
        deaths = explained.deaths if explained else []
        calls = explained.calls if explained else []
        return run_report.build(statistics, seen, command, outcome.status, outcome.duration, deaths, calls)


def _import_all(*, report: bool) -> None:
    """Import what takes long, while there is nothing else to do.

    Threads that numpy starts must have the supervisor's signals blocked, which they inherit from here.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for name in ("record.sampler", "record.recording", *(["report.run_report"] if report else [])):
            importlib.import_module(f"shmfs.{name}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _settled(server: launch.Server) -> Statistics | None:
    """Return the statistics once nothing is held any more; None if the daemon is dead.

    The kernel tells of the last close and the last unmap of a file after the process has ended.
    """
    deadline = time.monotonic() + _SETTLE
    while True:
        try:
            statistics = server.statistics()
        except ShmfsError:
            return None
        held = any(not segment.evicted and not segment.nlink for segment in statistics.segments)
        if not held or time.monotonic() > deadline:
            return statistics
        time.sleep(0.005)


def _why_dead(server: launch.Server) -> str:
    """Say how the daemon ended, before `stop` was called, and what to do."""
    how = launch.how_it_ended(server.process.returncode)
    return (
        f"the daemon of {SHM} {how} while the command ran, so what it had there was lost and its exit status"
        " means little; run it again, and report what the daemon said above"
    )


_NO_LIBRARY = (
    "System V and shared anonymous memory were the kernel's own: the library that is preloaded for them"
    " could not be built, or its path has a blank, a colon or a dollar"
)


def _left(left: list[tuple[int, str]]) -> str:
    names = some([f"{name} ({pid})" for pid, name in left], 5)
    return f"still running at the end, and killed: {names}"
