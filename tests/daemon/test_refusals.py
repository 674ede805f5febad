"""What limits refuse, on a model: each kind is recorded once with its circumstances, and counted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.daemon import refusals
from shmfs.daemon.history import HOLDERS, History
from shmfs.daemon.refusals import MOST, Refusals
from shmfs.events.records import Refusal
from shmfs.fs import options
from shmfs.fs.attributes import Changes
from shmfs.fs.superblock import ROOT_INO, Credentials, Superblock
from shmfs.fuse.operations import Operations
from shmfs.fuse.protocol import Opcode
from shmfs.system.waiting import FAULT
from tests.fs.support import PAGE, errno_of
from tests.ipc.support import Model

ME = os.getpid()
CRED = Credentials(os.getuid(), os.getgid(), ME)
MIB = 1 << 20


class Watched:
    """A mount without a kernel, whose refusals are recorded."""

    table: Operations

    def __init__(self, superblock: Superblock) -> None:
        self.superblock = superblock
        self.history = History()
        self.refusals = Refusals(superblock, self.history)
        self.emitted: list[Refusal] = []
        for one in (self.history, self.refusals):
            superblock.instruments.install(one, keep=True)
        superblock.instruments.install(self)

    def refusal(self, inode: int, path: str, refusal: Refusal) -> None:
        self.emitted.append(refusal)

    def ask(self, opcode: Opcode, call: Callable[..., Any], *arguments: Any, caller: int = ME) -> Any:
        """Serve a request of this thread."""
        instruments = self.superblock.instruments
        instruments.caller, instruments.request = caller, opcode
        return errno_of(call, *arguments)

    def new(self, name: bytes, size: int = 0) -> tuple[int, int]:
        inode, handle = self.table.create(ROOT_INO, name, 0o600, os.O_RDWR, CRED)
        if size:
            self.table.setattr(inode.ino, Changes(size=size), CRED)
        return inode.ino, handle

    def one(self) -> Refusal:
        """The only one."""
        assert not self.superblock.instruments.failures
        [known] = self.refusals.records()
        assert self.emitted == [known]
        return known


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(text: str = "size=64k,nr_inodes=8") -> Watched:
        made.append(Watched(Superblock(options.parse(text))))
        made[-1].table = Operations(made[-1].superblock)
        return made[-1]

    yield make
    for one in made:
        one.superblock.store.arena.close()


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the system call in which the caller is."""
    return lambda call: monkeypatch.setattr(refusals, "blocked_in", lambda tid: call)


@pytest.mark.parametrize(
    ("call", "errno"),
    [(FAULT, "SIGBUS"), ("", "SIGBUS"), ("mlock", "ENOMEM"), ("mmap", "ENOMEM"), ("read", "ENOSPC"),
     ("write", "EFAULT"), ("system call 999", "EFAULT")],
)  # fmt: skip
def test_a_page_in(
    watched: Callable[..., Watched], blocked: Callable[[str], None], call: str, errno: str
) -> None:
    one = watched()
    blocked(call)
    _, big = one.new(b"big")
    one.table.write(big, 0, b"x" * 14 * PAGE)
    ino, handle = one.new(b"f", size=32 * PAGE)
    for page in range(2):
        one.table.read(handle, page * PAGE, PAGE)
    for _ in range(3):
        assert one.ask(Opcode.READ, one.table.read, handle, 30 * PAGE, PAGE) == "ENOSPC"
    known = one.one()
    count = 2  # one fault or call takes two READs
    assert (known.errno, known.call, known.limit_name, known.count) == (errno, call, "size", count)
    assert one.history.refused - one.refusals.repeated == count
    assert (known.limit, known.asked, known.page, known.inode) == (64 << 10, PAGE, 30, ino)
    assert (known.pid, known.tid, known.path) == (ME, ME, "/f")
    assert known.process == Path(f"/proc/{ME}/comm").read_text().strip()
    assert [(holder.path, holder.bytes, holder.pid) for holder in known.holders] == [
        ("/big", 14 * PAGE, ME),
        ("/f", 2 * PAGE, ME),
    ]
    assert known.enough == "1m"  # of 14 and 32 pages


def test_a_write(watched: Callable[..., Watched]) -> None:
    one = watched()
    _, handle = one.new(b"f")
    one.table.write(handle, 0, b"x" * 16 * PAGE)
    assert one.ask(Opcode.WRITE, one.table.write, handle, 16 * PAGE, b"x" * 3 * PAGE) == "ENOSPC"
    known = one.one()
    assert (known.errno, known.call, known.asked, known.path) == ("ENOSPC", "write", 3 * PAGE, "/f")


