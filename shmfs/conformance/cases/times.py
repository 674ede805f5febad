"""Times of files: which operation changes which. No case depends on how long anything takes."""

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    FIXED,
    PAGE,
    PRIVATE,
    READ,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    SHARED,
    Mapping,
    aged,
    call,
    changed,
    changes,
    child,
    content,
    new,
    renameat2,
    times,
    tried,
    unprivileged,
)


@case()
def of_new_files(d: Path) -> Any:
    seen = {}
    before = aged(".")
    makers: dict[str, Callable[[], Any]] = {
        "file": lambda: os.close(new("file")),
        "directory": lambda: os.mkdir("directory"),
        "symlink": lambda: os.symlink("x", "symlink"),
        "fifo": lambda: os.mkfifo("fifo"),
    }
    for name, make in makers.items():
        make()
        stamps = set(times(name, follow=False))
        later = min(stamps) > before[2]
        seen[name] = [len(stamps), later, changed(before, ".")]
        before = aged(".")
    return seen


@case()
def of_directories(d: Path) -> Any:
    os.mkdir("a"), os.mkdir("b")
    for name in ("a/f", "a/g", "b/v"):
        os.close(new(name))
    return {
        "create": changes(lambda: os.close(new("a/new")), directory="a", sibling="a/f", parent="."),
        "mkdir": changes(lambda: os.mkdir("a/d"), directory="a", parent="."),
        "rmdir": changes(lambda: os.rmdir("a/d"), directory="a", parent="."),
        "symlink": changes(lambda: os.symlink("x", "a/s"), directory="a"),
        "mknod": changes(lambda: os.mkfifo("a/p"), directory="a"),
        "link": changes(lambda: os.link("a/f", "b/f"), target="a/f", old="a", new="b"),
        "unlink": changes(lambda: os.unlink("b/f"), target="a/f", directory="b"),
        "rename": changes(lambda: os.rename("a/f", "a/h"), moved="a", parent="."),
        "failed create": changes(lambda: new("a/g"), directory="a", file="a/g"),
        "open existing": changes(lambda: os.close(os.open("a/g", os.O_CREAT | os.O_RDWR)), a="a", file="a/g"),
        "failed rmdir": changes(lambda: os.rmdir("a"), directory="a"),
        "failed unlink": changes(lambda: os.unlink("a/none"), directory="a"),
    }


@case()
def of_renames(d: Path) -> Any:
    os.mkdir("a"), os.mkdir("b")
    seen: dict[Any, Any] = {}
    for name, flags, victim in (
        ("plain", 0, False),
        ("over", 0, True),
        ("noreplace", RENAME_NOREPLACE, False),
        ("refused", RENAME_NOREPLACE, True),
        ("exchange", RENAME_EXCHANGE, True),
        ("whiteout", RENAME_WHITEOUT, False),
        ("whiteout over", RENAME_WHITEOUT, True),
    ):
        moved = new(f"a/{name}")
        other = new(f"b/{name}") if victim else new(f"b/{name} other")
        befores = {
            key: aged(path) for key, path in (("a", "a"), ("b", "b"), ("moved", moved), ("other", other))
        }
        answer = tried(renameat2, f"a/{name}", f"b/{name}", flags)
        paths = {"a": "a", "b": "b", "moved": moved, "other": other}
        seen[name] = [answer, {key: changed(befores[key], paths[key]) for key in paths}]
    os.mkdir("a/dir")
    os.link("b/plain", "b/same")
    seen["directory"] = changes(lambda: os.rename("a/dir", "b/dir"), a="a", b="b")
    seen["same inode"] = changes(lambda: os.rename("b/plain", "b/same"), b="b", file="b/plain")
    return seen


@case()
def of_content(d: Path) -> Any:
    fd = new("f", b"x" * 2 * PAGE)
    os.close(new("empty"))
    return {
        "write": changes(lambda: os.pwrite(fd, b"y", 0), f="f", directory="."),
        "write growing": changes(lambda: os.pwrite(fd, b"y", 5 * PAGE), f="f"),
        "write nothing": changes(lambda: os.pwrite(fd, b"", 0), f="f"),
        "copy_file_range": changes(
            lambda: os.copy_file_range(fd, os.open("empty", os.O_RDWR), 9, 0), e="empty"
        ),
        "fsync": changes(lambda: os.fsync(fd), f="f"),
        "open": changes(lambda: os.close(os.open("f", os.O_RDWR)), f="f"),
        "stat": changes(lambda: os.stat("f"), f="f"),
        "access": changes(lambda: os.access("f", os.W_OK), f="f"),
    }


