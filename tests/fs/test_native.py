"""Files of the native store in the model: what the kernel changes by itself is taken over."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmfs.fs import options
from shmfs.fs.deferred import Deferred
from shmfs.fs.native import NativeBlocks, NativeFile
from shmfs.fs.superblock import Superblock
from shmfs.fuse.operations import Operations
from shmfs.mm import native as mm_native
from shmfs.mm.native import NativeStore
from tests.fs.support import Model, errno_of

PAGE = 4096
MIB = 1 << 20

MakeModel = Callable[[str], Model]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def native_of() -> Iterator[MakeModel]:
    """Models with native pages; nothing is left of them."""
    made: list[tuple[Model, NativeStore]] = []
    before = descriptors()

    def make(text: str = "size=256k") -> Model:
        model = Model(text)
        try:
            store = NativeStore(model.sb.options.blocks)
        except PermissionError:
            model.close_arena()
            pytest.skip("needs CAP_SYS_ADMIN")
        model.sb.use_native(store)
        made.append((model, store))
        return model

    yield make
    for model, store in made:
        deadline = time.monotonic() + 10
        for name in model.listdir():
            if name not in (".", ".."):
                model.unlink(name)
        while store.used() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (store.used(), model.sb.blocks.used) == (0, 0)
        store.close()
        model.close_arena()
    assert descriptors() == before


@pytest.fixture
def fs(native_of: MakeModel) -> Model:
    return native_of("size=256k")


def native(fs: Model, name: str) -> NativeFile:
    inode = fs.file(name)
    assert isinstance(inode, NativeFile)
    return inode


def by_the_kernel(fs: Model, name: str) -> int:
    """A descriptor of the file as the kernel has it, for what it does without a request while it is open."""
    native(fs, name).opens = 1
    return native(fs, name).descriptor()


def test_what_the_kernel_changes_is_seen_by_looking(fs: Model) -> None:
    fs.create("f")
    inode = native(fs, "f")
    assert (inode.size, inode.allocated, inode.pages.exists) == (0, 0, False)
    fd = by_the_kernel(fs, "f")
    os.pwrite(fd, b"x" * 5000, 3 * PAGE)
    assert inode.size == 0, "as of the last look"
    mtime, ctime = inode.mtime, inode.ctime
    inode.refresh()
    assert (inode.size, inode.allocated) == (3 * PAGE + 5000, 2)
    assert inode.mtime > mtime
    assert inode.ctime > ctime
    assert fs.sb.blocks.used == 2
    assert fs.sb.statfs()[:2] == (64, 62)


def test_times_that_are_set_are_kept(fs: Model) -> None:
    fs.create("f")
    fs.write("f", 0, b"x")
    fs.utime("f", 10**9 + 5, 2 * 10**9 + 7)
    inode = native(fs, "f")
    inode.refresh()
    assert (inode.atime, inode.mtime) == (10**9 + 5, 2 * 10**9 + 7)
    ctime = inode.ctime
    inode.refresh()
    assert inode.ctime == ctime, "setting them was no news"


def test_how_long_attributes_may_be_kept(fs: Model) -> None:
    """Not where a mapping may be left over from an open for writing, and there is something to store into."""
    fs.create("f")
    inode = native(fs, "f")
    assert inode.can_cache_attributes()
    inode.was_written = True
    assert inode.can_cache_attributes(), "nothing can be stored into an empty file"
    fs.write("f", 0, b"x")
    assert not inode.can_cache_attributes()
    fs.truncate("f", 0)
    assert inode.can_cache_attributes()
    fs.write("f", 0, b"x")
    inode.was_written = False
    assert inode.can_cache_attributes()


def test_sizes(fs: Model) -> None:
    fs.create("f")
    for size in (10000, 5000, 5000, 0, 15 * MIB, 3 * PAGE, 1 << 40):
        fs.truncate("f", size)
        assert fs.stat("f")["size"] == os.fstat(by_the_kernel(fs, "f")).st_size == size
    assert native(fs, "f").allocated == 0


def test_fallocate(fs: Model) -> None:
    fs.create("f")
    by_the_kernel(fs, "f")
    fs.fallocate("f", 0, 0, 3 * PAGE)
    inode = native(fs, "f")
    inode.refresh()
    assert (inode.size, inode.allocated) == (3 * PAGE, 3)
    fs.fallocate("f", 1, 10 * PAGE, PAGE)
    fs.fallocate("f", 3, 0, 2 * PAGE)
    inode.refresh()
    assert (inode.size, inode.allocated) == (3 * PAGE, 2)
    assert errno_of(fs.fallocate, "f", 0, 0, 65 * PAGE) == "ENOSPC"
    assert errno_of(fs.fallocate, "f", 0x10, 0, PAGE) == "ENOTSUP"
    inode.refresh()
    assert (inode.size, inode.allocated) == (3 * PAGE, 2)


# ---- limits


def test_long_symlinks_are_charged_beside(fs: Model) -> None:
    """Names are shmfs's own: the page of a long target is taken from the store's limit."""
    fs.create("f")
    fs.symlink("long", "x" * 200)
    assert (fs.sb.blocks.used, fs.sb.statfs()[:2]) == (1, (64, 63))
    assert os.pwrite(by_the_kernel(fs, "f"), b"x" * 100 * PAGE, 0) == 63 * PAGE
    assert errno_of(fs.symlink, "another", "x" * 200) == "ENOSPC"
    fs.symlink("short", "x" * 100)
    fs.unlink("long")
    assert os.pwrite(by_the_kernel(fs, "f"), b"x" * PAGE, 63 * PAGE) == PAGE
    assert errno_of(fs.symlink, "another", "x" * 200) == "ENOSPC"
    assert fs.sb.blocks.peak == 64


def test_resize(fs: Model) -> None:
    fs.create("f")
    fs.symlink("long", "x" * 200)
    os.pwrite(by_the_kernel(fs, "f"), b"x" * 10 * PAGE, 0)
    with pytest.raises(OSError, match="more than 40960 bytes are in use"):
        fs.sb.remount(options.parse("size=40k"))
    fs.sb.remount(options.parse("size=44k"))
    assert errno_of(os.pwrite, by_the_kernel(fs, "f"), b"x", 10 * PAGE) == "ENOSPC"
    fs.sb.remount(options.parse("size=0"))
    assert fs.sb.blocks.limit == 0
    assert os.pwrite(by_the_kernel(fs, "f"), b"x" * 90 * PAGE, 0) == 90 * PAGE
    assert (fs.sb.blocks.used, fs.sb.blocks.available(1000)) == (91, 1000)
    with pytest.raises(OSError, match="unlimited"):
        fs.sb.remount(options.parse("size=1m"))


def test_blocks_are_a_reservation(fs: Model) -> None:
    blocks = fs.sb.blocks
    assert isinstance(blocks, NativeBlocks)
    blocks.charge(60)
    assert blocks.available(10) == 4
    assert errno_of(blocks.charge, 5) == "ENOSPC"
    assert blocks.used == 60
    blocks.uncharge(60)
    blocks.charge(0)
    assert (blocks.used, blocks.limit, blocks.peak) == (0, 64, 60)


@pytest.mark.parametrize("reserve", ["strict", "prefault"])
def test_reserved(native_of: MakeModel, reserve: str) -> None:
    fs = native_of(f"size=256k,reserve={reserve}")
    fs.create("f")
    fs.truncate("f", 40 * PAGE)
    assert fs.stat("f")["blocks"] == 40 * 8
    fs.create("g")
    assert errno_of(fs.truncate, "g", 25 * PAGE) == "ENOSPC"
    assert (fs.stat("g")["size"], fs.sb.blocks.used) == (0, 40)
    fs.fallocate("f", 3, 0, 100 * PAGE)
    native(fs, "f").refresh()
    assert native(fs, "f").allocated == 40, "what was promised stays promised"
    fs.truncate("f", PAGE)
    fs.truncate("g", 25 * PAGE)
    assert fs.sb.blocks.used == 26
    assert fs.deferred is None


# ---- much at once


def run(fs: Model) -> Any:
    """Do what was deferred; its error's name."""
    assert isinstance(fs.deferred, Deferred)
    failure = errno_of(fs.deferred.work)
    if isinstance(failure, str):
        fs.deferred.rollback()
        return failure
    return fs.deferred.answer()


