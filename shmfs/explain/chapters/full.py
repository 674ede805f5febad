"""full: the mount runs out of room under a mapping."""

from collections.abc import Iterator

from shmfs.explain.actors import SHM
from shmfs.explain.chapters.tools import answer, claim, create, present
from shmfs.explain.records import Claim, Step
from shmfs.explain.stage import PAGE, PAGES, Mapping, Stage

NAME, OTHER = "big", "other"
LAST = PAGES - 1
"""The page of the file that does not fit: another file has a page too."""


def steps(stage: Stage) -> Iterator[Step]:
    """The mount is filled, refuses, and has room again."""
    before = stage.df()["f_bfree"]
    other = create(stage.a, OTHER, 1, PAGE)
    stage.a.call("pwrite", other, "x", 1, 0)
    fd = create(stage.a, NAME, 2 * PAGES, PAGE)
    mapping = stage.map(stage.a, fd, 2 * PAGES)
    for page in range(LAST):
        stage.a.touch(mapping.at(page), page, "x")
    yield _filled(stage, mapping, before)
    yield _refused(stage, mapping, fd)
    stage.a.call("close", other)
    stage.a.call("unlink", f"{SHM}/{OTHER}")
    stage.settled(LAST)
    yield _fits(stage, mapping)
    mapping.unmap()
    stage.a.call("close", fd)
    stage.a.call("unlink", f"{SHM}/{NAME}")
    stage.settled(0)


def _filled(stage: Stage, mapping: Mapping, before: int) -> Step:
    after = stage.df()
    view = stage.view(mapping, LAST - 1, LAST)
    return stage.step(
        f"A has a file of 1 page, makes one of {2 * PAGES}, and touches {LAST} of them",
        "A file may be larger than the room there is: pages are charged when they are touched, and each took "
        "one until none was left.",
        _charging(stage),
        [
            claim("free pages before", PAGES, before),
            claim("free pages after", 0, after["f_bfree"]),
            claim("pages charged", PAGES, stage.used()),
            present(view, LAST - 1),
            present(view, LAST, expected=False),
        ],
        [view],
        facts=[("df", f"{before} of {after['f_blocks']} pages free before, {after['f_bfree']} after")],
    )


def _refused(stage: Stage, mapping: Mapping, fd: int) -> Step:
    before = stage.server.statistics().refused
    touch = stage.dies(mapping, LAST)
    written = answer(stage.a, "pwrite", fd, "x", 1, LAST * PAGE)
    return stage.step(
        "A page more",
        "The charge is refused. write can say so (ENOSPC); a store cannot, so the process gets SIGBUS (here "
        "a child of A).",
        _charging(stage),
        [
            claim("a touch ends in", "SIGBUS", touch.value),
            claim("write answers", "ENOSPC", written),
            claim("pages charged", PAGES, stage.used()),
            _refusals(stage, before),
        ],
        [stage.view(mapping, LAST)],
    )


def _refusals(stage: Stage, before: int) -> Claim:
    """With native pages the kernel refuses by itself, and shmfs is told of nothing."""
    count = stage.server.statistics().refused - before
    return claim(f"shmfs saw {'it' if stage.managed else 'nothing of it'}", stage.managed, count > 0)


def _fits(stage: Stage, mapping: Mapping) -> Step:
    room = stage.df()["f_bfree"]
    store = stage.store_byte(mapping, LAST, "y")
    view = stage.view(mapping, LAST)
    return stage.step(
        "A removes its other file",
        "Nobody has it open or mapped, so its frame is freed, and the touch that killed before finds room.",
        f"vfs_unlink evict fuse_evict_inode {'' if stage.managed else 'shmem_evict_inode '}handle_mm_fault",
        [
            claim("free pages before the touch", 1, room),
            present(view, LAST),
            claim("A stored", "y", store.value),
            claim("free pages after it", 0, stage.df()["f_bfree"]),
        ],
        [view],
    )


def _charging(stage: Stage) -> str:
    own = "filemap_fault fuse_read_folio" if stage.managed else "shmem_fault shmem_inode_acct_blocks"
    return f"handle_mm_fault do_shared_fault {own}"
