"""Programs from a seed: calls that are likely to mean something, on files and sizes that meet each other."""

import os
import re
import stat
from collections.abc import Callable
from random import Random
from typing import Any

from tests.differential.acls import LISTS
from tests.differential.program import ACTORS, Program, Step

PAGE = 4096
OPTIONS = (
    "size=64k,nr_inodes=24",
    "size=256k,nr_inodes=64",
    "size=1m,nr_inodes=64",
    "size=16m,nr_inodes=1k",
)
"""Small, so that they are full often; the last leaves room."""
PATHS = ("a", "b", "c", "p", "q", "p/a", "p/b", "p/q", "p/q/a", "q/a", "q/p", "q/b")
ODD_PATHS = ("p/.", "p/q/..", "a/", "p/", "n" * 255, "n" * 256, "p/" + "m" * 255, "missing/a", "a/a", ".", "")
TARGETS = ("a", "b", "p/a", "p", "q/", "missing", "q/p/a", "l")
XATTRS = ("user.a", "user.b", "trusted.a", "trusted.b", "security.x", "user.", "odd.a", "user." + "n" * 250)
ACLS = ("system.posix_acl_access", "system.posix_acl_default")
HUGE = (1 << 31, 1 << 32, 1 << 40, 1 << 44, 1 << 62)
LAST = (1 << 63) - 1
"""As a size only: in the last page of all, the kernel's SEEK_DATA overflows and finds no data."""
O_TMPFILE, O_PATH = os.O_TMPFILE, os.O_PATH
MADV_DONTNEED, MADV_REMOVE, MADV_WILLNEED, MADV_RANDOM = 4, 9, 3, 1
POPULATE = 0x8000
SLOTS, MAPPINGS = 5, 3

GROUPS: dict[str, dict[str, int]] = {
    "files": {"open": 22, "tmpfile": 3, "reopen": 3, "close": 9, "dup": 2, "fstat": 8, "check": 2, "exit": 1},
    "data": {
        "pwrite": 14,
        "write": 6,
        "pwritev": 2,
        "read": 4,
        "pread": 8,
        "preadv": 2,
        "lseek": 8,
        "ftruncate": 9,
        "truncate": 3,
        "fallocate": 12,
        "copy_file_range": 6,
        "sendfile": 4,
        "splice_out": 2,
        "splice_in": 2,
        "fsync": 1,
        "fadvise": 2,
    },
    "memory": {
        "mmap": 16,
        "munmap": 4,
        "load": 12,
        "store": 20,
        "touch": 5,
        "fork_store": 2,
        "pread_into": 4,
        "pwrite_from": 4,
        "msync": 4,
        "mprotect": 3,
        "madvise": 8,
        "mremap": 4,
    },
    "names": {
        "mkdir": 8,
        "rmdir": 4,
        "unlink": 8,
        "link": 6,
        "flink": 3,
        "symlink": 5,
        "readlink": 2,
        "rename": 14,
        "mknod": 4,
        "lstat": 4,
        "stat": 5,
        "listdir": 4,
        "statvfs": 1,
    },
    "attributes": {
        "chmod": 6,
        "fchmod": 3,
        "lchown": 4,
        "fchown": 2,
        "utimens": 5,
        "futimens": 3,
        "access": 3,
        "setxattr": 8,
        "fsetxattr": 3,
        "setacl": 4,
        "getxattr": 3,
        "fgetxattr": 2,
        "listxattr": 3,
        "removexattr": 4,
        "flock": 5,
        "lockf": 5,
        "setfl": 2,
    },
}
"""Weights of the operations, in groups that a program is made of in various shares."""


def generate(seed: int, number: int) -> Program:
    """Program `number` of a seed; always the same."""
    rng = Random(f"{seed}:{number}")
    return _Generator(rng, rng.choice(OPTIONS)).program()


