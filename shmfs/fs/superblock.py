"""One mounted tmpfs: its inodes, its limits, its options. Compare struct shmem_sb_info.

The whole model (this room, and the pages below it) belongs to the thread that serves requests. Other threads
only run the work of a `Deferred`, which touches none of it.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

from shmfs.events.hooks import Instruments
from shmfs.fs.directory import Directory
from shmfs.fs.flags import FS_IMMUTABLE_FL
from shmfs.fs.inode import Inode, RegularFile, Symlink
from shmfs.fs.native import NativeBlocks, NativeFile
from shmfs.fs.options import SYSV_LIMITS, MountOptions
from shmfs.mm import PAGE_SIZE, AddressSpace, ManagedStore, Reservation
from shmfs.mm.native import NativePages, NativeStore

ROOT_INO = 1
INODE_SIZE = 1024
"""Bytes of inode space that an inode takes, extended attributes coming on top (BOGO_INODE_SIZE)."""
_MAX_INO32 = 0xFFFF_FFFF


class Credentials(NamedTuple):
    """Who asks: file system ids, pid (0 where unknown) and umask (0 where the kernel applied it)."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0


class Statfs(NamedTuple):
    """What statfs(2) reports; blocks of 4096 bytes, 0 where unlimited."""

    blocks: int
    blocks_free: int
    files: int
    files_free: int


def error(number: int) -> OSError:
    """An OSError with the system's text for `number`."""
    return OSError(number, os.strerror(number))