def test_fallocate(watched: Callable[..., Watched]) -> None:
    one = watched("size=2m")
    _, first = one.new(b"a")
    _, second = one.new(b"b")
    one.table.write(first, 0, b"x" * PAGE)
    assert one.ask(Opcode.FALLOCATE, one.table.fallocate, second, 0, 0, 3 * MIB, CRED) == "ENOSPC"
    known = one.one()
    assert (known.errno, known.call, known.path) == ("ENOSPC", "fallocate", "/b")
    assert (known.asked, known.limit, known.enough) == (3 * MIB, 2 * MIB, "4m")


def test_ftruncate_where_it_reserves(watched: Callable[..., Watched]) -> None:
    one = watched("size=64k,reserve=strict")
    ino, _ = one.new(b"f")
    assert one.ask(Opcode.SETATTR, one.table.setattr, ino, Changes(size=20 * PAGE), CRED) == "ENOSPC"
    known = one.one()
    assert (known.errno, known.call, known.asked, known.path) == ("ENOSPC", "ftruncate", 20 * PAGE, "/f")


def test_a_symbolic_link_that_takes_a_page(watched: Callable[..., Watched]) -> None:
    one = watched("size=4k")
    _, handle = one.new(b"f")
    one.table.write(handle, 0, b"x")
    assert one.ask(Opcode.SYMLINK, one.table.symlink, ROOT_INO, b"s", b"t" * 300, CRED) == "ENOSPC"
    known = one.one()
    assert (known.errno, known.call, known.asked, known.path) == ("ENOSPC", "symlink", PAGE, "/")


def test_inodes(watched: Callable[..., Watched]) -> None:
    one = watched("nr_inodes=4")
    ino, _ = one.new(b"a")
    one.new(b"b")
    one.new(b"c")
    for opcode, call, arguments in (
        (Opcode.CREATE, one.table.create, (ROOT_INO, b"x", 0o600, os.O_RDWR, CRED)),
        (Opcode.MKDIR, one.table.mkdir, (ROOT_INO, b"x", 0o700, CRED)),
        (Opcode.LINK, one.table.link, (ino, ROOT_INO, b"x", CRED)),
        (Opcode.SETXATTR, one.table.setxattr, (ino, b"user.x", b"x" * 2000, 0)),
    ):
        assert one.ask(opcode, call, *arguments) == "ENOSPC"
    assert not one.superblock.instruments.failures
    known = one.refusals.records()
    assert [(each.call, each.path) for each in known] == [
        ("open", "/"), ("mkdir", "/"), ("link", "/a"), ("setxattr", "/a"),
    ]  # fmt: skip
    assert {(each.limit_name, each.limit, each.asked, each.page, each.enough) for each in known} == {
        ("nr_inodes", 4, 1, None, "5")
    }
    assert [(holder.path, holder.pid) for holder in known[0].holders] == [("3 files", ME)]


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("shmmni=3", PAGE, ("ENOSPC", "shmmni", 3, 1, "4")),
        ("shmall=30", 3 * PAGE, ("ENOSPC", "shmall", 30 * PAGE, 3 * PAGE, "33")),
        ("shmmax=64k", 65 << 10, ("EINVAL", "shmmax", 64 << 10, 17 * PAGE, str(17 * PAGE))),
        ("size=64k", 15 * PAGE, ("ENOMEM", "size", 64 << 10, 15 * PAGE, "1m")),
    ],
)
def test_system_v_memory(text: str, size: int, expected: tuple[Any, ...]) -> None:
    model = Model(f"pages=managed,{text}")
    one = Watched(model.superblock)
    try:
        for _ in range(3):
            model.get(0, 10 * PAGE if "shmall" in text else PAGE, 0o1600)
        one.ask(Opcode.IOCTL, model.get, 0, size, 0o1600)
    finally:
        model.close()
    known = one.one()
    assert (known.errno, known.limit_name, known.limit, known.asked, known.enough) == expected
    assert (known.call, known.pid, known.path) == ("shmget", ME, "/SYSV00000000")
    if expected[1] in ("shmmni", "shmall"):
        assert [holder.path for holder in known.holders] == ["3 segments"]


def test_an_anonymous_mapping(watched: Callable[..., Watched]) -> None:
    """The preloaded library makes a file of it, of which pages are allocated."""
    one = watched()
    ino, handle = one.new(b"f")
    one.history.door(ino, "anon", 0, 0)
    assert one.ask(Opcode.FALLOCATE, one.table.fallocate, handle, 0, 0, MIB, CRED) == "ENOSPC"
    known = one.one()
    assert (known.errno, known.call) == ("ENOMEM", "mmap")


