"""What becomes of faults, by the events of their threads: both ways in which the kernel reports them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmfs.record.outcomes import FAILED, MAJOR, MINOR, PENDING, REPEATED, UNFINISHED, UNKNOWN, Outcomes
from shmfs.tracing.decode import Samples
from shmfs.tracing.perf import Event

FAULT, DELIVER, RETURN, SIGBUS = Event.FAULT, Event.DELIVER, Event.RETURN, Event.SIGBUS
NEVER = 1 << 62
KERNEL = 1 << 63


def samples(events: Iterable[tuple[Any, ...]]) -> Samples:
    """Samples of (time, tid, event, page or whether a handler runs, ip)."""
    rows = [(*one, 0, 0)[:5] for one in events]
    times, tids, kinds, places, ips = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    faults = [kind in (FAULT, Event.MINOR, Event.MAJOR) for kind in kinds]
    return Samples(
        np.array(times, "<u8"),
        np.array([place << 12 if fault else 0 for place, fault in zip(places, faults, strict=True)], "<u8"),
        np.array(ips, "<u8"),
        np.array(tids, "<u4"),
        np.array(tids, "<u4"),
        np.array(kinds, "u1"),
        np.array([0 if fault else place for place, fault in zip(places, faults, strict=True)], "u1"),
        np.zeros(len(rows), "u1"),
    )


def outcomes(batches: Iterable[list[tuple[Any, ...]]], *, ends: bool, died: bool = True) -> dict[Any, int]:
    """What became of each fault, by thread and time, of batches that came one after another."""
    known = Outcomes(ends=ends)
    found: dict[Any, int] = {}
    tids = set()
    for batch in batches:
        fed = samples(batch)
        kinds, settled = known.of(fed)
        assert all(found[key] in (PENDING, UNFINISHED) for key in settled if key in found)
        found |= settled
        for row in np.flatnonzero(fed.event == FAULT).tolist():
            found[int(fed.tid[row]), int(fed.time[row])] = int(kinds[row])
        tids |= set(fed.tid.tolist())
    for tid in tids if died else ():
        found |= known.ended(tid, NEVER)
    return found


def numbered(*events: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Events of thread 1, one a nanosecond from 1 on."""
    return [(time, 1, *event) for time, event in enumerate(events, 1)]


def kinds(*events: tuple[Any, ...], ends: bool, died: bool = True) -> list[int]:
    """What became of the faults of one thread, in their order; the same in one batch and one by one."""
    whole = numbered(*events)
    one = outcomes([whole], ends=ends, died=died)
    assert outcomes([[event] for event in whole], ends=ends, died=died) == one
    return [one[key] for key in sorted(one)]


def test_a_fault_without_an_end_that_is_repeated_is_one() -> None:
    again = (FAULT, 7, 100)
    assert kinds(again, again, again, (Event.MAJOR, 7, 100), ends=True) == [REPEATED, REPEATED, MAJOR]


def test_a_handler_may_fault_before_the_repetition() -> None:
    handler = (FAULT, 50, 900), (Event.MINOR, 50, 900), (FAULT, 51, 901), (Event.MINOR, 51, 901)
    found = kinds((FAULT, 7, 100), *handler, (FAULT, 7, 100), (Event.MINOR, 7, 100), ends=True)
    assert found == [REPEATED, MINOR, MINOR, MINOR]


def test_a_system_call_tries_again() -> None:
    attempts = (FAULT, 7, KERNEL), (FAULT, 7, KERNEL), (FAULT, 7, KERNEL + 1), (Event.MINOR, 7, KERNEL + 1)
    assert kinds(*attempts, ends=True) == [REPEATED, REPEATED, MINOR]
    assert kinds((FAULT, 7, KERNEL), (FAULT, 8, KERNEL), ends=True) == [UNFINISHED, UNFINISHED]


def test_handlers_within_handlers() -> None:
    found = kinds(
        *((FAULT, 1, 1), (FAULT, 2, 2), (FAULT, 3, 3), (FAULT, 3, 3), (Event.MINOR, 3, 3)),
        *((FAULT, 2, 2), (Event.MINOR, 2, 2), (FAULT, 1, 1), (FAULT, 1, 1), (Event.MAJOR, 1, 1)),
        ends=True,
    )
    assert found == [REPEATED, REPEATED, REPEATED, MINOR, MINOR, REPEATED, MAJOR]


