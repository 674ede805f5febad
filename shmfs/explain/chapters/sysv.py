"""sysv: System V shared memory, by plain calls of libc: whoever serves them is seen in maps."""

from collections.abc import Iterator
from typing import NamedTuple

from shmfs.explain.chapters.tools import answer, claim, faults, first_fault, present, same_frame, served_by
from shmfs.explain.records import Step
from shmfs.explain.stage import PAGE, Mapping, Stage

_IPC_PRIVATE, _IPC_CREAT = 0, 0o1000
_IPC_RMID, _IPC_STAT = 0, 2
_SHM_DEST = 0o1000
_SHMID_DS = 112
"""Bytes of struct shmid_ds on 64-bit machines; see bits/types/struct_shmid_ds.h."""


class _Status(NamedTuple):
    size: int
    nattch: int
    destroyed: bool


def _status(stage: Stage, segment: int) -> _Status:
    raw = stage.a.buffer("shmctl", _SHMID_DS, segment, _IPC_STAT, "BUFFER")
    size, nattch = (int.from_bytes(raw[at : at + 8], "little") for at in (48, 88))
    return _Status(size, nattch, bool(int.from_bytes(raw[20:22], "little") & _SHM_DEST))


def steps(stage: Stage) -> Iterator[Step]:
    """From shmget to the last shmdt."""
    a, b = stage.a, stage.b
    inodes = stage.server.statistics().inodes_used
    segment = a.call("shmget", _IPC_PRIVATE, 4 * PAGE, _IPC_CREAT | 0o600)
    status = _status(stage, segment)
    own = stage.server.statistics().inodes_used > inodes
    yield stage.step(
        "A calls shmget",
        "It makes a file of four pages without a name in any directory, which has a number instead, and maps "
        "nothing."
        + (" The library that `shmfs run` preloads asks shmfs for it, by an ioctl." if own else ""),
        "fuse_dir_ioctl fuse_do_ioctl" if own else "ksys_shmget ipcget newseg shmem_kernel_file_setup",
        [claim("bytes of the segment", 4 * PAGE, status.size), claim("nattch", 0, status.nattch)],
        facts=[("shmctl", f"segment {segment}: {status.size} bytes, nattch {status.nattch}")],
    )
    at_a = Mapping(a, a.call("shmat", segment, 0, 0), 4)
    store = stage.store_byte(at_a, 0, "x")
    at_b = Mapping(b, b.call("shmat", segment, 0, 0), 4)
    before = stage.view(at_b, 0)
    load = stage.load(at_b, 0)
    views = stage.views(at_a, at_b)
    yield stage.step(
        "A attaches and stores; B attaches and loads",
        "shmat is mmap of that file: a VMA, faults, and one frame for both. What is attached is counted "
        "(nattch).",
        "do_mmap handle_mm_fault do_shared_fault filemap_map_pages"
        if own
        else "do_shmat do_mmap shm_mmap handle_mm_fault shm_fault shmem_fault shmem_get_folio_gfp",
        [
            faults(store, *first_fault(stage, views[0])),
            present(before, expected=False, when="before its touch "),
            faults(load, 1),
            claim("B loads what A stored", "x", load.value),
            same_frame(*views),
            claim("nattch", 2, _status(stage, segment).nattch),
        ],
        views,
        cache=stage.cache(at_a),
        facts=[("served by", served_by(stage, views[0]))],
    )
    a.call("shmctl", segment, _IPC_RMID, 0)
    status = _status(stage, segment)
    a.call("shmdt", at_a.address)
    still = stage.load(at_b, 0)
    b.call("shmdt", at_b.address)
    gone = answer(a, "shmctl", segment, _IPC_STAT, 0)
    views = stage.views(at_a, at_b)
    yield stage.step(
        "A removes the segment while both are attached; both detach",
        "IPC_RMID only marks it (SHM_DEST), as unlink takes only the name: the last shmdt frees it. One that "
        "nobody removes outlives its processes.",
        "fuse_dir_ioctl fuse_do_ioctl do_vmi_munmap unmap_vmas fuse_evict_inode"
        if own
        else "shmctl_down do_shm_rmid ksys_shmdt do_vmi_align_munmap shm_close shm_destroy shmem_evict_inode",
        [
            claim("marked for removal", True, status.destroyed),
            claim("nattch before", 2, status.nattch),
            claim("after A's shmdt B loads", "x", still.value),
            claim("after B's, shmctl answers", "EINVAL", gone),
            claim("VMAs left", 0, sum(view.vma is not None for view in views)),
        ],
        views,
    )
