"""Fixtures of files on a tmpfs, and of children that map them."""

from tests.record.conftest import child, shm  # noqa: F401
