"""full: the mount runs out of room under a mapping."""

from collections.abc import Iterator

from shmfs.explain.chapters.tools import SHM, answer, claim, create, present
from shmfs.explain.records import Claim, Step
from shmfs.explain.stage import PAGE, PAGES, Stage

NAME = "big"
_KEEP_SIZE_PUNCH_HOLE = 3


def steps(stage: Stage) -> Iterator[Step]:
    """The mount is filled, refuses, and has room again."""
    fd = create(stage.a, NAME, 2 * PAGES, PAGE)
    mapping = stage.map(stage.a, fd, 2 * PAGES)
    before = stage.df()
    for page in range(PAGES):
        stage.a.touch(mapping.at(page), page, "x")
    view = stage.view(mapping, PAGES - 1, PAGES)
    free = "statfs: {free} of {size} pages free"
    yield stage.step(
        f"A makes a file of {2 * PAGES} pages and touches {PAGES} of them",
        "A file may be larger than the room there is: pages are charged when they are touched, and each took "
        "one until none was left.",
        "handle_mm_fault do_shared_fault "
        + ("filemap_fault fuse_read_folio" if stage.managed else "shmem_fault shmem_inode_acct_blocks"),
        [
            claim("free pages before", PAGES, before["f_bfree"]),
            claim("free pages after", 0, stage.df()["f_bfree"]),
            claim("pages charged", PAGES, stage.used()),
            present(view, PAGES - 1),
            present(view, PAGES, expected=False),
        ],
        [view],
        facts=[("df", free.format(free=stage.df()["f_bfree"], size=stage.df()["f_blocks"]))],
        blocks=PAGES,
    )
    refused = stage.server.statistics().refused
    touch = stage.dies(mapping, PAGES)
    full = answer(stage.a, "fallocate", fd, 0, PAGES * PAGE, PAGE)
    yield stage.step(
        "A page more",
        "The charge is refused. fallocate and write can say so (ENOSPC); a store cannot, so the process gets "
        "SIGBUS (here a child of A).",
        "handle_mm_fault do_shared_fault "
        + ("filemap_fault fuse_read_folio" if stage.managed else "shmem_fault shmem_inode_acct_blocks"),
        [
            claim("a touch ends in", "SIGBUS", touch.value),
            claim("fallocate answers", "ENOSPC", full),
            claim("pages charged", PAGES, stage.used()),
            *_refusals(stage, refused),
        ],
        [stage.view(mapping, PAGES)],
    )
    stage.a.call("fallocate", fd, _KEEP_SIZE_PUNCH_HOLE, 0, PAGE)
    room = stage.df()["f_bfree"]
    store = stage.store_byte(mapping, PAGES, "y")
    view = stage.view(mapping, 0, PAGES)
    yield stage.step(
        "A gives a page back",
        "A hole is punched where page 0 was: its frame is freed and its PTE gone, and the same touch that "
        "killed before finds room.",
        "vfs_fallocate fuse_file_fallocate unmap_mapping_range"
        + ("" if stage.managed else " shmem_fallocate shmem_truncate_range"),
        [
            claim("free pages after the hole", 1, room),
            present(view, 0, expected=False),
            present(view, PAGES),
            claim("A stored", "y", store.value),
            claim("free pages after the touch", 0, stage.df()["f_bfree"]),
        ],
        [view],
    )
    mapping.unmap()
    stage.a.call("close", fd)
    stage.a.call("unlink", f"{SHM}/{NAME}")
    stage.settled(0)


def _refusals(stage: Stage, before: int) -> list[Claim]:
    """With native pages the kernel refuses by itself, and shmfs is told of nothing."""
    count = stage.server.statistics().refused - before
    return [claim(f"shmfs saw {'it' if stage.managed else 'nothing of it'}", stage.managed, count > 0)]
