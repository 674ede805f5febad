"""Requests of the preloaded library: System V shared memory."""

import errno

from shmfs.fs.deferred import Outcome
from shmfs.fs.superblock import Credentials, error
from shmfs.fuse.operations.table import Table
from shmfs.ipc import protocol


class Ipc(Table):
    """The ioctl(2) on the hidden directory."""

    def shm(self, ino: int, request: bytes, cred: Credentials) -> Outcome[protocol.Answer]:
        """FUSE_IOCTL of the preloaded library; raises ENOTTY elsewhere than in the hidden directory."""
        if ino != self.ipc.directory.ino:
            raise error(errno.ENOTTY)
        return protocol.answer(self.ipc, request, cred)
