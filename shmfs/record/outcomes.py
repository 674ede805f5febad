"""How faults end: minor, major, failed, aborted by a signal and repeated, or unknown.

The kernel aborts a fault that has to wait while a signal is pending, and does not count it
(fault_signal_pending in arch/x86/mm/fault.c). Later the same instruction faults again: after the handler, in
another thread if the handler switches tasks, or never if it leaves by siglongjmp(3).

With ends, a fault that found its page is followed by PAGE_FAULTS_MIN or _MAJ in its thread
(mm/memory.c:mm_account_fault). One without an end was aborted, failed, or its thread died. The software
events are recorded this way, and the tracepoints on mounts whose faults wait: those with managed pages, and
file systems that are no tmpfs. Where each SIGBUS is seen, too, a fault of user mode has no end and no
SIGBUS only if it was aborted. `pending` decides the others by proofs and by later faults at the same page.

Without ends, one record of a tracepoint stands for a fault, and only major ends, SIGBUS, and the ends of
faults that a system call took have records of their own. The end of every fault takes 10 % more CPU time of
a program that does nothing but touch anonymous memory, and too little to be measured of one that touches
managed pages (medians of 12 pairs). Instead, a fault counts as aborted if its thread next takes a signal
(signal:signal_deliver) while it is still at the same instruction, and its first fault after the return from
the handler (sys_enter_rt_sigreturn) is at the same instruction, page and access. Faults of a tmpfs and of
native pages only wait for swap.

A fault of a system call without an end has failed: the call got EFAULT, and nobody a signal, so its kind is
unknown. If the next fault of the thread is a system call's at the same page, the two are one: write(2)
copies with page faults disabled at first, and faults the page in where that fails
(mm/filemap.c:generic_perform_write).

An exit of the process kills threads in faults. The kernel may generate a SIGBUS then, because the page is
behind the end of the file or because the wait was killed (mm/filemap.c:filemap_fault). The process does not
take it, and the fault is not written. Nor is one that ends in SIGSEGV, where tracepoints are recorded.

What remains with ends:

- Without tracepoints, or where records were lost, an aborted fault that is not repeated has the kind unknown.
  It is not seen as repeated either where a fault that had begun earlier, or fault-around, mapped the page.

What remains without ends, for a page that has to be swapped in:

- A fault that was aborted for task work without a signal (io_uring's TIF_NOTIFY_SIGNAL), or because another
  thread took the signal, counts twice. So does one whose instruction another thread repeats.
- A fault that completed, then a signal before the same instruction runs again, at the same page, which was
  taken away meanwhile (madvise(2), truncation): counts once instead of twice.
- A fault that was aborted because its thread was killed counts as minor. Most last faults of threads that are
  killed have completed: an exit of the process kills all of its other threads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shmfs.tracing.decode import Samples, grouped
from shmfs.tracing.perf import Event

UNKNOWN, MINOR, MAJOR, FAILED = range(4)
"""As they are written (`format.KINDS`)."""
UNFINISHED = 253
"""It has no end: it is repeated, failed with proof, or stays unknown."""
REPEATED = 254
"""The same fault follows again, or the kernel does not count it: this one is not written."""
PENDING = 255

Key = tuple[int, int]
"""The thread and the time of a fault, in nanoseconds of CLOCK_MONOTONIC."""

_MOST = 16
"""Faults of one thread that wait for their repetition: as many handlers may interrupt each other."""
_PATIENCE = 10_000_000_000
"""Nanoseconds after which a fault without an end is no longer expected to be repeated."""
_KERNEL = 1 << 63
_PAGE_SHIFT = 12


@dataclass(slots=True)
class _Fault:
    """One whose end is not known."""

    row: int
    """In the samples that are looked at; negative where they are gone."""
    time: int
    place: tuple[int, int, int]
    """Page of the address space, instruction, access."""
    interrupted: bool = False
    """Whether its thread has taken a signal, or begun another fault, since."""
    depth: int = 0
    """Handlers that the thread was in."""

    def is_tried_again(self, fault: "_Fault") -> bool:
        """Whether a system call took both, at one page."""
        return min(self.place[1], fault.place[1]) >= _KERNEL and self.place[0] == fault.place[0]


@dataclass(slots=True)
class _Thread:
    faults: list[_Fault] = field(default_factory=list)
    """Oldest first; only the last may run still."""
    depth: int = 0


Settle = Callable[[_Fault, int], None]
"""Takes what became of a fault."""


class Outcomes:
    """Follows the threads of all processes. Called by the recorder's thread alone."""

    def __init__(self, *, ends: bool, returns: bool = True) -> None:
        """Take samples of the software events, where each fault has an `end`, or else of the tracepoints.

        Without `returns` it is not seen where a handler returns; then only signals without a handler are
        known to repeat a fault.
        """
        self._ends = ends
        self._returns = returns
        self._threads: dict[int, _Thread] = {}

    def of(self, samples: Samples) -> tuple[NDArray[np.uint8], dict[Key, int]]:
        """Return what became of each fault, and of those that an earlier call left open.

        PENDING and UNFINISHED are open: a later call, or `ended`, may have more of them. What is no fault
        has a value without meaning. Samples are in the order of time.
        """
        order, firsts = grouped(samples.tid)
        outcome = np.empty(samples.rows, np.uint8)
        settled: dict[Key, int] = {}
        if not len(order):
            return outcome, settled
        events = samples.event[order]
        meant = _OUTCOME[events]
        meant[meant == UNKNOWN] = UNFINISHED if self._ends else MINOR
        ends = np.empty_like(meant)
        ends[:-1] = meant[1:]
        ends[firsts - 1] = PENDING  # the one behind is another thread's first
        if not self._ends:
            by_kernel = samples.ip[order] >= np.uint64(_KERNEL)
            failed = by_kernel & (ends != PENDING)
            failed[:-1] &= _OUTCOME[events[1:]] == UNKNOWN
            ends[failed] = UNKNOWN
            pages = samples.address[order] >> np.uint64(_PAGE_SHIFT)
            again = failed[:-1] & by_kernel[1:] & (events[1:] == Event.FAULT) & (pages[1:] == pages[:-1])
            ends[:-1][again] = REPEATED
        outcome[order] = ends
        odd = self._odd(events, firsts)
        lasts = np.append(firsts[1:], len(order)) - 1
        open_ended = (events[lasts] == Event.FAULT).tolist()
        tids = samples.tid[order[firsts]].tolist()
        rows = order[lasts].tolist()
        for number, tid in enumerate(tids):
            thread = self._threads.get(tid)
            if odd[number] or (thread and not self._is_plain(thread, int(events[firsts[number]]))):
                thread = thread or self._threads.setdefault(tid, _Thread())
                which = order[firsts[number] : lasts[number] + 1]
                self._follow(thread, tid, which, samples, outcome, settled)
                continue
            if thread and thread.faults:
                before, first = thread.faults.pop(), int(firsts[number])
                end = int(_OUTCOME[events[first]]) or self._without_end(before)
                if events[first] == Event.FAULT and before.is_tried_again(_fault(samples, int(order[first]))):
                    end = REPEATED
                settled[tid, before.time] = end
            if open_ended[number]:
                thread = thread or self._threads.setdefault(tid, _Thread())
                thread.faults.append(_fault(samples, rows[number]))
                thread.faults[-1].row = -1
        return outcome, settled

    def ended(self, tid: int, time: int) -> dict[Key, int]:
        """Return what became of the faults of a thread that ended at `time`: UNFINISHED is final here."""
        thread = self._threads.get(tid)
        if thread is None:
            return {}
        settled: dict[Key, int] = {}
        for one in thread.faults:
            if one.time <= time:
                settled[tid, one.time] = self._without_end(one)
        thread.faults = [one for one in thread.faults if one.time > time]
        if not thread.faults:
            del self._threads[tid]
        return settled

    @property
    def default(self) -> int:
        """What became of a fault after which nothing was recorded of its thread."""
        return UNFINISHED if self._ends else MINOR

    def _without_end(self, fault: _Fault) -> int:
        """What became of a fault whose thread went on, or ended."""
        return UNKNOWN if fault.place[1] >= _KERNEL and not self._ends else self.default

    def _odd(self, events: NDArray[np.uint8], firsts: NDArray[np.intp]) -> list[bool]:
        """Whether the events of each thread have to be followed one by one."""
        if self._ends:
            odd = np.zeros(len(events), bool)
            odd[1:] = (events[1:] == Event.FAULT) & (events[:-1] == Event.FAULT)
            odd[firsts] = False
        else:
            odd = (events == Event.DELIVER) | (events == Event.RETURN)
        listed: list[bool] = np.logical_or.reduceat(odd, firsts).tolist()
        return listed

    def _is_plain(self, thread: _Thread, first: int) -> bool:
        """Whether the next event of the thread settles all that is open."""
        if not thread.faults:
            return True
        if len(thread.faults) > 1 or thread.faults[0].interrupted:
            return False
        return not (self._ends and first == Event.FAULT)

    def _follow(
        self,
        thread: _Thread,
        tid: int,
        which: NDArray[np.intp],
        samples: Samples,
        outcome: NDArray[np.uint8],
        settled: dict[Key, int],
    ) -> None:
        """Go through the events of one thread in their order."""

        def settle(fault: _Fault, kind: int) -> None:
            if fault.row >= 0:
                outcome[fault.row] = kind
            else:
                settled[tid, fault.time] = kind

        begin = self._begin_after_ends if self._ends else self._begin_after_signals
        rows = which.tolist()
        if self._ends and thread.faults:
            since = int(samples.time[rows[0]]) - _PATIENCE
            thread.faults = [one for one in thread.faults if not one.interrupted or one.time > since]
        for row, event in zip(rows, samples.event[which].tolist(), strict=True):
            running = thread.faults[-1] if thread.faults and not thread.faults[-1].interrupted else None
            if event == Event.FAULT:
                fault = _fault(samples, row)
                begin(thread, fault, settle)
                fault.depth = thread.depth
                thread.faults.append(fault)
                outcome[row] = PENDING
                if len(thread.faults) > _MOST:
                    oldest = thread.faults.pop(0)
                    settle(oldest, self._without_end(oldest))
            elif _OUTCOME[event]:
                if running:
                    settle(thread.faults.pop(), int(_OUTCOME[event]))
            elif event == Event.DELIVER:
                at = int(samples.ip[row])
                if running and at not in (0, running.place[1]):
                    settle(thread.faults.pop(), self._without_end(running))  # it had completed before
                elif running and running.place[1] < _KERNEL:
                    running.interrupted = True
                if self._returns and samples.access[row]:
                    thread.depth += 1
            elif event == Event.RETURN:
                if running:
                    settle(thread.faults.pop(), self._without_end(running))
                thread.depth -= 1
        for fault in thread.faults:
            fault.row = -1

    @staticmethod
    def _begin_after_ends(thread: _Thread, fault: _Fault, settle: Settle) -> None:
        """A fault begins: what ran has no end, and this may be the same again."""
        if thread.faults and not thread.faults[-1].interrupted:
            thread.faults[-1].interrupted = True
            settle(thread.faults[-1], UNFINISHED)
        for at in range(len(thread.faults) - 1, -1, -1):
            before = thread.faults[at]
            if before.place[:2] == fault.place[:2] or before.is_tried_again(fault):
                settle(thread.faults[at], REPEATED)
                del thread.faults[at:]  # those above were of handlers that have returned
                return

    def _begin_after_signals(self, thread: _Thread, fault: _Fault, settle: Settle) -> None:
        """A fault begins: what ran has completed, and so has what was interrupted, if this is another."""
        while thread.faults:
            last = thread.faults[-1]
            if not last.interrupted:
                tried_again = last.is_tried_again(fault)
                settle(thread.faults.pop(), REPEATED if tried_again else self._without_end(last))
            elif last.depth >= thread.depth:
                same = last.depth == thread.depth and last.place == fault.place
                settle(thread.faults.pop(), REPEATED if same else MINOR)
                if same:
                    return
            else:
                return  # in the handler


def _fault(samples: Samples, row: int) -> _Fault:
    place = int(samples.address[row]) >> _PAGE_SHIFT, int(samples.ip[row]), int(samples.access[row])
    return _Fault(row, int(samples.time[row]), place)


_OUTCOME = np.zeros(len(Event), np.uint8)
_OUTCOME[[Event.MINOR, Event.MAJOR, Event.SIGBUS, Event.UNCOUNTED]] = MINOR, MAJOR, FAILED, REPEATED
