"""What runner and worker tell each other, and what a run comes to."""

from typing import Literal

from msgspec import Struct

State = Literal["agrees", "known", "differs", "not run"]


class Configuration(Struct, omit_defaults=True):
    """What a worker is to compare."""

    base: str
    """A directory for its mounts."""
    options: str = ""
    """Added to the options of the shmfs mounts that it makes."""
    directory: str | None = None
    """What is looked at instead of mounts of its own."""
    against: str | None = None
    """What that is compared with, instead of a tmpfs."""
    extension: bool = True
    """Whether mounts of shmfs that it makes have the C extension."""


class Difference(Struct):
    """One observation, as both file systems answer it."""

    where: str
    expected: str
    answered: str
    reason: str = ""
    """Why it is known; empty where it is not."""


class Outcome(Struct):
    """What a case came to."""

    name: str
    section: str
    state: State
    differences: list[Difference] = []
    note: str = ""
    """Why it was not run, what failed, or which known differences have gone."""
    options: str | None = None
    """The mount options that it needs; None where any mount will do."""


class Target(Struct):
    """What the worker looks at, once it knows."""

    store: str = ""
    """managed, native, no extension; empty where it is no shmfs."""
    failure: str = ""
    """Why nothing can be run; a sentence."""
