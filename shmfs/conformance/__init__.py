"""What a program sees of a tmpfs: one list of cases that must come out the same on any mount.

A case is a function of an empty directory that returns plain data: values, errno names, signals; it asserts
nothing. It runs in a process of its own whose working directory that is, so it may fork, die, change its
limits and its user. It gives a dict of named observations where it makes several, so that one difference can
be told from another. `worker` runs a case on two file systems, `runner` asks a worker and compares the
answers, `known` is the table of differences that FUSE leaves, `report` counts.

Nothing imports this package but `shmfs conform` and the tests.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

DEFAULT_OPTIONS = "size=16m,nr_inodes=2k"
"""For the mounts of cases that name no options: what they need at most."""

Function = Callable[[Path], Any]
AnyFunction = TypeVar("AnyFunction", bound=Function)


class Case(NamedTuple):
    """A function that looks at a file system, and what it takes."""

    function: Function
    options: str | None = None
    """Mount options without which it means nothing; None where any mount with room will do."""
    mounts: bool = False
    """Whether it makes mounts of its own."""

    @property
    def section(self) -> str:
        """The module that it stands in."""
        return self.function.__module__.rpartition(".")[2]

    @property
    def name(self) -> str:
        """Section and function, by which it is chosen and known."""
        return f"{self.section}.{self.function.__name__}"


_cases: dict[str, Case] = {}


def case(*, options: str | None = None, mounts: bool = False) -> Callable[[AnyFunction], AnyFunction]:
    """Register a case; see Case."""

    def register(function: AnyFunction) -> AnyFunction:
        made = Case(function, options, mounts)
        if made.name in _cases:
            raise ValueError(f"there are two cases {made.name}")
        _cases[made.name] = made
        return function

    return register


def load() -> dict[str, Case]:
    """Every case by its name, in the order of the sections and of the source."""
    from shmfs.conformance import cases

    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    return dict(sorted(_cases.items(), key=lambda item: item[1].section))
