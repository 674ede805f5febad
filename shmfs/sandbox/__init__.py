"""A private /dev/shm for one command: found, started in the namespaces of its server, and watched over."""

from shmfs.sandbox.command import resolve
from shmfs.sandbox.supervisor import Outcome, run

__all__ = ["Outcome", "resolve", "run"]
