"""shm: the same through shm_open, which is open in /dev/shm."""

import os
from collections.abc import Iterator

from shmfs.explain.actors import SHM
from shmfs.explain.chapters.tools import O_CREAT, O_RDWR, answer, claim, faults, first_fault, same_frame
from shmfs.explain.records import Step
from shmfs.explain.stage import PAGE, Stage

NAME = "/story"


def steps(stage: Stage) -> Iterator[Step]:
    """From shm_open to the last unmap."""
    a, b = stage.a, stage.b
    fd_a = a.call("shm_open", NAME, O_RDWR | O_CREAT, 0o600)
    a.call("ftruncate", fd_a, 4 * PAGE)
    seen = a.figures("stat", SHM + NAME)
    device = f"{os.major(seen['st_dev'])}:{os.minor(seen['st_dev'])}"
    yield stage.step(
        f"A calls shm_open({NAME})",
        "POSIX shared memory is a file in /dev/shm, and shm_open opens it there: whatever is mounted at that "
        "place serves it, here shmfs.",
        "do_sys_openat2 fuse_create_open",
        [
            claim(f"bytes of {SHM}{NAME}", 4 * PAGE, seen["st_size"]),
            claim("it is on the mount, device", stage.server.device, device),
        ],
    )
    at_a = stage.map(a, fd_a, 4)
    store = stage.store_byte(at_a, 0, "x")
    fd_b = b.call("shm_open", NAME, O_RDWR, 0)
    at_b = stage.map(b, fd_b, 4)
    load = stage.load(at_b, 0)
    views = stage.views(at_a, at_b)
    yield stage.step(
        "A maps and stores; B opens the same name, maps and loads",
        "From here on it is the story of every mapped file: one fault allocates the frame, another finds it.",
        "do_mmap handle_mm_fault do_shared_fault do_read_fault set_pte_range",
        [
            faults(store, *first_fault(stage, views[0])),
            faults(load, 1),
            claim("B loads what A stored", "x", load.value),
            same_frame(*views),
            claim("pages charged", 1, stage.used()),
        ],
        views,
        cache=stage.cache(at_a, fd_a),
        blocks=stage.blocks(NAME),
    )
    for actor, fd in ((a, fd_a), (b, fd_b)):
        actor.call("close", fd)
    a.call("shm_unlink", NAME)
    again = answer(b, "shm_open", NAME, O_RDWR, 0)
    stage.store_byte(at_a, 0, "z")
    load = stage.load(at_b, 0)
    held = stage.used()
    views = stage.views(at_a, at_b)
    at_a.unmap()
    at_b.unmap()
    stage.settled(0)
    yield stage.step(
        f"A calls shm_unlink({NAME}), and both unmap",
        "The name is gone for everybody who comes now; those who have it mapped share it until the last of "
        "them lets go.",
        "vfs_unlink fuse_unlink do_vmi_munmap fuse_evict_inode"
        + ("" if stage.managed else " shmem_evict_inode"),
        [
            claim("B's shm_open answers", "ENOENT", again),
            claim("B loads what A stored", "z", load.value),
            same_frame(*views),
            claim("pages charged before the unmap", 1, held),
            claim("pages charged after it", 0, stage.used()),
        ],
        stage.views(at_a, at_b),
    )
