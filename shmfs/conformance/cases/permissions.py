"""Modes and owners: which access they permit to several users, in files and in directories."""

import os
import stat
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    NOBODY,
    RENAME_EXCHANGE,
    Mapping,
    call,
    child,
    content,
    libc,
    mode,
    new,
    opened,
    renameat2,
    tried,
    unprivileged,
)
from shmfs.conformance.users import ALICE, BOB, alice, bob, owner, shared_directory


@case()
def every_mode(d: Path) -> Any:
    """Owner, group and others, each kind of access, each mode."""
    os.chmod(".", 0o777)
    for bits in range(0, 0o1000, 3):
        os.close(new(f"{bits:o}"))
        os.chown(f"{bits:o}", 1000, 1000)
        os.chmod(f"{bits:o}", bits)

    def look() -> Any:
        kinds = (os.R_OK, os.W_OK, os.X_OK)
        return [
            [bits, [os.access(f"{bits:o}", kind) for kind in kinds],
             opened(f"{bits:o}", os.O_RDONLY), opened(f"{bits:o}", os.O_WRONLY)]
            for bits in range(0, 0o1000, 3)
        ]  # fmt: skip

    return {
        "owner": child(look, uid=1000, gid=5),
        "group": child(look, uid=5, gid=1000),
        "supplementary group": child(look, uid=5, gid=5, groups=(7, 1000)),
        "others": child(look, uid=5, gid=5),
        "root": look(),
    }


@case()
def directories_are_searched(d: Path) -> Any:
    seen = {}
    os.makedirs("d/sub")
    os.close(new("d/f"))
    for bits in range(8):
        os.chmod("d", 0o770 + bits)

        def look() -> Any:
            return [
                tried(os.listdir, "d"),
                tried(os.stat, "d/f") if isinstance(tried(os.stat, "d/f"), str) else "ok",
                tried(os.stat, "d/none"),
                opened("d/new", os.O_CREAT | os.O_RDWR),
                tried(os.mkdir, "d/newd"),
                tried(os.link, "d/f", "d/l"),
                tried(os.rename, "d/f", "d/g"),
                tried(os.rmdir, "d/sub"),
                tried(os.chdir, "d"),
            ]

        seen[bits] = unprivileged(look)
        for name in os.listdir("d"):
            (os.rmdir if os.path.isdir(f"d/{name}") else os.unlink)(f"d/{name}")
        os.mkdir("d/sub"), os.close(new("d/f"))
    return seen


@case()
def sticky(d: Path) -> Any:
    os.mkdir("t"), os.chmod("t", 0o1777)
    os.close(new("t/root")), os.mkdir("t/dir"), os.close(new("t/theirs"))
    os.chown("t/theirs", NOBODY, NOBODY)

    def look() -> Any:
        return {
            "unlink": tried(os.unlink, "t/root"),
            "rmdir": tried(os.rmdir, "t/dir"),
            "rename": tried(os.rename, "t/root", "t/x"),
            "over": tried(os.rename, "t/theirs", "t/root"),
            "exchange": tried(renameat2, "t/theirs", "t/root", RENAME_EXCHANGE),
            "link": tried(os.link, "t/root", "t/y"),
            "create": opened("t/new", os.O_CREAT | os.O_RDWR),
            "O_CREAT of root's": opened("t/root", os.O_CREAT | os.O_RDONLY),
            "own": [tried(os.rename, "t/theirs", "t/z"), tried(os.unlink, "t/z")],
        }

    return [unprivileged(look), sorted(os.listdir("t"))]


@case()
def new_files_belong_to_the_caller(d: Path) -> Any:
    os.chmod(".", 0o777)

    def make() -> Any:
        os.close(new("f")), os.mkdir("d"), os.symlink("x", "s"), os.mkfifo("p")
        return [(os.lstat(n).st_uid, os.lstat(n).st_gid) for n in "fdsp"]

    def filesystem_ids() -> Any:
        call("setfsgid", 77), call("setfsuid", 88)
        os.close(new("g"))
        return (os.stat("g").st_uid, os.stat("g").st_gid)

    return [child(make, uid=1000, gid=2000, groups=(5,)), child(filesystem_ids)]


