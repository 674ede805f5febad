"""pyfuse3's side, with types of its own and no mount."""

import errno
import os
import stat
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from shmfs.events.hooks import HOOKS
from shmfs.fs.superblock import INODE_SIZE, ROOT_INO
from shmfs.fuse import session
from shmfs.fuse.adapter import Adapter
from shmfs.fuse.operations import Operations
from shmfs.fuse.protocol import FOREVER
from tests.fs.support import PAGE

pyfuse3 = pytest.importorskip("pyfuse3")

ROOT = ROOT_INO
HIDDEN = 2
CTX: Any = SimpleNamespace(uid=1000, gid=1001, pid=4711, umask=0o027)
"""A RequestContext cannot be filled from Python."""


def run(function, *arguments: Any) -> Any:
    async def call() -> Any:
        return await function(*arguments)

    return trio.run(call)


def errno_of(function, *arguments: Any) -> str:
    with pytest.raises(pyfuse3.FUSEError) as raised:
        run(function, *arguments)
    return errno.errorcode[raised.value.errno]


@pytest.fixture
def freed() -> list[bool]:
    """Grows when memory waits to be given back."""
    return []


@pytest.fixture
def adapter(table: Operations, freed: list[bool]) -> Adapter:
    return Adapter(table, lambda: freed.append(True))


def make(adapter: Adapter, name: bytes = b"f", flags: int = os.O_RDWR) -> tuple[Any, Any]:
    info, entry = run(adapter.create, ROOT, name, 0o666, flags, CTX)
    return info, entry


def fields(**update: bool) -> Any:
    names = ("mode", "uid", "gid", "size", "atime", "mtime", "ctime")
    return SimpleNamespace(**{f"update_{name}": update.get(name, False) for name in names})


# ---- errors


def test_the_file_system_s_errors_are_replies(adapter):
    make(adapter)
    assert errno_of(adapter.mkdir, ROOT, b"f", 0o755, CTX) == "EEXIST"
    assert errno_of(adapter.unlink, ROOT, b"missing", CTX) == "ENOENT"
    assert errno_of(adapter.rmdir, ROOT, b"f", CTX) == "ENOTDIR"
    assert errno_of(adapter.getattr, 999, CTX) == "ESTALE"
    assert errno_of(adapter.lookup, ROOT, b"n" * 256, CTX) == "ENAMETOOLONG"
    assert errno_of(adapter.getxattr, ROOT, b"user.x", CTX) == "ENODATA"
    assert errno_of(adapter.setxattr, ROOT, b"foo.x", b"", CTX) == "ENOTSUP"
    assert errno_of(adapter.readlink, ROOT, CTX) == "EINVAL"


def test_an_error_without_a_number_is_eio(adapter, monkeypatch):
    def fail(ino: int) -> None:
        raise OSError("no number")

    monkeypatch.setattr(adapter.operations, "getattr", fail)
    assert errno_of(adapter.getattr, ROOT, CTX) == "EIO"


@pytest.mark.parametrize("exception", [ValueError, KeyError, MemoryError, AssertionError, RecursionError])
def test_a_bug_is_eio_and_logged_and_the_session_goes_on(adapter, monkeypatch, caplog, exception):
    def fail(*arguments: Any) -> None:
        raise exception("what went wrong")

    with monkeypatch.context() as patch:
        patch.setattr(adapter.operations, "getattr", fail)
        assert errno_of(adapter.getattr, ROOT, CTX) == "EIO"
    assert "what went wrong" in caplog.text
    assert "getattr" in caplog.text
    assert run(adapter.getattr, ROOT, CTX).st_ino == ROOT


def test_flush_and_the_like_are_left_to_the_kernel(adapter):
    """Answered ENOSYS once, they cost no round trip ever after."""
    assert errno_of(adapter.flush, 1) == "ENOSYS"
    assert errno_of(adapter.fsync, 1, False) == "ENOSYS"
    assert errno_of(adapter.fsyncdir, 1, False) == "ENOSYS"


# ---- entries


def test_a_missing_name_may_be_cached(adapter):
    entry = run(adapter.lookup, ROOT, b"missing", CTX)
    assert entry.st_ino == 0
    assert entry.entry_timeout == FOREVER


