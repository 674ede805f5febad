"""anon: shared anonymous memory, which only a child can share."""

from collections.abc import Iterator

from shmfs.explain.actors import MAP_ANONYMOUS, MAP_SHARED
from shmfs.explain.chapters.tools import claim, faults, first_fault, on_mount, present, same_frame, served_by
from shmfs.explain.records import Step
from shmfs.explain.stage import Mapping, Stage


def steps(stage: Stage) -> Iterator[Step]:
    """From mmap over fork to the last unmap."""
    a = stage.a
    at_a = stage.map(a, -1, 4, MAP_SHARED | MAP_ANONYMOUS)
    store = stage.store_byte(at_a, 0, "x")
    view = stage.view(at_a, 0)
    own = on_mount(stage, view)
    named = claim("maps names it", "/dev/zero (deleted)", view.vma.path if view.vma else "")
    yield stage.step(
        "A maps shared anonymous memory, and stores",
        "No file is named, but there is one, made for the mapping, as pages are shared through files; maps "
        "tells whose it is.",
        "do_mmap mmap_region handle_mm_fault do_shared_fault"
        if own
        else "do_mmap mmap_region shmem_zero_setup handle_mm_fault do_shared_fault shmem_fault",
        [
            faults(store, *first_fault(stage, view)),
            present(view),
            *([] if own else [named]),
            claim("permissions", "rw-s", view.vma and view.vma.permissions),
        ],
        [view],
        cache=stage.cache(at_a),
        facts=[("served by", served_by(stage, view))],
    )
    child = a.fork("C")
    at_c = Mapping(child, at_a.address, 4)
    before = stage.view(at_c, 0)
    load = stage.load(at_c, 0)
    views = stage.views(at_a, at_c)
    yield stage.step(
        "A forks C, which loads",
        "fork copies the VMA, and leaves the PTEs of shared memory to be faulted in: C finds A's frame.",
        "kernel_clone dup_mmap copy_page_range handle_mm_fault do_read_fault filemap_map_pages",
        [
            claim("C has the VMA at the same address", True, before.vma is not None),
            present(before, expected=False, when="before its touch "),
            faults(load, 1),
            claim("C loads what A stored", "x", load.value),
            same_frame(*views),
        ],
        views,
        cache=stage.cache(at_a),
    )
    stage.store_byte(at_c, 0, "y")
    seen = stage.load(at_a, 0)
    at_a.unmap()
    still = stage.load(at_c, 0)
    at_c.unmap()
    views = stage.views(at_a, at_c)
    yield stage.step(
        "C stores, A sees it; both unmap",
        "It is shared in both directions, and lives as long as somebody maps it.",
        "do_vmi_munmap unmap_vmas " + ("fuse_evict_inode" if own else "shmem_evict_inode"),
        [
            claim("A loads what C stored", "y", seen.value),
            claim("after A's munmap C loads", "y", still.value),
            claim("VMAs left", 0, sum(view.vma is not None for view in views)),
        ],
        views,
    )