class Superblock:
    """The inodes of one mount by number, and what they may take.

    Invariants (checked by `fs.check`): the pages charged are the sum over the inodes, and so is the inode
    space; every inode is reachable by a name or referenced by the kernel.
    """

    def __init__(
        self,
        options: MountOptions | None = None,
        *,
        owner: Credentials = Credentials(),  # noqa: B008  immutable
        instruments: Instruments | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.options = options or MountOptions()
        self.instruments = Instruments() if instruments is None else instruments
        self.clock = clock
        self.groups_of: Callable[[int], Collection[int]] = lambda pid: ()
        """Supplementary groups of a process."""
        self.native: NativeStore | None = None
        self.blocks = Reservation(self.options.blocks)
        """Pages charged."""
        self.inode_space = Reservation(self.options.inodes * INODE_SIZE)
        """Bytes charged for inodes, links and extended attributes."""
        self.store = ManagedStore(self.blocks, self.instruments)
        self.inodes: dict[int, Inode] = {}
        self.unused: dict[int, Callable[[], None]] = {}
        """By inode: called when the kernel refers to it no more, before it is freed if no name does."""
        self.evicted: Callable[[int], None] = lambda ino: None
        """Called when an inode is freed; raises nothing. No observer: one that fails would be removed."""
        self._last_ino = 0
        self.inode_space.charge(INODE_SIZE)
        uid = owner.uid if self.options.uid is None else self.options.uid
        gid = owner.gid if self.options.gid is None else self.options.gid
        self.root = Directory(self.next_ino(), self.options.mode, uid, gid, self.clock(), None)
        self.inodes[ROOT_INO] = self.root

    def use_native(self, store: NativeStore) -> None:
        """Have files made from now on in the native store, which has the limits now; there is none yet."""
        self.native = store
        self.blocks = NativeBlocks(store, self.options.blocks)

    def next_ino(self) -> int:
        """A number never used before; with inode32, not in use and of 32 bits."""
        self._last_ino += 1
        if not self.options.inode64:
            while self._last_ino > _MAX_INO32 or self._last_ino in self.inodes:
                self._last_ino = self._last_ino + 1 if self._last_ino < _MAX_INO32 else ROOT_INO + 1
        return self._last_ino

    def charge_inode_space(self, ino: int, amount: int) -> None:
        """Charge `amount` bytes of inode space (shmem_reserve_inode); raises ENOSPC and tells `refuse`."""
        try:
            self.inode_space.charge(amount)
        except OSError:
            if "refuse" in self.instruments:
                self.instruments.call("refuse", ino, 0, 0, "nr_inodes")
            raise

    def new_inode(
        self, directory: Directory, mode: int, cred: Credentials, *, rdev: int = 0, target: bytes = b""
    ) -> Inode:
        """An inode without a name that belongs to the caller; raises ENOSPC.

        Compare inode_init_owner: a set-group-id directory passes its group on, and the bit to directories.
        """
        self.charge_inode_space(directory.ino, INODE_SIZE)
        inherits_group = bool(directory.mode & stat.S_ISGID)
        gid = directory.gid if inherits_group else cred.gid
        now = self.clock()
        ino = self.next_ino()
        inode: Inode
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID if inherits_group else 0
            inode = Directory(ino, mode, cred.uid, gid, now, directory)
        elif stat.S_ISREG(mode) and self.native:
            inode = NativeFile(ino, mode, cred.uid, gid, now, NativePages(self.native, ino))
        elif stat.S_ISREG(mode):
            inode = RegularFile(ino, mode, cred.uid, gid, now, AddressSpace(self.store, ino))
        elif stat.S_ISLNK(mode):
            inode = Symlink(ino, cred.uid, gid, now, target)
            try:
                self.blocks.charge(inode.allocated)
            except OSError:
                self.inode_space.uncharge(INODE_SIZE)
                self.store.refused(directory.ino, 0, inode.allocated)
                raise
        else:
            inode = Inode(ino, mode, cred.uid, gid, now, rdev)
        self.inodes[ino] = inode
        return inode

    def hide(self, name: bytes, mode: int) -> Directory:
        """A directory of the root's that only those find who know it; it takes no inode of the limit."""
        hidden = Directory(self.next_ino(), mode, self.root.uid, self.root.gid, self.clock(), self.root)
        hidden.flags = FS_IMMUTABLE_FL
        hidden.hidden = {}
        self.inodes[hidden.ino] = hidden
        self.root.hide(name, hidden)
        return hidden

    def inode(self, ino: int) -> Inode:
        """The inode with that number; raises ESTALE."""
        try:
            return self.inodes[ino]
        except KeyError:
            raise error(errno.ESTALE) from None

    def forget(self, ino: int, nlookup: int) -> None:
        """Drop references of the kernel (FUSE_FORGET)."""
        inode = self.inodes.get(ino)
        if inode is not None:
            inode.nlookup -= nlookup
            self.drop_if_unused(inode)

    def drop_if_unused(self, inode: Inode) -> None:
        """Free an inode that neither a name nor the kernel knows (shmem_evict_inode)."""
        if inode.nlookup > 0:
            return
        if inode.ino in self.unused:
            self.unused[inode.ino]()
        if inode.nlink > 0 or inode is self.root or inode.ino not in self.inodes:
            return
        del self.inodes[inode.ino]
        self.unused.pop(inode.ino, None)
        inode.uncharge(self)
        self.inode_space.uncharge(INODE_SIZE + xattr_space(inode))
        if "evict" in self.instruments:
            self.instruments.call("evict", inode.ino)
        self.evicted(inode.ino)
        inode.drop()  # after its backing id, so that no other file pins the pages

    def emit_usage(self) -> None:
        """Emit what the kernel changed in the files of a native store."""
        if self.native:
            for file in self.files():
                file.emit_usage(self.instruments)

    def check_machine(self, count: int) -> None:
        """Without a limit refuse (ENOSPC) pages that the machine can never hold. Compare __vm_enough_memory.

        Native pages would be allocated until the OOM killer comes; managed ones take a byte each before that.
        """
        if not self.blocks.limit and count > os.sysconf("SC_PHYS_PAGES"):
            raise error(errno.ENOSPC)

    def files(self) -> Iterator[RegularFile]:
        """The regular files, unnamed and unlinked ones too."""
        return (inode for inode in list(self.inodes.values()) if isinstance(inode, RegularFile))

    def statfs(self) -> Statfs:
        """Limits and what is left of them (shmem_statfs)."""
        space = self.inode_space
        return Statfs(
            self.blocks.limit,
            self.blocks.limit - self.blocks.used if self.blocks.limit else 0,
            space.limit // INODE_SIZE,
            (space.limit - space.used) // INODE_SIZE if space.limit else 0,
        )

    def remount(self, options: MountOptions) -> None:
        """Take the limits that `options` names; raises EINVAL with a sentence (shmem_reconfigure)."""
        if options.seen & {"size", "nr_blocks"}:
            unit = f"{options.blocks * PAGE_SIZE} bytes"
            self._check_limit(self.blocks, options.blocks, f"size={options.blocks * PAGE_SIZE}", unit)
        if "nr_inodes" in options.seen:
            limit = options.inodes * INODE_SIZE
            self._check_limit(
                self.inode_space, limit, f"nr_inodes={options.inodes}", f"{options.inodes} inodes"
            )
            self.inode_space.limit = limit
            self.options = replace(self.options, inodes=options.inodes)
        for name in options.seen & SYSV_LIMITS:
            self.options = replace(self.options, **{name: getattr(options, name)})
        if options.seen & {"size", "nr_blocks"}:
            self.blocks.limit = options.blocks
            self.options = replace(self.options, blocks=options.blocks)

    @staticmethod
    def _check_limit(reservation: Reservation, limit: int, option: str, amount: str) -> None:
        if not limit:
            return
        if not reservation.limit:
            raise OSError(errno.EINVAL, f"{option}: the mount is unlimited and cannot be limited later")
        if reservation.used > limit:
            raise OSError(errno.EINVAL, f"{option}: more than {amount} are in use; remove files first")


def xattr_space(inode: Inode) -> int:
    """Bytes of inode space that extended attributes take (simple_xattr_space); access lists are free."""
    if not inode.xattrs:
        return 0
    return sum(
        attribute_space(name, value)
        for name, value in inode.xattrs.items()
        if not name.startswith(b"system.posix_acl_")
    )


def attribute_space(name: bytes, value: bytes) -> int:
    """Bytes of inode space that one attribute takes."""
    return 40 + len(name) + len(value)
