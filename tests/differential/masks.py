"""What is known to differ from tmpfs, and is kept out of the comparison: one table.

Each entry is looked for by its name in the operations, which then do on both sides what both can. The
reasons are told at length by README's "Known differences from tmpfs".
"""

from typing import NamedTuple


class Mask(NamedTuple):
    """A known difference: the stores that have it, what is done about it, and why."""

    stores: tuple[str, ...]
    instead: str
    reason: str


BOTH = ("managed", "native")

MASKS: dict[str, Mask] = {
    "read of a writer's hole": Mask(
        ("managed",),
        "a read through the page cache of a file that is open for writing ends where its data end",
        "FUSE does not tell a read from a fault, so the hole is charged",
    ),
    "read-ahead": Mask(
        ("managed",),
        "no MADV_WILLNEED",
        "the kernel reads the pages in, and holes of a file that is open for writing are charged",
    ),
    "fault on a hole without a writer": Mask(
        ("managed",),
        "such a page is not touched",
        "what nobody can store into is not charged",
    ),
    "populate a full file system": Mask(
        ("managed",),
        "MAP_POPULATE only of files that are open for writing, and fstat after it",
        "a populate that is refused shortens the file in the kernel for a moment; stat waits for the repair",
    ),
    "write from bad memory": Mask(
        BOTH,
        "memory that cannot be loaded from is not written from",
        "the kernel fails it before it asks (native: of a set-id file), if direct also without PROT_READ",
    ),
    "read into bad memory": Mask(
        BOTH,
        "no read into memory that cannot be stored into, nor from behind the end into a private mapping",
        "a direct read (O_DIRECT; native: of a set-id file) takes hold of the memory before it looks,"
        " which copies a private page",
    ),
    "mremap of what was split": Mask(
        ("managed",),
        "no mremap after an mprotect or MADV_RANDOM of a part",
        "the kernel does not merge mappings of FUSE's cached files again (fuse_vma_close)",
    ),
    "failed write over a store": Mask(
        ("managed",),
        "fsync before a write for which there may be no room",
        "a write that fails takes what was stored since the last write-back with it: the kernel copied the"
        " new data over it, and drops the page (fuse_send_write_pages)",
    ),
    "failed write over a mapped page": Mask(
        ("managed",),
        "in a program that maps a write for which there may be no room stays in one page or fills its last",
        "the kernel has copied the data into all pages before it asks, leaves those mapped (the same), and"
        " may hold the lock of one that it filled in part, so that shmfs cannot put it right in time",
    ),
    "failed direct write": Mask(
        ("managed",),
        "no O_DIRECT in a program that calls fallocate",
        "the kernel truncates the file to its size then (fuse_direct_IO), which frees what lies behind",
    ),
    "store behind the end": Mask(
        ("managed",),
        "no store through a shared mapping into what lies behind the end of the file in its last page",
        "the kernel zeroes it at write-back (iomap_writeback_handle_eof); on tmpfs it stays",
    ),
    "time of MADV_REMOVE": Mask(
        ("native",),
        "no mtime of empty files in a program that calls madvise",
        "it goes to the backing file, and the kernel keeps the attributes of an empty file",
    ),
    "time of a merged mapping": Mask(
        ("native",),
        "mmap asks for addresses that lie apart",
        "the kernel merges a mapping with its neighbour of the same file without asking the file, so atime"
        " stays; passed-through mappings are of the backing file, and do not merge (backing_file_mmap)",
    ),
    "time of a store": Mask(
        ("managed",),
        "no mtime of regular files in a program that stores through a shared mapping",
        "mtime changes at write-back",
    ),
    "time of a read": Mask(
        ("managed",),
        "no atime of regular files",
        "the kernel answers from its cache, and nobody notes the atime",
    ),
    "times of special files": Mask(
        BOTH,
        "of fifos and devices no mtime in a program that writes without an offset, no atime where it reads",
        "they stay in the kernel, which leaves FUSE's times to the daemon (S_NOCMTIME, S_NOATIME)",
    ),
    "seek in a directory": Mask(
        BOTH,
        "only SEEK_SET and SEEK_CUR in directories",
        "FUSE's directories take the others too, without a request (generic_file_llseek)",
    ),
    "empty read": Mask(
        BOTH,
        "no read of no bytes, no sendfile or splice from the end of a file on, or from a directory",
        "the kernel returns before atime is noted (native: backing_file_read_iter; managed: of a directory),"
        " or asks nobody (native: of a file that was set-id when it was opened, filemap_splice_read)",
    ),
    "place of a replaced name": Mask(
        BOTH,
        "names are sorted in a program that renames",
        "a name that a rename replaces keeps its place in the order of readdir",
    ),
    "append flag of an open file": Mask(
        ("native",), "F_SETFL leaves O_APPEND as it is", "passed-through writes go by the flags of the open"
    ),
    "failed fallocate of a set-id file": Mask(
        BOTH,
        "only root allocates in a set-id file",
        "the kernel has the bits cleared before it asks for the allocation (file_modified), which may fail",
    ),
    "chown to nobody of a set-id file": Mask(
        BOTH,
        "only root and the owner call chown(-1, -1) for a set-id file",
        "the request is the same as that by which the kernel has set-id bits cleared before a change",
    ),
    "MADV_REMOVE of a set-id file": Mask(
        ("native",),
        "only root removes pages of a set-id file through a mapping",
        "it goes to the backing file, which has no such bits",
    ),
    "set-id bits of an open file": Mask(
        ("native",),
        "chmod sets no set-id bits",
        "a passed-through write of a descriptor that was opened before does not clear them",
    ),
}


def masked(name: str, store: str) -> bool:
    """Whether a difference is known of a store."""
    return store in MASKS[name].stores
