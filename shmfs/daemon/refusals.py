"""What limits refused on one mount: who asked, for how much, which limit, and who held the space then.

An observer of `refuse`. The thread that serves the mount calls it in the middle of a request, so it reads no
file of /proc that takes the caller's mmap_lock, and the cost of a snapshot of all files is bounded.
"""

import time

from shmfs.daemon.history import Full, History
from shmfs.events.records import Process, Refusal
from shmfs.fs.superblock import INODE_SIZE, Superblock
from shmfs.fuse.protocol import Opcode
from shmfs.mm import PAGE_SIZE
from shmfs.system.waiting import FAULT, POPULATING, blocked_in

MOST = 1000
"""Kinds that are kept; further ones are counted in `Statistics.refused` alone."""
_SHARE = 20
"""A snapshot is reused for this many times as long as it took, which bounds the cost to 5 % of a CPU."""

_CALLS = {
    Opcode.WRITE: "write",
    Opcode.FALLOCATE: "fallocate",
    Opcode.SETATTR: "ftruncate",
    Opcode.CREATE: "open",
    Opcode.TMPFILE: "open",
    Opcode.OPEN: "open",
    Opcode.MKNOD: "mknod",
    Opcode.MKDIR: "mkdir",
    Opcode.SYMLINK: "symlink",
    Opcode.LINK: "link",
    Opcode.RENAME2: "renameat2",
    Opcode.SETXATTR: "setxattr",
    Opcode.IOCTL: "shmget",
    Opcode.COPY_FILE_RANGE: "copy_file_range",
}
_READING = {"read", "sendfile", "splice", "copy_file_range"}

_Key = tuple[str, str, str, str, int, int, int]


class Refusals:
    """The refusals of one mount: one record for each errno, call, limit, path and process."""

    name = "refusals"
    figures = ("refusals",)

    def __init__(self, superblock: Superblock, history: History) -> None:
        self._superblock = superblock
        self._history = history
        self._records: dict[_Key, Refusal] = {}
        self._snapshot = Full()
        self._reusable_until = 0.0
        self.repeated = 0
        """Refusals that are not counted: the kernel asks twice for a page."""
        self._asked: dict[int, tuple[int, int]] = {}
        """By thread: inode and page of its newest refused READ, until the kernel repeats it."""

    def records(self) -> list[Refusal]:
        """Return all of them, in the order of the first of each kind."""
        return list(self._records.values())

    def refuse(self, inode: int, page: int, pages: int, limit: str) -> None:
        """Count a refusal; the first of its kind is recorded with its circumstances and emitted."""
        instruments = self._superblock.instruments
        process = self._history.process(instruments.caller) or Process(0, "", 0)
        call, errno = self._circumstances(inode, limit)
        if instruments.request == Opcode.READ and self._is_repeated(instruments.caller, (inode, page)):
            return
        path = self._history.path(inode) or self._path(inode)
        touched = inode if errno == "SIGBUS" else 0  # each file that was touched explains a SIGBUS
        key = errno, call, limit, path, touched, process.pid, process.start_time
        known = self._records.get(key)
        if known is not None:
            known.count += 1
            return
        if len(self._records) >= MOST:
            return
        value, asked = self._amounts(limit, pages)
        if limit == "size":
            full = self._held(inode, page + pages)
            enough = full.enough
        else:
            full, enough = self._owners(limit, value, asked)
        refusal = self._records[key] = Refusal(
            errno=errno,
            call=call,
            limit_name=limit,
            limit=value,
            asked=asked,
            pid=process.pid,
            tid=instruments.caller,
            process=process.command,
            path=path,
            inode=inode,
            page=page if limit == "size" else None,
            time=time.time_ns(),
            holders=full.holders,
            enough=enough,
            more_holders=full.more,
        )
        instruments.call("refusal", inode, path, refusal)

    def _is_repeated(self, tid: int, page: tuple[int, int]) -> bool:
        """Whether it is the second READ of a page, for one fault or call.

        One is for read-ahead, one for the page (filemap_fault, filemap_get_pages).
        """
        if self._asked.pop(tid, None) == page:
            self.repeated += 1
            return True
        if len(self._asked) >= MOST:
            self._asked.clear()
        self._asked[tid] = page
        return False

    def _path(self, inode: int) -> str:
        """The path of what the history does not follow: directories and the like."""
        known = self._superblock.inodes.get(inode)
        return known.path() if known else ""

    def _circumstances(self, inode: int, limit: str) -> tuple[str, str]:
        """The call that asked, and what it gets."""
        request, caller = self._superblock.instruments.request, self._superblock.instruments.caller
        if limit == "shmmax":
            return "shmget", "EINVAL"
        if request == Opcode.READ:
            return _page_in(blocked_in(caller))
        if request == Opcode.IOCTL:
            return "shmget", "ENOMEM" if limit == "size" else "ENOSPC"
        if self._history.kind(inode) == "anon":
            return "mmap", "ENOMEM"  # which the preloaded library makes of it
        return _CALLS.get(Opcode(request), "") if request in _OPCODES else "", "ENOSPC"

    def _amounts(self, limit: str, pages: int) -> tuple[int, int]:
        """Value of the limit, and what was asked, in the unit of the limit."""
        superblock = self._superblock
        options = superblock.options
        if limit == "nr_inodes":
            return superblock.inode_space.limit // INODE_SIZE, 1
        if limit == "shmmni":
            return options.shmmni, 1
        if limit == "size":
            return superblock.blocks.limit * PAGE_SIZE, pages * PAGE_SIZE
        return (options.shmall * PAGE_SIZE if limit == "shmall" else options.shmmax), pages * PAGE_SIZE

    def _owners(self, limit: str, value: int, asked: int) -> tuple[Full, str]:
        """Who created what counts against a limit other than `size`, and what would have been enough."""
        if limit == "shmmax":
            return Full(), str(asked)
        what = "" if limit == "nr_inodes" else "sysv"
        owners = self._history.owners(what, "file" if limit == "nr_inodes" else "segment")
        if limit == "shmall":
            return owners, str(-(-(owners.wanted + asked) // PAGE_SIZE))
        return owners, str(value + asked)

    def _held(self, inode: int, end: int) -> Full:
        """Who holds how much now; `end` is the page up to which `inode` was to grow."""
        begin = time.monotonic()
        if begin >= self._reusable_until:
            self._superblock.emit_usage()
            self._snapshot = self._history.holders(self._superblock.blocks.limit * PAGE_SIZE)
            self._reusable_until = begin + (_SHARE + 1) * (time.monotonic() - begin)
        missing = max(0, end * PAGE_SIZE - self._history.extent(inode))
        known = self._snapshot
        return Full(known.limit, known.holders, known.wanted + missing, known.more)


_OPCODES = frozenset(int(code) for code in Opcode)


def _page_in(call: str) -> tuple[str, str]:
    """The call that a thread is in whose page was refused, and what it gets.

    Where the call is not visible it is taken for a page fault, which is by far the most frequent.
    """
    if call in (FAULT, ""):
        return call, "SIGBUS"
    return call, "ENOMEM" if call in POPULATING - {"madvise"} else "ENOSPC" if call in _READING else "EFAULT"
