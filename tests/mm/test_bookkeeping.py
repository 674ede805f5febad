"""What the book-keeping costs: 16 bytes a page however the pages lie, 1 KiB an empty inode."""

import gc
import random
import tracemalloc
from collections.abc import Callable, Sequence

import pytest

from shmfs.events.hooks import Instruments
from shmfs.fs import namei
from shmfs.fs.superblock import Credentials, Superblock
from shmfs.mm import AddressSpace, Intent, ManagedStore, Reservation

PAGES = 16_000  # tracing costs 80 µs a page
OWNER = Credentials(1000, 1000)


def measured(work: Callable[[], None]) -> int:
    """Bytes of Python memory that are there after `work` and were not before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


PATTERNS: dict[str, Sequence[int]] = {
    "sequential": range(PAGES),
    "backwards": range(PAGES - 1, -1, -1),
    "strided": range(0, 3 * PAGES, 3),
    "random": random.Random(1).sample(range(4 * PAGES), PAGES),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_page_costs_at_most_16_bytes(pattern):
    store = ManagedStore(Reservation(), Instruments())
    space = AddressSpace(store, 1)

    def touch_single_pages() -> None:
        for page in PATTERNS[pattern]:
            space.get_pages(page, page + 1, Intent.WRITE)

    try:
        size = measured(touch_single_pages)
        assert space.allocated == PAGES
        assert size / PAGES <= (2 if pattern == "sequential" else 16)
    finally:
        store.arena.close()


def test_pages_that_were_freed_cost_nothing():
    store = ManagedStore(Reservation(), Instruments())
    space = AddressSpace(store, 1)

    def touch_and_free() -> None:
        for page in range(0, 20_000, 2):
            space.get_pages(page, page + 1, Intent.WRITE)
        space.truncate(0)
        while store.arena.reclaim(10_000):
            pass

    try:
        assert measured(touch_and_free) <= 4096
    finally:
        store.arena.close()


@pytest.mark.parametrize("kind", [0o100644, 0o040755, 0o010644])
def test_an_empty_inode_costs_at_most_1_kib_with_its_name(kind):
    sb = Superblock()

    def create() -> None:
        for number in range(10_000):
            namei.create(sb, sb.root, b"a-file-of-the-usual-length-%08d" % number, kind, OWNER)

    try:
        assert measured(create) / 10_000 <= 1024
    finally:
        sb.store.arena.close()
