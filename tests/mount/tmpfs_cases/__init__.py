"""What a program sees of a tmpfs: cases that must come out the same on the kernel's tmpfs and on shmfs.

A case is a function of an empty directory that returns plain data: values, errno names, signals. It runs in
a process of its own whose working directory that is, so it may fork, die, change its limits and its user.
It gives a dict of named observations where it makes several, so that one difference can be told from another.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

DEFAULT_OPTIONS = "size=16m,nr_inodes=2k"


class Case(NamedTuple):
    function: Callable[[Path], Any]
    options: str
    """Mount options, for both file systems."""

    @property
    def name(self) -> str:
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"


CASES: dict[str, Case] = {}


def case(function: Callable[[Path], Any] | None = None, *, options: str = DEFAULT_OPTIONS) -> Any:
    """Register a case; `options` are for `mount -o`."""

    def register(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        made = Case(function, options)
        assert made.name not in CASES
        CASES[made.name] = made
        return function

    return register if function is None else register(function)


def load() -> dict[str, Case]:
    """Import every module of cases."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return CASES
