"""READ of managed pages: what fills the kernel's page cache is charged, and what does not fit is refused."""

import errno
from typing import NamedTuple

from shmfs.fs import attributes, file
from shmfs.fs.inode import RegularFile
from shmfs.fs.superblock import Credentials, Superblock, error
from shmfs.fuse.populate import PopulateEnd
from shmfs.fuse.refused_reads import RefusedReads
from shmfs.mm import PAGE_SHIFT
from shmfs.system.waiting import POPULATING, blocked_in


class Reader(NamedTuple):
    """Who waits for a READ, as far as the protocol's caller knows."""

    tid: int
    """The thread; 0 if unknown."""
    called: bool
    """A read(2) with direct I/O, whose result the kernel returns to the program."""
    direct: bool
    """Perhaps such a call."""


UNKNOWN = Reader(0, called=False, direct=False)
REWRITE = 3
"""Access mode in the handle of an open by which pages are rewritten: no user's, so no event and no attach."""


class Reads:
    """The READs of one mount's managed files. Called by the thread that serves requests only."""

    def __init__(self, superblock: Superblock) -> None:
        self._superblock = superblock
        self._refusals = RefusedReads(superblock.options.readahead)
        self.populate_end: PopulateEnd | None = None
        """Repairs the file of a populate that was ended; None: populates are not ended."""

    def read(self, inode: RegularFile, offset: int, size: int, reader: Reader) -> bytes:
        """The bytes, none to end a populate; raises ENOSPC, or EIO for pages that nobody has touched.

        A READ of the page cache that is larger than the configured read-ahead is refused where it would
        charge pages, without a report: MADV_HUGEPAGE makes the kernel read 1 MiB around a touched page. It
        then asks for that page alone (case populate.madv_hugepage_charges_what_is_touched).
        """
        speculative = not reader.direct and self._refusals.is_speculative(reader.tid, inode.ino, offset, size)
        if speculative and self._refusals.exceeds_window(size) and file.charges(inode, offset, size):
            raise error(errno.EIO)
        try:
            data = file.read(self._superblock, inode, offset, size)
        except OSError:
            if speculative or not self._refused(inode, offset, size, reader):
                raise
            return b""
        self._refusals.served(reader.tid)
        attributes.accessed(self._superblock, inode)
        return data

    def _refused(self, inode: RegularFile, offset: int, size: int, reader: Reader) -> bool:
        """Report a READ for which there was no room; returns whether to answer it with no bytes.

        A populate repeats its READ and is reported once. Each fault and each call is reported.
        """
        page = offset >> PAGE_SHIFT
        repeated = self._refusals.is_repeated(reader.tid, inode.ino, page)
        caller = self._superblock.instruments.caller
        if not repeated or (caller and blocked_in(caller) not in POPULATING):
            self._superblock.store.refused(inode.ino, page, file.charges(inode, offset, size))
        if not repeated:
            return False
        if reader.direct or self.populate_end is None or not self._refusals.populates(reader.tid):
            return False
        # The kernel's attributes become invalid now. Until the end they must not be made so again.
        inode.attributes_cached = False
        return self.populate_end.refused(reader.tid, inode.ino, page)

    def rewrites(self, cred: Credentials) -> bool:
        """Whether a caller is the process that rewrites pages after a repair."""
        return self.populate_end is not None and cred.pid != 0 and cred.pid == self.populate_end.rewriter.pid

    def is_rewrite(self, inode: RegularFile, offset: int, data: bytes | memoryview) -> bool:
        """Whether a WRITE of pages that are written again brings only what is stored: no times change."""
        ends = self.populate_end
        if ends is None or ends.rewritten != inode.ino:
            return False
        return inode.pages.read(offset, len(data)) == data
