"""Deferred work: a reply that waits for a slow call of the kernel, as a value.

The model changes in the thread that serves requests. Work that may block runs in another thread and touches
no state of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeAlias, TypeVar, final

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


def _nothing() -> None:
    """Roll nothing back."""


@final
@dataclass(frozen=True, slots=True)
class Deferred(Generic[T_co]):
    """What an operation returns in place of its reply. Each is carried out: its work may own a descriptor."""

    work: Callable[[], None]
    """Runs in a thread; raises OSError."""
    answer: Callable[[], T_co]
    """Makes the reply after the work, or raises OSError; in the thread that serves requests."""
    rollback: Callable[[], None] = _nothing
    """Restores the model after work that failed; in the thread that serves requests."""

    def then(self, step: Callable[[T_co], U]) -> "Deferred[U]":
        """Apply `step` to the reply."""
        return Deferred(self.work, lambda: step(self.answer()), self.rollback)


Outcome: TypeAlias = T | Deferred[T]
"""A reply, or what it waits for."""


def then(outcome: Outcome[T], step: Callable[[T], U]) -> Outcome[U]:
    """Apply `step` to a reply: now, or when its work is done."""
    return outcome.then(step) if type(outcome) is Deferred else step(outcome)


def failing(failure: OSError) -> Callable[[], NoReturn]:
    """Return an answer that raises `failure`."""

    def fail() -> NoReturn:
        raise failure

    return fail