@pytest.mark.parametrize("other", [(FAULT, 8, 100), (FAULT, 7, 101)])
def test_another_page_or_instruction_is_another_fault(other: tuple[Any, ...]) -> None:
    assert kinds((FAULT, 7, 100), other, (Event.MINOR, *other[1:]), ends=True) == [UNFINISHED, MINOR]


def test_the_last_fault_of_a_thread_without_an_end_is_not_a_failure() -> None:
    assert kinds((FAULT, 7, 100), ends=True) == [UNFINISHED]
    assert kinds((FAULT, 7, 100), ends=True, died=False) == [PENDING]
    assert kinds((FAULT, 7, 100), ends=False) == [MINOR]
    assert kinds((FAULT, 7, 100), ends=False, died=False) == [PENDING]


def test_faults_that_are_never_repeated_do_not_pile_up() -> None:
    many = [(FAULT, page, page) for page in range(500)]
    assert kinds(*many, ends=True) == [UNFINISHED] * 500
    known = Outcomes(ends=True)
    known.of(samples(numbered(*many)))
    assert len(known._threads[1].faults) <= 16


def test_threads_do_not_repeat_each_others_faults() -> None:
    found = outcomes([[(1, 1, FAULT, 7, 100), (2, 2, FAULT, 7, 100), (3, 2, Event.MINOR, 7, 100)]], ends=True)
    assert found == {(1, 1): UNFINISHED, (2, 2): MINOR}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(FAULT, 7, 9), (DELIVER, 1), (RETURN,), (FAULT, 7, 9)], [REPEATED, MINOR]),
        ([(FAULT, 7, 9), (DELIVER, 1), (RETURN,), (FAULT, 7, 9), (Event.MAJOR, 7, 9)], [REPEATED, MAJOR]),
        ([(FAULT, 7, 9), (DELIVER, 0), (FAULT, 7, 9)], [REPEATED, MINOR]),  # ignored, or stopped by it
        ([(FAULT, 7, 9), (DELIVER, 1), (FAULT, 50, 90), (RETURN,), (FAULT, 7, 9)], [REPEATED, MINOR, MINOR]),
        ([(FAULT, 7, 9), (DELIVER, 1), (DELIVER, 1), (RETURN,), (RETURN,), (FAULT, 7, 9)], [REPEATED, MINOR]),
        # It had completed: the thread went on elsewhere.
        ([(FAULT, 7, 9), (DELIVER, 1), (RETURN,), (FAULT, 8, 9), (FAULT, 7, 9)], [MINOR, MINOR, MINOR]),
        ([(FAULT, 7, 9), (Event.MAJOR, 7, 9), (DELIVER, 1), (RETURN,), (FAULT, 7, 9)], [MAJOR, MINOR]),
        ([(FAULT, 7, 9), (DELIVER, 1, 9), (RETURN,), (FAULT, 7, 9)], [REPEATED, MINOR]),
        # The signal found it at another instruction; the page was taken away after that.
        ([(FAULT, 7, 9), (DELIVER, 1, 10), (RETURN,), (FAULT, 7, 9)], [MINOR, MINOR]),
        ([(FAULT, 7, 9), (DELIVER, 1, 10), (FAULT, 50, 90), (RETURN,), (FAULT, 7, 9)], [MINOR, MINOR, MINOR]),
        # The same place twice without a signal: the page was taken away in between.
        ([(FAULT, 7, 9), (FAULT, 7, 9)], [MINOR, MINOR]),
        # The handler itself touches the page, before it returns.
        ([(FAULT, 7, 9), (DELIVER, 1), (FAULT, 7, 9), (RETURN,)], [MINOR, MINOR]),
        # It left by siglongjmp.
        ([(FAULT, 7, 9), (DELIVER, 1), (FAULT, 8, 9), (FAULT, 7, 9)], [MINOR, MINOR, MINOR]),
        # Faults of system calls have ends, and are only aborted for who is killed; one that fails is EFAULT.
        (
            [(FAULT, 7, KERNEL), (Event.MINOR, 7, KERNEL), (DELIVER, 1), (RETURN,), (FAULT, 7, KERNEL)],
            [MINOR, UNKNOWN],
        ),
        ([(FAULT, 7, KERNEL), (FAULT, 8, KERNEL), (Event.MAJOR, 8, KERNEL)], [UNKNOWN, MAJOR]),
        ([(FAULT, 7, KERNEL), (FAULT, 8, 9)], [UNKNOWN, MINOR]),
        ([(FAULT, 7, KERNEL), (FAULT, 7, 9)], [UNKNOWN, MINOR]),
        # A write(2) copies with page faults disabled, once or twice, and then faults the page in.
        (
            [(FAULT, 7, KERNEL), (FAULT, 7, KERNEL), (FAULT, 7, KERNEL + 1), (Event.MINOR, 7, KERNEL + 1)],
            [REPEATED, REPEATED, MINOR],
        ),
        ([(FAULT, 7, KERNEL), (FAULT, 7, KERNEL + 1), (FAULT, 8, 9)], [REPEATED, UNKNOWN, MINOR]),
        (
            [(FAULT, 9, 9), (DELIVER, 1), (RETURN,), (FAULT, 7, KERNEL), (FAULT, 7, KERNEL + 1)],
            [MINOR, REPEATED, UNKNOWN],
        ),
        ([(FAULT, 7, 9), (SIGBUS,), (DELIVER, 1), (RETURN,), (FAULT, 7, 9)], [FAILED, MINOR]),
        ([(FAULT, 7, 9), (SIGBUS,), (DELIVER, 0)], [FAILED]),
        ([(FAULT, 7, 9), (DELIVER, 0)], [MINOR]),  # killed
        ([(FAULT, 7, 9), (Event.UNCOUNTED,)], [REPEATED]),  # SIGSEGV, or SIGBUS in an exit
        ([(FAULT, 6, 9), (DELIVER, 1), (RETURN,), (FAULT, 7, 9), (Event.UNCOUNTED,)], [MINOR, REPEATED]),
    ],
)
def test_signals_beside_the_tracepoints(events: list[tuple[Any, ...]], expected: list[int]) -> None:
    assert kinds(*events, ends=False) == expected