class _Generator:
    def __init__(self, rng: Random, options: str) -> None:
        self.rng = rng
        self.options = options
        size = re.fullmatch(r"size=(\d+)([km]),.*", options)
        assert size
        self.limit = int(size[1]) * (1024 if size[2] == "k" else 1 << 20) // PAGE
        self.open: list[set[int]] = [set() for _ in ACTORS]
        self.mapped: list[dict[int, int]] = [{} for _ in ACTORS]
        self.paths = rng.sample(PATHS, rng.choice((2, 4, len(PATHS))))
        self.actor = 0

    def program(self) -> Program:
        """A whole program."""
        rng = self.rng
        weights: dict[str, float] = {}
        for group in GROUPS.values():
            share = rng.choice((0.05, 0.3, 1, 3))
            weights |= {name: weight * share for name, weight in group.items()}
        for name in rng.sample(sorted(weights), len(weights) // 5):  # fewer kinds meet each other more often
            weights[name] = 0
        weights["open"] = weights["open"] or 4
        names, shares = list(weights), list(weights.values())
        actors = rng.choice(((0,), (0, 1), (0, 1, 2), (0, 0, 0, 2)))
        steps = []
        for _ in range(rng.choice((15, 30, 60, 120))):
            if rng.random() < 0.5:
                self.actor = rng.choice(actors)
            name = rng.choices(names, shares)[0]
            if name in NEED_FILE and not self.open[self.actor]:
                name = "open"
            elif name in NEED_MAPPING and not self.mapped[self.actor]:
                name = "mmap" if self.open[self.actor] else "open"
            made = MAKERS[name](self)
            if name == "tmpfile":
                name = "open"
            steps.append(Step(self.actor, name, made))
        return Program(self.options, tuple(steps))

    # ---- arguments

    def path(self) -> str:
        """One of a few names, rarely an odd one."""
        return self.rng.choice(ODD_PATHS) if self.rng.random() < 0.03 else self.rng.choice(self.paths)

    def slot(self) -> int:
        """A descriptor, mostly one that was opened."""
        taken = self.open[self.actor]
        if taken and self.rng.random() < 0.97:
            return self.rng.choice(sorted(taken))
        return self.rng.randrange(SLOTS)

    def new_slot(self) -> int:
        slot = self.rng.randrange(SLOTS)
        self.open[self.actor].add(slot)
        return slot

    def mapping(self) -> int:
        taken = self.mapped[self.actor]
        return self.rng.choice(sorted(taken)) if taken else self.rng.randrange(MAPPINGS)

    def pages(self) -> int:
        """A number of pages: few, sometimes as many as fit."""
        rng = self.rng
        return rng.choice(
            (rng.randrange(4), rng.randrange(4), rng.randrange(20), self.limit + rng.randint(-2, 2))
        )

    def offset(self) -> int:
        """A place in a file, near a page's boundary more often than not, rarely far out."""
        rng = self.rng
        if rng.random() < 0.03:
            if rng.random() < 0.2:
                return LAST
            return rng.choice(HUGE) - rng.choice((0, 1, PAGE, 3 * PAGE)) * (rng.random() < 0.5)
        if rng.random() < 0.01:
            return -1
        return max(0, self.pages() * PAGE + rng.choice((0, 0, 0, -1, 1, 7, rng.randrange(PAGE))))

    def size(self) -> int:
        """A number of bytes, at most somewhat more than fit into the smaller file systems."""
        rng = self.rng
        pages = rng.choice((0, 0, 1, rng.randrange(4), rng.randrange(20), min(self.limit + 1, 80)))
        return max(0, pages * PAGE + rng.choice((0, 0, 1, -1, rng.randrange(PAGE), rng.randrange(PAGE))))

    def sizes(self) -> tuple[int, ...]:
        return tuple(self.size() for _ in range(self.rng.randint(1, 3)))

    def tag(self) -> int:
        return self.rng.randrange(1000)

    def mode(self) -> int:
        rng = self.rng
        return rng.choice(
            (0o644, 0o666, 0o600, 0o777, 0o755, 0o444, 0o2755, 0o4755, 0o1777, rng.randrange(0o10000))
        )

    def user(self) -> int:
        return self.rng.choice((-1, 0, 1000, 1001))

    def time(self) -> int:
        return self.rng.choice((0, 1, 500_000_000, 999_999_999, 1 << 33))

    def flags(self) -> int:
        """Flags of an open."""
        rng = self.rng
        flags = rng.choices((os.O_RDWR, os.O_RDONLY, os.O_WRONLY), (6, 2, 1))[0]
        flags |= os.O_CREAT * (rng.random() < 0.7)
        for flag, chance in (
            (os.O_EXCL, 0.1),
            (os.O_TRUNC, 0.12),
            (os.O_APPEND, 0.08),
            (os.O_DIRECT, 0.05),
            (os.O_DIRECTORY, 0.02),
            (os.O_NOFOLLOW, 0.05),
            (O_PATH, 0.02),
            (os.O_SYNC, 0.02),
        ):
            flags |= flag * (rng.random() < chance)
        return flags

    def range_of_mapping(self, most: int = PAGE) -> tuple[int, int, int]:
        """A mapping, and a place and a size in it."""
        rng = self.rng
        slot = self.mapping()
        length = self.mapped[self.actor].get(slot, PAGE)
        offset = rng.randrange(max(1, length // PAGE)) * PAGE
        offset += rng.choice((0, 0, rng.randrange(PAGE), PAGE - 3))
        size = rng.choice((1, 8, rng.randint(1, PAGE), most))
        return slot, offset, max(0, min(size, length - offset))

    def pages_of_mapping(self) -> tuple[int, int, int]:
        """A mapping, and some whole pages of it, in bytes."""
        slot = self.mapping()
        pages = max(1, self.mapped[self.actor].get(slot, PAGE) // PAGE)
        first = self.rng.randrange(pages)
        return slot, first * PAGE, self.rng.randint(1, pages - first) * PAGE

    # ---- steps that are remembered

    def closed(self) -> tuple[Any, ...]:
        slot = self.slot()
        self.open[self.actor].discard(slot)
        return (slot,)

    def exited(self) -> tuple[Any, ...]:
        self.open[self.actor].clear()
        self.mapped[self.actor].clear()
        return ()

    def new_mapping(self) -> tuple[Any, ...]:
        rng = self.rng
        fd_slot, slot = self.slot(), rng.randrange(MAPPINGS)
        length = rng.choice((1, 1, 2, 4, rng.randint(1, 20), self.limit + 2)) * PAGE
        offset = rng.choice((0, 0, 0, rng.randrange(6), self.pages())) * PAGE
        self.mapped[self.actor][slot] = length
        protection = rng.choice((3, 3, 3, 1, 2, 0))
        flags = rng.choice((1, 1, 1, 2)) | POPULATE * (rng.random() < 0.1)
        return slot, fd_slot, offset, length, protection, flags

    def unmapped(self) -> tuple[Any, ...]:
        slot = self.mapping()
        self.mapped[self.actor].pop(slot, None)
        return (slot,)

    def remapped(self) -> tuple[Any, ...]:
        slot = self.mapping()
        length = self.rng.randint(1, 12) * PAGE
        self.mapped[self.actor][slot] = length
        return slot, length

    def maybe(self, value: int) -> int | None:
        """The value, or that the position of the descriptor counts."""
        return value if self.rng.random() < 0.7 else None


_G = _Generator
MAKERS: dict[str, Callable[[_Generator], tuple[Any, ...]]] = {
    "open": lambda g: (g.new_slot(), g.path(), g.flags(), g.mode()),
    "tmpfile": lambda g: (g.new_slot(), g.rng.choice((".", "p")), O_TMPFILE | os.O_RDWR, g.mode()),
    "reopen": lambda g: (g.new_slot(), g.slot(), g.rng.choice((0, 1, 2, 2 | os.O_TRUNC))),
    "close": _G.closed,
    "dup": lambda g: (g.new_slot(), g.slot()),
    "fstat": lambda g: (g.slot(),),
    "check": lambda g: (),
    "exit": _G.exited,
    "read": lambda g: (g.slot(), g.size()),
    "pread": lambda g: (g.slot(), g.offset(), g.size()),
    "preadv": lambda g: (g.slot(), g.offset(), g.sizes()),
    "write": lambda g: (g.slot(), g.tag(), g.size()),
    "pwrite": lambda g: (g.slot(), g.offset(), g.tag(), g.size()),
    "pwritev": lambda g: (g.slot(), g.offset(), g.tag(), g.sizes()),
    "lseek": lambda g: (g.slot(), g.offset(), g.rng.choice((0, 1, 2, 3, 4, 3, 4, 5))),
    "ftruncate": lambda g: (g.slot(), g.offset()),
    "truncate": lambda g: (g.path(), g.offset()),
    "fallocate": lambda g: (
        g.slot(),
        g.rng.choices((0, 1, 3, 2, 8, 0x10, 0x20, 0x40), (6, 6, 9, 1, 1, 1, 1, 1))[0],
        g.offset(),
        g.rng.choice((g.size(), g.pages() * PAGE, g.offset())),
    ),
    "copy_file_range": lambda g: (g.slot(), g.slot(), g.size(), g.maybe(g.offset()), g.maybe(g.offset())),
    "sendfile": lambda g: (g.slot(), g.slot(), g.maybe(g.offset()), g.size()),
    "splice_out": lambda g: (g.slot(), g.offset(), g.size()),
    "splice_in": lambda g: (g.slot(), g.offset(), g.tag(), g.size()),
    "fsync": lambda g: (g.slot(),),
    "fadvise": lambda g: (g.slot(), g.pages() * PAGE, g.pages() * PAGE),
    "mmap": _G.new_mapping,
    "munmap": _G.unmapped,
    "load": lambda g: g.range_of_mapping(),
    "store": lambda g: _tagged(g, g.range_of_mapping()),
    "touch": lambda g: (g.mapping(), g.rng.randrange(3), g.rng.randint(1, 6)),
    "fork_store": lambda g: _tagged(g, g.range_of_mapping(16)),
    "pread_into": lambda g: (g.slot(), g.offset(), *g.range_of_mapping(3 * PAGE)),
    "pwrite_from": lambda g: (g.slot(), g.offset(), *g.range_of_mapping(3 * PAGE)),
    "msync": lambda g: (g.mapping(), g.rng.choice((1, 2, 4, 6, 5))),
    "mprotect": lambda g: (*g.pages_of_mapping(), g.rng.choice((0, 1, 3, 3, 2))),
    "madvise": lambda g: (
        *g.pages_of_mapping(),
        g.rng.choice((MADV_DONTNEED, MADV_REMOVE, MADV_REMOVE, MADV_WILLNEED, MADV_RANDOM)),
    ),
    "mremap": _G.remapped,
    "mkdir": lambda g: (g.path(), g.mode()),
    "rmdir": lambda g: (g.path(),),
    "unlink": lambda g: (g.path(),),
    "link": lambda g: (g.path(), g.path()),
    "flink": lambda g: (g.slot(), g.path()),
    "symlink": lambda g: (g.rng.choice(TARGETS), g.rng.choice((0, 0, 127, 128, 4095, 4096)), g.path()),
    "readlink": lambda g: (g.path(),),
    "rename": lambda g: (g.path(), g.path(), g.rng.choice((0, 0, 0, 1, 2, 2, 4, 5, 3, 8))),
    "mknod": lambda g: (g.path(), *g.rng.choice(NODES)),
    "lstat": lambda g: (g.path(),),
    "stat": lambda g: (g.path(),),
    "listdir": lambda g: (g.rng.choice((".", g.path())),),
    "statvfs": lambda g: (),
    "chmod": lambda g: (g.path(), g.mode()),
    "fchmod": lambda g: (g.slot(), g.mode()),
    "lchown": lambda g: (g.path(), g.user(), g.user()),
    "fchown": lambda g: (g.slot(), g.user(), g.user()),
    "utimens": lambda g: (g.path(), g.time(), g.time()),
    "futimens": lambda g: (g.slot(), g.time(), g.time()),
    "access": lambda g: (g.path(), g.rng.randrange(8)),
    "setxattr": lambda g: (g.path(), *_attribute(g)),
    "fsetxattr": lambda g: (g.slot(), *_attribute(g)),
    "setacl": lambda g: (g.path(), g.rng.choice(ACLS), g.rng.choice(LISTS)),
    "getxattr": lambda g: (g.path(), g.rng.choice(XATTRS + ACLS)),
    "fgetxattr": lambda g: (g.slot(), g.rng.choice(XATTRS)),
    "listxattr": lambda g: (g.path(),),
    "removexattr": lambda g: (g.path(), g.rng.choice(XATTRS + ACLS)),
    "flock": lambda g: (g.slot(), g.rng.choice((1, 2, 8))),
    "lockf": lambda g: (g.slot(), g.rng.choice((1, 2, 8)), g.rng.randrange(4), g.rng.randrange(4)),
    "setfl": lambda g: (g.slot(), g.rng.choice((0, os.O_APPEND, os.O_DIRECT, os.O_APPEND | os.O_DIRECT))),
}
"""What makes the arguments of each operation."""

NODES: tuple[tuple[int, int], ...] = (
    (stat.S_IFREG | 0o644, 0),
    (stat.S_IFIFO | 0o600, 0),
    (stat.S_IFSOCK | 0o666, 0),
    (stat.S_IFCHR | 0o600, 0),
    (stat.S_IFCHR | 0o666, 0x103),
    (stat.S_IFDIR | 0o755, 0),
)
NEED_MAPPING = set(GROUPS["memory"]) - {"mmap"}
NEED_FILE = (set(GROUPS["data"]) - {"truncate"}) | {
    *("mmap", "reopen", "close", "dup", "fstat", "flink", "fchmod", "fchown", "futimens", "fgetxattr"),
    *("fsetxattr", "flock", "lockf", "setfl"),
}


def _tagged(g: _Generator, place: tuple[int, int, int]) -> tuple[int, int, int, int]:
    slot, offset, size = place
    return slot, offset, g.tag(), size


def _attribute(g: _Generator) -> tuple[str, int, int, int]:
    size = g.rng.choice((0, 1, 20, 500, 4000, 65536, 65537, g.rng.randrange(3000)))
    return g.rng.choice(XATTRS), g.tag(), size, g.rng.choice((0, 0, 0, 1, 2, 3))
