"""swap: memory is short: a page leaves its frame, and a fault brings it back."""

from collections.abc import Iterator

from shmfs.explain import kernel
from shmfs.explain.chapters.tools import SHM, claim, create, faults, present
from shmfs.explain.records import Step
from shmfs.explain.stage import PAGE, Mapping, Skip, Stage

NAME = "cold"
_MADV_NORMAL, _MADV_PAGEOUT = 0, 21
_MS_SYNC = 4
_PAGES = 8
"""As many as the kernel reads at once from a swap area (vm.page-cluster)."""

NO_SWAP = (
    "this machine has no swap (/proc/swaps is empty), and with native pages a page leaves its frame only for "
    "swap: `swapon` an area, and this chapter shows the fault that finds its page in the swap cache"
)


def steps(stage: Stage) -> Iterator[Step]:
    """The page goes and comes."""
    if not stage.managed and not kernel.swaps():
        raise Skip(NO_SWAP)
    fd = create(stage.a, NAME, _PAGES, PAGE)
    mapping = stage.map(stage.a, fd, _PAGES)
    try:
        yield from (_managed if stage.managed else _native)(stage, mapping, fd)
    finally:
        mapping.unmap()
        stage.a.call("close", fd)
        stage.a.call("unlink", f"{SHM}/{NAME}")
        stage.settled(0)


def _blocks(stage: Stage) -> int:
    return stage.a.figures("stat", f"{SHM}/{NAME}")["st_blocks"] * 512 // PAGE


def _managed(stage: Stage, mapping: Mapping, fd: int) -> Iterator[Step]:
    """The kernel's copy is dropped, and read again from shmfs."""
    stage.store_byte(mapping, 0, "x")
    stage.a.call("msync", mapping.address, PAGE, _MS_SYNC)
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
        blocks=_blocks(stage),
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
        blocks=_blocks(stage),
    )


def _native(stage: Stage, mapping: Mapping, fd: int) -> Iterator[Step]:
    """The pages of the tmpfs go to swap; one fault reads all ahead, and the next finds its page there."""
    stage.a.call("madvise", mapping.address, _PAGES * PAGE, _MADV_NORMAL)
    for page in range(_PAGES):
        stage.a.touch(mapping.at(page), page, "abcdefgh"[page])
    stage.a.call("madvise", mapping.address, _PAGES * PAGE, _MADV_PAGEOUT)
    view = stage.view(mapping, 0, 1)
    yield stage.step(
        "The kernel takes the frames away",
        "When memory is short (here on demand: MADV_PAGEOUT) the kernel writes the pages of a tmpfs to swap "
        "and frees their frames; they are charged as before.",
        "madvise_cold_or_pageout_pte_range reclaim_pages shrink_folio_list shmem_writeout swap_writeout",
        [
            present(view, 0, expected=False),
            present(view, 1, expected=False),
            claim("pages charged", _PAGES, stage.used()),
        ],
        [view],
        cache=stage.cache(mapping, fd),
        blocks=_blocks(stage),
        facts=[("swap", ", ".join(kernel.swaps()))],
    )
    first = stage.load(mapping, 0)
    cache = stage.cache(mapping, fd)
    second = stage.load(mapping, 1)
    view = stage.view(mapping, 0, 1)
    yield stage.step(
        "A touches page 0, then page 1",
        "Page 0 is read from the swap area (a major fault), and its neighbours with it, into the swap cache: "
        "the fault on page 1 finds it there, and reads nothing.",
        "handle_mm_fault do_read_fault shmem_fault shmem_swapin_folio swap_cache_get_folio swapin_readahead",
        [
            faults(first, 0, 1),
            claim("page 1 was in the swap cache", True, cache.resident[1]),
            faults(second, 1),
            claim("A loads", "ab", first.value + second.value),
            claim("pages charged", _PAGES, stage.used()),
        ],
        [view],
        cache=cache,
        blocks=_blocks(stage),
    )
