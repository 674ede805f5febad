"""One language for two registries: the model, and the kernel's in an IPC namespace of its own.

A case is written once against `Shm` and run on both.
"""

import ctypes
import errno
import os
import pickle
import resource
from collections.abc import Callable
from typing import Any, Protocol

from shmfs.fs import options
from shmfs.fs.check import check
from shmfs.fs.deferred import Deferred
from shmfs.fs.superblock import Credentials, Superblock
from shmfs.ipc import attaches, protocol
from shmfs.ipc.sysv import Registry
from tests.fs.support import Clock

ROOT, ALICE, BOB = 0, 1000, 2000
CLONE_NEWIPC = 0x08000000
READ_ONLY = 0o10000
PERMISSIONS = ("uid", "gid", "cuid", "cgid", "mode", "seq")
GROUPS = {ROOT: (), ALICE: (3000,), BOB: (3000, 4000)}
"""Supplementary groups of the users, whose own group has their number."""


class Shm(Protocol):
    """What a case may do; `who` is a user. Failures are names of errors."""

    def get(self, key: int, size: int, flags: int, who: int = ROOT) -> Any: ...
    def at(self, shmid: int, flags: int = 0, who: int = ROOT) -> Any: ...
    def dt(self, attach: int) -> Any: ...
    def stat(self, shmid: int, cmd: int = 2, who: int = ROOT) -> Any: ...
    def set(self, shmid: int, uid: int, gid: int, mode: int, who: int = ROOT) -> Any: ...
    def ctl(self, shmid: int, cmd: int, who: int = ROOT) -> Any: ...


class Model:
    """The registry on a superblock without a mount; opens and FORGETs are those of a kernel that behaves."""

    def __init__(self, text: str = "size=64m,pages=managed") -> None:
        self.clock = Clock()
        self.superblock = Superblock(options.parse(text), clock=self.clock)
        self.superblock.groups_of = lambda pid: GROUPS[pid - 1]
        self.registry = Registry(self.superblock)
        self.registry.device = "0:1"
        self._attached: dict[int, Any] = {}
        self._last = 0

    def _call(self, who: int, **fields: int) -> Any:
        cred = Credentials(who, who, who + 1)
        try:
            answer = protocol.answer(self.registry, protocol.Request.of(**fields).pack(), cred)
            if isinstance(answer, Deferred):
                inode = self._inode(fields["id"])
                real, attaches.count = attaches.count, lambda device, ino: self._count(inode)
                try:
                    answer.work()
                finally:
                    attaches.count = real
                answer = answer.answer()
            return answer[0], protocol.unpack(answer[1])
        except OSError as failure:
            return errno.errorcode[failure.errno or 0]

    def _inode(self, shmid: int) -> Any:
        return self.registry._ids.at(shmid).inode

    def _count(self, inode: Any) -> attaches.Attaches:
        return attaches.Attaches(sum(one is inode for one in self._attached.values()), 0)

    def get(self, key: int, size: int, flags: int, who: int = ROOT) -> Any:
        answer = self._call(who, op=protocol.SHMGET, key=key, size=size, flags=flags)
        return answer if isinstance(answer, str) else answer[0]

    def at(self, shmid: int, flags: int = 0, who: int = ROOT) -> Any:
        named = self._call(who, op=protocol.NAME, id=shmid)
        if isinstance(named, str):
            return named
        inode = self._inode(shmid)
        try:
            wanted = os.O_RDONLY if flags & READ_ONLY else os.O_RDWR
            self.registry.attach(inode, wanted, Credentials(who, who, who + 1))
        except OSError as failure:
            return errno.errorcode[failure.errno or 0]
        inode.nlookup += 1
        inode.opens += 1
        self._last += 1
        self._attached[self._last] = inode
        return self._last

    def dt(self, attach: int) -> Any:
        inode = self._attached.pop(attach)
        self._call(ROOT, op=protocol.DETACH, id=inode.door.id)
        inode.opens -= 1
        self.superblock.forget(inode.ino, 1)

    def stat(self, shmid: int, cmd: int = 2, who: int = ROOT) -> Any:
        answer = self._call(who, op=protocol.SHMCTL, cmd=cmd, id=shmid)
        if isinstance(answer, str):
            return answer
        result, told = answer
        fields = {name: getattr(told, name) for name in PERMISSIONS}
        fields |= {"key": told.key, "size": told.size, "nattch": told.nattch, "cpid": told.cpid > 0}
        fields |= {"atime": told.atime > 0, "ctime": told.ctime > 0, "lpid": told.lpid > 0}
        return result, fields | {"dtime": told.dtime > 0}

    def set(self, shmid: int, uid: int, gid: int, mode: int, who: int = ROOT) -> Any:
        wanted = {"uid": uid & 0xFFFF_FFFF, "gid": gid & 0xFFFF_FFFF, "mode": mode}
        answer = self._call(who, op=protocol.SHMCTL, cmd=1, id=shmid, **wanted)
        return answer if isinstance(answer, str) else answer[0]

    def ctl(self, shmid: int, cmd: int, who: int = ROOT) -> Any:
        answer = self._call(who, op=protocol.SHMCTL, cmd=cmd, id=shmid)
        if isinstance(answer, str):
            return answer
        return (answer[0], answer[1].info) if cmd in (3, 14) else answer[0]

    def close(self) -> None:
        assert check(self.superblock) == []
        self.superblock.store.arena.close()


