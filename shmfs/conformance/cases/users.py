"""Two users and root: who may open, rename and remove which file."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Mapping, child, content, libc, new, opened, tried
from shmfs.conformance.users import ALICE, BOB, alice, bob, owner, shared_directory

# ---- files of two users


@case()
def a_file_of_one_is_not_the_others(d: Path) -> Any:
    shared_directory()
    alice(lambda: os.close(new("d/f", b"hers", 0o600)))
    return [bob(opened, "d/f", os.O_RDONLY), alice(content, "d/f"), owner("d/f"), bob(os.unlink, "d/f")]


@case()
def a_group_shares_a_file(d: Path) -> Any:
    shared_directory()
    alice(lambda: os.close(new("d/f", b"hers", 0o660)))
    os.chown("d/f", -1, 77), os.chmod("d/f", 0o660)
    return [bob(opened, "d/f"), bob(opened, "d/f", groups=(77,)), alice(opened, "d/f")]


@case()
def the_owner_has_only_his_own_bits(d: Path) -> Any:
    """Permission bits of others do not apply to the owner."""
    os.close(new("f", b"x")), os.chown("f", ALICE, ALICE)
    os.chmod("f", 0o077)
    return [alice(opened, "f", os.O_RDONLY), bob(opened, "f", os.O_RDONLY)]


@case()
def a_descriptor_is_handed_over(d: Path) -> Any:
    fd = new("f", b"secret", 0o600)

    def use() -> Any:
        again = tried(os.open, f"/proc/self/fd/{fd}", os.O_RDWR)
        return [
            os.pread(fd, 6, 0),
            again if isinstance(again, str) else "opened",
            tried(os.fchmod, fd, 0o666),
        ]

    return bob(use)


@case()
def a_mapping_is_handed_over(d: Path) -> Any:
    m = Mapping(new("f", b"secret", 0o600))
    return [bob(lambda: m.store(b"SECRET")), content("f")]


@case()
def saved_ids_do_not_count(d: Path) -> Any:
    os.close(new("f", mode=0o600))

    def look() -> Any:
        os.setresgid(BOB, BOB, 0)
        os.setresuid(BOB, BOB, 0)
        return opened("f")

    return child(look)


@case()
def fsuid_counts(d: Path) -> Any:
    shared_directory()
    os.close(new("f", mode=0o600))

    def look() -> Any:
        libc.setfsgid(BOB), libc.setfsuid(BOB)
        os.close(new("d/g"))
        return [opened("f"), owner("d/g")]

    return child(look)


# ---- directories


@case()
def sticky_directories(d: Path) -> Any:
    shared_directory(0o1777)
    alice(lambda: os.close(new("d/f")))
    alice(lambda: os.mkdir("d/dir"))
    return {
        "unlink": bob(os.unlink, "d/f"),
        "rmdir": bob(os.rmdir, "d/dir"),
        "rename": bob(os.rename, "d/f", "d/g"),
        "rename within": alice(os.rename, "d/f", "d/g"),
        "own": alice(os.unlink, "d/g"),
        "root": os.rmdir("d/dir"),
    }


@case()
def the_owner_of_a_sticky_directory(d: Path) -> Any:
    shared_directory(0o1777)
    os.chown("d", BOB, BOB), os.chmod("d", 0o1777)
    alice(lambda: os.close(new("d/f")))
    return bob(os.unlink, "d/f")


@case()
def a_sticky_directory_and_renames_over(d: Path) -> Any:
    shared_directory(0o1777)
    alice(lambda: os.close(new("d/hers")))
    bob(lambda: os.close(new("d/his")))
    return [bob(os.rename, "d/his", "d/hers"), alice(os.rename, "d/hers", "d/his"), sorted(os.listdir("d"))]


@case()
def protected_files_of_others_in_sticky_directories(d: Path) -> Any:
    """fs.protected_regular and fs.protected_fifos, as this kernel has them set."""
    shared_directory(0o1777)
    alice(lambda: os.close(new("d/f", mode=0o666)))
    alice(lambda: os.mkfifo("d/p"))
    os.chmod("d/f", 0o666), os.chmod("d/p", 0o666)
    how = os.O_CREAT | os.O_RDWR
    return [bob(opened, "d/f", how), opened("d/f", how), bob(opened, "d/p", how), bob(opened, "d/f")]


@case()
def protected_links(d: Path) -> Any:
    """fs.protected_symlinks and fs.protected_hardlinks."""
    shared_directory(0o1777)
    os.close(new("f", b"x", 0o644)), os.close(new("secret", b"x", 0o600))
    alice(lambda: os.symlink("../f", "d/s"))
    return [
        bob(opened, "d/s", os.O_RDONLY),
        alice(opened, "d/s", os.O_RDONLY),
        bob(os.link, "secret", "d/l"),
        bob(os.link, "f", "d/l"),
        opened("d/s", os.O_RDONLY),
    ]


@case()
def a_directory_that_may_be_searched_only(d: Path) -> Any:
    shared_directory(0o711)
    os.close(new("d/f", b"x", 0o644))
    return [bob(content, "d/f"), bob(os.listdir, "d"), bob(opened, "d/g", os.O_CREAT | os.O_RDWR)]


@case()
def a_directory_that_may_be_read_only(d: Path) -> Any:
    shared_directory(0o744)
    os.close(new("d/f", b"x", 0o644))
    return [bob(os.listdir, "d"), bob(opened, "d/f", os.O_RDONLY), bob(os.stat, "d/f")]