@case()
def of_reads(d: Path) -> Any:
    fd = new("f", b"x" * 2 * PAGE)
    os.close(new("empty"))
    os.symlink("f", "s"), os.mkdir("d"), os.close(new("d/x"))
    os.close(fd)
    return {
        "read": changes(lambda: content("f"), f="f"),
        "read again": changes(lambda: content("f"), f="f"),
        "of an empty file": changes(lambda: content("empty"), f="empty"),
        "readlink": changes(lambda: os.readlink("s"), s="s", f="f"),
        "readdir": changes(lambda: os.listdir("d"), d="d"),
        "readdir again": changes(lambda: os.listdir("d"), d="d"),
        "through a link": changes(lambda: os.stat("s"), s="s"),
        "noatime": changes(lambda: os.read(os.open("f", os.O_RDONLY | os.O_NOATIME), 10), f="f"),
        "exec": changes(lambda: os.access("f", os.X_OK), f="f"),
    }


@case()
def of_mappings(d: Path) -> Any:
    fd = new("f", b"x" * 4 * PAGE)
    shared, private = Mapping(fd, 4 * PAGE), Mapping(fd, 4 * PAGE, READ | 2, PRIVATE)
    return {
        "map": changes(lambda: Mapping(fd), f="f"),
        "load": changes(lambda: shared.load(0), f="f")["f"].replace("a", ""),
        "private store": changes(lambda: private.store(b"y", PAGE), f="f")["f"].replace("a", ""),
        "store": changes(lambda: shared.store(b"y", 2 * PAGE), f="f")["f"].replace("a", ""),
        "store after load": changes(lambda: shared.store(b"y", 0), f="f")["f"].replace("a", ""),
    }


@case()
def of_first_stores(d: Path) -> Any:
    os.ftruncate(new("f"), 64 * PAGE)
    seen = {}
    for name, page, protection in (("hole", 0, 3), ("another hole", 40, 3), ("write only", 50, 2)):
        mapping = Mapping(os.open("f", os.O_RDWR), 64 * PAGE, protection)
        seen[name] = changes(partial(mapping.store, b"x", page * PAGE), f="f")["f"].replace("a", "")
    before = aged("f")
    child(lambda: Mapping(os.open("f", os.O_RDWR), 64 * PAGE).store(b"y", 20 * PAGE))
    seen["by another, who has ended"] = changed(before, "f").replace("a", "")
    mapping = Mapping(os.open("f", os.O_RDWR), 64 * PAGE)
    mapping.load(30 * PAGE)
    seen["after a load"] = changes(lambda: mapping.store(b"x", 30 * PAGE), f="f")["f"].replace("a", "")
    seen["msync"] = changes(lambda: mapping.sync(4), f="f")["f"].replace("a", "")
    return seen


@case()
def of_adjacent_mappings(d: Path) -> Any:
    fd = new("f")
    place = Mapping(new("other"), 4 * PAGE, 0).address
    Mapping(fd, PAGE, READ, SHARED | FIXED, PAGE, place + 2 * PAGE)
    return changes(lambda: Mapping(fd, PAGE, READ, SHARED | FIXED, 0, place + PAGE), f="f")