def test_a_caller_that_is_not_known(watched: Callable[..., Watched]) -> None:
    """pyfuse3's own handlers know none of READ and WRITE."""
    one = watched("size=4k")
    _, handle = one.new(b"f", size=2 * PAGE)
    one.table.write(handle, 0, b"x")
    assert one.ask(Opcode.WRITE, one.table.write, handle, PAGE, b"x", caller=0) == "ENOSPC"
    assert one.ask(Opcode.READ, one.table.read, handle, PAGE, PAGE, caller=0) == "ENOSPC"
    assert [(each.pid, each.process, each.errno, each.call) for each in one.emitted] == [
        (0, "", "ENOSPC", "write"),
        (0, "", "SIGBUS", ""),
    ]


def test_another_file_of_the_same_name_is_another_page_fault(
    watched: Callable[..., Watched], blocked: Callable[[str], None]
) -> None:
    """So each SIGBUS is explained; calls are counted by name."""
    one = watched("size=4k")
    blocked(FAULT)
    _, full = one.new(b"full")
    one.table.write(full, 0, b"x")
    for _ in range(2):
        _, handle = one.new(b"f", size=PAGE)
        for _ in range(2):
            one.ask(Opcode.READ, one.table.read, handle, 0, PAGE)
        one.ask(Opcode.WRITE, one.table.write, handle, 0, b"x")
        one.table.unlink(ROOT_INO, b"f", CRED)
    assert [(each.errno, each.count) for each in one.refusals.records()] == [
        ("SIGBUS", 1),
        ("ENOSPC", 2),
        ("SIGBUS", 1),
    ]


def test_a_pid_that_is_used_again(watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    one = watched("size=4k")
    _, handle = one.new(b"f")
    one.table.write(handle, 0, b"x")
    known = one.history.process(ME)
    assert known is not None
    for start in (1, 2, 2):
        later = type(known)(ME, known.command, start)
        monkeypatch.setattr(one.history, "process", lambda tid, later=later: later)
        one.ask(Opcode.WRITE, one.table.write, handle, PAGE, b"x")
    assert [each.count for each in one.refusals.records()] == [1, 2]


def test_kinds_are_bounded(watched: Callable[..., Watched]) -> None:
    one = watched("nr_inodes=2")
    one.new(b"f")
    for tid in range(1, MOST + 50):
        one.history.process = lambda tid: refusals.Process(tid, "x", 1)  # type: ignore[method-assign]
        one.ask(Opcode.MKDIR, one.table.mkdir, ROOT_INO, b"x", 0o700, CRED, caller=tid)
    assert (len(one.refusals.records()), len(one.emitted), one.history.refused) == (MOST, MOST, MOST + 49)
    one.ask(Opcode.MKDIR, one.table.mkdir, ROOT_INO, b"x", 0o700, CRED, caller=7)
    assert one.refusals.records()[6].count == 2


def test_holders_are_bounded_and_counted(watched: Callable[..., Watched]) -> None:
    one = watched("size=400k")
    for number in range(100):
        _, handle = one.new(b"%d" % number)
        one.table.write(handle, 0, b"x")
    one.ask(Opcode.WRITE, one.table.write, handle, PAGE, b"x")
    known = one.one()
    assert (len(known.holders), known.more_holders) == (HOLDERS, 100 - HOLDERS)


def test_snapshots_take_a_bounded_part_of_the_time(
    watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many kinds are refused, files are listed for 5 % of it."""
    one = watched("size=4k")
    now, listed = [1000.0], [0]
    _, handle = one.new(b"f")
    one.table.write(handle, 0, b"x")
    holders = one.history.holders

    def slow(limit: int) -> Any:
        listed[0] += 1
        now[0] += 0.1
        return holders(limit)

    monkeypatch.setattr(refusals.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(one.history, "holders", slow)
    for number in range(400):
        one.history.process = lambda tid, number=number: refusals.Process(number, "x", 1)  # type: ignore[method-assign]
        one.ask(Opcode.WRITE, one.table.write, handle, PAGE, b"x")
        now[0] += 0.01
    assert len(one.emitted) == 400
    assert 0.1 * listed[0] <= 0.06 * (now[0] - 1000) + 0.1
    assert all(each.holders for each in one.emitted)


def test_what_a_thread_waits_in() -> None:
    """This one is in read(2) of its own file of /proc; other users' threads and none are not visible."""
    assert refusals.blocked_in(ME) in ("read", "")
    assert refusals.blocked_in(0) == ""
