"""Compare programs on tmpfs and on a store, and shrink one that differs."""

import inspect
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from tests.differential.actor import OPERATIONS, Answer
from tests.differential.execute import KERNEL, Side, script
from tests.differential.program import Program, Step
from tests.differential.shrink import shrink


class Difference(NamedTuple):
    """The first step at which the two saw different things, or what the daemon complained of."""

    program: Program
    place: int
    """In `program.steps`; what lies beyond is the look at the whole that follows each program."""
    expected: Answer | None
    seen: Answer | None
    complaints: str

    def __str__(self) -> str:
        lines = [f"mount options: {self.program.options}"]
        for number, step in enumerate(self.program.steps):
            lines.append(f"{'>' if number == self.place else ' '} {named(step)}")
        if self.place >= len(self.program.steps):
            lines.append(f"> {named(self.step)}  (after the program)")
        lines += [f"    {line}" for line in details(labelled(self.expected), labelled(self.seen))]
        return "\n".join(lines) + (f"\nthe daemon wrote:\n{self.complaints}" if self.complaints else "")

    @property
    def step(self) -> Step:
        """The step at which they differ."""
        steps = script(self.program, "MOUNT")
        return steps[min(self.place + _before(self.program), len(steps) - 1)]


def _before(program: Program) -> int:
    """Steps that a script has before the program's first."""
    empty = script(program.with_steps(()), "MOUNT")
    return next(number for number, step in enumerate(empty) if step.name == "check")


def named(step: Step) -> str:
    """A step with the names of its arguments."""
    try:
        bound = inspect.signature(OPERATIONS[step.name]).bind(None, *step.arguments).arguments
    except (KeyError, TypeError):
        return str(step)
    words = [f"{name.rstrip('_')}={value!r:.80}" for name, value in list(bound.items())[1:]]
    return f"process {step.actor}: {step.name}({', '.join(words)})"


def details(expected: Any, seen: Any, where: str = "") -> Iterator[str]:
    """A line for each place where two answers differ."""
    if isinstance(expected, dict) and isinstance(seen, dict):
        for key in {**expected, **seen}:
            yield from details(expected.get(key), seen.get(key), f"{where} {key}")
    elif isinstance(expected, tuple | list) and isinstance(seen, tuple | list) and len(expected) == len(seen):
        for index, (one, other) in enumerate(zip(expected, seen, strict=True)):
            yield from details(one, other, f"{where}[{index}]")
    elif expected != seen:
        yield f"{where}: tmpfs {expected!r:.300}, shmfs {seen!r:.300}"


def labelled(answer: Answer | None) -> Any:
    """An answer with names for its parts."""
    return answer and {
        "answer": answer[0],
        "statfs": dict(zip(("blocks", "inodes"), answer[1] or (), strict=False)),
    }


class Pair:
    """A tmpfs and a store."""

    def __init__(self, base: Path, store: str) -> None:
        """`store` is managed, native, or tmpfs: the harness compared with itself."""
        self.kernel = Side(base / "kernel", KERNEL, store)
        self.other = Side(base / "other", store, store)

    def difference(self, program: Program) -> Difference | None:
        """Run the program on both."""
        expected = self.kernel.run(program)
        if len(expected.answers) < len(script(program, "")):
            raise RuntimeError(f"{expected.answers[-1][0]} on tmpfs:\n{program.text()}")
        seen = self.other.run(program, expected.answers)
        if expected.answers == seen.answers and not seen.complaints:
            return None
        if seen.complaints or seen.answers[-1] != expected.answers[-1]:
            self.other.close()  # what went wrong is still there
        pairs = zip_longest(expected.answers, seen.answers)
        index, one, other = next(
            ((index, one, other) for index, (one, other) in enumerate(pairs) if one != other),
            (len(expected.answers), None, None),
        )
        return Difference(program, index - _before(program), one, other, seen.complaints)

    def smallest(self, difference: Difference, tries: int = 400) -> Difference:
        """Shrink the program of a difference; itself where it does not come again."""
        found = difference

        def differs(program: Program) -> bool:
            nonlocal found
            new = self.difference(program)
            found = new or found
            return new is not None

        steps = difference.program.steps[: difference.place + 1]
        for program in (difference.program.with_steps(steps), difference.program):
            if differs(program):
                shrink(program, differs, tries)
                return found
        return difference

    def close(self) -> None:
        """End everything."""
        self.kernel.close()
        self.other.close()