def test_an_entry_tells_everything(adapter, clock):
    clock.now = 5_000_000_007
    info, _ = make(adapter)
    run(adapter.write, info.fh, 0, b"x" * 5000)
    entry = run(adapter.lookup, ROOT, b"f", CTX)
    assert stat.S_IFMT(entry.st_mode) == stat.S_IFREG
    assert (entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev) == (1, 1000, 1001, 0)
    assert (entry.st_size, entry.st_blocks, entry.st_blksize) == (5000, 16, PAGE)
    assert (entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns) == (5_000_000_007,) * 3
    assert (entry.entry_timeout, entry.attr_timeout) == (FOREVER, FOREVER)


def test_times_before_the_epoch(adapter):
    _, entry = make(adapter)
    entry.st_mtime_ns = -5_000_000_001
    entry = run(adapter.setattr, entry.st_ino, entry, fields(mtime=True), None, CTX)
    assert entry.st_mtime_ns == -5_000_000_001


def test_large_inode_numbers(adapter):
    adapter.operations.superblock._last_ino = 1 << 40
    info, entry = make(adapter)
    assert entry.st_ino == (1 << 40) + 1
    run(adapter.write, info.fh, 0, b"x")
    run(adapter.release, info.fh)


def test_device_numbers(adapter):
    entry = run(adapter.mknod, ROOT, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), CTX)
    assert entry.st_rdev == os.makedev(1, 3)


def test_setattr_takes_what_is_asked_for_alone(adapter):
    info, entry = make(adapter)
    run(adapter.write, info.fh, 0, b"x" * 100)
    wanted = pyfuse3.EntryAttributes()
    wanted.st_mode, wanted.st_size, wanted.st_uid, wanted.st_gid = stat.S_IFREG | 0o600, 10, 5, 6
    wanted.st_atime_ns = wanted.st_mtime_ns = wanted.st_ctime_ns = 77
    before = run(adapter.getattr, entry.st_ino, CTX)
    got = run(adapter.setattr, entry.st_ino, wanted, fields(size=True), info.fh, CTX)
    assert (got.st_size, got.st_mode, got.st_uid, got.st_gid) == (10, before.st_mode, 1000, 1001)
    got = run(adapter.setattr, entry.st_ino, wanted, fields(mode=True, uid=True, gid=True), None, CTX)
    assert (stat.S_IMODE(got.st_mode), got.st_uid, got.st_gid, got.st_size) == (0o600, 5, 6, 10)
    got = run(adapter.setattr, entry.st_ino, wanted, fields(atime=True, mtime=True, ctime=True), None, CTX)
    assert (got.st_atime_ns, got.st_mtime_ns, got.st_ctime_ns) == (77, 77, 77)


def test_a_descriptor_makes_a_truncate_an_ftruncate(adapter, clock):
    """Of an empty file to nothing: only ftruncate changes its times."""
    info, entry = make(adapter)
    before = clock.now
    clock.tick()
    wanted = pyfuse3.EntryAttributes()
    assert run(adapter.setattr, entry.st_ino, wanted, fields(size=True), None, CTX).st_mtime_ns == before
    assert (
        run(adapter.setattr, entry.st_ino, wanted, fields(size=True), info.fh, CTX).st_mtime_ns == clock.now
    )


def test_the_umask_is_applied_where_the_kernel_leaves_it_to_us(adapter, monkeypatch):
    assert stat.S_IMODE(make(adapter, b"a")[1].st_mode) == 0o666
    monkeypatch.setattr(session, "takes", lambda flag: True)
    adapter.negotiated()
    assert stat.S_IMODE(make(adapter, b"b")[1].st_mode) == 0o640
    assert adapter.operations.handle_killpriv


def test_keep_cache_is_passed_on(adapter):
    info, entry = make(adapter)
    entry.st_size = 4 * PAGE
    run(adapter.setattr, entry.st_ino, entry, fields(size=True), None, CTX)
    run(adapter.release, info.fh)
    info = run(adapter.open, entry.st_ino, os.O_RDONLY, CTX)
    assert info.keep_cache
    run(adapter.read, info.fh, 0, PAGE)
    assert not run(adapter.open, entry.st_ino, os.O_RDWR, CTX).keep_cache