def test_large_changes_are_deferred(native_of: MakeModel) -> None:
    fs = native_of("size=64m")
    fs.create("f")
    inode = native(fs, "f")
    inode.opens = 1
    before = descriptors()
    fs.fallocate("f", 0, 0, 32 * MIB)
    assert fs.sb.blocks.used == 0, "nothing is done yet"
    assert run(fs) is None
    inode.refresh()
    assert (inode.size, fs.sb.blocks.used) == (32 * MIB, 32 * 256)
    fs.fallocate("f", 0, 0, 100 * MIB)
    assert run(fs) == "ENOSPC"
    fs.truncate("f", 5)
    assert run(fs) is None
    inode.refresh()
    assert (inode.size, inode.allocated) == (5, 1)
    fs.fallocate("f", 1, 0, 32 * MIB)
    assert run(fs) is None
    fs.fallocate("f", 3, 0, 32 * MIB)
    assert run(fs) is None
    inode.refresh()
    assert (inode.size, inode.allocated) == (5, 0)
    assert descriptors() <= before + 1


def test_what_is_being_freed_is_waited_for(native_of: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = native_of("size=32m")
    close = os.close

    def late(fd: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.2)
        close(fd)

    for name in ("f", "g"):
        fs.create(name)
        fs.fallocate(name, 0, 0, 24 * MIB)
        assert run(fs) is None, name
        native(fs, name).sync_from_backing()
        monkeypatch.setattr(os, "close", late)
        fs.unlink(name)
    assert fs.sb.blocks.used == 24 * 256, "the last one is still to be freed"
    fs.sb.blocks.charge(9 * 256)
    fs.sb.blocks.uncharge(9 * 256)


def test_large_reservations_are_deferred(native_of: MakeModel) -> None:
    fs = native_of("size=64m,reserve=strict")
    fs.create("f")
    fs.truncate("f", 32 * MIB)
    assert run(fs) is None
    assert fs.sb.blocks.used == 32 * 256
    fs.truncate("f", 100 * MIB)
    assert run(fs) == "ENOSPC"
    assert (fs.stat("f")["size"], fs.sb.blocks.used) == (32 * MIB, 32 * 256)
    fs.truncate("f", 0)
    assert run(fs) is None


def test_a_large_file_is_freed_in_a_thread(native_of: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a backing id has held it: that is given up first, or it would free the pages itself."""
    fs = native_of("size=64m")
    order: list[str] = []

    class Ids:
        def evict(self, ino: int) -> None:
            order.append("id")

    class Thread(threading.Thread):
        def start(self) -> None:
            order.append("thread")
            super().start()

    fs.sb.instruments.install(Ids())
    monkeypatch.setattr("shmfs.mm.native.threading.Thread", Thread)
    for name, size in (("small", MIB), ("large", 32 * MIB)):
        fs.create(name)
        os.posix_fallocate(by_the_kernel(fs, name), 0, size)
    fs.unlink("small")
    assert order == ["id"]
    fs.unlink("large")
    assert order == ["id", "id", "thread"]


def test_more_files_than_descriptors(native_of: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm_native, "_POOL", 8)
    fs = native_of("size=4m,nr_inodes=0")
    before = descriptors()
    for n in range(300):
        fs.create(f"f{n}")
        fs.write(f"f{n}", 0, b"%d" % n)
    assert descriptors() <= before + 8
    for n in range(0, 300, 7):
        assert native(fs, f"f{n}").pages.read(0, 10) == b"%d" % n
        assert fs.stat(f"f{n}")["size"] == len(b"%d" % n)
    for n in range(300):
        fs.unlink(f"f{n}")
    assert descriptors() <= before


def test_opens_and_set_id_bits(native_of: MakeModel) -> None:
    """Writes that come as requests clear them."""
    fs = native_of("size=1m")
    table = Operations(fs.sb)
    inode, handle = table.create(1, b"f", 0o4777, os.O_RDWR, fs.cred)
    assert table.write(handle, 5, b"x", fs.cred) == 1
    assert (inode.mode & 0o7777, inode.size) == (0o777, 6)
    assert (table.read(handle, 0, 100), inode.opens, inode.writers) == (bytes(5) + b"x", 1, 1)
    table.release(handle)
    assert (inode.opens, inode.writers) == (0, 0)
    table.forget([(inode.ino, 1)])


def test_two_superblocks_share_nothing(native_of: MakeModel) -> None:
    one, two = native_of("size=1m"), native_of("size=2m")
    for fs in (one, two):
        fs.create("f")
        fs.write("f", 0, b"x" * PAGE)
    assert isinstance(one.sb, Superblock)
    one.unlink("f")
    assert (one.sb.blocks.used, two.sb.blocks.used) == (0, 1)
