"""Where shmfs answers otherwise than tmpfs: case, observation, what shmfs answers, why FUSE gives no better.

A difference that has gone makes its case fail, so that this table tells the truth.
"""

from typing import Any

CACHED_READ = "the kernel answers a read of cached pages without a request, so nobody notes the atime"
STORE = "a store into a page that the kernel has cached makes no request: the times change at writeback"
WRITER = "READ does not tell read(2) from a fault, and what a mapping may make dirty must be charged before"
LATER = "pyfuse3 does not bind the request"
CLOCK = "pyfuse3 drops FATTR_MTIME_NOW and hands on the kernel's coarse clock, some milliseconds ago"
IOCTL = "pyfuse3 does not bind ioctl"

KNOWN_DIFFERENCES: dict[str, dict[str, tuple[Any, str]]] = {
    "allocation.size_limits": {
        "1, 10001": (0, "only the kernel knows the caller's limit, and FUSE's asks it for new sizes only")
    },
    "data.extents_and_clones": {"bmap": (bytes(4), "FUSE has a bmap of its own, which knows no blocks")},
    "data.seals": {
        "get": ("EINVAL", "only the kernel's own shmem and hugetlbfs have seals (mm/memfd.c)"),
        "add": (
            "EINVAL",
            "likewise; on tmpfs F_SEAL_SEAL is set from the start, so none can be added either",
        ),
    },
    "directories.a_rename_onto_a_name_keeps_or_moves_its_place": {
        "replaced": (
            ["g", "f3", "f2", "f1"],
            "a replaced name keeps its place, so that no reader misses it; on tmpfs it comes first, as"
            " the dentry cache has it",
        ),
        "exchanged": (["g", "f3", "f2", "f1"], "likewise"),
    },
    "suites.attributes_of_statx": {
        "known": ("0x0", "fs/fuse/dir.c:fuse_do_statx hands on no stx_attributes"),
        "set": ("0x0", "likewise"),
    },
    "suites.positions_of_directories": {
        "end": (60, "fs/fuse/dir.c:fuse_dir_operations seeks with generic_file_llseek, as in a file"),
        "data": (0, "likewise"),
        "hole": (60, "likewise"),
    },
    "regressions.seeking_in_a_directory": {
        name: (answer, "the kernel answers for FUSE's directories by itself (generic_file_llseek)")
        for name, answer in (("end", 40), ("data", 0), ("hole", 40))
    },
    "special.polling": {"epoll": (None, "FUSE files may be polled, so the kernel lets epoll have them")},
}

APPEND = "passed-through writes go by the flags that the file had when it was opened"

CHOWN: dict[str, dict[Any, tuple[Any, str]]] = {
    "regressions.a_chown_to_nobody_takes_set_id_bits_from_the_owner_only": {
        "another's": (
            [None, "-rwxr-xr-x"],
            "the kernel sends the same request for chown(-1, -1) and when a write is to clear the bits",
        )
    },
}

KNOWN_OF: dict[str, dict[str, dict[Any, tuple[Any, str]]]] = {
    "managed": CHOWN
    | {
        "accounting.a_read_fault_without_a_writer": {"blocks": (0, WRITER)},
        "accounting.a_write_over_holes_in_a_full_file_system": {"hole": ("ENOSPC", WRITER)},
        "accounting.reading_a_hole_of_a_writer": {"blocks": (8, WRITER)},
        "regressions.a_store_behind_the_end_that_was_synced": {
            "grown": (bytes(6), "the kernel zeroes what lies behind the end when it writes the page back")
        },
        "times.of_first_stores": {
            "hole": ("", STORE),
            "another hole": ("", STORE),
            "write only": ("", STORE),
            "msync": ("mc", STORE),
        },
        "times.of_mappings": {"map": ({"f": ""}, "mmap(2) makes no request, so nobody notes the atime")},
        "times.of_reads": {
            "read": ({"f": ""}, CACHED_READ),
            "read again": ({"f": ""}, CACHED_READ),
            "of an empty file": ({"f": ""}, "the kernel knows that it is empty, and asks for nothing"),
        },
    },
    "native": CHOWN | {"data.append": {2: (b"start12\x00\x00\x00#34", APPEND)}},
    "no extension": {
        "data.flags_of_inodes": {"get": ("ENOTTY", IOCTL), "set": ("ENOTTY", IOCTL)},
        "mapping.remove": {"answer": ("ENOTSUP", LATER), "load": (b"x", LATER)},
        "names.temporary_files": {"O_TMPFILE": ("ENOTSUP", LATER)},
        "special.birth_time": {"kept": (False, LATER)},
        "xattrs.flags": {"both, missing": (None, "pyfuse3 carries out the flags, but not both at once")},
    },
}
KNOWN_OF["no extension"] |= KNOWN_OF["managed"]
"""What only one store differs in, or only shmfs without its C extension."""

NEEDS_EXTENSION = {
    "times.never_go_back": f"{CLOCK}: sometimes",
    **dict.fromkeys(
        [
            "allocation.modes",
            "allocation.arguments",
            "allocation.random_allocation",
            "allocation.a_failure_leaves_nothing",
            "allocation.what_is_allocated_can_be_stored",
            "allocation.behind_the_end",
            "allocation.holes_in_mappings",
            "allocation.times_and_privileges",
            "allocation.size_limits",
            "allocation.data_and_holes",
            "allocation.files_without_names",
            "allocation.files_without_names_take_inodes",
            "allocation.flags_and_what_they_forbid",
            "allocation.extended_flags",
        ],
        "pyfuse3 does not bind fallocate, lseek, tmpfile and ioctl",
    ),
    "regressions.a_full_inode_space_is_told_before_bad_flags_of_an_attribute": "pyfuse3 does the flags",
    "regressions.a_write_to_a_set_id_file_frees_nothing_behind_the_end": "pyfuse3 does not bind fallocate",
    "regressions.a_direct_write_is_partial_then_refused": "libfuse takes FUSE_ASYNC_DIO by default",
    "regressions.pages_behind_the_end_of_an_empty_file_are_removed": "pyfuse3 does not bind fallocate",
    "data.a_store_behind_the_end": "a change of size drops cached pages by libfuse's defaults for INIT",
    "data.a_buffer_behind_the_end_of_the_file": "likewise",
    "permissions.set_id_bits_go": "libfuse's default has us clear set-id bits without telling who writes",
    "suites.direct_requests_end_at_once": "libfuse's default has direct requests end later",
    "suites.attributes_of_statx": "pyfuse3 does not bind ioctl",
    "suites.flags_change_the_ctime": "likewise",
    "suites.set_group_id_without_execution": "libfuse's default does not tell who writes",
    "xattrs.lists_are_inherited": "libfuse's default has the kernel apply the umask before a default list",
}
"""Cases that shmfs without its C extension cannot answer as tmpfs does, and why."""
