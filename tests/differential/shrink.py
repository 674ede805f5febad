"""Make a program that shows a difference as small as it gets: delta debugging, then smaller arguments.

Source: Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input (ddmin).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.differential.program import Program, Step

PAGE = 4096


def shrink(program: Program, differs: Callable[[Program], bool], tries: int = 400) -> Program:
    """A smaller program that still differs, after at most so many tries."""
    left = [tries]

    def still(steps: Sequence[Step]) -> bool:
        left[0] -= 1
        return left[0] >= 0 and differs(program.with_steps(steps))

    steps = list(program.steps)
    while left[0] > 0:
        before = steps
        steps = _fewer(steps, still)
        steps = _simpler(steps, still)
        if steps == before:
            break
    return program.with_steps(steps)


def _fewer(steps: list[Step], still: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Leave out parts, large ones first, from the end on: what came after a difference matters least."""
    size = max(1, len(steps) // 2)
    while True:
        end = len(steps)
        while end > 0:
            rest = steps[: max(0, end - size)] + steps[end:]
            if still(rest):
                steps = rest
            end -= size
        if size == 1:
            return steps
        size //= 2


def _simpler(steps: list[Step], still: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Give each step simpler arguments, and one process as many steps as possible."""
    for index in range(len(steps)):
        for simple in _simplifications(steps[index]):
            if steps[index] == simple:
                continue
            changed = [*steps[:index], simple, *steps[index + 1 :]]
            if still(changed):
                steps = changed
                break
    return steps


def _simplifications(step: Step) -> Iterator[Step]:
    """Steps like this one, simplest first."""
    if step.actor:
        yield step._replace(actor=0)
    for position, argument in enumerate(step.arguments):
        for simple in _simpler_arguments(argument):
            arguments = (*step.arguments[:position], simple, *step.arguments[position + 1 :])
            yield step._replace(arguments=arguments)


def _simpler_arguments(argument: Any) -> Iterator[Any]:
    if isinstance(argument, bool) or argument is None:
        return
    if isinstance(argument, int):
        rounded = argument // PAGE * PAGE
        for simple in (0, 1, PAGE, rounded, argument // 2):
            if abs(simple) < abs(argument):
                yield simple
    elif isinstance(argument, tuple) and len(argument) > 1:
        yield argument[:1]
        yield argument[:-1]
