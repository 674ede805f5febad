"""Several users: who may do what by owner, group, lists, sticky bits."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.access_lists import (
    ACCESS,
    DEFAULT,
    FULL,
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    acl,
)
from shmfs.conformance.tools import Mapping, child, content, libc, mode, new, opened, tried
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
    """Where the owner's bits deny, those of others do not help."""
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
def setgid_directories_pass_the_group_on(d: Path) -> Any:
    shared_directory()
    os.chown("d", 0, 77), os.chmod("d", 0o2777)
    alice(
        lambda: (
            os.close(new("d/f", mode=0o2770)),
            os.mkdir("d/sub"),
            os.mkfifo("d/p"),
            os.symlink("x", "d/s"),
        )
    )
    return {name: [*owner(f"d/{name}"), mode(f"d/{name}")] for name in sorted(os.listdir("d"))}


@case()
def setgid_of_a_file_in_a_foreign_group(d: Path) -> Any:
    """inode_init_owner, mode_strip_sgid: who is not in the group gets no setgid file of it."""
    shared_directory()
    os.chown("d", 0, 77), os.chmod("d", 0o2777)

    def make(prefix: str) -> None:
        os.umask(0)
        for bits in (0o2755, 0o2745, 0o6755):
            os.close(new(f"d/{prefix}{bits:o}", mode=bits))
            os.mknod(f"d/{prefix}n{bits:o}", bits)

    alice(make, "a"), bob(make, "b", groups=(77,)), make("r")
    return {name: mode(f"d/{name}") for name in sorted(os.listdir("d"))}


@case()
def setgid_of_o_tmpfile_in_a_foreign_group(d: Path) -> Any:
    shared_directory()
    os.chown("d", 0, 77), os.chmod("d", 0o2777)

    def make() -> Any:
        os.umask(0)
        fd = tried(os.open, "d", os.O_TMPFILE | os.O_RDWR, 0o2755)
        return fd if isinstance(fd, str) else oct(os.fstat(fd).st_mode)

    return {"alice": alice(make), "bob": bob(make, groups=(77,))}


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


# ---- lists


def listed(*entries: tuple[int, int] | tuple[int, int, int], bits: int = 0o600) -> None:
    os.close(new("f", b"x", bits))
    os.setxattr("f", ACCESS, acl(*entries))


@case()
def a_list_lets_a_user_in(d: Path) -> Any:
    listed((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0))
    return [bob(opened, "f"), alice(opened, "f"), mode("f")]


@case()
def a_list_keeps_a_user_out(d: Path) -> Any:
    listed((USER_OBJ, 6), (USER, 0, BOB), (GROUP_OBJ, 6), (MASK, 6), (OTHER, 6))
    return [bob(opened, "f"), bob(opened, "f", groups=(0,)), alice(opened, "f")]


@case()
def a_mask_limits_a_list(d: Path) -> Any:
    listed((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 6), (MASK, 4), (OTHER, 0))
    return [bob(opened, "f"), bob(opened, "f", os.O_RDONLY), mode("f")]


@case()
def a_list_names_groups(d: Path) -> Any:
    listed((USER_OBJ, 6), (GROUP_OBJ, 0), (GROUP, 6, 77), (GROUP, 4, 88), (MASK, 6), (OTHER, 0))
    groups: list[tuple[int, ...]] = [(), (77,), (88,), (77, 88), (0,), (0, 77)]
    return [[bob(opened, "f", os.O_RDONLY, groups=each), bob(opened, "f", groups=each)] for each in groups]


@case()
def chmod_changes_the_mask(d: Path) -> Any:
    listed((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 0))
    seen = []
    for bits in (0o600, 0o640, 0o660, 0o777):
        os.chmod("f", bits)
        seen.append([bob(opened, "f"), bob(opened, "f", os.O_RDONLY), mode("f")])
    return seen


@case()
def a_default_list_is_inherited(d: Path) -> Any:
    shared_directory()
    os.setxattr("d", DEFAULT, acl((USER_OBJ, 7), (USER, 6, BOB), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0)))
    os.close(new("d/f", b"x", 0o600)), os.close(new("d/g", b"x", 0o660)), os.mkdir("d/sub", 0o777)
    os.close(new("d/sub/f", b"x", 0o666))
    return [[bob(opened, f"d/{name}"), mode(f"d/{name}")] for name in ("f", "g", "sub/f")]


@case()
def a_list_of_a_directory(d: Path) -> Any:
    os.mkdir("d", 0o700)
    os.close(new("d/f", b"x", 0o644))
    os.setxattr("d", ACCESS, acl((USER_OBJ, 7), (USER, 3, BOB), (GROUP_OBJ, 0), (MASK, 7), (OTHER, 0)))
    return [bob(content, "d/f"), bob(os.listdir, "d"), bob(os.mkdir, "d/his"), alice(content, "d/f")]


@case()
def lists_are_changed_by_the_owner_alone(d: Path) -> Any:
    os.close(new("f", mode=0o666)), os.chown("f", ALICE, ALICE), os.chmod("f", 0o666)
    value = acl((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 6), (MASK, 6), (OTHER, 6))
    return [
        bob(os.setxattr, "f", ACCESS, value),
        alice(os.setxattr, "f", ACCESS, value),
        bob(os.getxattr, "f", ACCESS) == value,
    ]


@case()
def a_list_that_drops_setgid(d: Path) -> Any:
    """posix_acl_update_mode: who is not in the group loses the bit by setting a list."""
    os.close(new("f")), os.chown("f", ALICE, 77), os.chmod("f", 0o2775)
    value = acl((USER_OBJ, 7), (USER, 6, BOB), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 5))
    return [alice(os.setxattr, "f", ACCESS, value), mode("f")]


@case()
def a_list_that_is_removed_drops_setgid(d: Path) -> Any:
    """As one that is set does; also where there was none."""
    seen = {}
    for how, groups in (("outsider", ()), ("member", (77,))):
        for name, remove in (
            ("removed", lambda: os.removexattr("f", ACCESS)),
            ("empty", lambda: os.setxattr("f", ACCESS, acl())),
        ):
            os.close(new("f")), os.chown("f", ALICE, 77), os.chmod("f", 0o2765)
            seen[how, name] = [alice(remove, groups=groups), mode("f")]
            os.setxattr("f", ACCESS, FULL)
            os.chmod("f", 0o2765)
            seen[how, name] += [alice(remove, groups=groups), mode("f"), os.listxattr("f")]
            os.unlink("f")
    return seen


@case()
def a_default_list_leaves_setgid(d: Path) -> Any:
    os.mkdir("d"), os.chown("d", ALICE, 77), os.chmod("d", 0o2775)
    value = acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5))
    seen = [alice(os.setxattr, "d", DEFAULT, value), mode("d")]
    return [*seen, alice(os.removexattr, "d", DEFAULT), mode("d")]
