"""One table of plain functions, one for each FUSE request: where requests meet the file system.

The lane and pyfuse3's handlers call them in the thread that serves requests, so none may block: an operation
returns its reply or `Deferred`. Arguments are typed, errors are OSError. Inodes go by number, as in the
protocol; what answers with an entry has counted the kernel's reference (`nlookup`).

A file handle is made of the inode number and the access mode, so an open costs no memory and there is no
table of them to lose.
"""

from shmfs.fuse.operations.ipc import Ipc
from shmfs.fuse.operations.names import Names
from shmfs.fuse.operations.xattrs import Xattrs


class Operations(Names, Xattrs, Ipc):
    """The requests of one mount, on one superblock."""
