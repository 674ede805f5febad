"""What the preloaded library asks: one ioctl(2) on the hidden directory, a struct in and out."""

import errno
import struct
from dataclasses import dataclass, fields
from operator import attrgetter

from shmfs.fs.deferred import Outcome, then
from shmfs.fs.superblock import Credentials, error
from shmfs.ipc.sysv import (
    IPC_INFO,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    SHM_DEST,
    SHM_INFO,
    SHM_LOCK,
    SHM_STAT,
    SHM_STAT_ANY,
    SHM_UNLOCK,
    Registry,
    Segment,
)

VERSION = 1
SHMGET, SHMCTL, DETACH, _ANON, NAME, NOTE = range(1, 7)
_STRUCT = struct.Struct("<IIiiiIQIIIIIIiiqqqQ5Q")
COMMAND = 3 << 30 | _STRUCT.size << 16 | ord("M") << 8 | 0x53
"""_IOWR('M', 0x53, struct shmfs_ipc)."""


@dataclass(slots=True)
class Request:
    """Struct shmfs_ipc: the request, and with what is known of the segment filled in its answer."""

    version: int
    op: int
    id: int
    cmd: int
    key: int
    flags: int
    size: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    mode: int
    seq: int
    cpid: int
    lpid: int
    atime: int
    dtime: int
    ctime: int
    nattch: int
    info: tuple[int, ...] = (0, 0, 0, 0, 0)

    @classmethod
    def of(cls, **fields: int) -> "Request":
        """A request of this version, with zeros where nothing is said."""
        request = unpack(_STRUCT.pack(VERSION, *bytes(23)))
        for name, value in fields.items():
            setattr(request, name, value)
        return request

    def pack(self) -> bytes:
        """The struct."""
        return _STRUCT.pack(*_head(self), *self.info)

    def tell(self, segment: Segment) -> None:
        """Fill in what struct shmid_ds says, but for the attaches."""
        self.id, self.key, self.size = segment.id, segment.key, segment.size
        self.uid, self.gid, self.cuid, self.cgid = segment.uid, segment.gid, segment.cuid, segment.cgid
        self.mode, self.seq = segment.mode, segment.seq
        self.cpid, self.lpid = segment.cpid, segment.lpid
        self.atime, self.dtime, self.ctime = segment.atime, segment.dtime, segment.ctime

    def found(self, segment: Segment) -> "Answer":
        """The answer that describes a segment and returns its id."""
        self.tell(segment)
        return segment.id, self.pack()


_head = attrgetter(*(field.name for field in fields(Request)[:-1]))


def unpack(data: bytes) -> Request:
    """Read a request; raises EINVAL for another size and EPROTO for another version."""
    if len(data) != _STRUCT.size:
        raise error(errno.EINVAL)
    fields = _STRUCT.unpack(data)
    if fields[0] != VERSION:
        raise error(errno.EPROTO)
    request = Request(*fields[:-5])
    request.info = fields[-5:]
    return request


Answer = tuple[int, bytes]
"""What ioctl(2) returns, and the struct."""


def answer(registry: Registry, data: bytes, cred: Credentials) -> Outcome[Answer]:
    """Carry out a request.

    Raises what ipc/shm.c returns, EINVAL, EPROTO, and EOPNOTSUPP for an unknown operation.
    """
    request = unpack(data)
    if request.op == SHMGET:
        return then(registry.shmget(request.key, request.size, request.flags, cred), request.found)
    if request.op == SHMCTL:
        return _control(registry, request, cred)
    if request.op == DETACH:
        request.tell(registry.detach(request.id, cred))
    elif request.op == NAME:
        return _name(registry, request)
    elif request.op == NOTE:
        registry.note(request.cmd)
    else:
        raise error(errno.EOPNOTSUPP)  # ENOSYS would have the kernel ask no more
    return 0, request.pack()


def _control(registry: Registry, request: Request, cred: Credentials) -> Outcome[Answer]:
    """Shmctl(2). Compare ksys_shmctl."""
    cmd, shmid, result = request.cmd, request.id, 0
    if cmd < 0 or shmid < 0:
        raise error(errno.EINVAL)
    if cmd in (IPC_STAT, SHM_STAT, SHM_STAT_ANY):
        return _with_attaches(registry, request, registry.stat(shmid, cmd, cred))
    if cmd == IPC_INFO:
        result, request.info = registry.ipc_info()
    elif cmd == SHM_INFO:
        result, request.info = registry.shm_info()
    elif cmd == IPC_SET:
        registry.set_permissions(shmid, request.uid, request.gid, request.mode, cred)
    elif cmd == IPC_RMID:
        return then(registry.remove(shmid, cred), lambda _: (0, request.pack()))
    elif cmd in (SHM_LOCK, SHM_UNLOCK):
        registry.lock(shmid, cmd == SHM_LOCK, cred)
    else:
        raise error(errno.EINVAL)
    return result, request.pack()


def _name(registry: Registry, request: Request) -> Outcome[Answer]:
    """Say under which name a segment is found, which is the one it got when it was made."""
    segment = registry.find(request.id)

    def answer(_: int) -> Answer:
        request.tell(segment)
        request.key = segment.name_key
        return 0, request.pack()

    return then(registry.count_attaches(segment) if segment.mode & SHM_DEST else 0, answer)


def _with_attaches(registry: Registry, request: Request, segment: Segment) -> Outcome[Answer]:
    """Describe a segment and the number of its attaches."""

    def answer(attaches: int) -> Answer:
        request.nattch = attaches
        result, data = request.found(segment)
        return 0 if request.cmd == IPC_STAT else result, data

    return then(registry.count_attaches(segment), answer)
