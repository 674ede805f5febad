"""How inodes, segments and processes are called."""

import stat
from collections import Counter
from collections.abc import Sequence
from typing import Protocol


def printable(name: str) -> str:
    r"""Return `name` as valid Unicode: bytes that are not UTF-8 (surrogateescape) become `\xNN`."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Person(Protocol):
    """A process, in whatever record."""

    @property
    def pid(self) -> int:
        """Its id."""

    @property
    def command(self) -> str:
        """Its name; "" is not known."""


def process_name(process: Person) -> str:
    """Return "python3 12"; "pid 12" where the command is not known."""
    return f"{process.command or 'pid'} {process.pid}"


def people(processes: Sequence[Person], most: int = 1) -> str:
    """Return up to `most` processes by name, more of them by command: "worker ×2, python3"."""  # noqa: RUF002
    if len(processes) <= most:
        return ", ".join(map(process_name, processes))
    counts = Counter(one.command or "?" for one in processes).most_common()
    return ", ".join(f"{command} ×{count}" if count > 1 else command for command, count in counts)  # noqa: RUF001


def segment_name(path: str, number: str, kind: str = "posix") -> str:
    """Return the path, with `number` ("inode 7") where several segments have it; "(inode 7, no name)"."""
    return (f"{path} ({number})" if kind == "anon" else path) if path else f"({number}, no name)"


def some(names: Sequence[str], most: int, more: int = 0) -> str:
    """Return the first names and the number of the others: "a, b and 2 more"; `more` are not in `names`."""
    more += len(names[most:])
    return ", ".join(names[:most]) + (f" and {more} more" if more else "")


class Names:
    """inode → path, kept by the hooks create, open, link, unlink, rename and evict."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._links: dict[int, list[str]] = {}
        """All names of inodes that ever had more than one."""
        self._directories: set[int] = set()

    def get(self, inode: int) -> str:
        """Return the newest name that still exists, or the last one that did; "" is unknown."""
        return self._paths.get(inode, "")

    def create(self, inode: int, path: str, mode: int) -> None:
        """Learn a new inode."""
        self._paths[inode] = path
        if stat.S_ISDIR(mode):
            self._directories.add(inode)

    def open(self, inode: int, path: str) -> None:
        """Learn an inode that was there before the hooks were."""
        if inode not in self._paths:
            self._paths[inode] = path

    def link(self, inode: int, path: str) -> None:
        """Add a name."""
        old = self._paths.get(inode)
        if old:
            self._links.setdefault(inode, [old]).append(path)
        self._paths[inode] = path

    def unlink(self, inode: int, path: str, nlink: int) -> None:
        """Remove a name; the last one is remembered until the inode goes."""
        self._directories.discard(inode)
        links = self._links.get(inode)
        if links is not None and nlink > 0 and path in links:
            links.remove(path)
            if links:
                self._paths[inode] = links[-1]

    def rename(self, inode: int, old_path: str, path: str) -> None:
        """Move a name, and those below if it is a directory's."""
        if inode in self._directories:
            self._move_directory(inode, old_path, path)
        self._paths[inode] = path
        links = self._links.get(inode)
        if links is not None and old_path in links:
            links[links.index(old_path)] = path

    def evict(self, inode: int) -> None:
        """Forget the inode."""
        self._paths.pop(inode, None)
        self._links.pop(inode, None)
        self._directories.discard(inode)

    def _move_directory(self, inode: int, old: str, new: str) -> None:
        if self._paths.get(inode) == new:
            return  # the second half of an exchange, which moved both directories
        # RENAME_EXCHANGE comes as two renames. The children of both must move at the first one: at the
        # second they could not be told apart. A directory that was replaced was empty, so nothing else moves.
        swap = any(self._paths.get(other) == new for other in self._directories)
        prefixes = [(old + "/", new + "/")] + ([(new + "/", old + "/")] if swap else [])
        for other in list(self._paths):
            self._paths[other] = _moved(self._paths[other], prefixes)
        for links in self._links.values():
            links[:] = [_moved(path, prefixes) for path in links]
        if swap:
            for other in self._directories:
                if self._paths.get(other) == new:
                    self._paths[other] = old


def _moved(path: str, prefixes: list[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if path.startswith(old):
            return new + path[len(old) :]
    return path
