"""Every program has a mount with each of the stores, and nothing of it may remain."""

from collections.abc import Iterator
from typing import Any

import pytest

from shmfs.errors import ShmfsError
from tests.real.support import adopting, check_over


@pytest.fixture
def options() -> str:
    """Mount options beside `pages`; parametrised directly by a test that wants others."""
    return "size=64m"


@pytest.fixture(params=["managed", "native"])
def store(request: pytest.FixtureRequest) -> str:
    """Whose the pages are."""
    return str(request.param)


@pytest.fixture
def shmfs(options: str, store: str, shmfs_mount: Any) -> Iterator[Any]:
    """A private mount, which can be unmounted when the test is over, as all of its processes have ended."""
    with adopting() as living:
        try:
            mount = shmfs_mount(options=f"{options},pages={store}")
        except ShmfsError as failure:
            if store == "native":
                pytest.skip(str(failure))
            raise
        yield mount
        check_over(mount, living)
