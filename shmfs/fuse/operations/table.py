"""What the operations of every subject share: the superblock, the System V registry, calls to the kernel."""

from collections.abc import Callable

from shmfs.fs.inode import Inode
from shmfs.fs.superblock import Superblock
from shmfs.fuse.reads import Reads
from shmfs.ipc.sysv import Registry


class Table:
    """State of the table, and what replies are made of."""

    def __init__(self, superblock: Superblock) -> None:
        self.superblock = superblock
        self.ipc = Registry(superblock)
        self.handle_killpriv = False
        """Whether the kernel leaves clearing set-id bits at a write to us (FUSE_HANDLE_KILLPRIV)."""
        self.trace_io = 0
        """How many want read(2) and write(2) of native files reported; files opened meanwhile send them."""
        self.pages_cached: Callable[[int, int, int], None] = lambda ino, offset, length: None
        """Called with the bytes of a native file that the kernel will cache, and not keep up to date."""
        self.cache_again: Callable[[int, list[tuple[int, bytes]]], None] = lambda ino, pages: None
        """Called, in a thread, with what the kernel is to cache of a managed file: offsets and data."""
        self.attributes_changed: Callable[[int], None] = lambda ino: None
        """Called with an inode whose attributes changed although the kernel was told it may keep them."""
        self.reads = Reads(superblock)

    def _entry(self, inode: Inode) -> Inode:
        inode.nlookup += 1
        return inode
