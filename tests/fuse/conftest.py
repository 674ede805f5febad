"""The table of operations on a model of its own, with everything that the instruments are told."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmfs.events.hooks import HOOKS
from shmfs.fs import options
from shmfs.fs.check import check
from shmfs.fs.superblock import Superblock
from shmfs.fuse.operations import Operations
from tests.fs.support import Clock


class Recorder:
    """Remembers every call of every hook, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in HOOKS:
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))

    def take(self) -> list[tuple[Any, ...]]:
        """What was told since the last time."""
        taken, self.calls = self.calls, []
        return taken


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table_of(recorder: Recorder, clock: Clock) -> Iterator[Callable[..., Operations]]:
    """Make tables from mount options; their models are checked in the end."""
    made: list[Operations] = []

    def make(text: str = "size=1m,nr_inodes=100") -> Operations:
        table = Operations(Superblock(options.parse(text), clock=clock))
        table.superblock.instruments.install(recorder)
        made.append(table)
        return table

    yield make
    for table in made:
        assert check(table.superblock) == []
        table.superblock.store.arena.close()


@pytest.fixture
def table(table_of: Callable[..., Operations]) -> Operations:
    return table_of()
