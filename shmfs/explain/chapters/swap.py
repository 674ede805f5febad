"""swap: memory is short: a page leaves its frame, and a fault brings it back."""

from collections.abc import Iterator

from shmfs.explain import kernel
from shmfs.explain.actors import SHM
from shmfs.explain.chapters.tools import MS_SYNC, claim, create, faults, present
from shmfs.explain.records import Step
from shmfs.explain.stage import PAGE, Mapping, Skip, Stage

NAME = "cold"
_MADV_PAGEOUT = 21

NO_SWAP = (
    "this machine has no swap (/proc/swaps is empty), and with native pages a page leaves its frame only for "
    "swap: `swapon` an area, and this chapter shows the fault that finds its page in the swap cache"
)


def steps(stage: Stage) -> Iterator[Step]:
    """The page goes and comes."""
    if not stage.managed and not kernel.swaps():
        raise Skip(NO_SWAP)
    fd = create(stage.a, NAME, 1, PAGE)
    mapping = stage.map(stage.a, fd, 1)
    try:
        yield from (_managed if stage.managed else _native)(stage, mapping, fd)
    finally:
        mapping.unmap()
        stage.a.call("close", fd)
        stage.a.call("unlink", f"{SHM}/{NAME}")
        stage.settled(0)


def _managed(stage: Stage, mapping: Mapping, fd: int) -> Iterator[Step]:
    """The kernel's copy is dropped, and read again from shmfs."""
    stage.store_byte(mapping, 0, "x")
    stage.a.call("msync", mapping.address, PAGE, MS_SYNC)
    stage.a.call("madvise", mapping.address, PAGE, _MADV_PAGEOUT)
    view, cache = stage.view(mapping, 0), stage.cache(mapping, fd)
    yield stage.step(
        "The kernel takes the frame away",
        "When memory is short (here on demand: MADV_PAGEOUT) the kernel drops the frame of a page that has "
        "been written back; shmfs holds the page in its memfd, so it is charged as before.",
        "madvise_cold_or_pageout_pte_range reclaim_pages shrink_folio_list __remove_mapping",
        [
            present(view, expected=False),
            claim("page 0 is not in the page cache", False, cache.resident[0]),
            claim("pages charged", 1, stage.used()),
        ],
        [view],
        cache=cache,
        blocks=stage.blocks(NAME),
    )
    load = stage.load(mapping, 0)
    view = stage.view(mapping, 0)
    yield stage.step(
        "A touches it again",
        "The page cache misses, and shmfs is asked as at the first touch, but it has the page: nothing is "
        "allocated, and the byte is there.",
        "handle_mm_fault do_read_fault filemap_fault fuse_read_folio set_pte_range",
        [faults(load, 0, 1), claim("A loads", "x", load.value), claim("pages charged", 1, stage.used())],
        [view],
        cache=stage.cache(mapping, fd),
        blocks=stage.blocks(NAME),
    )


def _native(stage: Stage, mapping: Mapping, fd: int) -> Iterator[Step]:
    """The page goes to swap, and a fault finds it in the swap cache, or reads it if it is no longer there."""
    stage.store_byte(mapping, 0, "x")
    stage.a.call("madvise", mapping.address, PAGE, _MADV_PAGEOUT)
    view, cache = stage.view(mapping, 0), stage.cache(mapping, fd)
    cache.place = "swap cache"
    swapped = kernel.swapped(stage.a.pid, mapping.address)
    yield stage.step(
        "The kernel takes the page away",
        "When memory is short (here on demand: MADV_PAGEOUT) the kernel writes a page of a tmpfs to swap. "
        "Its frame is in the swap cache until somebody else needs it; the page is charged as before.",
        "madvise_cold_or_pageout_pte_range reclaim_pages shrink_folio_list shmem_writeout swap_writeout",
        [
            present(view, expected=False),
            claim("bytes of the file in swap", PAGE, swapped),
            claim("pages charged", 1, stage.used()),
        ],
        [view],
        cache=cache,
        blocks=stage.blocks(NAME),
        facts=[("swap", f"{swapped} bytes by smaps · areas: {', '.join(kernel.swaps())}")],
    )
    load = stage.load(mapping, 0)
    view = stage.view(mapping, 0)
    yield stage.step(
        "A touches it again",
        "The fault finds the page in the swap cache, and nothing is read."
        if cache.resident[0]
        else "The page is no longer in the swap cache: the fault reads it from the swap area.",
        "handle_mm_fault do_read_fault shmem_fault shmem_swapin_folio swap_cache_get_folio"
        + ("" if cache.resident[0] else " swapin_readahead"),
        [
            faults(load, *((1, 0) if cache.resident[0] else (0, 1))),
            claim("A loads", "x", load.value),
            claim("bytes of the file in swap", 0, kernel.swapped(stage.a.pid, mapping.address)),
            claim("pages charged", 1, stage.used()),
        ],
        [view],
        cache=stage.cache(mapping, fd),
        blocks=stage.blocks(NAME),
    )
