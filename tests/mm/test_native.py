"""The native store by itself: a tmpfs that is mounted nowhere, and its pool of descriptors."""

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.mm import Intent
from shmfs.mm import native as native_module
from shmfs.mm.native import NativePages, NativeStore

PAGE = 4096

Make = Callable[..., NativeStore]


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes stores; each gives all its descriptors back."""
    stores: list[NativeStore] = []
    before = len(descriptors())

    def made(*arguments: Any, **named: Any) -> NativeStore:
        try:
            stores.append(NativeStore(*arguments, **named))
        except PermissionError:
            pytest.skip("needs CAP_SYS_ADMIN")
        return stores[-1]

    yield made
    for store in stores:
        store.close()
    assert len(descriptors()) == before


@pytest.fixture
def store(make: Make) -> NativeStore:
    return make(64)


@pytest.fixture
def few() -> Iterator[Callable[[int], None]]:
    """Leaves this process no more descriptors than that many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(more: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + more, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- limits


def test_used_and_limit(store: NativeStore) -> None:
    assert store.used() == 0
    assert os.pwrite(store.descriptor(2, create=True), b"x" * 100 * PAGE, 0) == 64 * PAGE
    assert store.used() == 64
    with pytest.raises(OSError, match="No space"):
        os.pwrite(store.descriptor(3, create=True), b"x", 0)
    store.resize(65)
    assert os.pwrite(store.descriptor(3), b"x" * 2 * PAGE, 0) == PAGE
    with pytest.raises(OSError, match="Invalid") as refused:
        store.resize(64)
    assert refused.value.errno == errno.EINVAL
    store.resize(0)
    assert os.pwrite(store.descriptor(3), b"x" * 9 * PAGE, PAGE) == 9 * PAGE
    assert store.used() == 74


def test_unlimited(make: Make) -> None:
    store = make(0)
    os.pwrite(store.descriptor(2, create=True), b"x" * PAGE, 5 * PAGE)
    assert store.used() == 1


def test_inodes_are_not_limited(make: Make) -> None:
    """They are shmfs's to count."""
    store = make(1)
    for ino in range(5000):
        store.descriptor(ino, create=True)
    assert store.used() == 0


@pytest.mark.parametrize(
    ("atime", "updated"),
    [("relatime", True), ("strictatime", True), ("norelatime", True), ("noatime", False)],
)
def test_atime(make: Make, atime: str, updated: bool) -> None:
    fd = make(64, atime=atime).descriptor(2, create=True)
    os.pwrite(fd, b"x", 0)
    os.utime(fd, ns=(10**9, 2 * 10**9))
    os.pread(fd, 1, 0)
    assert (os.fstat(fd).st_atime_ns != 10**9) is updated


def test_options_reach_the_kernel(make: Make) -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if not enabled.exists() or "[deny]" in enabled.read_text():
        pytest.skip("needs transparent huge pages")
    fd = make(4096, {"huge": "always"}).descriptor(2, create=True)
    os.ftruncate(fd, 4 << 20)
    os.pwrite(fd, b"x", 0)
    assert os.fstat(fd).st_blocks == (2 << 20) // 512


@pytest.mark.parametrize(
    "options", [{"mpol": "nonsense"}, {"huge": "sometimes"}, {"unknown": "1"}, {"unknown": None}]
)
def test_options_that_the_kernel_refuses(make: Make, options: dict[str, str | None]) -> None:
    before = descriptors()
    make(1)
    with pytest.raises(OSError, match="Invalid argument"):
        NativeStore(64, options)
    assert len(descriptors()) == len(before) + 1


@pytest.mark.parametrize("option", [{"noswap": None}, {"mpol": "local"}, {"huge": "never"}])
def test_options_that_it_knows(make: Make, option: dict[str, str | None]) -> None:
    try:
        store = make(64, option)
    except OSError as refused:
        pytest.skip(f"this kernel refuses {option}: {refused}")
    assert os.pwrite(store.descriptor(2, create=True), b"x", 0) == 1
    store.resize(32)
    assert store.used() == 1


# ---- descriptors


def test_descriptors_are_kept_and_opened_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_module, "_POOL", 8)
    store = make(1000)
    before = len(descriptors())
    for ino in range(100):
        os.pwrite(store.descriptor(ino, create=True), b"%d" % ino, 0)
        assert len(descriptors()) <= before + 8
    for ino in [*range(99, -1, -3), *range(100)]:
        assert os.pread(store.descriptor(ino), 10, 0) == b"%d" % ino
    first = store.descriptor(1)
    for ino in range(2, 9):
        store.descriptor(ino)
        assert store.descriptor(1) == first, "used just now"


def test_no_more_than_half_of_what_the_process_may_have(make: Make, few: Callable[[int], None]) -> None:
    few(50)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    store = make(64)
    before = len(descriptors())
    for ino in range(2 * limit):
        store.descriptor(ino, create=True)
    assert len(descriptors()) - before <= limit // 2


