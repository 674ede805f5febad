"""System V shared memory: keys, ids, permissions, limits. Compare ipc/shm.c and ipc/util.c.

A segment is a regular file in the hidden directory `.shmfs`, named `SYSV%08x.ID`. The kernel is told to drop
that name as soon as it has found it, so it refers to the inode for exactly as long as somebody has it open or
mapped: FUSE_FORGET is the last detach.

The thread that serves requests calls the registry. Other threads only run deferred work: the charge
of a new segment, the count of attaches, and the wait for names to be dropped.
"""

import errno
import mmap
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from shmfs.fs import file
from shmfs.fs.deferred import Deferred, Outcome
from shmfs.fs.inode import Door, Inode, RegularFile
from shmfs.fs.superblock import Credentials, Superblock, error
from shmfs.ipc import attaches
from shmfs.ipc.ids import IPCMNI, Ids

IPC_PRIVATE = 0
IPC_CREAT, IPC_EXCL, SHM_HUGETLB, SHM_NORESERVE = 0o1000, 0o2000, 0o4000, 0o10000
IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO = range(4)
SHM_LOCK, SHM_UNLOCK, SHM_STAT, SHM_INFO, SHM_STAT_ANY = range(11, 16)
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000

NAME = b".shmfs"
ANONYMOUS = Door("anon", "/dev/zero")
_NANO = 1_000_000_000
_NOBODY = 0xFFFF_FFFF
_READ, _WRITE = 0o444, 0o222
_MOST_NOTES = 64


