"""The process in the foreground: starts the command in the sandbox, passes signals on, cleans up after it.

The command stays in the process group and session of its supervisor, so that the terminal and the job
control of the user's shell work as without shmfs: what the terminal sends reaches both, and the
supervisor waits for what the command makes of it. Other signals to the supervisor are forwarded.

All of them are blocked here, waited for with signalfd(2) and taken with sigtimedwait(2). Threads that were
started before `run` must have them blocked too, or they take them: import what starts threads (numpy) in
`sample`, not before.
"""

import ctypes
import json
import logging
import os
import select
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from shmfs.errors import ShmfsError
from shmfs.events.records import Stale
from shmfs.sandbox import command as child
from shmfs.system import proc
from shmfs.system.syscalls import PR_GET_CHILD_SUBREAPER, PR_SET_CHILD_SUBREAPER, libc, prctl

log = logging.getLogger(__name__)

GRACE = 2.0
"""Seconds that what the command left gets to end by itself, and then again after SIGTERM and SIGKILL."""

_POLL = 0.02  # seconds between two looks at what is left
_FIRST_SAMPLE = 0.01  # seconds; short commands are sampled too, long ones seldom

_ALLOWED, _SHARE = 0.02, 0.01
"""Seconds that all samples may take, and the share of the time that they may take beside it."""

# Faults of the supervisor's own, and what Python ignores, are left alone.
_TAKEN = signal.valid_signals() - {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGTRAP, signal.SIGSYS, signal.SIGPIPE, signal.SIGXCPU, signal.SIGXFSZ),
}
_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH}
_HURRY = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class Host(Protocol):
    """What the supervisor needs to know of a `shmfs.client.launch.Server`."""

    @property
    def pid(self) -> int:
        """The process whose namespaces are the sandbox."""


@dataclass(frozen=True)
class Outcome:
    """How a command in a sandbox ended."""

    status: int
    """The exit status of the command, 128 + N when signal N killed it."""
    signal: int
    """The signal that killed it, or 0."""
    left: list[tuple[int, str]]
    """Processes (pid, command) that it left behind and that had to be killed."""
    duration: float
    """Seconds from its start to its end, without the processes that it left."""
    stale: Stale | None = None
    """What was not sampled any more, because looking for processes failed."""


