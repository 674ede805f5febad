"""Inodes of every kind. Compare mm/shmem.c:__shmem_get_inode.

An inode lives for as long as a name or the kernel (`nlookup`) knows it. Times are in nanoseconds since the
epoch.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from shmfs.events.hooks import Instruments
from shmfs.fs.deferred import Deferred, Outcome
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE, Intent, Pages
from shmfs.system.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

if TYPE_CHECKING:
    from shmfs.fs.directory import Directory
    from shmfs.fs.superblock import Superblock


def pages_up_to(size: int) -> int:
    """Pages that a size has room for."""
    return (size + PAGE_SIZE - 1) >> PAGE_SHIFT


class Door(NamedTuple):
    """By which door a file came that was not opened by a name (System V, shared anonymous), and its name."""

    kind: str
    path: str
    """What it is shown as."""
    fixed: bool = False
    """Size, owner and permissions are not for the file system's requests to change."""
    key: int = 0
    id: int = 0


class Inode:
    """What all kinds have. Fifos, sockets, devices and whiteouts are no more than this."""

    __slots__ = (
        "atime",
        "btime",
        "ctime",
        "flags",
        "gid",
        "ino",
        "mode",
        "mtime",
        "name",
        "nlink",
        "nlookup",
        "parent",
        "rdev",
        "uid",
        "xattrs",
    )

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now: int, rdev: int = 0) -> None:
        self.ino = ino
        self.mode = mode
        """Type and permissions, as st_mode."""
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.flags = 0
        """As of chattr(1), FS_IOC_GETFLAGS."""
        self.nlink = 0
        self.nlookup = 0
        """References that the kernel holds: entry replies less FORGETs."""
        self.atime = self.mtime = self.ctime = self.btime = now
        self.xattrs: dict[bytes, bytes] | None = None
        self.parent: Directory | None = None
        self.name = b""
        """One of its names, or the last it had, in `parent`."""

    @property
    def size(self) -> int:
        """st_size in bytes."""
        return 0

    @property
    def allocated(self) -> int:
        """Pages charged."""
        return 0

    def path(self) -> str:
        """Path from the mount's root by the name last given; "" for what never had one (O_TMPFILE)."""
        if self.parent is not None and self.parent.parent is self.parent is not self:
            return "/" + self.name.decode(errors="surrogateescape")
        parts = []
        inode: Inode = self
        while inode.parent is not None and inode.parent is not inode:
            parts.append(inode.name.decode(errors="surrogateescape"))
            inode = inode.parent
        if not parts and not stat.S_ISDIR(self.mode):
            return ""
        return "/" + "/".join(reversed(parts))

    def refresh(self) -> None:
        """Take over what may have changed without a request; only for files of the native store."""

    def is_stale(self) -> bool:
        """Whether `refresh` might find something new."""
        return False

    def can_cache_attributes(self) -> bool:
        """Whether the kernel, which is told the attributes now, may keep them: only it can change them."""
        return True

    def touch(self, now: int) -> None:
        """Note a change of content: mtime and ctime."""
        self.mtime = self.ctime = now

    def uncharge(self, sb: "Superblock") -> None:
        """Uncharge the pages of an inode that nothing refers to any more."""
        if self.allocated:
            sb.blocks.uncharge(self.allocated)

    def drop(self) -> None:
        """Free what is held outside of the model; the last call."""


