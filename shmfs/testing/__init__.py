"""For tests of programs that share memory: the pytest plugin and its fixtures."""

from shmfs.testing.mount import MountFactory, PrivateMount

__all__ = ["MountFactory", "PrivateMount"]
