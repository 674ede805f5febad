"""map: the life of a shared mapping of a file, from mmap to the frame that is freed."""

from collections.abc import Iterator

from shmfs.explain.actors import MAP_PRIVATE, SHM
from shmfs.explain.chapters.tools import (
    MS_SYNC,
    O_RDWR,
    claim,
    create,
    faults,
    first_fault,
    named,
    present,
    same_frame,
)
from shmfs.explain.records import Step
from shmfs.explain.stage import PAGE, Mapping, Stage

NAME = "frames"
_TRIES = 20


class Life:
    """The file of four pages, its descriptors and mappings."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.fd_a = self.fd_b = -1
        self.at_a: Mapping
        self.at_b: Mapping
        self.copy: Mapping

    def steps(self) -> Iterator[Step]:
        """The whole life, in order."""
        yield self.maps()
        yield self.first_touch()
        yield self.second_process()
        yield self.store_seen()
        yield self.private_store()
        yield self.write_back()
        yield self.truncate()
        yield self.grow()
        yield self.unlink()
        yield self.last_unmap()

    def maps(self) -> Step:
        """A maps the file."""
        stage = self.stage
        self.fd_a = create(stage.a, NAME, 4, PAGE)
        self.at_a = stage.map(stage.a, self.fd_a, 4)
        view = stage.view(self.at_a, 0)
        hook = "fuse_file_mmap" if stage.managed else "fuse_passthrough_mmap"
        return stage.step(
            "A maps the file",
            "mmap writes down which addresses stand for which file: a VMA, with no memory behind it yet.",
            f"do_mmap mmap_region {hook}",
            [
                claim("A has a VMA, shared", "rw-s", view.vma and view.vma.permissions),
                present(view, expected=False),
                claim("pages charged", 0, stage.used()),
            ],
            [view],
            cache=stage.cache(self.at_a, self.fd_a),
            blocks=stage.blocks(NAME),
        )

    def first_touch(self) -> Step:
        """A loads a byte of page 0."""
        stage = self.stage
        touch = stage.load(self.at_a, 0)
        view = stage.view(self.at_a, 0)
        cache = stage.cache(self.at_a, self.fd_a)
        found = (
            [] if cache.cached is None else [claim("pages by cachestat", int(stage.managed), cache.cached)]
        )
        if stage.managed:
            sentence = (
                "There is no PTE, so the CPU faults. The page cache misses: the kernel asks shmfs (READ), "
                "which charges a page, and a PTE is made for the frame that the kernel caches it in."
            )
            functions = "handle_mm_fault do_read_fault filemap_fault fuse_read_folio set_pte_range"
        else:
            sentence = (
                "There is no PTE, so the CPU faults. The page cache misses: the tmpfs behind the file "
                "charges and zeroes a frame, and a PTE is made for it; shmfs was not asked."
            )
            functions = (
                "handle_mm_fault do_read_fault shmem_fault shmem_get_folio_gfp shmem_alloc_and_add_folio "
                "set_pte_range"
            )
        return stage.step(
            "A touches page 0 for the first time",
            sentence,
            functions,
            [
                faults(touch, *first_fault(stage, view)),
                present(view),
                claim("page 0 is in the page cache", True, cache.resident[0]),
                *found,
                claim("pages charged", 1, stage.used()),
            ],
            [view],
            cache=cache,
            blocks=stage.blocks(NAME),
        )

    def second_process(self) -> Step:
        """B maps the file too, and loads from the same page."""
        stage = self.stage
        self.fd_b = stage.b.call("open", f"{SHM}/{NAME}", O_RDWR)
        self.at_b = stage.map(stage.b, self.fd_b, 4)
        before = stage.view(self.at_b, 0)
        touch = stage.load(self.at_b, 0)
        views = stage.views(self.at_a, self.at_b)
        return stage.step(
            "B maps and touches the same page",
            "B faults too, but the page cache has the page: B's PTE gets A's frame, nothing is allocated.",
            "do_mmap handle_mm_fault do_read_fault filemap_map_pages set_pte_range",
            [
                present(before, expected=False, when="before its touch "),
                faults(touch, 1),
                same_frame(*views),
                claim("pages charged", 1, stage.used()),
            ],
            views,
            cache=stage.cache(self.at_b, self.fd_b),
            blocks=stage.blocks(NAME),
        )

    def store_seen(self) -> Step:
        """A stores, B loads."""
        stage = self.stage
        store = stage.store_byte(self.at_a, 0, "x")
        load = stage.load(self.at_b, 0)
        views = stage.views(self.at_a, self.at_b)
        if stage.managed:
            sentence = (
                "B sees the byte at once: it is the same memory. A's store faulted once more, for its PTE "
                "was read-only, so that the kernel learns which pages to write back."
            )
            functions = "handle_mm_fault do_wp_page do_page_mkwrite fuse_page_mkwrite"
        else:
            sentence = "B sees the byte at once: it is the same memory, and the kernel had nothing to do."
            functions = ""
        return stage.step(
            "A stores, B sees it",
            sentence,
            functions,
            [
                faults(store, 1 if stage.managed else 0),
                faults(load, 0),
                claim("B loads what A stored", "x", load.value),
                same_frame(*views),
            ],
            views,
            cache=stage.cache(self.at_b, self.fd_b),
            blocks=stage.blocks(NAME),
        )

    def private_store(self) -> Step:
        """B maps the file with MAP_PRIVATE, loads, and stores."""
        stage = self.stage
        self.copy = stage.map(stage.b, self.fd_b, 4, MAP_PRIVATE)
        load = stage.load(self.copy, 0)
        before = stage.view(self.copy, 0)
        store = stage.store_byte(self.copy, 0, "y")
        views = stage.views(self.at_a, self.copy)
        seen = stage.load(self.at_a, 0)
        return stage.step(
            "B stores into a MAP_PRIVATE mapping",
            "Until the store B read A's frame; the store made a copy of it, which is B's own, and belongs to "
            "no file.",
            "handle_mm_fault do_wp_page wp_page_copy",
            [
                same_frame(views[0], before, when="before its store "),
                faults(load, 1),
                faults(store, 1),
                same_frame(*views, expected=False, when="after it "),
                claim("A still loads", "x", seen.value),
                claim("pages charged", 1, stage.used()),
            ],
            views,
            cache=stage.cache(self.at_b, self.fd_b),
            blocks=stage.blocks(NAME),
        )

    def write_back(self) -> Step:
        """A calls msync."""
        stage = self.stage
        for _ in range(_TRIES):  # somebody's sync(2), or a pause, may have had the page written back
            stage.a.touch(self.at_a.address, 0, "x")
            before = stage.cache(self.at_a, self.fd_a)
            if before.dirty or not stage.managed:
                break
        stage.a.call("msync", self.at_a.address, 4 * PAGE, MS_SYNC)
        after = stage.cache(self.at_a, self.fd_a)
        views = stage.views(self.at_a, self.at_b)
        claims = [present(views[0]), same_frame(*views)]
        if before.dirty is not None:
            claims.insert(0, claim("dirty pages before", int(stage.managed), before.dirty))
            claims.insert(1, claim("dirty pages after", 0, after.dirty))
        if stage.managed:
            sentence = (
                "The kernel sends the dirty page to shmfs (WRITE), and makes the PTEs read-only again, to "
                "see the next store."
            )
            functions = "vfs_fsync_range fuse_fsync fuse_writepages iomap_writepages"
        else:
            sentence = "There is nothing to write to: the page cache of a tmpfs is the file."
            functions = "vfs_fsync_range noop_fsync"
        return stage.step(
            "A stores, and calls msync",
            sentence,
            functions,
            claims,
            views,
            cache=after,
            blocks=stage.blocks(NAME),
        )

    def truncate(self) -> Step:
        """A truncates the file to nothing, and a child of A touches."""
        stage = self.stage
        stage.a.call("ftruncate", self.fd_a, 0)
        views = stage.views(self.at_a, self.at_b, self.copy)
        touch = stage.dies(self.at_a, 0)
        return stage.step(
            "A truncates the file to 0",
            "The page goes from the file, and its PTEs from all processes, that of B's private copy too. The "
            "VMAs stay, but a touch behind the end of the file is SIGBUS (here it killed a child of A).",
            "fuse_do_setattr truncate_pagecache unmap_mapping_range truncate_inode_pages"
            if stage.managed
            else "fuse_do_setattr shmem_setattr unmap_mapping_range shmem_truncate_range",
            [
                present(views[0], expected=False),
                present(views[1], expected=False),
                claim("B's private copy has no PTE", False, views[2].pages[0].present),
                claim("a touch ends in", "SIGBUS", touch.value),
                claim("pages charged", 0, stage.used()),
            ],
            views[:2],
            cache=None,
            blocks=stage.blocks(NAME),
        )

    def grow(self) -> Step:
        """The file grows again, and is touched by both."""
        stage = self.stage
        self.copy.unmap()
        stage.a.call("ftruncate", self.fd_a, 4 * PAGE)
        load = stage.load(self.at_b, 0)
        store = stage.store_byte(self.at_a, 0, "1")
        views = stage.views(self.at_a, self.at_b)
        return stage.step(
            "A makes the file longer again; B loads, A stores",
            "The VMAs are still good: the same touches fault in a new, zeroed page; what was stored before "
            "is gone.",
            "fuse_do_setattr handle_mm_fault do_read_fault do_shared_fault set_pte_range",
            [
                faults(load, *first_fault(stage, views[1])),
                claim("B loads a zero", True, load.value == "\0"),
                faults(store, 1),
                same_frame(*views),
                claim("pages charged", 1, stage.used()),
            ],
            views,
            cache=stage.cache(self.at_b, self.fd_b),
            blocks=stage.blocks(NAME),
        )

    def unlink(self) -> Step:
        """The file loses its name, and its descriptors."""
        stage = self.stage
        stage.a.call("unlink", f"{SHM}/{NAME}")
        stage.a.call("close", self.fd_a)
        stage.b.call("close", self.fd_b)
        stage.store_byte(self.at_a, 0, "2")
        load = stage.load(self.at_b, 0)
        views = stage.views(self.at_a, self.at_b)
        found = named(lambda: stage.a.figures("stat", f"{SHM}/{NAME}"))
        return stage.step(
            "A unlinks the file while both have it mapped",
            "The name goes, and then the descriptors: the two VMAs still hold the file, and share its frame.",
            "vfs_unlink fuse_unlink",
            [
                claim("stat of the name answers", "ENOENT", found),
                claim(
                    "the name in maps ends in",
                    "(deleted)",
                    _ending(views[0].vma.path if views[0].vma else ""),
                ),
                claim("B loads what A stored", "2", load.value),
                same_frame(*views),
                claim("pages charged", 1, stage.used()),
            ],
            views,
            cache=stage.cache(self.at_b),
        )

    def last_unmap(self) -> Step:
        """A unmaps, then B."""
        stage = self.stage
        self.at_a.unmap()
        first = stage.view(self.at_b, 0)
        held = stage.used()
        self.at_b.unmap()
        stage.settled(0)
        views = stage.views(self.at_a, self.at_b)
        return stage.step(
            "The last unmap",
            "When A unmaps, B keeps the page. When B does too, nobody can reach the file any more, and its "
            "frames are freed.",
            "do_vmi_munmap unmap_vmas fuse_vma_close evict fuse_evict_inode"
            if stage.managed
            else "do_vmi_munmap unmap_vmas evict fuse_evict_inode shmem_evict_inode",
            [
                claim("after A's munmap pages charged", 1, held),
                present(first, when="after A's munmap "),
                claim("after B's munmap pages charged", 0, stage.used()),
                claim("VMAs left", 0, sum(view.vma is not None for view in views)),
            ],
            views,
        )


def _ending(path: str) -> str:
    return "(deleted)" if path.endswith(" (deleted)") else path


def steps(stage: Stage) -> Iterator[Step]:
    """The steps of the chapter."""
    return Life(stage).steps()
