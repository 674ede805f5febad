"""Every case of conformance: shmfs answers what the kernel's own tmpfs answers."""

import pytest

from shmfs import conformance
from shmfs.conformance import known
from shmfs.conformance.messages import Outcome
from shmfs.conformance.runner import Runner

CASES = conformance.load()


@pytest.mark.mount
@pytest.mark.parametrize("name", CASES)
def test_same_as_tmpfs(name: str, runner: Runner) -> None:
    outcome = runner.run(name)
    if outcome.state == "differs":
        # Reclaim may take a page of either side at any moment, and does where DAMON runs: only what differs
        # again is a difference.
        outcome = runner.run(name)
    assert outcome.state in ("agrees", "known"), told(outcome)
    assert not outcome.note, outcome.note
    assert runner.target.store in known.STORES


def told(outcome: Outcome) -> str:
    lines = [f"{one.where}: tmpfs {one.expected}, shmfs {one.answered}" for one in outcome.differences]
    return "\n".join([outcome.note, *lines])


def test_known_differences_name_cases() -> None:
    assert {name for store in known.STORES for name, _ in known.reasons(store)} <= set(CASES)