def run(
    command: list[str],
    server: Host,
    *,
    sample: Callable[[set[int]], object] | None = None,
    attach: Callable[[int], object] | None = None,
    interval: float = 0.1,
    grace: float = GRACE,
    doors: Sequence[str] = (),
) -> Outcome:
    """Run `command` in the sandbox of `server` and return when nothing of it is left.

    `sample` is called with the pids of the sandbox every `interval` seconds, more often at first, and once
    after the command has ended if it left processes. `attach` is called with the pid of the command before it
    executes, and may raise ShmfsError. `doors` are what the preloaded library serves, see
    `shmfs.ipc.library`. Must be called in the main thread. Raises ShmfsError
    when the command could not be started (status 127, 126 or 1); nothing is left behind then either.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
    disposition = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # with SIG_IGN no status could be waited for
    inherited = {signal.SIGCHLD: signal.SIG_IGN} if disposition == signal.SIG_IGN else {}
    subreaper = ctypes.c_int()
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(subreaper))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    numbers = sum(1 << (number - 1) for number in _TAKEN).to_bytes(128, "little")
    signals = libc.signalfd(-1, numbers, os.O_CLOEXEC)
    supervisor = _Supervisor(server.pid, signals, sample, interval)
    try:
        supervisor.start(command, inherited, mask, attach, doors)
        supervisor.wait()
    finally:
        supervisor.clean_up(grace)
        os.close(signals)
        prctl(PR_SET_CHILD_SUBREAPER, subreaper.value)
        signal.signal(signal.SIGCHLD, disposition)
        while signal.sigtimedwait(_TAKEN, 0):
            pass  # came too late for the command, and must not become a KeyboardInterrupt
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return supervisor.outcome()


class _Supervisor:
    """One command, its state, and the processes that belong to it."""

    def __init__(
        self, server: int, signals: int, sample: Callable[[set[int]], object] | None, interval: float
    ) -> None:
        self._server = server
        self._sample = sample
        self._stale: Stale | None = None
        self._interval = interval
        self._namespace = proc.mount_namespace(server)
        self._own_namespace = proc.mount_namespace("self")
        self._strangers = _children()  # the server, perhaps, and what an exec made ours
        self._child = 0
        self._status: int | None = None
        self._stopped = False
        self._failure = b""
        self._left: dict[int, str] = {}
        self._duration = 0.0
        self._poll = select.poll()
        self._poll.register(signals, select.POLLIN)

    def _next(self, timeout: float | None) -> signal.struct_siginfo | None:
        """The next signal; None after `timeout` seconds without one.

        Not from sigtimedwait(2) with a time: Python returns any bytes as its answer when that is interrupted
        at its end (EINTR, by a debugger or SIGCONT), and without a time it never sleeps.
        """
        self._poll.poll(None if timeout is None else timeout * 1000)
        return signal.sigtimedwait(_TAKEN, 0)

    def start(
        self,
        command: list[str],
        dispositions: child.Dispositions,
        mask: set[int],
        attach: Callable[[int], object] | None,
        doors: Sequence[str],
    ) -> None:
        """Fork the process that becomes `command`; if it cannot, its report is in the pipe when it ends."""
        parent = os.getpid()
        self._report, report = os.pipe()
        gate, opener = os.pipe()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # other threads: see above
                pid = os.fork()
            if pid == 0:
                os.close(opener)
                os.read(gate, 1)  # until the parent has let go of it
                _become(command, self._server, parent, dispositions, mask, report, doors)
            self._child = pid
            if attach is not None:
                self._attach(attach, pid)
        except OSError as error:
            os.close(self._report)
            raise ShmfsError(f"cannot start another process: {error.strerror}") from None
        finally:
            for fd in (report, gate, opener):
                os.close(fd)

    @staticmethod
    def _attach(attach: Callable[[int], object], pid: int) -> None:
        try:
            attach(pid)
        except BaseException:
            _kill(pid, signal.SIGKILL)  # it must not run unseen
            raise

    def wait(self) -> None:
        """Pass signals on until the command has ended."""
        begin = time.monotonic()
        spent = 0.0
        delay = min(_FIRST_SAMPLE, self._interval)
        due = begin + delay
        while not self._ended():
            rest = None if self._sample is None else due - time.monotonic()
            if rest is None or rest > 0:
                self._handle(self._next(rest))
            else:
                cost = self._take_sample()
                spent += cost
                delay = max(min(2 * delay, self._interval), 9 * cost)
                due = max(time.monotonic() + delay, begin + (spent - _ALLOWED) / _SHARE)
        self._duration = time.monotonic() - begin
        self._failure = os.read(self._report, 65536)  # the end of the file, if an exec closed it
        os.close(self._report)

    def clean_up(self, grace: float) -> None:
        """End the processes of the sandbox that are left, and reap them; note those that had to be killed.

        They get `grace` seconds to end by themselves (multiprocessing's resource tracker unlinks leaked
        segments then), as long after SIGTERM, and after SIGKILL. A Ctrl-C meanwhile cuts a wait short.
        """
        if not self._child:
            return
        if self._status is None:  # we failed, not the command
            _kill(self._child, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        elif self._sample is not None and self.pids():
            self._take_sample()
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            if not self._end(number, time.monotonic() + grace):
                break

    def outcome(self) -> Outcome:
        """Return how it went; raises ShmfsError when the child did not become the command."""
        if self._failure:
            message, status = json.loads(self._failure)
            raise ShmfsError(message, status)
        assert self._status is not None  # noqa: S101
        killed = max(0, -self._status)
        status = 128 + killed if killed else self._status
        return Outcome(status, killed, sorted(self._left.items()), self._duration, self._stale)

    def pids(self) -> set[int]:
        """Return the live processes of the sandbox, without its server.

        These are the command's descendants, also those in namespaces of their own; orphans among them, which
        became our children; and whoever joined the namespace from outside.
        """
        table = proc.parents()
        roots = {pid for pid, parent in table.items() if self._is_root(pid, parent)}
        aliens = {self._server} | self._strangers
        found = roots | proc.descendants(roots, table)
        return found - aliens - proc.descendants(aliens, table) - {os.getpid()}

    def _is_root(self, pid: int, parent: int) -> bool:
        """Say whether `pid` is in the sandbox by itself, not only by descent."""
        if pid == self._child and self._status is None:
            return True
        namespace = proc.mount_namespace(pid)
        if namespace is not None and namespace == self._namespace:
            return True
        # An orphan that came to us, in a namespace of its own. One in ours is not from the sandbox.
        return parent == os.getpid() and namespace != self._own_namespace

    def _end(self, number: int, deadline: float) -> bool:
        """Send signal `number` (0: none) to all that is left and await its end; say whether any is left."""
        told: set[int] = set()
        while True:
            self._reap()
            remaining = self.pids()
            for pid in remaining - told if number else ():
                self._left.setdefault(pid, proc.command(pid) or "?")
                _kill(pid, number)
                _kill(pid, signal.SIGCONT)  # what is stopped takes no other signal
                told.add(pid)
            if not remaining or time.monotonic() >= deadline:
                return bool(remaining)
            info = self._next(_POLL)
            if info and info.si_signo in _HURRY and signal.getsignal(info.si_signo) != signal.SIG_IGN:
                return True

    def _ended(self) -> bool:
        """Take the changes of the command's state, and follow them; say whether it has ended."""
        self._reap()
        while self._status is None:
            pid, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == 0:
                return False
            if os.WIFSTOPPED(status):
                self._stopped = True
                _stop(os.WSTOPSIG(status))
            elif os.WIFCONTINUED(status):
                self._stopped = False
            else:
                self._status = os.waitstatus_to_exitcode(status)
        return True

    def _reap(self) -> None:
        """Wait for the orphans that ended, and for nobody else."""
        try:
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == self._child and self._status is None:
                    return  # the others next time
                if ended.si_pid in self._strangers:
                    break  # not ours to wait for, and hides the others
                os.waitpid(ended.si_pid, os.WNOHANG)
            else:
                return
            for pid in _children() - self._strangers - {self._child}:
                os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return

    def _handle(self, info: signal.struct_siginfo | None) -> None:
        """Forward a signal to the command unless it has got it already."""
        if info is None or info.si_signo == signal.SIGCHLD:
            return
        number, from_kernel = info.si_signo, info.si_code > 0
        if number == signal.SIGCONT:
            # The shell continues the whole group, `kill -CONT` only us.
            if not self._ended() and self._stopped:
                _kill(self._child, number)
        elif from_kernel and number in _TERMINAL:
            pass  # the terminal sends to the whole group
        elif from_kernel and number == signal.SIGHUP and os.getsid(0) != os.getpid():
            pass  # as above; only the leader of a session is told alone
        elif not from_kernel and info.si_pid in self.pids():
            pass  # `kill 0` in the sandbox; the command does not get its own signals back
        else:
            _kill(self._child, number)

    def _take_sample(self) -> float:
        """Call the sampler and return its CPU time in seconds; one that raises is not called again."""
        begin = time.thread_time()
        try:
            if self._sample is not None:
                self._sample(self.pids())
        except Exception as error:
            log.exception("sampling failed and was switched off")
            why = f"{type(error).__name__}: {error}"
            self._stale = Stale("supervisor", ["mapped_by", "shared", "sample"], time.time_ns(), why)
            self._sample = None
        return time.thread_time() - begin


def _become(
    command: list[str],
    server: int,
    parent: int,
    dispositions: child.Dispositions,
    mask: set[int],
    report: int,
    doors: Sequence[str],
) -> NoReturn:
    """Become the command, or report why not and end."""
    message, status = "the command could not be started", 1
    try:
        child.start(command, server, parent, dispositions, mask, doors)
    except ShmfsError as error:
        message, status = str(error), error.status
    except BaseException as error:
        message = f"the command could not be started: {error!r}"
    finally:
        os.write(report, json.dumps([message[:4096], status]).encode())
        os._exit(status)


def _stop(number: int) -> None:
    """Stop as the command did, for the shell to see it; returns when continued.

    Never by SIGSTOP: where no shell could continue us (an orphaned process group) the kernel ignores the
    other stop signals, as it should.
    """
    own = number if number in (signal.SIGTTIN, signal.SIGTTOU) else signal.SIGTSTP
    os.kill(os.getpid(), own)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {own})
    signal.pthread_sigmask(signal.SIG_BLOCK, {own})


def _children() -> set[int]:
    """Return our children, living or not."""
    return {pid for pid, parent in proc.parents(zombies=True).items() if parent == os.getpid()}


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