def test_names_and_content(adapter):
    info, entry = make(adapter)
    assert run(adapter.write, info.fh, 3, b"abc") == 3
    assert run(adapter.read, info.fh, 0, 100) == b"\0\0\0abc"
    run(adapter.link, entry.st_ino, ROOT, b"g", CTX)
    run(adapter.rename, ROOT, b"g", ROOT, b"h", 1, CTX)
    run(adapter.unlink, ROOT, b"f", CTX)
    assert run(adapter.lookup, ROOT, b"h", CTX).st_nlink == 1
    run(adapter.symlink, ROOT, b"s", b"target", CTX)
    assert run(adapter.readlink, run(adapter.lookup, ROOT, b"s", CTX).st_ino, CTX) == b"target"
    run(adapter.mkdir, ROOT, b"d", 0o755, CTX)
    run(adapter.rmdir, ROOT, b"d", CTX)
    run(adapter.setxattr, entry.st_ino, b"user.a", b"1", CTX)
    assert run(adapter.listxattr, entry.st_ino, CTX) == [b"user.a"]
    assert run(adapter.getxattr, entry.st_ino, b"user.a", CTX) == b"1"
    run(adapter.removexattr, entry.st_ino, b"user.a", CTX)


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("size=1m,nr_inodes=100", (256, 254, 100, 98)),
        ("size=0,nr_inodes=0", (0, 0, 0, 0)),
    ],
)
def test_statfs_figures(table_of, text, figures):
    adapter = Adapter(table_of(text), lambda: None)
    info, _ = make(adapter)
    run(adapter.write, info.fh, 0, b"x" * 5000)
    reply = run(adapter.statfs, CTX)
    assert (reply.f_blocks, reply.f_bfree, reply.f_files, reply.f_ffree) == figures
    assert (reply.f_bavail, reply.f_favail) == (reply.f_bfree, reply.f_ffree)
    assert (reply.f_bsize, reply.f_frsize, reply.f_namemax) == (4096, 4096, 255)


# ---- directories


def test_readdir_counts_what_found_room(adapter, monkeypatch):
    inos = [make(adapter, b"f%d" % number)[1].st_ino for number in range(5)]
    sent: list[tuple[bytes, int, int]] = []

    def reply(token: Any, name: bytes, entry: Any, cookie: int) -> bool:
        if len(sent) == 4:
            return False
        sent.append((name, entry.st_ino, cookie))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = run(adapter.opendir, ROOT, CTX)
    run(adapter.readdir, handle, 0, None)
    assert [name for name, _, _ in sent] == [b".", b"..", b"f4", b"f3"]
    assert [ino for _, ino, _ in sent] == [ROOT, ROOT, inos[4], inos[3]]
    inodes = adapter.operations.superblock.inodes
    assert [inodes[ino].nlookup for ino in inos] == [1, 1, 1, 2, 2]
    cookie = sent[-1][2]
    sent.clear()
    run(adapter.readdir, handle, cookie, None)
    assert [name for name, _, _ in sent] == [b"f2", b"f1", b"f0"]
    run(adapter.releasedir, handle)


# ---- work that takes time


@pytest.fixture
def prefault(table_of) -> Adapter:
    return Adapter(table_of("size=1m,reserve=prefault"), lambda: None)


def resize(adapter: Adapter, ino: int, size: int) -> Any:
    wanted = pyfuse3.EntryAttributes()
    wanted.st_size = size
    return run(adapter.setattr, ino, wanted, fields(size=True), None, CTX)


def test_deferred_work_is_done_in_a_thread_before_the_answer(prefault, monkeypatch):
    threads: list[Any] = []
    run_sync = trio.to_thread.run_sync

    async def watched(work: Any, *arguments: Any, **named: Any) -> Any:
        threads.append(work)
        return await run_sync(work, *arguments, **named)

    monkeypatch.setattr(trio.to_thread, "run_sync", watched)
    _, entry = make(prefault)
    assert resize(prefault, entry.st_ino, 10 * PAGE).st_blocks == 80
    assert len(threads) == 1
    sb = prefault.operations.superblock
    assert os.fstat(sb.store.arena.fileno()).st_blocks == 80