@dataclass(slots=True)
class Segment:
    """Struct shmid_kernel. Times are seconds since the epoch, 0 for never."""

    inode: RegularFile
    id: int
    key: int
    """IPC_PRIVATE once it is removed."""
    name_key: int
    size: int
    uid: int
    gid: int
    cuid: int
    cgid: int
    mode: int
    """Permission bits, SHM_DEST, SHM_LOCKED."""
    cpid: int
    ctime: int
    lpid: int = 0
    atime: int = 0
    dtime: int = 0
    opens: int = 0
    """Attaches so far."""
    seq: int = field(init=False)

    def __post_init__(self) -> None:
        self.seq = self.id // IPCMNI

    @property
    def pages(self) -> int:
        """Pages that the size has room for."""
        return -(-self.size // mmap.PAGESIZE)


class Registry:
    """The segments of one mount, as those of an IPC namespace. Errors are ipc/shm.c's, in its order."""

    def __init__(self, superblock: Superblock) -> None:
        self.superblock = superblock
        self.directory = superblock.hide(NAME, 0o1777)
        self.device = ""
        """Of the mount, "0:57"; where it is unknown nobody's attaches can be counted."""
        self.process_of: Callable[[int], int] = lambda tid: tid
        """The pid of the process to which a thread belongs."""
        self.drop_name: Callable[[int, bytes], None] = lambda directory, name: None
        """Has the kernel forget a name; some time later."""
        self.names_dropped: Callable[[], Callable[[], None] | None] = lambda: None
        """What waits until names are forgotten, in a thread; None if they are."""
        self.notes: set[int] = set()
        """Reasons for which the library left a call to the kernel."""
        self.uncounted = 0
        """Processes that could not be looked at in the last count of attaches."""
        self._ids: Ids[Segment] = Ids()
        self._keys: dict[int, Segment] = {}
        self._by_inode: dict[int, Segment] = {}
        self._charging = threading.Lock()
        """Guards charges in threads: two that do not both fit would each leave no room for the other."""
        self._total = 0
        """Pages of all sizes (shm_tot)."""

    def __len__(self) -> int:
        return len(self._ids)

    def _now(self) -> int:
        return self.superblock.clock() // _NANO

    # ---- shmget

    def shmget(self, key: int, size: int, flags: int, cred: Credentials) -> Outcome[Segment]:
        """Find or make a segment (ipcget).

        Raises ENOENT, EEXIST, EACCES, EINVAL (size), ENOSPC (shmall, shmmni, nr_inodes), ENOMEM (size=).
        """
        segment = None if key == IPC_PRIVATE else self._keys.get(key)
        if segment is None:
            if key != IPC_PRIVATE and not flags & IPC_CREAT:
                raise error(errno.ENOENT)
            return self._new(key, size, flags, cred)
        if flags & IPC_CREAT and flags & IPC_EXCL:
            raise error(errno.EEXIST)
        if size > segment.size:
            raise error(errno.EINVAL)
        self._check_permissions(segment, flags, cred)
        return segment

    def _new(self, key: int, size: int, flags: int, cred: Credentials) -> Outcome[Segment]:
        """A new segment (newseg)."""
        limits = self.superblock.options
        pages = -(-size // mmap.PAGESIZE)
        if size < 1:
            raise error(errno.EINVAL)
        if size > limits.shmmax:
            self._emit_refused(key, size, flags, cred, "shmmax")
            raise error(errno.EINVAL)
        if self._total + pages > limits.shmall:
            self._emit_refused(key, size, flags, cred, "shmall")
            raise error(errno.ENOSPC)
        if flags & SHM_HUGETLB or size > file.MAX_SIZE:
            raise error(errno.EINVAL)
        if not flags & SHM_NORESERVE and not self._has_room(pages):
            self._emit_refused(key, size, flags, cred, "size")
            raise error(errno.ENOMEM)
        if len(self._ids) >= min(limits.shmmni, IPCMNI):
            self._emit_refused(key, size, flags, cred, "shmmni")
            raise error(errno.ENOSPC)
        inode = cast(
            RegularFile, self.superblock.new_inode(self.directory, stat.S_IFREG | flags & 0o777, cred)
        )
        segment = Segment(
            inode, self._ids.new(), key, key, size, cred.uid, cred.gid, cred.uid, cred.gid,
            flags & 0o777, self.process_of(cred.pid), self._now(),
        )  # fmt: skip
        self._enter(segment, cred)
        try:
            charged = file.set_initial_size(self.superblock, inode, size, reserve=not flags & SHM_NORESERVE)
        except OSError as failure:
            self._destroy(segment)
            raise _no_memory(failure) from None
        if "resize" in self.superblock.instruments:
            self.superblock.instruments.call("resize", inode.ino, 0, size, cred.pid)
        return self._charge_later(segment, charged) if charged else segment

    def _has_room(self, pages: int) -> bool:
        """Whether the limit would let so many pages be charged; without one, what the machine has."""
        blocks = self.superblock.blocks
        if not blocks.limit:
            return pages <= os.sysconf("SC_PHYS_PAGES")
        return blocks.available(pages) >= pages

    def _emit_refused(self, key: int, size: int, flags: int, cred: Credentials, limit: str) -> None:
        """Emit `refuse` for a segment that was not created: it exists for the observers alone, with id -1."""
        tell, ino = self.superblock.instruments.call, self.superblock.next_ino()
        path = f"/SYSV{key & 0xFFFF_FFFF:08x}"
        tell("create", ino, path, stat.S_IFREG | flags & 0o777, cred.pid)
        tell("door", ino, "sysv", key, -1)
        tell("resize", ino, 0, size, cred.pid)
        tell("refuse", ino, 0, -(-size // mmap.PAGESIZE), limit)
        tell("unlink", ino, path, 0, cred.pid)
        tell("evict", ino)

    def _enter(self, segment: Segment, cred: Credentials) -> None:
        inode, shown = segment.inode, f"SYSV{segment.key & 0xFFFF_FFFF:08x}"
        inode.door = Door("sysv", f"/{shown} (id {segment.id})", fixed=True, key=segment.key, id=segment.id)
        inode.nlink = 1
        self.directory.hide(f"{shown}.{segment.id}".encode(), inode)
        self._ids.add(segment.id, segment)
        if segment.key != IPC_PRIVATE:
            self._keys[segment.key] = segment
        self._by_inode[inode.ino] = segment
        self._total += segment.pages
        self.superblock.unused[inode.ino] = lambda: self._unused(segment)
        tell = self.superblock.instruments.call
        tell("create", inode.ino, inode.path(), inode.mode, cred.pid)
        tell("door", inode.ino, "sysv", segment.key, segment.id)

    def _charge_later(self, segment: Segment, charged: Deferred[None]) -> Deferred[Segment]:
        """Return what creates a segment whose pages are charged in a thread, which may fail."""

        def charge() -> None:
            try:
                with self._charging:
                    charged.work()
            except OSError as failure:
                raise _no_memory(failure) from None

        def rollback() -> None:
            charged.rollback()
            self._destroy(segment)

        return Deferred(charge, lambda: segment, rollback)

    # ---- the end

    def _destroy(self, segment: Segment) -> None:
        """Nobody finds it any more (shm_destroy); its pages go when the kernel refers to them no more."""
        if self._by_inode.pop(segment.inode.ino, None) is None:
            return
        self._ids.remove(segment.id)
        self._hide_key(segment)
        self._total -= segment.pages
        if self.directory.hidden:
            del self.directory.hidden[segment.inode.name]
        self._unlink(segment, 0)
        self.superblock.drop_if_unused(segment.inode)

    def _unlink(self, segment: Segment, pid: int) -> None:
        inode = segment.inode
        if inode.nlink:
            inode.nlink = 0
            inode.ctime = self.superblock.clock()
            self.superblock.instruments.call("unlink", inode.ino, inode.path(), 0, pid)

    def _hide_key(self, segment: Segment) -> None:
        """Nobody finds it by its key any more (ipc_set_key_private)."""
        if segment.key != IPC_PRIVATE:
            del self._keys[segment.key]
            segment.key = IPC_PRIVATE

    def _unused(self, segment: Segment) -> None:
        """The kernel has forgotten it: nobody has it attached (shm_close)."""
        if segment.opens:
            segment.dtime = max(segment.dtime, self._now())
        if segment.mode & SHM_DEST:
            self._destroy(segment)

    def remove(self, shmid: int, cred: Credentials) -> Outcome[None]:
        """IPC_RMID: free a segment now, or with its last attach. Raises EINVAL, EPERM."""
        segment = self._owned(shmid, cred)
        segment.mode |= SHM_DEST
        self._hide_key(segment)
        if self._may_be_attached(segment):
            self._unlink(segment, cred.pid)
            wait = self.names_dropped()
            if wait is not None:  # else a name that is still known would look like an attach
                return Deferred(wait, lambda: None)
        else:
            self._destroy(segment)
        return None

    # ---- attach and detach

    def found(self, inode: Inode) -> None:
        """The kernel has been told where a segment is, and shall not keep its name."""
        self.drop_name(self.directory.ino, inode.name)

    def attach(self, inode: Inode, flags: int, cred: Credentials) -> None:
        """An open of a segment is an attach of it. Raises EACCES."""
        segment = self._by_inode.get(inode.ino)
        if segment is None:
            return
        wanted = _READ if flags & os.O_ACCMODE == os.O_RDONLY else _READ | _WRITE
        self._check_permissions(segment, wanted, cred)
        segment.opens += 1
        segment.atime = self._now()
        segment.lpid = self.process_of(cred.pid)

    def detach(self, shmid: int, cred: Credentials) -> Segment:
        """Note a shmdt(2); raises EINVAL, also for a segment that went with it."""
        segment = self._ids.get(shmid)
        segment.dtime = self._now()
        segment.lpid = self.process_of(cred.pid)
        return segment

    def _may_be_attached(self, segment: Segment) -> bool:
        """Whether the kernel refers to it, and perhaps for a mapping."""
        return segment.inode.nlookup > 0 and segment.inode.may_be_mapped()

    def count_attaches(self, segment: Segment) -> Outcome[int]:
        """How often a segment is attached; raises EINVAL if its last attach has ended when it was counted."""
        found = attaches.Attaches(0, 0)
        device, ino, opens = self.device, segment.inode.ino, segment.opens

        def count() -> None:
            nonlocal found
            found = attaches.count(device, ino)

        def result() -> int:
            self.uncounted = found.hidden
            unattached = not found.number and not found.hidden and segment.opens == opens
            if segment.mode & SHM_DEST and unattached:
                self._destroy(segment)  # the kernel is about to say so
            if segment.inode.ino not in self._by_inode:
                raise error(errno.EINVAL)
            return found.number

        return Deferred(count, result) if self._may_be_attached(segment) and device else result()

    # ---- shmctl

    def find(self, shmid: int) -> Segment:
        """The segment with that id; raises EINVAL."""
        if shmid < 0:
            raise error(errno.EINVAL)
        return self._ids.get(shmid)

    def stat(self, shmid: int, cmd: int, cred: Credentials) -> Segment:
        """IPC_STAT, SHM_STAT and SHM_STAT_ANY, of which the last two take an index.

        Raises EINVAL, EACCES. Compare shmctl_stat.
        """
        segment = self._ids.get(shmid) if cmd == IPC_STAT else self._ids.at(shmid)
        if cmd != SHM_STAT_ANY:
            self._check_permissions(segment, _READ, cred)
        return segment

    def set_permissions(self, shmid: int, uid: int, gid: int, mode: int, cred: Credentials) -> None:
        """IPC_SET; raises EINVAL, EPERM. Compare ipc_update_perm."""
        segment = self._owned(shmid, cred)
        if _NOBODY in (uid, gid):
            raise error(errno.EINVAL)
        segment.uid, segment.gid = uid, gid
        segment.mode = segment.mode & ~0o777 | mode & 0o777
        segment.ctime = self._now()
        inode = segment.inode
        inode.uid, inode.gid = uid, gid
        foreign = (uid, gid) != (segment.cuid, segment.cgid)  # the kernel knows one owner: we check both
        inode.mode = stat.S_IFREG | (0o777 if foreign else mode & 0o777)

    def lock(self, shmid: int, locked: bool, cred: Credentials) -> None:
        """SHM_LOCK and SHM_UNLOCK, of which only the bit is kept; raises EINVAL, EPERM."""
        segment = self._ids.get(shmid)
        if cred.uid not in (0, segment.uid, segment.cuid):
            raise error(errno.EPERM)
        segment.mode = segment.mode | SHM_LOCKED if locked else segment.mode & ~SHM_LOCKED

    def ipc_info(self) -> tuple[int, tuple[int, ...]]:
        """The highest index, and shmmax, shmmin, shmmni, shmseg, shmall."""
        limits = self.superblock.options
        return self._ids.highest(), (limits.shmmax, 1, limits.shmmni, limits.shmmni, limits.shmall)

    def shm_info(self) -> tuple[int, tuple[int, ...]]:
        """The highest index, and used_ids, shm_tot, shm_rss, shm_swp in pages. Charged pages are resident."""
        resident = 0
        for segment in self._ids:
            segment.inode.refresh()
            resident += segment.inode.allocated
        return self._ids.highest(), (len(self._ids), self._total, resident, 0, 0)

    def note(self, reason: int) -> None:
        """The library left a call to the kernel."""
        if len(self.notes) < _MOST_NOTES:
            self.notes.add(reason)

    # ---- permissions

    def _owned(self, shmid: int, cred: Credentials) -> Segment:
        """The segment, if the caller may remove and change it (ipcctl_obtain_check)."""
        segment = self._ids.get(shmid)
        if cred.uid not in (0, segment.uid, segment.cuid):
            raise error(errno.EPERM)
        return segment

    def _check_permissions(self, segment: Segment, wanted: int, cred: Credentials) -> None:
        """Raise EACCES unless the caller has the bits of `wanted`, in whichever place (ipcperms)."""
        granted = segment.mode
        if cred.uid in (segment.uid, segment.cuid):
            granted >>= 6
        elif self._in_group(segment, cred):
            granted >>= 3
        if (wanted >> 6 | wanted >> 3 | wanted) & ~granted & 7 and cred.uid != 0:
            raise error(errno.EACCES)

    def _in_group(self, segment: Segment, cred: Credentials) -> bool:
        groups = {segment.gid, segment.cgid}
        return cred.gid in groups or bool(groups.intersection(self.superblock.groups_of(cred.pid)))


def _no_memory(failure: OSError) -> OSError:
    """What the kernel says where pages cannot be had."""
    return error(errno.ENOMEM if failure.errno == errno.ENOSPC else failure.errno or errno.EIO)