def test_descriptors_run_out_later(make: Make, few: Callable[[int], None]) -> None:
    store = make(1000)
    for ino in range(40):
        os.pwrite(store.descriptor(ino, create=True), b"%d" % ino, 0)
    few(4)
    for ino in range(40, 90):
        os.pwrite(store.descriptor(ino, create=True), b"%d" % ino, 0)
        fd = store.duplicate(ino - 1)
        assert os.pread(fd, 10, 0) == b"%d" % (ino - 1)
        os.close(fd)
    assert [ino for ino in range(90) if os.pread(store.descriptor(ino), 10, 0) != b"%d" % ino] == []


def test_none_to_be_had_at_all(make: Make, few: Callable[[int], None]) -> None:
    store = make(64)
    few(1)
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/", os.O_RDONLY))
    with pytest.raises(OSError, match="Too many open files"):
        store.descriptor(1, create=True)
    assert not store.spare()
    for fd in taken:
        os.close(fd)
    store.descriptor(1, create=True)
    assert store.spare()
    assert not store.spare()


def test_forget(store: NativeStore) -> None:
    fd = store.descriptor(2, create=True)
    os.pwrite(fd, b"x" * PAGE, 0)
    left = store.forget(2)
    assert left == fd
    assert (store.used(), os.pread(fd, 1, 0)) == (1, b"x")
    os.close(fd)
    assert store.used() == 0
    with pytest.raises(FileNotFoundError):
        store.descriptor(2)
    assert store.forget(2) is None
    store.descriptor(2, create=True)  # the number may come again
    store.spare()
    assert store.forget(2) is None


# ---- the pages of a file


@pytest.fixture
def pages(store: NativeStore) -> NativePages:
    return NativePages(store, 7)


def test_a_file_is_made_when_it_is_needed(store: NativeStore, pages: NativePages) -> None:
    before = len(descriptors())
    assert not pages.exists
    assert (pages.allocated, pages.truncate(0), pages.drop()) == (0, 0, None)
    assert len(descriptors()) == before
    assert pages.write(5, b"hello") == 5
    assert pages.exists
    assert (pages.read(0, 100), pages.allocated) == (bytes(5) + b"hello", 1)


def test_limit_and_allocation(store: NativeStore, pages: NativePages) -> None:
    assert pages.get_pages(0, 10, Intent.READ) == pages.get_pages(4, 4, Intent.FALLOC) == 0
    assert pages.allocated == 0
    pages.get_pages(10, 20, Intent.FALLOC)
    assert (pages.allocated, pages.status().st_size) == (10, 0)
    with pytest.raises(OSError, match="No space"):
        pages.get_pages(0, 65, Intent.FALLOC)
    assert pages.allocated == 10
    assert pages.write(0, b"x" * 100 * PAGE) == 64 * PAGE
    with pytest.raises(OSError, match="No space"):
        pages.write(64 * PAGE, b"x")
    assert pages.punch(PAGE, 60 * PAGE) == 0
    assert (pages.allocated, store.used(), pages.status().st_size) == (4, 4, 64 * PAGE)


def test_seek(pages: NativePages) -> None:
    pages.write(2 * PAGE, b"x")
    size = 5 * PAGE
    pages.truncate(size)
    assert pages.seek(0, data=True, size=size) == 2 * PAGE
    assert pages.seek(2 * PAGE, data=False, size=size) == 3 * PAGE
    for offset, data in ((3 * PAGE, True), (size, False), (size, True)):
        with pytest.raises(OSError, match="No such device") as failure:
            pages.seek(offset, data=data, size=size)
        assert failure.value.errno == errno.ENXIO


def test_seek_a_hole_behind_the_last_page_of_all(pages: NativePages) -> None:
    size = (1 << 63) - 1
    pages.write(size - 3, b"x")
    for offset in (size - 3, size - 1):
        assert pages.seek(offset, data=False, size=size) == size
    assert pages.seek(0, data=False, size=size) == 0
    with pytest.raises(OSError, match="No such device"):
        pages.seek(size, data=False, size=size)


def test_truncation_leaves_the_times(pages: NativePages) -> None:
    pages.write(0, b"x" * 3 * PAGE)
    os.utime(pages.fileno(), ns=(10**9, 2 * 10**9))
    pages.truncate(100)
    pages.truncate(10000)
    status = pages.status()
    assert (status.st_atime_ns, status.st_mtime_ns, status.st_size) == (10**9, 2 * 10**9, 10000)


def test_work_for_later_has_a_descriptor_of_its_own(store: NativeStore, pages: NativePages) -> None:
    pages.write(0, b"x" * 3 * PAGE)
    before = len(descriptors())
    run = pages.later(lambda fd: os.ftruncate(fd, 1))
    fail = pages.later(lambda fd: os.ftruncate(fd, -1))
    while store.spare():
        continue
    run()
    with pytest.raises(OSError, match="Invalid"):
        fail()
    assert len(descriptors()) == before - 1  # the pool is empty
    assert pages.status().st_size == 1


@pytest.mark.parametrize("much", [False, True])
def test_drop_frees(store: NativeStore, pages: NativePages, much: bool) -> None:
    pages.write(0, b"x" * 3 * PAGE)
    before = len(descriptors())
    pages.drop(much=much)
    assert store.settle() == much
    assert not store.settle()
    assert (store.used(), len(descriptors())) == (0, before - 1)
