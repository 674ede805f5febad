"""The lane without a kernel: requests as bytes, on a real table or one that fails on purpose."""

import errno
import os
import stat
import struct
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import trio

from shmfs.fs import options
from shmfs.fs.superblock import Credentials, Superblock
from shmfs.fuse import protocol as p
from shmfs.fuse.lane import Lane
from shmfs.fuse.operations import Operations

ROOT = 1
HIDDEN = 2


class Work:
    """Takes what is answered later, and does it when it is asked to."""

    def __init__(self) -> None:
        self.left: list[tuple[int, Coroutine[Any, Any, Any]]] = []

    def __call__(self, unique: int, reply: Coroutine[Any, Any, Any]) -> None:
        self.left.append((unique, reply))

    def done(self) -> tuple[int, Any]:
        unique, reply = self.left.pop()

        async def answer() -> Any:
            return await reply

        return unique, trio.run(answer)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def freed() -> list[int]:
    return []


@pytest.fixture
def lane(table: Operations, work: Work, freed: list[int]) -> Lane:
    return Lane(table, work, lambda: freed.append(1))


def ask(lane: Lane, opcode: int, node: int = ROOT, body: bytes | memoryview = b"", uid: int = 0) -> Any:
    return lane(opcode, 77, node, uid, uid, 4321, body)


def created(lane: Lane, name: bytes = b"f", mode: int = 0o644, flags: int = os.O_RDWR) -> tuple[int, int]:
    """Inode and handle."""
    entry, opened = ask(lane, p.Opcode.CREATE, body=p.CREATE_IN.pack(flags, mode, 0, 0) + name + b"\0")
    return p.ENTRY_OUT.unpack(entry)[0], p.OPEN_OUT.unpack(opened)[0]


def write(lane: Lane, node: int, handle: int, data: bytes, offset: int = 0) -> Any:
    head = p.WRITE_IN.pack(handle, offset, len(data), 0, 0, os.O_RDWR, 0)
    return ask(lane, p.Opcode.WRITE, node, memoryview(head + data))


def evict(lane: Lane, node: int, handle: int, name: bytes = b"f") -> None:
    ask(lane, p.Opcode.RELEASE, node, p.RELEASE_IN.pack(handle, 0, 0, 0))
    assert ask(lane, p.Opcode.UNLINK, body=name + b"\0") == 0
    assert ask(lane, p.Opcode.FORGET, node, p.U64.pack(1)) is None
    assert node not in lane.operations.superblock.inodes


def test_unknown_opcodes_are_not_supported(lane: Lane) -> None:
    known = {int(code) for code in p.Opcode}
    for opcode in [*range(64), 4096, 2**32 - 1]:
        if opcode not in known:
            assert ask(lane, opcode, body=b"x" * 64) == errno.ENOSYS


def test_every_opcode_has_a_handler(lane: Lane) -> None:
    lane.operations = object()  # type: ignore[assignment]
    for opcode in p.Opcode:
        assert ask(lane, opcode, body=bytes(200)) != errno.ENOSYS


@pytest.mark.parametrize("body", [b"", b"\0", b"x", b"\0\0", b"\xff" * 7])
def test_malformed_bodies(lane: Lane, body: bytes) -> None:
    """An answer, never an exception; and the table is still sound (the fixture checks it)."""
    for opcode in p.Opcode:
        if opcode in (p.Opcode.LOOKUP, p.Opcode.OPENDIR):  # which count references by what is there
            continue
        before = dict(lane.operations.superblock.inodes)
        answer = ask(lane, opcode, body=body)
        assert answer is None or isinstance(answer, int | bytes | tuple)
        assert lane.operations.superblock.inodes == before or opcode == p.Opcode.SYMLINK  # two names


def test_nodes_that_do_not_exist(lane: Lane) -> None:
    bodies = {p.Opcode.READDIR: p.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0), p.Opcode.OPEN: p.OPEN_IN.pack(0, 0)}
    for opcode in (p.Opcode.GETATTR, p.Opcode.READLINK, p.Opcode.READDIR, p.Opcode.OPEN, p.Opcode.LISTXATTR):
        assert ask(lane, opcode, 999, bodies.get(opcode, p.GETXATTR_IN.pack(0, 0))) == errno.ESTALE
    assert ask(lane, p.Opcode.FORGET, 999, p.U64.pack(5)) is None