class RegularFile(Inode):
    """A file with pages; seen as shared memory, a segment. `NativeFile` is that of the native store."""

    __slots__ = ("_size", "attributes_cached", "door", "holes_cached", "opens", "pages", "writers")

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now: int, pages: Pages) -> None:
        super().__init__(ino, mode, uid, gid, now)
        self.pages = pages
        self._size = 0
        self.opens = 0
        """Descriptions that are open or mapped."""
        self.writers = 0
        """Those of them that may write."""
        self.holes_cached = False
        """The kernel may hold zero pages for holes that were not charged."""
        self.attributes_cached = False
        """The kernel may hold attributes for good."""
        self.door: Door | None = None
        """None for what was opened by its name."""

    def path(self) -> str:
        """Path from the mount's root, or what it is shown as if it came by another door."""
        return super().path() if self.door is None else self.door.path

    @property
    def size(self) -> int:
        """i_size in bytes."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size

    @property
    def allocated(self) -> int:
        """Pages charged; st_blocks is eight times that."""
        return self.pages.allocated

    def can_cache_attributes(self) -> bool:
        """Always: what faults and write-back change is changed by requests, which see `attributes_cached`."""
        self.attributes_cached = True
        return True

    def open(self, flags: int) -> bool:
        """Count an open; returns whether the kernel may keep the pages that it has.

        It may not where it holds zero pages for holes that were never charged and the file is now opened for
        writing: a store into such a page could not be refused any more.
        """
        self.opens += 1
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return True
        self.writers += 1
        keep, self.holes_cached = not self.holes_cached, False
        return keep

    def release(self, flags: int) -> None:
        """Count the end of an open: the last descriptor and the last mapping of it are gone."""
        self.opens -= 1
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.writers -= 1

    def may_be_mapped(self) -> bool:
        """Whether a process may have it mapped, if the kernel knows it: a mapping keeps the file open."""
        return self.opens > 0

    def emit_usage(self, instruments: Instruments) -> None:
        """Emit what the kernel changed without a request: nothing."""

    def uncharge(self, sb: "Superblock") -> None:
        """Free the pages."""
        self.pages.truncate(0)

    def shrink(self, size: int) -> Outcome[None]:
        """Free the pages behind `size`."""
        self.pages.truncate(size)
        return None

    def reserve(self, sb: "Superblock", first: int, end: int, rollback: Callable[[], None]) -> Outcome[None]:
        """Charge the pages from `first` up to `end`; raises ENOSPC."""
        self.pages.get_pages(first, end, Intent.FALLOC)
        if sb.options.reserve == "prefault":
            return Deferred(sb.store.populate(self.pages.runs(first, end)), lambda: None, rollback)
        return None

    def fallocate(self, sb: "Superblock", mode: int, offset: int, length: int) -> Outcome[None]:
        """Allocate or punch, with arguments that were checked; raises ENOSPC."""
        first, end = offset >> PAGE_SHIFT, pages_up_to(offset + length)
        strict = sb.options.reserve != "lazy"
        if mode & FALLOC_FL_PUNCH_HOLE:
            self.pages.punch(offset, length)
            if strict:  # what was promised stays promised
                self.pages.get_pages(first, min(end, pages_up_to(self.size)), Intent.FALLOC)
        else:
            grows = not mode & FALLOC_FL_KEEP_SIZE and offset + length > self.size
            if strict and grows:
                first = min(first, self.size >> PAGE_SHIFT)
            if sb.blocks.limit and end - first > sb.blocks.limit:
                sb.store.refused(self.ino, first, end - first)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sb.check_machine(end - first)
            self.pages.get_pages(first, end, Intent.FALLOC)
            if grows:
                self.size = offset + length
        self.touch(sb.clock())
        return None


def is_fixed(inode: Inode) -> bool:
    """Whether size, owner and permissions are not for the file system's requests to change."""
    return isinstance(inode, RegularFile) and inode.door is not None and inode.door.fixed


class Symlink(Inode):
    """A symbolic link; a target of more than 127 bytes costs a page."""

    __slots__ = ("target",)

    SHORT_TARGET = 127
    """Longest target kept with the inode (SHORT_SYMLINK_LEN less its NUL)."""

    def __init__(self, ino: int, uid: int, gid: int, now: int, target: bytes) -> None:
        super().__init__(ino, stat.S_IFLNK | 0o777, uid, gid, now)
        self.target = target

    @property
    def size(self) -> int:
        """Length of the target in bytes."""
        return len(self.target)

    @property
    def allocated(self) -> int:
        """Pages charged for a long target."""
        return 1 if len(self.target) > self.SHORT_TARGET else 0
