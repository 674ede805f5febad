"""The kernel's System V shared memory, and the model of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ipc.support import Kernel, Model


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    try:
        one = Kernel()
    except PermissionError as failure:
        pytest.skip(f"needs the right to make an IPC namespace: {failure}")
    yield one
    one.close()


@pytest.fixture
def model_of() -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def make(*arguments: Any) -> Model:
        made.append(Model(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()