@case()
def of_attributes(d: Path) -> Any:
    fd = new("f", b"x")
    os.symlink("f", "s"), os.mkdir("d")
    return {
        "chmod": changes(lambda: os.chmod("f", 0o600), f="f"),
        "chmod same": changes(lambda: os.chmod("f", 0o600), f="f"),
        "chown": changes(lambda: os.chown("f", 5, 6), f="f"),
        "chown to nobody": changes(lambda: os.chown("f", -1, -1), f="f"),
        "lchown": changes(lambda: os.lchown("s", 5, 6), s="s", f="f"),
        "utime": changes(lambda: os.utime("f"), f="f"),
        "utime of a descriptor": changes(lambda: os.utime(fd, ns=(5, 6)), f="f"),
        "setxattr": changes(lambda: os.setxattr("f", "user.a", b"1"), f="f"),
        "setxattr same": changes(lambda: os.setxattr("f", "user.a", b"1"), f="f"),
        "getxattr": changes(lambda: os.getxattr("f", "user.a"), f="f"),
        "removexattr": changes(lambda: os.removexattr("f", "user.a"), f="f"),
        "removexattr again": changes(lambda: os.removexattr("f", "user.a"), f="f"),
        "chmod directory": changes(lambda: os.chmod("d", 0o700), d="d", parent="."),
    }


@case()
def are_set(d: Path) -> Any:
    os.close(new("f"))
    os.symlink("f", "s")
    seen: list[Any] = []
    for atime, mtime in ((0, 0), (1, 999_999_999), (-1, -(10**9)), (2**31 * 10**9, 2**33 * 10**9), (5, 6)):
        os.utime("f", ns=(atime, mtime))
        seen.append(times("f")[:2])
    os.utime("s", ns=(7, 8), follow_symlinks=False)
    seen += [times("s", follow=False)[:2], times("f")[:2]]
    omit, now = (1 << 30) - 2, (1 << 30) - 1

    for first, second in ((omit, 42), (43, omit), (omit, omit), (now, omit), (10**9, 1)):
        spec = struct.pack("qqqq", 77, first, 78, second)
        before = times("f")
        seen.append([tried(call, "utimensat", -100, "f", spec, 0), changed(before, "f")])
        os.utime("f", ns=(5, 6))
    return seen


@case()
def never_go_back(d: Path) -> Any:
    """A later operation never stores an earlier time, whichever clock it reads."""
    back = {}
    for name, action in (
        ("touch", lambda: os.utime("f")),
        ("write", lambda: os.pwrite(os.open("f", os.O_RDWR), b"x", 0)),
        ("touch after write", lambda: os.utime("f")),
    ):
        count = 0
        for step in range(50):
            path = f"{name}{step}"
            os.close(new(path))
            os.rename(path, "f")
            if name == "touch after write":
                os.pwrite(os.open("f", os.O_RDWR), b"x", 0)
            before = times("f")
            action()
            count += times("f")[1] < before[1] or times("f")[2] < before[2]
        back[name] = "never" if not count else "sometimes"
    return back


@case()
def permission_to_set(d: Path) -> Any:
    os.close(new("f", b"x", 0o666))
    os.close(new("g", b"x", 0o644))
    return {
        "now, by who may write": unprivileged(os.utime, "f"),
        "now, by who may not": unprivileged(os.utime, "g"),
        "a time, by another": unprivileged(lambda: os.utime("f", (1, 2))),
    }


def _reads(path: str, atime_after: int) -> str:
    """Whether a read changes an atime that lies so many seconds after mtime and ctime."""
    now = os.stat(path).st_ctime_ns
    os.utime(path, ns=(now + atime_after * 10**9, 10**18))
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # what FUSE has cached it reads without a word
    before = times(path)
    os.read(fd, 100)
    return changed(before, path)


def _policies(d: Path) -> Any:
    os.close(new("f", b"x" * 100))
    seen: dict[Any, Any] = {
        "older": _reads("f", -(10**6)),
        "newer": _reads("f", 1000),
        "much older": _reads("f", -(10**8)),
    }
    os.mkdir("d"), os.close(new("d/x"))
    seen["directory"] = changes(lambda: os.listdir("d"), d="d")
    os.symlink("f", "s")
    seen["link"] = changes(lambda: os.readlink("s"), s="s")
    return seen


@case(options="size=1m,relatime")
def relatime(d: Path) -> Any:
    return _policies(d)


@case(options="size=1m,noatime")
def noatime(d: Path) -> Any:
    return _policies(d)


@case(options="size=1m,strictatime")
def strictatime(d: Path) -> Any:
    return _policies(d)


@case(options="size=1m,nodiratime")
def nodiratime(d: Path) -> Any:
    return _policies(d)