def test_where_returns_are_not_seen_a_fault_is_kept() -> None:
    known = Outcomes(ends=False, returns=False)
    found, _ = known.of(samples(numbered((FAULT, 7, 9), (DELIVER, 1), (FAULT, 50, 90), (FAULT, 7, 9))))
    assert found[[0, 2, 3]].tolist() == [MINOR, MINOR, PENDING]


touches = st.recursive(
    st.builds(lambda major: (major, []), st.booleans()),
    # How often a fault is aborted, and by each signal what its handler touches.
    lambda within: st.tuples(st.booleans(), st.lists(st.lists(within, max_size=2), max_size=3)),
    max_leaves=6,
)
programs = st.lists(st.lists(st.tuples(touches, st.booleans()), max_size=6), min_size=1, max_size=3)


@given(programs, st.booleans(), st.randoms(use_true_random=False))
def test_programs_with_signals(programs: list[Any], ends: bool, random: Any) -> None:
    """Each touch is one fault, however many signals aborted it, and in however many batches that is read."""
    expected: dict[int, list[int]] = {}
    streams: list[list[tuple[Any, ...]]] = []
    page = 0

    def touch(tid: int, one: Any, events: list[tuple[Any, ...]]) -> None:
        nonlocal page
        major, signals = one
        page += 1
        place = page, page + 1000
        for handler in signals:
            events.append((tid, FAULT, *place))
            if not ends:
                events.append((tid, DELIVER, 1))
            for more in handler:
                touch(tid, more, events)
            if not ends:
                events.append((tid, RETURN))
        events.append((tid, FAULT, *place))
        if ends or major:
            events.append((tid, Event.MAJOR if major else Event.MINOR, *place))
        expected[tid] = [*expected.get(tid, []), MAJOR if major else MINOR]

    for tid, program in enumerate(programs, 1):
        events: list[tuple[Any, ...]] = []
        for one, signal in program:
            touch(tid, one, events)
            if signal and not ends:
                events += [(tid, DELIVER, 1), (tid, RETURN)]
        streams.append(events)
    merged = []
    while any(streams):
        merged.append(random.choice([stream for stream in streams if stream]).pop(0))
    timed = [(time, *event) for time, event in enumerate(merged, 1)]
    batches = []
    while timed:
        size = random.randint(1, 7)
        batches.append(timed[:size])
        timed = timed[size:]
    found = outcomes(batches, ends=ends)
    for tid in expected:
        written = [found[key] for key in sorted(found) if key[0] == tid and found[key] != REPEATED]
        assert written == expected[tid]