@case()
def chown_of_directories(d: Path) -> Any:
    os.mkdir("d")
    os.chmod("d", 0o6775)
    os.chown("d", 5, 6)
    seen = [mode("d"), os.stat("d").st_uid]
    os.symlink("d", "s")
    os.chown("s", 7, 8)
    seen += [os.stat("d").st_gid, os.lstat("s").st_gid]
    os.chown("d", 2**31, 2**32 - 2)
    return [*seen, os.stat("d").st_uid, os.stat("d").st_gid]


@case()
def permission_to_change_attributes(d: Path) -> Any:
    os.chmod(".", 0o777)
    os.close(new("root", mode=0o666)), os.close(new("own", mode=0o644))
    os.chown("own", 1000, 1000)

    def look() -> Any:
        return {
            "chmod": tried(os.chmod, "root", 0o777),
            "chmod own": tried(os.chmod, "own", 0o4755),
            "chmod own setgid": [tried(os.chmod, "own", 0o2755), mode("own")],
            "chown away": tried(os.chown, "own", 5, -1),
            "chgrp to a group of his": [tried(os.chown, "own", -1, 77), mode("own")],
            "chgrp to another": tried(os.chown, "own", -1, 5),
            "setgid of another group": [tried(os.chmod, "own", 0o2755), mode("own")],
            "chown root's": tried(os.chown, "root", 1000, -1),
            "sticky": [tried(os.chmod, "own", 0o1755), mode("own")],
        }

    return child(look, uid=1000, gid=1000, groups=(77,))


@case()
def a_descriptor_outlives_its_rights(d: Path) -> Any:
    fd = new("f", b"x", 0o666)
    os.chmod("f", 0), os.chmod(".", 0)

    def use() -> Any:
        os.pwrite(fd, b"y", 0)
        return [os.pread(fd, 1, 0), Mapping(fd).load(), opened("f")]

    return [unprivileged(use), content("f")]


@case()
def access_of_real_and_effective_users(d: Path) -> Any:
    os.close(new("f", mode=0o600)), os.chmod(".", 0o777)

    def look() -> Any:
        os.setresuid(1000, 0, 0)
        return [os.access("f", os.R_OK), os.access("f", os.R_OK, effective_ids=True), os.access("none", 0)]

    return child(look)


@case()
def mkdir_modes(d: Path) -> Any:
    os.umask(0)
    seen: list[Any] = []
    for bits in (0o7777, 0o1777, 0o4755, 0o2755, 0):
        os.mkdir(f"d{bits}", bits), os.mkfifo(f"p{bits}", bits)
        os.close(os.open(f"f{bits}", os.O_CREAT | os.O_RDWR, bits))
        seen.append([mode(f"{kind}{bits}") for kind in "dpf"])
        os.chmod(f"d{bits}", bits), os.chmod(f"p{bits}", bits)
        seen.append([stat.S_IMODE(os.stat(f"{kind}{bits}").st_mode) for kind in "dpf"])
    return seen


# ---- files of two users


@case()
def a_file_of_another_user(d: Path) -> Any:
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
def bits_of_the_owner(d: Path) -> Any:
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
def saved_ids(d: Path) -> Any:
    os.close(new("f", mode=0o600))

    def look() -> Any:
        os.setresgid(BOB, BOB, 0)
        os.setresuid(BOB, BOB, 0)
        return opened("f")

    return child(look)


@case()
def fsuid(d: Path) -> Any:
    shared_directory()
    os.close(new("f", mode=0o600))

    def look() -> Any:
        libc.setfsgid(BOB), libc.setfsuid(BOB)
        os.close(new("d/g"))
        return [opened("f"), owner("d/g")]

    return child(look)


# ---- directories of two users


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
