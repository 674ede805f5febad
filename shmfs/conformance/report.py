"""What a run comes to, counted."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import get_args

from msgspec import Struct

from shmfs.conformance.messages import Outcome, State

STATES: tuple[State, ...] = get_args(State)


class Count(Struct):
    """The cases of a section, or of all."""

    section: str
    cases: int
    agree: int
    known: int
    differ: int
    not_run: int


class Report(Struct):
    """A whole run."""

    directory: str | None
    against: str | None
    store: str
    """managed, native, no extension; empty where it is no shmfs."""
    total: Count
    sections: list[Count]
    outcomes: list[Outcome]


def count(section: str, outcomes: Sequence[Outcome]) -> Count:
    """How many of them came to what."""
    numbers = [sum(one.state == state for one in outcomes) for state in STATES]
    return Count(section, len(outcomes), *numbers)


def sections(outcomes: Iterable[Outcome]) -> list[Count]:
    """A count for each section, in the order in which they come."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.section, []).append(one)
    return [count(section, members) for section, members in found.items()]


def by_note(outcomes: Iterable[Outcome], state: State) -> dict[str, list[str]]:
    """The names of cases in a state, by what is noted of them."""
    found: dict[str, list[str]] = {}
    for one in outcomes:
        if one.state == state and one.note:
            found.setdefault(one.note, []).append(one.name)
    return found


def by_reason(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """The names of cases with known differences, by why they are there."""
    found: dict[str, list[str]] = {}
    for one in outcomes:
        for reason in dict.fromkeys(each.reason for each in one.differences if each.reason):
            found.setdefault(reason, []).append(one.name)
    return found


def chosen(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that contain a pattern, or match one that has wildcards; all where there is none."""
    if not patterns:
        return list(names)
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    wild = any(letter in pattern for letter in "*?[")
    return fnmatch.fnmatchcase(name, pattern) if wild else pattern in name
