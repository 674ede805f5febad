"""What all tests share. Modules are imported as packages where a directory has an `__init__.py`."""

import ctypes
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from shmfs.system import mounts, namespaces, syscalls

hypothesis.settings.register_profile(
    "shmfs",
    deadline=None,
    database=None,  # examples of one run are nobody else's, and a directory of another user fails nobody
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("shmfs"), max_examples=1000, stateful_step_count=60
)
hypothesis.settings.load_profile("shmfs")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make what tests start independent of the shell that runs them, and of each other.

    Jobs of a script in the background ignore the keyboard's signals, and so does what they start.

    Each process that runs tests gets a mount namespace of its own, where that needs no user namespace: a
    daemon ends when the last namespace has unmounted it, and one that a test makes begins as a copy of this
    one. Here it copies no mount of a test that runs beside it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(namespaces.CLONE_NEWNS) == 0:
        syscalls.mount(None, "/", None, namespaces.MS_REC | namespaces.MS_SLAVE)


@pytest.fixture(scope="session", autouse=True)
def no_mount_is_left() -> Iterator[None]:
    """New mounts whose daemon has gone fail the run; one that lives may be somebody else's."""
    before = set(mounts.shmfs_mounts())
    yield
    left = [
        mount.mountpoint for mount in mounts.shmfs_mounts() if mount not in before and mounts.is_dead(mount)
    ]
    assert not left, f"left behind: {left}"
