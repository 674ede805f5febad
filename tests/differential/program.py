"""A program as plain data: it can be printed, saved, replayed and shrunk."""

import ast
from collections.abc import Sequence
from typing import Any, NamedTuple

ACTORS = (0, 0, 1000)
"""Who the processes of a program are: their user and group."""


class Step(NamedTuple):
    """One call of one process. Descriptors and mappings are named by small numbers, of the process's own."""

    actor: int
    name: str
    """Of the operation, as in `actor.OPERATIONS`."""
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.actor}: {self.name}({', '.join(map(repr, self.arguments))})"


class Program(NamedTuple):
    """Steps in the order in which they are carried out, and the options of the mount."""

    options: str
    steps: tuple[Step, ...]

    def with_steps(self, steps: Sequence[Step]) -> "Program":
        """The same with other steps."""
        return self._replace(steps=tuple(steps))

    def text(self) -> str:
        """What `parse` reads, a step a line."""
        lines = [repr(self.options), *(repr(tuple(step)) for step in self.steps)]
        return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> Program:
    """The program of a `Program.text`; lines that begin with # are comments. Raises ValueError."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    try:
        options, *steps = [ast.literal_eval(line) for line in lines]
        return Program(str(options), tuple(Step(*step) for step in steps))
    except (SyntaxError, TypeError) as failure:
        raise ValueError(f"no program: {failure}") from None
