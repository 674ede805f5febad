"""Where shmfs answers otherwise than tmpfs: case, observation, what shmfs answers, why FUSE gives no better.

A difference that has gone makes its case fail in the tests, so that this table tells the truth.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

STORES = ("managed", "native", "no extension")


class Reason(NamedTuple):
    """Why FUSE can do no better."""

    what: str
    """What a program sees, for a list."""
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


Known = dict[str, dict[Any, tuple[Any, Reason]]]
"""By case and observation: what shmfs answers, and why; ... for whatever it answers."""

CACHED_READ = Reason(
    "atime does not follow reads of what is cached",
    "the kernel answers them without a request, so nobody notes the time",
)
STORE = Reason(
    "mtime after a store through a mapping changes at write-back",
    "a store into a page that the kernel has cached makes no request",
)
WRITER = Reason(
    "read(2) of a hole in a file that is open for writing charges it, and gives ENOSPC in a full file system",
    "READ does not tell read(2) from a fault, and what a mapping may make dirty must be charged before",
)
WILLNEED = Reason(
    "MADV_WILLNEED of a single page charges it if it is a hole of a file that is open for writing",
    "READ does not tell it from a fault, and what a mapping may make dirty must be charged before",
)
PARTLY = Reason(
    "mincore does not tell of a page of which a write has filled a part",
    "the kernel keeps no page that it has not read and that was not written as a whole",
)
NO_WRITER = Reason(
    "a fault on a hole of a file that nobody has open for writing is not charged",
    "READ does not tell a fault from read(2), which must not charge",
)
APPEND = Reason(
    "clearing O_APPEND of an open descriptor, and RWF_NOAPPEND, have no effect",
    "passed-through writes go by the flags that the file had when it was opened",
)
SENDFILE = Reason(
    "sendfile(2), splice(2) from the end of a set-id file open by another than root leave atime as it is",
    "reads of it are not passed through, and the kernel asks nobody for what is behind the end",
)
CACHESTAT = Reason(
    "cachestat(2) counts no pages", "it looks into FUSE's cache, and passed-through data is cached behind it"
)
LIMIT = Reason(
    "fallocate beyond RLIMIT_FSIZE that keeps the size is not refused",
    "only the kernel knows the caller's limit, and FUSE's asks it for new sizes only",
)
BMAP = Reason("FIBMAP answers 0", "FUSE has a bmap of its own, which knows no blocks")
SEALS = Reason(
    "F_GET_SEALS and F_ADD_SEALS fail with EINVAL",
    "only the kernel's own shmem and hugetlbfs have seals (mm/memfd.c)",
)
REPLACED = Reason(
    "a name that a rename replaces keeps its place in the order of readdir",
    "so that no reader misses it; on tmpfs it comes first, as the dentry cache has it",
)
EPOLL = Reason("epoll takes files", "FUSE files may be polled, so the kernel lets epoll have them")
STATX = Reason(
    "stx_attributes are empty", "fs/fuse/dir.c:fuse_do_statx hands none on, whatever the file's flags are"
)
POSITIONS = Reason(
    "lseek(2) in a directory answers for SEEK_END, SEEK_DATA and SEEK_HOLE as in a file",
    "the kernel answers for FUSE's directories by itself (generic_file_llseek)",
)
TO_NOBODY = Reason(
    "chown(-1, -1) by another user clears set-id bits instead of EPERM",
    "the kernel sends the same request for it and when a write is to clear the bits",
)
BEHIND_THE_END = Reason(
    "bytes stored through a mapping behind the end of the file are lost at write-back",
    "the kernel zeroes what lies behind the end when it writes the page back",
)
BUFFER = Reason(
    "a write is EFAULT whose buffer lies in a mapping of the file behind its end, up to which it would grow",
    "the kernel touches the buffer before it asks for the write that lets the file grow",
)
FAILED_WRITE = Reason(
    "what a write(2) that fails for lack of space was to write shows in mappings, and is stored with them",
    "the kernel has copied the data into its cache before it asks, and leaves pages there that are mapped",
)
NODIRATIME = Reason(
    "statvfs does not tell of nodiratime, which is obeyed",
    "libfuse mounts without it, and the daemon obeys it",
)
APPEND_ONLY = Reason(
    "an append-only file (chattr +a) does not refuse a shared mapping",
    "the kernel's flag S_APPEND is not FUSE's to set",
)

WITHOUT = Reason(
    "no fallocate, SEEK_DATA, O_TMPFILE, time of birth and file flags",
    "pyfuse3 does not bind these requests",
)
BOTH_FLAGS = Reason(
    "setxattr with XATTR_CREATE and XATTR_REPLACE", "pyfuse3 carries out the flags, but not both at once"
)
CLOCK = Reason(
    "times may go back by some milliseconds",
    "pyfuse3 drops FATTR_MTIME_NOW and hands on the kernel's coarse clock",
)
RESIZED = Reason(
    "a change of size drops cached and mapped pages, and bytes that were stored behind the end",
    "libfuse's defaults for INIT have the kernel drop them, also while the end of a populate is repaired",
)
SET_ID = Reason(
    "any write clears set-id bits",
    "libfuse's default has the daemon clear set-id bits without telling who writes",
)
DIRECT = Reason(
    "direct reads and writes may end later, and are EIO where the limit cuts them short",
    "libfuse takes FUSE_ASYNC_DIO by default",
)
UMASK = Reason(
    "the umask is applied before a default access list", "libfuse's default has the kernel apply it"
)

KEPT_SET_GID = Reason(
    "an access list set by who is not in the group leaves the set-gid bit",
    "pyfuse3 drops the flag by which the kernel asks for it (SETXATTR_ACL_KILL_SGID)",
)

KIND = Reason("statfs tells the type of FUSE, 0x65735546", "the kernel fills it in itself")
LEFT_TO_THE_DAEMON = Reason(
    "reads and writes of a fifo, connecting to a socket, and sendfile from a device leave times as they are",
    "they stay in the kernel, which leaves FUSE's times to the daemon (S_NOCMTIME, S_NOATIME)",
)
NO_NUMBER = Reason(
    "inotify tells of a file made by O_TMPFILE without its number",
    "a file system names it (d_mark_tmpfile, as shmem does); the kernel's FUSE does not",
)

NAMELESS = Reason(
    "a shared anonymous mapping is not named /dev/zero in /proc/PID/maps",
    "it is a file of the mount, whose name the kernel shows",
)
CHARGED = Reason(
    "SHM_INFO tells all that is charged as resident",
    "the whole of a segment is charged when it is made, and present in the native store",
)
HUGE = Reason(
    "SHM_HUGETLB fails with EINVAL", "huge pages come from the kernel's own pool, which no file system has"
)
UNSEEN = Reason(
    "shm_dtime and shm_lpid do not follow an exit or munmap(2), but for the last attach's",
    "FUSE is told of the last unmap of a file only",
)
MERGED = Reason(
    "pieces of an attach that are alike again count as one in shm_nattch",
    "the kernel merges mappings of its tmpfs, which native pages are, and none of its segments",
)

NEIGHBOUR = Reason(
    "a mapping beside one of the same file changes atime",
    "the kernel merges the two on tmpfs without asking the file; passed-through ones are of the backing file",
)

PINNED = Reason(
    "io_uring registers no buffer in a shared mapping",
    "pages of files that are written back may not be pinned for long (writable_file_mapping_allowed)",
)
USERFAULTFD = Reason(
    "userfaultfd watches no mapping",
    "the kernel does it for its own shmem, hugetlbfs and anonymous memory only",
)
POLICY = Reason(
    "a memory policy (mbind) is the mapping's, and not the file's",
    "only the kernel's own shmem keeps policies of files (set_policy)",
)
NO_WRITER_LEFT = Reason(
    "a writable mapping whose descriptor is closed keeps nobody from executing the file or leasing it",
    "a passed-through mapping holds the backing file, and FUSE's is closed with its last descriptor",
)
UNREAD_BUFFER = Reason(
    "a write from memory that is not there, or in part, stores nothing, and does not grow the file",
    "the kernel finds that out before it asks (fuse_fill_write_pages)",
)
RUNNING = Reason(
    "O_RDONLY with O_TRUNC on a running program truncates it, and fails with ETXTBSY",
    "the kernel looks for who executes it after the open, which truncates (FUSE_ATOMIC_O_TRUNC)",
)
NAMES_LISTED = Reason(
    "listxattr without a buffer answers 65536 where the names take more",
    "the kernel cuts FUSE's answer at what can be listed (XATTR_LIST_MAX)",
)
NO_ARGUMENT = Reason(
    "an ioctl without an argument is EFAULT where its number says that it has one",
    "the kernel copies the argument before it asks whether there is such an ioctl",
)
IDENTITY = Reason(
    "FS_IOC_GETFSUUID fails with ENOTTY", "the kernel's FUSE gives its file systems no UUID (s_uuid)"
)
NO_FSID = Reason(
    "fanotify tells no names and handles of a whole file system (ENODEV)",
    "it takes a file system with an f_fsid for that, and FUSE's statfs has none",
)
IDMAPPED = Reason(
    "idmapped mounts are refused",
    "with FUSE_ALLOW_IDMAP requests that make no file lack the caller's ids, which the daemon needs",
)
COPIED_UP = Reason(
    "an overlay's copy of a set-id file that is written to has no set-id bits",
    "the overlay sets the owner last, and FUSE asks for that as for chown(2), which takes them away",
)

REFUSED_SENDFILE = Reason(
    "sendfile(2) from a directory, which fails, leaves its atime as it is",
    "the kernel notes the access by itself (splice_direct_to_actor), and leaves FUSE's times to the daemon",
)

LISTED_STILL = Reason(
    "a listing that has begun may still have names that were removed since",
    "the kernel lists from its cache, and looks for changes at the beginning only (fuse_readdir_cached)",
)

EVERY: Known = {
    "directories.names_removed_during_a_listing": {"listed still": (..., LISTED_STILL)},
    "splice.atime_of_a_directory_after_a_refused_sendfile": {"f": ("", REFUSED_SENDFILE)},
    "resource_limits.rlimit_fsize_of_fallocate": {"1, 10001": (0, LIMIT)},
    "file_control.extents_and_clones": {"bmap": (bytes(4), BMAP)},
    "file_control.seals": {"get": ("EINVAL", SEALS), "add": ("EINVAL", SEALS)},
    "directories.a_rename_onto_a_name_keeps_or_moves_its_place": {
        "replaced": (["g", "f3", "f2", "f1"], REPLACED),
        "exchanged": (["g", "f3", "f2", "f1"], REPLACED),
    },
    "mount_options.flags_reported_by_statvfs": {"nodiratime": (0, NODIRATIME)},
    "mmap_access.shared_write_on_an_append_only_file": {"answer": ("mapped", APPEND_ONLY)},
    "mmap_access.shared_read_on_an_append_only_file": {"answer": (["mapped", 0], APPEND_ONLY)},
    "fsnotify.inotify_of_o_tmpfile": {"by number": ([False], NO_NUMBER)},
    "attributes.the_kind_of_file_system": {"type": ("0x65735546", KIND)},
    "locks.polling": {"epoll": (None, EPOLL)},
    "attributes.statx_file_flags": {"known": ("0x0", STATX), "set": ("0x0", STATX)},
    "directories.positions": {
        "end": (60, POSITIONS),
        "data": (0, POSITIONS),
        "hole": (60, POSITIONS),
    },
    "mapping.a_truncating_open_of_a_running_program": {"read": (["ETXTBSY", False], RUNNING)},
    "xattrs.a_list_over_the_limit": {"size": (65536, NAMES_LISTED)},
    "file_control.unsupported_ioctls": {"none": ("EFAULT", NO_ARGUMENT), "identity": (..., IDENTITY)},
    "fsnotify.fanotify_of_every_name": {"mark": (..., NO_FSID)},
    "namespaces.an_idmapped_mount": {"answer": (..., IDMAPPED), "owner": (..., IDMAPPED)},
    "overlayfs.operations_on_layers": {"below": (..., COPIED_UP)},
    "fifos_and_devices.times_of_a_fifo": {
        "write": ({"p": ""}, LEFT_TO_THE_DAEMON),
        "read": ({"p": ""}, LEFT_TO_THE_DAEMON),
    },
    "fifos_and_devices.times_of_devices": {"sendfile": ({"f": ""}, LEFT_TO_THE_DAEMON)},
    "sockets.times_of_a_socket": {"connect": ({"s": ""}, LEFT_TO_THE_DAEMON)},
    "directories.positions_of_an_empty_directory": {
        "end": (40, POSITIONS),
        "data": (0, POSITIONS),
        "hole": (40, POSITIONS),
    },
}
"""What every mount of shmfs differs in."""

_DOORS: Known = {
    "anon.name_in_proc_maps": {"name": (..., NAMELESS)},
    "sysv.info": {"resident": (11, CHARGED)},
    "sysv.huge_pages": {0: ("EINVAL", HUGE)},
    "sysv_attach.last_to_attach_and_detach": {"detached by exit": (False, UNSEEN)},
}
"""What serves System V and shared anonymous memory; without the extension the kernel does."""
_TO_NOBODY: Known = {"set_id_bits.chown_without_a_change": {"another's": ([None, "-rwxr-xr-x"], TO_NOBODY)}}
_CACHED: Known = {
    "user_buffers.a_buffer_that_is_mapped_in_part": {
        "nothing": (["EFAULT", (7, 1)], UNREAD_BUFFER),
        "a part": (["EFAULT", (0, 0)], UNREAD_BUFFER),
    },
    "vma.io_uring_buffers": {"shared": (..., PINNED)},
    "vma.mbind_of_a_shared_file": {"of the other": (..., POLICY)},
    "vma.userfaultfd": {"answer": (..., USERFAULTFD)},
    "madvise.madv_willneed_of_a_hole_allocates_nothing": {
        1: (1, WILLNEED),
        3: (1, WILLNEED),
    },
    "page_cache.mincore_after_a_write": {1: (0, PARTLY)},
    "accounting.a_read_fault_without_a_writer": {"blocks": (0, NO_WRITER)},
    "no_space.a_write_over_holes": {"hole": ("ENOSPC", WRITER)},
    "accounting.reading_a_hole_of_a_writer": {"blocks": (8, WRITER)},
    "accounting.a_read_fault_after_growth_without_a_writer": {"blocks": (0, NO_WRITER)},
    "user_buffers.a_buffer_that_the_write_brings_into_the_file": {"behind": (["EFAULT", 0], BUFFER)},
    "truncation.a_synced_store_beyond_the_end": {"grown": (bytes(6), BEHIND_THE_END)},
    "splice.times_of_sendfile": {
        "at the end": ({"f": ""}, CACHED_READ),
        "at the end of a set-id file": ({"f": ""}, CACHED_READ),
        "splice at the end of a set-id file": ({"f": ""}, CACHED_READ),
    },
    "times.of_first_stores": {
        "hole": ("", STORE),
        "another hole": ("", STORE),
        "write only": ("", STORE),
        "msync": ("mc", STORE),
    },
    "times.of_mappings": {"map": ({"f": ""}, CACHED_READ)},
    "times.of_reads": {
        "read": ({"f": ""}, CACHED_READ),
        "read again": ({"f": ""}, CACHED_READ),
        "of an empty file": ({"f": ""}, CACHED_READ),
    },
}
_MANAGED: Known = _CACHED | _TO_NOBODY | _DOORS
_NATIVE: Known = (_TO_NOBODY | _DOORS) | {
    "sysv_attach.pieces_that_merge_again": {"whole again": (1, MERGED)},
    "append.rwf_noappend": {1: (b"contentNEW", APPEND)},
    "splice.times_of_sendfile": {
        "at the end of a set-id file": ({"f": ""}, SENDFILE),
        "splice at the end of a set-id file": ({"f": ""}, SENDFILE),
    },
    "times.of_adjacent_mappings": {"f": ("a", NEIGHBOUR)},
    "mapping.a_writable_mapping_without_a_descriptor": {
        "closed": (True, NO_WRITER_LEFT),
        "executed": (0, NO_WRITER_LEFT),
        "leased": (0, NO_WRITER_LEFT),
    },
    "page_cache.cachestat": {"cached": (0, CACHESTAT)},
    "append.writes_through_o_append": {2: (b"start12\x00\x00\x00#34", APPEND)},
}
_NO_EXTENSION: Known = _CACHED | {
    "inode_flags.get_and_set": {"get": ("ENOTTY", WITHOUT), "set": ("ENOTTY", WITHOUT)},
    "madvise.madv_remove_of_a_page": {"answer": ("ENOTSUP", WITHOUT), "load": (b"x", WITHOUT)},
    "lookup.relative_to_a_removed_directory": {4: ("ENOTSUP", WITHOUT)},
    "tmpfile.o_tmpfile": {"O_TMPFILE": ("ENOTSUP", WITHOUT)},
    "attributes.birth_after_utime": {"kept": (False, WITHOUT)},
    "xattrs.flags": {"both, missing": (None, BOTH_FLAGS)},
    "no_space.mapped_data_after_a_failed_write": {"mapped": (b"n", FAILED_WRITE)},
}
OF: dict[str, Known] = {"managed": _MANAGED, "native": _NATIVE, "no extension": _NO_EXTENSION}
"""What one store differs in, or shmfs without its C extension."""

WHOLE: dict[str, dict[str, Reason]] = {
    "no extension": {
        "times.never_go_back": CLOCK,
        **dict.fromkeys(
            [
                "allocation.modes",
                "allocation.arguments",
                "allocation.random_allocation",
                "allocation.a_failure_leaves_nothing",
                "allocation.stores_into_preallocation",
                "allocation.preallocation_beyond_the_end",
                "allocation.holes_in_mappings",
                "allocation.times_and_privileges",
                "resource_limits.rlimit_fsize_of_fallocate",
                "allocation.data_and_holes",
                "tmpfile.files_without_names",
                "tmpfile.files_without_names_take_inodes",
                "inode_flags.operations_that_flags_forbid",
                "inode_flags.extended_flags",
                "set_id_bits.a_write_keeps_preallocation",
                "madvise.madv_remove_beyond_the_end",
                "allocation.a_failure_initialises_existing_pages",
                "attributes.statx_file_flags",
                "inode_flags.ctime",
                "attributes.statx_of_every_kind",
                "attributes.statx_of_few_fields",
                "attributes.statx_of_a_descriptor",
                "attributes.birth_is_the_first_ctime",
                "fsnotify.inotify_of_o_tmpfile",
                "fsnotify.inotify_of_allocation",
                "set_id_bits.setgid_of_o_tmpfile_in_a_foreign_group",
                "no_space.a_write_into_preallocation",
                "no_space.a_write_into_preallocation_beyond_the_end",
                "no_space.a_punched_hole",
                "no_space.a_hole_that_cannot_be_filled",
                "truncation.a_truncation_to_the_same_size_keeps_preallocation",
                "madvise.madv_remove",
                "madvise.madv_remove_changes_times",
                "mmap_access.shared_write_on_an_append_only_file",
                "mmap_access.shared_read_on_an_append_only_file",
                "mmap_access.private_write_on_an_append_only_file",
            ],
            WITHOUT,
        ),
        "truncation.a_store_beyond_the_end": RESIZED,
        "populate.mlock_beyond_the_limit_beside_another_user_of_the_file": RESIZED,
        "user_buffers.a_buffer_beyond_the_end": RESIZED,
        "set_id_bits.every_operation": SET_ID,
        "set_id_bits.set_group_id_without_execution": SET_ID,
        "direct_io.io_submit_completes_requests": DIRECT,
        "direct_io.a_partial_write_then_enospc": DIRECT,
        "no_space.stores_after_a_failed_write": FAILED_WRITE,
        "xattrs.enospc_precedes_bad_flags": BOTH_FLAGS,
        "acls.lists_are_inherited": UMASK,
        "acls.a_default_list_is_inherited": UMASK,
        "acls.a_list_that_drops_setgid": KEPT_SET_GID,
    },
}
"""Cases of which nothing can be expected of a store, and why."""


def of(store: str, name: str) -> dict[Any, tuple[Any, Reason]]:
    """The differences of a case that are known of a store; none where `store` is not one of shmfs's."""
    if not store:
        return {}
    return EVERY.get(name, {}) | OF.get(store, {}).get(name, {})


def reasons(store: str) -> Iterator[tuple[str, Reason]]:
    """Each case that is known to differ on a store, and why; a case may come more than once."""
    for table in (EVERY, OF.get(store, {})):
        for name, observations in table.items():
            yield from ((name, reason) for _, reason in observations.values())
    yield from WHOLE.get(store, {}).items()


def by_reason() -> dict[Reason, dict[str, list[str]]]:
    """For each reason the stores that it holds for, and the cases that it is behind there."""
    found: dict[Reason, dict[str, list[str]]] = {}
    for store in STORES:
        for name, reason in dict.fromkeys(reasons(store)):
            found.setdefault(reason, {}).setdefault(store, []).append(name)
    return found