class _Perm(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("key", "uid", "gid", "cuid", "cgid", "mode")),
        ("seq", ctypes.c_uint16),
        ("pad", ctypes.c_uint16),
        ("unused", ctypes.c_ulong * 2),
    ]


class _Shmid(ctypes.Structure):
    _fields_ = [
        ("perm", _Perm),
        ("segsz", ctypes.c_size_t),
        *((name, ctypes.c_long) for name in ("atime", "dtime", "ctime")),
        *((name, ctypes.c_int) for name in ("cpid", "lpid")),
        ("nattch", ctypes.c_ulong),
        ("unused", ctypes.c_ulong * 2),
    ]


class _Calls:
    """The kernel's own, in the process that has the namespace."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.shmat.restype = ctypes.c_ssize_t
        self.libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
        self.libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
        self.libc.shmdt.argtypes = [ctypes.c_void_p]
        if self.libc.unshare(CLONE_NEWIPC):
            raise OSError(ctypes.get_errno(), "unshare")
        self.attached: dict[int, int] = {}
        self.last = 0

    def said(self, result: int) -> Any:
        return errno.errorcode[ctypes.get_errno()] if result == -1 else result

    def become(self, who: int) -> None:
        os.setgroups(GROUPS[who])
        os.setresgid(who, who, 0)
        os.setresuid(who, who, 0)

    def back(self) -> None:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(())

    def get(self, key: int, size: int, flags: int) -> Any:
        return self.said(self.libc.shmget(key, size, flags))

    def at(self, shmid: int, flags: int) -> Any:
        where = self.said(self.libc.shmat(shmid, None, flags))
        if isinstance(where, str):
            return where
        self.last += 1
        self.attached[self.last] = where
        return self.last

    def dt(self, attach: int) -> Any:
        self.libc.shmdt(self.attached.pop(attach))

    def stat(self, shmid: int, cmd: int) -> Any:
        told = _Shmid()
        result = self.said(self.libc.shmctl(shmid, cmd, ctypes.byref(told)))
        if isinstance(result, str):
            return result
        fields = {name: getattr(told.perm, name) for name in PERMISSIONS}
        fields |= {"key": ctypes.c_int32(told.perm.key).value, "size": told.segsz, "nattch": told.nattch}
        return result, fields | {
            name: getattr(told, name) > 0 for name in ("cpid", "lpid", "atime", "ctime", "dtime")
        }

    def set(self, shmid: int, uid: int, gid: int, mode: int) -> Any:
        told = _Shmid()
        told.perm.uid, told.perm.gid, told.perm.mode = uid, gid, mode
        return self.said(self.libc.shmctl(shmid, 1, ctypes.byref(told)))

    def ctl(self, shmid: int, cmd: int) -> Any:
        info = (ctypes.c_ulong * 64)()
        result = self.said(self.libc.shmctl(shmid, cmd, ctypes.byref(info)))
        if isinstance(result, str) or cmd not in (3, 14):
            return result
        return result, tuple(info[:5]) if cmd == 3 else (info[0] & 0xFFFF_FFFF, *info[1:4], 0)

    def limit(self, name: str, value: int) -> None:
        with open(f"/proc/sys/kernel/{name}", "w") as file:
            file.write(str(value))


class Kernel:
    """The kernel's registry, behind a process that has it for itself. Raises PermissionError without root."""

    def __init__(self) -> None:
        mine, theirs = os.pipe(), os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(mine[0])
                os.close(theirs[1])
                _serve(theirs[0], mine[1])
            finally:
                os._exit(1)
        os.close(mine[1])
        os.close(theirs[0])
        self._answers, self._orders = os.fdopen(mine[0], "rb"), os.fdopen(theirs[1], "wb")
        reason = pickle.load(self._answers)
        if reason:
            self.close()
            raise PermissionError(reason)

    def __call__(self, name: str, who: int, *arguments: Any) -> Any:
        pickle.dump((name, who, arguments), self._orders)
        self._orders.flush()
        return pickle.load(self._answers)

    def get(self, key: int, size: int, flags: int, who: int = ROOT) -> Any:
        return self("get", who, key, size, flags)

    def at(self, shmid: int, flags: int = 0, who: int = ROOT) -> Any:
        return self("at", who, shmid, flags)

    def dt(self, attach: int) -> Any:
        return self("dt", ROOT, attach)

    def stat(self, shmid: int, cmd: int = 2, who: int = ROOT) -> Any:
        return self("stat", who, shmid, cmd)

    def set(self, shmid: int, uid: int, gid: int, mode: int, who: int = ROOT) -> Any:
        return self("set", who, shmid, uid, gid, mode)

    def ctl(self, shmid: int, cmd: int, who: int = ROOT) -> Any:
        return self("ctl", who, shmid, cmd)

    def limit(self, name: str, value: int) -> None:
        self("limit", ROOT, name, value)

    def close(self) -> None:
        self._orders.close()
        self._answers.close()
        os.waitpid(self._pid, 0)


def _serve(orders: int, answers: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(orders, "rb") as source, os.fdopen(answers, "wb") as sink:
        try:
            calls, reason = _Calls(), ""
        except OSError as failure:
            reason = str(failure)
        pickle.dump(reason, sink)
        sink.flush()
        while True:
            try:
                name, who, arguments = pickle.load(source)
            except EOFError:
                os._exit(0)
            function: Callable[..., Any] = getattr(calls, name)
            if who:
                calls.become(who)
            try:
                result = function(*arguments)
            finally:
                if who:
                    calls.back()
            pickle.dump(result, sink)
            sink.flush()