class Failing:
    """A table of which one function fails."""

    def __init__(self, table: Operations, name: str, failure: BaseException) -> None:
        self._table, self._name, self._failure = table, name, failure

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise self._failure
        return getattr(self._table, name)


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        (RuntimeError("x"), errno.EIO),
        (MemoryError(), errno.EIO),
        (KeyError("x"), errno.EIO),
        (RecursionError(), errno.EIO),
        (OSError(), errno.EIO),
        (OSError("without a number"), errno.EIO),
        (OSError(errno.EDQUOT, "with one"), errno.EDQUOT),
    ],
)
def test_an_exception_is_the_error_of_one_request(
    table: Operations, work: Work, failure: BaseException, answer: int
) -> None:
    lane = Lane(Failing(table, "getattr", failure), work, lambda: None)  # type: ignore[arg-type]
    assert ask(lane, p.Opcode.GETATTR) == answer
    assert isinstance(ask(lane, p.Opcode.STATFS), bytes)
    node, handle = created(lane)
    evict(lane, node, handle)


def test_an_exception_is_logged(table: Operations, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    lane = Lane(Failing(table, "statfs", RuntimeError("on purpose")), work, lambda: None)  # type: ignore[arg-type]
    assert ask(lane, p.Opcode.STATFS) == errno.EIO
    assert "the request 17 failed" in caplog.text
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("opcode", [p.Opcode.CREATE, p.Opcode.TMPFILE])
def test_a_create_that_fails_in_its_open_leaves_nothing(lane: Lane, opcode: int) -> None:
    """The kernel was given no reference, so none may be counted."""

    def refused(*arguments: Any) -> Any:
        raise OSError(errno.ENFILE, "no more")

    def refused_with_the_id(opened: tuple[int, bool], *arguments: Any) -> Any:
        lane.operations.release(opened[0])
        raise OSError(errno.ENFILE, "no more")

    body = p.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"f\0"
    lane._open = refused_with_the_id  # type: ignore[method-assign]
    assert ask(lane, opcode, body=body) == errno.ENFILE
    del lane._open
    lane.operations._opened = refused  # type: ignore[method-assign]
    assert ask(lane, opcode, body=body) == errno.ENFILE
    assert list(lane.operations.superblock.inodes) == [ROOT, HIDDEN]


def test_forget_in_batches(lane: Lane) -> None:
    files = [created(lane, b"f%d" % n) for n in range(50)]
    for n, (node, handle) in enumerate(files):
        assert isinstance(ask(lane, p.Opcode.LOOKUP, body=b"f%d\0" % n), bytes)
        assert ask(lane, p.Opcode.RELEASE, node, p.RELEASE_IN.pack(handle, 0, 0, 0)) == 0
        assert ask(lane, p.Opcode.UNLINK, body=b"f%d\0" % n) == 0
    records = b"".join(p.FORGET_ONE.pack(node, 1) for node, _ in files)
    body = p.BATCH_FORGET_IN.pack(len(files), 0) + records
    assert ask(lane, p.Opcode.BATCH_FORGET, body=body) is None
    assert len(lane.operations.superblock.inodes) == 1 + 51
    assert ask(lane, p.Opcode.BATCH_FORGET, body=body + b"\0" * 16) is None
    assert list(lane.operations.superblock.inodes) == [ROOT, HIDDEN]
    assert ask(lane, p.Opcode.BATCH_FORGET, body=body) is None


def test_interrupt_has_no_answer(lane: Lane) -> None:
    assert ask(lane, p.Opcode.INTERRUPT, body=p.U64.pack(5)) is None


def test_write_is_lent_and_not_kept(lane: Lane, freed: list[int]) -> None:
    """The buffer is the extension's: it can be taken back when the answer was given."""
    node, handle = created(lane)
    head = p.WRITE_IN.pack(handle, 3, 5, 0, 0, os.O_RDWR, 0)
    buffer = bytearray(head + b"hello")
    with memoryview(buffer) as lent:
        assert p.WRITE_OUT.unpack(ask(lane, p.Opcode.WRITE, node, lent)) == (5, 0)
    buffer.clear()  # raises BufferError where a part of it is still held
    body = p.READ_IN.pack(handle, 0, 100, 0, 0, 0, 0)
    assert ask(lane, p.Opcode.READ, node, body) == bytes(3) + b"hello"
    evict(lane, node, handle)
    assert freed


def test_readdir_fits_into_the_room_and_counts_nothing(lane: Lane) -> None:
    for n in range(20):
        node, handle = created(lane, b"name%d" % n)
        ask(lane, p.Opcode.RELEASE, node, p.RELEASE_IN.pack(handle, 0, 0, 0))
    before = {ino: inode.nlookup for ino, inode in lane.operations.superblock.inodes.items()}
    cookie, seen = 0, []
    for room in (0, 100, 500, 700, 4096, 4096):
        said = ask(lane, p.Opcode.READDIR, body=p.READ_IN.pack(0, cookie, room, 0, 0, 0, 0))
        assert len(said) <= room
        place = 0
        while place < len(said):
            _, cookie, length, kind = p.DIRENT.unpack_from(said, place)
            name = said[place + p.DIRENT.size :][:length]
            assert kind == (4 if name in (b".", b"..") else 8)
            seen.append(name)
            place += -(-(p.DIRENT.size + length) // 8) * 8
    assert sorted(seen) == sorted([b".", b"..", *(b"name%d" % n for n in range(20))])
    after = {ino: inode.nlookup for ino, inode in lane.operations.superblock.inodes.items()}
    assert after == before


@pytest.fixture
def strict(table_of: Callable[..., Operations], work: Work) -> Iterator[Lane]:
    return Lane(table_of("size=1m,reserve=prefault"), work, lambda: None)


def resize(lane: Lane, node: int, size: int) -> Any:
    body = p.SETATTR_IN.pack(p.FATTR_SIZE, 0, 0, size, *[0] * 12)
    return ask(lane, p.Opcode.SETATTR, node, body)


def size_in(answer: bytes) -> int:
    return int(struct.unpack_from("<QQ", answer, 16)[1])


def test_work_that_is_answered_later(strict: Lane, work: Work) -> None:
    node, handle = created(strict)
    assert resize(strict, node, 40960) is None
    assert isinstance(ask(strict, p.Opcode.GETATTR), bytes), "others are answered meanwhile"
    unique, answer = work.done()
    assert (unique, size_in(answer), work.left) == (77, 40960, [])
    evict(strict, node, handle)


@pytest.mark.parametrize(
    ("failure", "told"), [(OSError(errno.ENOMEM, ""), errno.ENOMEM), (ValueError("on purpose"), errno.EIO)]
)
def test_work_that_fails_is_undone(
    strict: Lane, work: Work, monkeypatch: pytest.MonkeyPatch, failure: Exception, told: int
) -> None:
    def fail(first: int, count: int) -> None:
        raise failure

    node, handle = created(strict)
    superblock = strict.operations.superblock
    with monkeypatch.context() as patch:
        patch.setattr(superblock.store.arena, "populate", fail)
        assert resize(strict, node, 40960) is None
        assert work.done() == (77, told)
    assert size_in(ask(strict, p.Opcode.GETATTR, node)) == 0
    assert superblock.blocks.used == 0
    evict(strict, node, handle)


def test_credentials_are_told(table: Operations, work: Work, recorder: Any) -> None:
    lane = Lane(table, work, lambda: None)
    lane(p.Opcode.MKDIR, 1, ROOT, 11, 22, 33, p.MKDIR_IN.pack(0o777, 0o022) + b"d\0")
    inode = table.superblock.root.get(b"d")
    assert inode is not None
    assert (inode.uid, inode.gid, stat.S_IMODE(inode.mode)) == (11, 22, 0o755)
    assert ("create", inode.ino, "/d", inode.mode, 33) in recorder.take()
    assert lane(p.Opcode.RMDIR, 1, ROOT, 11, 22, 33, b"d\0") == 0
    lane(p.Opcode.FORGET, 1, inode.ino, 0, 0, 0, p.U64.pack(1))


def test_layouts_have_the_protocols_sizes() -> None:
    """include/uapi/linux/fuse.h."""
    sizes = {
        "SETATTR_IN": 88,
        "CREATE_IN": 16,
        "READ_IN": 40,
        "WRITE_IN": 40,
        "FALLOCATE_IN": 32,
        "LSEEK_IN": 24,
        "COPY_FILE_RANGE_IN": 56,
        "STATX_IN": 24,
        "IOCTL_IN": 32,
        "ENTRY_OUT": 128,
        "OPEN_OUT": 16,
        "STATFS_OUT": 80,
        "STATX_OUT": 288,
        "IOCTL_OUT": 16,
        "RELEASE_IN": 24,
        "RENAME2_IN": 16,
        "FSXATTR": 28,
        "DIRENT": 24,
    }
    assert {name: getattr(p, name).size for name in sizes} == sizes


def test_statx(lane: Lane) -> None:
    node, handle = created(lane)
    assert p.WRITE_OUT.unpack(write(lane, node, handle, b"x" * 5000)) == (5000, 0)
    said = ask(lane, p.Opcode.STATX, node, p.STATX_IN.pack(0, 0, 0, 0, 0xFFF))
    mask, blksize = struct.unpack_from("<II", said, 32)
    nlink, uid, gid, mode = struct.unpack_from("<IIIH", said, 48)
    ino, size, blocks = struct.unpack_from("<QQQ", said, 64)
    assert (mask, blksize, nlink, uid, gid, mode) == (0xFFF, 4096, 1, 0, 0, stat.S_IFREG | 0o644)
    assert (ino, size, blocks) == (node, 5000, 16)
    btime = struct.unpack_from("<q", said, 96 + 16)[0]
    assert btime == lane.operations.superblock.inodes[node].btime // 10**9
    evict(lane, node, handle)


def test_ioctl(lane: Lane) -> None:
    def ioctl(command: int, data: bytes = b"") -> Any:
        return ask(lane, p.Opcode.IOCTL, node, p.IOCTL_IN.pack(handle, 0, command, 0, len(data), 64) + data)

    node, handle = created(lane)
    assert ioctl(0x5401) == errno.ENOTTY
    assert ioctl(p.FS_IOC_SETFLAGS, p.U32.pack(0x4000)) == errno.EOPNOTSUPP
    assert isinstance(ioctl(p.FS_IOC_SETFLAGS, p.U32.pack(0x40)), bytes)
    assert p.U32.unpack_from(ioctl(p.FS_IOC_GETFLAGS), 16)[0] == 0x40
    assert p.FSXATTR.unpack_from(ioctl(p.FS_IOC_FSGETXATTR), 16)[0] == 0x80
    assert ioctl(p.FS_IOC_FSSETXATTR, p.FSXATTR.pack(0x2, 0, 0, 0, 0)) == errno.EOPNOTSUPP
    assert ioctl(p.FS_IOC_FSSETXATTR, p.FSXATTR.pack(0x8, 1, 0, 0, 0)) == errno.EOPNOTSUPP
    assert isinstance(ioctl(p.FS_IOC_FSSETXATTR, p.FSXATTR.pack(0x8, 0, 0, 0, 0)), bytes)
    assert write(lane, node, handle, b"x") is not None
    assert ask(lane, p.Opcode.UNLINK, body=b"f\0") == errno.EPERM
    assert ioctl(p.FS_IOC_SETFLAGS) == errno.EIO, "a malformed one"
    assert isinstance(ioctl(p.FS_IOC_SETFLAGS, p.U32.pack(0)), bytes)
    evict(lane, node, handle)


def test_a_superblock_of_its_own(work: Work) -> None:
    """Credentials default to root's."""
    table = Operations(Superblock(options.parse("size=1m"), owner=Credentials(7, 8)))
    lane = Lane(table, work, lambda: None)
    said = ask(lane, p.Opcode.GETATTR)
    mode, nlink, uid, gid = struct.unpack_from("<IIII", said, 16 + 60)
    assert (mode, nlink, uid, gid) == (stat.S_IFDIR | 0o1777, 2, 7, 8)
    table.superblock.store.arena.close()
