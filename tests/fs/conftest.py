"""Fixtures: the model, checked at the end of every test, and the kernel's tmpfs beside it."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fs.support import Kernel, Model, kernel_available


@pytest.fixture
def model_of() -> Iterator[Callable[..., Model]]:
    """Make models from mount options; all are checked in the end."""
    made: list[Model] = []

    def make(*arguments: Any, **named: Any) -> Model:
        made.append(Model(*arguments, **named))
        return made[-1]

    yield make
    for model in made:
        model.check()
        model.close_arena()


@pytest.fixture
def fs(model_of: Callable[..., Model]) -> Model:
    """A model of 64 pages and 32 inodes."""
    return model_of("size=256k,nr_inodes=32")


@pytest.fixture(scope="session")
def kernel_tmpfs() -> type[Kernel]:
    """The kernel's tmpfs; skips the test where it cannot be had."""
    reason = kernel_available()
    if reason:
        pytest.skip(reason)
    return Kernel


@pytest.fixture(params=["model", "kernel"])
def either(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Makes the model or the kernel's tmpfs: what is asserted must hold for both."""
    made: list[Any] = []
    mask = os.umask(0)

    def make(text: str = "size=256k,nr_inodes=32") -> Any:
        if request.param == "kernel":
            made.append(request.getfixturevalue("kernel_tmpfs")(text))
        else:
            made.append(Model(text))
        return made[-1]

    try:
        yield make
        for one in made:
            one.check()
    finally:
        os.umask(mask)
        for one in made:
            if isinstance(one, Model):
                one.close_arena()
            else:
                one.destroy()
