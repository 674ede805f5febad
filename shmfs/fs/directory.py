"""Directories. Compare fs/libfs.c: simple_offset_add and offset_readdir."""

import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from shmfs.fs.inode import Inode

DIRENT_SIZE = 20
"""Bytes that a name adds to the size of its directory (BOGO_DIRENT_SIZE)."""
_DOT, _DOTDOT, _FIRST = 1, 2, 3


class Dentry(NamedTuple):
    """A name, what it names, and its cookie for readdir."""

    name: bytes
    inode: Inode
    cookie: int


class Directory(Inode):
    """Names in a hash, and in the order of their cookies for readdir.

    A name gets the next cookie, and readdir goes from the newest down, so a cookie stays a valid place to
    resume from whatever comes and goes, and a growing directory ends.
    """

    __slots__ = ("_by_cookie", "_cookies", "_entries", "_next", "hidden")

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now: int, parent: "Directory | None") -> None:
        super().__init__(ino, stat.S_IFDIR | mode, uid, gid, now)
        self.parent = parent or self
        self.nlink = 2
        self._entries: dict[bytes, Dentry] = {}
        self._by_cookie: dict[int, Dentry] = {}
        self._cookies = array("Q")  # ascending, with those of removed names until `_compact`
        self._next = _FIRST
        self.hidden: dict[bytes, Inode] | None = None
        """Names that are found, but not listed and not counted."""

    @property
    def size(self) -> int:
        """Bytes as tmpfs shows them: 40 and 20 a name."""
        return DIRENT_SIZE * (2 + len(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Dentry]:
        return iter(list(self._entries.values()))

    def get(self, name: bytes) -> Inode | None:
        """What `name` names here, or None."""
        dentry = self._entries.get(name)
        if dentry:
            return dentry.inode
        return self.hidden.get(name) if self.hidden else None

    def hide(self, name: bytes, inode: Inode) -> None:
        """Enter a name that is found only by who knows it, and that nobody can take away."""
        if self.hidden is None:
            self.hidden = {}
        self.hidden[name] = inode
        inode.parent, inode.name = self, name

    def add(self, name: bytes, inode: Inode) -> None:
        """Enter a name, or give an existing one another inode in its place."""
        old = self._entries.get(name)
        if old is None:
            cookie, self._next = self._next, self._next + 1
            self._cookies.append(cookie)
        else:
            cookie = old.cookie
        self._entries[name] = self._by_cookie[cookie] = Dentry(name, inode, cookie)
        inode.parent, inode.name = self, name

    def remove(self, name: bytes) -> None:
        """Take a name out; raises KeyError."""
        dentry = self._entries.pop(name)
        del self._by_cookie[dentry.cookie]
        if len(self._cookies) > 64 and len(self._cookies) > 2 * len(self._entries):
            self._cookies = array("Q", sorted(self._by_cookie))

    def read(self, cookie: int) -> Iterator[Dentry]:
        """Entries behind `cookie` (0 for the start), `.` and `..` first."""
        if cookie < _DOT:
            yield Dentry(b".", self, _DOT)
        if cookie < _DOTDOT:
            yield Dentry(b"..", self.parent or self, _DOTDOT)
        cookies = self._cookies
        position = bisect_left(cookies, cookie) if cookie >= _FIRST else len(cookies)
        for slot in range(position - 1, -1, -1):
            dentry = self._by_cookie.get(cookies[slot])
            if dentry:
                yield dentry