def test_deferred_work_that_fails_is_undone(prefault, monkeypatch):
    info, entry = make(prefault)
    run(prefault.write, info.fh, 0, b"kept")

    def fail(first: int, count: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    sb = prefault.operations.superblock
    with monkeypatch.context() as patch:
        patch.setattr(sb.store.arena, "populate", fail)
        with pytest.raises(pyfuse3.FUSEError) as raised:
            resize(prefault, entry.st_ino, 10 * PAGE)
    assert raised.value.errno == errno.ENOMEM
    assert (sb.inode(entry.st_ino).size, sb.blocks.used) == (4, 1)
    assert run(prefault.read, info.fh, 0, 10) == b"kept"
    assert resize(prefault, entry.st_ino, 10 * PAGE).st_blocks == 80


def test_deferred_work_that_fails_with_a_bug_is_undone(prefault, monkeypatch, caplog):
    _, entry = make(prefault)

    def fail(first: int, count: int) -> None:
        raise ValueError("what went wrong")

    sb = prefault.operations.superblock
    with monkeypatch.context() as patch:
        patch.setattr(sb.store.arena, "populate", fail)
        with pytest.raises(pyfuse3.FUSEError) as raised:
            resize(prefault, entry.st_ino, 10 * PAGE)
    assert raised.value.errno == errno.EIO
    assert "what went wrong" in caplog.text
    assert (sb.inode(entry.st_ino).size, sb.blocks.used) == (0, 0)


def test_freed_memory_is_announced(adapter, freed):
    info, entry = make(adapter)
    run(adapter.write, info.fh, 0, b"x" * 100_000)
    assert not freed
    run(adapter.unlink, ROOT, b"f", CTX)
    run(adapter.release, info.fh)
    assert not freed
    run(adapter.forget, [(entry.st_ino, 1)])
    assert freed


def test_a_request_that_frees_announces_it_too(adapter, freed):
    info, entry = make(adapter)
    run(adapter.write, info.fh, 0, b"x" * 100_000)
    resize(adapter, entry.st_ino, 0)
    assert freed


def test_forget_takes_pyfuse3_s_pairs(adapter):
    _, entry = make(adapter)
    run(adapter.unlink, ROOT, b"f", CTX)
    run(adapter.forget, [(entry.st_ino, 1), (12345, 3)])
    assert list(adapter.operations.superblock.inodes) == [ROOT, HIDDEN]
    assert adapter.operations.superblock.inode_space.used == INODE_SIZE


# ---- the kernel's cache


@pytest.fixture
def invalidated(monkeypatch) -> list[tuple[int, bool]]:
    calls: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        pyfuse3, "invalidate_inode", lambda ino, attr_only=False: calls.append((ino, attr_only))
    )
    return calls


def test_attributes_alone_are_invalidated(adapter, invalidated):
    """Never pages: the server must not wait for pages that are being written."""
    info, entry = make(adapter)
    run(adapter.write, info.fh, 0, b"x")
    run(adapter.release, info.fh)
    run(adapter.getattr, entry.st_ino, CTX)
    info = run(adapter.open, entry.st_ino, os.O_RDWR, CTX)
    run(adapter.write, info.fh, 0, b"x")
    assert invalidated == [(entry.st_ino, True)]


def test_the_kernel_may_have_forgotten_the_inode(adapter, monkeypatch):
    def forgotten(ino: int, attr_only: bool = False) -> None:
        raise OSError(errno.ENOENT, "")

    info, entry = make(adapter)
    run(adapter.write, info.fh, 0, b"x")
    run(adapter.release, info.fh)
    run(adapter.getattr, entry.st_ino, CTX)
    monkeypatch.setattr(pyfuse3, "invalidate_inode", forgotten)
    assert run(adapter.write, info.fh, 0, b"x") == 1


def test_init_is_announced(adapter):
    assert not adapter.initialised.is_set()
    adapter.init()
    assert adapter.initialised.is_set()


def test_what_the_kernel_is_asked_for(adapter):
    assert not adapter.enable_writeback_cache  # it would lose ENOSPC
    assert adapter.enable_acl
    assert adapter.supports_dot_lookup


# ---- observers


def test_observers_that_fail_fail_no_request(adapter, table):
    """Each hook raises once; the answers are those of a file system that nobody observes."""
    sb = table.superblock

    class Broken:
        def __init__(self, hook):
            self.name = hook

        def broken(self, *arguments):
            raise ValueError("broken")

    freed = []
    sb.evicted = freed.append
    for hook in HOOKS:
        sb.instruments.setdefault(hook, []).append(Broken(hook).broken)
    info, entry = make(adapter)
    handle = info.fh
    assert run(adapter.write, handle, 0, b"x" * 5000) == 5000
    assert run(adapter.read, handle, 0, 5000) == b"x" * 5000
    run(adapter.release, handle)
    run(adapter.rename, ROOT, b"f", ROOT, b"g", 0, CTX)
    run(adapter.unlink, ROOT, b"g", CTX)
    run(adapter.forget, [(entry.st_ino, 1)])
    assert freed == [entry.st_ino]
    assert (sb.blocks.used, list(sb.inodes)) == (0, [ROOT, HIDDEN])
    failed = {one.observer for one in sb.instruments.failures}
    assert {"create", "open", "allocate", "resize", "release", "rename", "unlink", "free", "evict"} <= failed
    left = [getattr(method, "__self__", None) for hook in failed for method in sb.instruments.get(hook, [])]
    assert not any(isinstance(one, Broken) for one in left)
