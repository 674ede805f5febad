"""POSIX access control lists: validation, inheritance, access checks, and the mode."""

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
    MINIMAL,
    OTHER,
    USER,
    USER_OBJ,
    acl,
)
from shmfs.conformance.tools import (
    NOBODY,
    RENAME_WHITEOUT,
    child,
    content,
    mode,
    new,
    opened,
    renameat2,
    tried,
    unprivileged,
)
from shmfs.conformance.users import ALICE, BOB, alice, bob, shared_directory

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


# ---- values


@case()
def setting_and_removing(d: Path) -> Any:
    os.close(new("f", mode=0o640))
    os.mkdir("d")
    seen: dict[str, Any] = {"none": tried(os.getxattr, "f", ACCESS)}
    seen["minimal"] = [tried(os.setxattr, "f", ACCESS, MINIMAL), mode("f"), os.listxattr("f")]
    seen["full"] = [tried(os.setxattr, "f", ACCESS, FULL), mode("f"), os.listxattr("f")]
    seen["read back"] = os.getxattr("f", ACCESS) == FULL
    os.chmod("f", 0o604)
    seen["chmod"] = [os.getxattr("f", ACCESS), mode("f")]
    os.chmod("f", 0o4777)
    seen["chmod set-id"] = [os.getxattr("f", ACCESS), mode("f")]
    seen["remove"] = [tried(os.removexattr, "f", ACCESS), mode("f"), os.listxattr("f")]
    seen["remove again"] = tried(os.removexattr, "f", ACCESS)
    seen["default of a file"] = tried(os.setxattr, "f", DEFAULT, FULL)
    seen["read default of a file"] = tried(os.getxattr, "f", DEFAULT)
    seen["remove default of a file"] = tried(os.removexattr, "f", DEFAULT)
    seen["default"] = [tried(os.setxattr, "d", DEFAULT, FULL), mode("d"), os.listxattr("d")]
    seen["remove default"] = [tried(os.removexattr, "d", DEFAULT), os.listxattr("d")]
    seen["remove default again"] = tried(os.removexattr, "d", DEFAULT)
    seen["create"] = tried(os.setxattr, "d", ACCESS, FULL, CREATE)
    seen["replace"] = tried(os.setxattr, "d", ACCESS, FULL, REPLACE)
    return seen


@case()
def malformed_lists(d: Path) -> Any:
    os.close(new("f"))
    cases = {
        "empty": b"",
        "short": b"\2\0\0",
        "header only": acl(),
        "version": b"\3\0\0\0",
        "odd": FULL[:-1],
        "no owner": acl((GROUP_OBJ, 4), (OTHER, 0)),
        "twice": acl((USER_OBJ, 6), (USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0)),
        "no mask": acl((USER_OBJ, 6), (USER, 6, 5), (GROUP_OBJ, 4), (OTHER, 0)),
        "order": acl((OTHER, 0), (GROUP_OBJ, 4), (USER_OBJ, 6)),
        "tag": acl((USER_OBJ, 6), (64, 1), (GROUP_OBJ, 4), (OTHER, 0)),
        "bits": acl((USER_OBJ, 15), (GROUP_OBJ, 4), (OTHER, 0)),
        "same user twice": acl(
            (USER_OBJ, 6), (USER, 6, 5), (USER, 4, 5), (GROUP_OBJ, 4), (MASK, 7), (OTHER, 0)
        ),
    }
    return {name: [tried(os.setxattr, "f", ACCESS, value), mode("f")] for name, value in cases.items()}


# ---- access


@case()
def lists_are_obeyed(d: Path) -> Any:
    os.close(new("f", b"x", 0o600))
    os.setxattr("f", ACCESS, acl((USER_OBJ, 6), (USER, 6, NOBODY), (GROUP_OBJ, 0), (MASK, 4), (OTHER, 0)))
    seen = [unprivileged(opened, "f", os.O_RDONLY), unprivileged(opened, "f", os.O_RDWR)]
    os.chmod("f", 0o660)
    seen += [unprivileged(opened, "f", os.O_RDWR), child(opened, "f", os.O_RDONLY, uid=1000, gid=1000)]
    os.removexattr("f", ACCESS)
    seen += [unprivileged(opened, "f", os.O_RDONLY), mode("f")]
    os.setxattr("f", ACCESS, acl((USER_OBJ, 6), (GROUP_OBJ, 0), (GROUP, 4, 1000), (MASK, 7), (OTHER, 0)))
    seen += [child(opened, "f", os.O_RDONLY, uid=1000, gid=1000), unprivileged(opened, "f", os.O_RDONLY)]
    seen += [unprivileged(os.setxattr, "f", ACCESS, MINIMAL), unprivileged(os.removexattr, "f", ACCESS)]
    return seen


def create_with_list(*entries: tuple[int, int] | tuple[int, int, int], bits: int = 0o600) -> None:
    os.close(new("f", b"x", bits))
    os.setxattr("f", ACCESS, acl(*entries))


@case()
def a_list_lets_a_user_in(d: Path) -> Any:
    create_with_list((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0))
    return [bob(opened, "f"), alice(opened, "f"), mode("f")]


@case()
def a_list_keeps_a_user_out(d: Path) -> Any:
    create_with_list((USER_OBJ, 6), (USER, 0, BOB), (GROUP_OBJ, 6), (MASK, 6), (OTHER, 6))
    return [bob(opened, "f"), bob(opened, "f", groups=(0,)), alice(opened, "f")]


@case()
def a_mask_limits_a_list(d: Path) -> Any:
    create_with_list((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 6), (MASK, 4), (OTHER, 0))
    return [bob(opened, "f"), bob(opened, "f", os.O_RDONLY), mode("f")]


@case()
def a_list_names_groups(d: Path) -> Any:
    create_with_list((USER_OBJ, 6), (GROUP_OBJ, 0), (GROUP, 6, 77), (GROUP, 4, 88), (MASK, 6), (OTHER, 0))
    groups: list[tuple[int, ...]] = [(), (77,), (88,), (77, 88), (0,), (0, 77)]
    return [[bob(opened, "f", os.O_RDONLY, groups=each), bob(opened, "f", groups=each)] for each in groups]


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


# ---- inheritance


@case()
def lists_are_inherited(d: Path) -> Any:
    seen = {}
    for label, default in (
        ("full", FULL),
        ("minimal", acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5))),
        ("tight", acl((USER_OBJ, 7), (GROUP_OBJ, 0), (OTHER, 0))),
        ("masked", acl((USER_OBJ, 7), (USER, 7, 5), (GROUP_OBJ, 7), (MASK, 2), (OTHER, 7))),
    ):
        os.mkdir(label)
        os.setxattr(label, DEFAULT, default)
        for umask in (0, 0o027):
            os.umask(umask)
            made = f"{label}/{umask}"
            os.close(new(made, mode=0o666)), os.mkdir(made + "d", 0o777), os.mkfifo(made + "p", 0o640)
            os.symlink("x", made + "s")
            os.close(new(made + "x", mode=0o711))
            for suffix in ("", "d", "p", "s", "x"):
                path = made + suffix
                lists = {}
                if suffix != "s":
                    lists = {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}
                seen[path] = [mode(path), lists]
            os.mkdir(made + "d/deeper", 0o700)
            seen[made + "d/deeper"] = [mode(made + "d/deeper"), sorted(os.listxattr(made + "d/deeper"))]
    return seen


@case()
def a_default_list_is_inherited(d: Path) -> Any:
    shared_directory()
    os.setxattr("d", DEFAULT, acl((USER_OBJ, 7), (USER, 6, BOB), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0)))
    os.close(new("d/f", b"x", 0o600)), os.close(new("d/g", b"x", 0o660)), os.mkdir("d/sub", 0o777)
    os.close(new("d/sub/f", b"x", 0o666))
    return [[bob(opened, f"d/{name}"), mode(f"d/{name}")] for name in ("f", "g", "sub/f")]


@case()
def a_whiteout_inherits_a_list(d: Path) -> Any:
    os.setxattr(".", DEFAULT, FULL), os.close(new("f"))
    return [renameat2("f", "g", RENAME_WHITEOUT), mode("f"), os.getxattr("f", ACCESS, follow_symlinks=False)]


@case()
def the_umask_without_a_list(d: Path) -> Any:
    seen = []
    for umask in (0, 0o022, 0o077, 0o777):
        os.umask(umask)
        names = [f"{kind}{umask}" for kind in "fdpn"]
        (
            os.close(os.open(names[0], os.O_CREAT, 0o7777)),
            os.mkdir(names[1], 0o7777),
            os.mkfifo(names[2], 0o7777),
        )
        os.mknod(names[3], 0o100666)
        seen.append([mode(name) for name in names])
    return seen


# ---- the mode


@case()
def chmod_changes_the_mask(d: Path) -> Any:
    create_with_list((USER_OBJ, 6), (USER, 6, BOB), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 0))
    seen = []
    for bits in (0o600, 0o640, 0o660, 0o777):
        os.chmod("f", bits)
        seen.append([bob(opened, "f"), bob(opened, "f", os.O_RDONLY), mode("f")])
    return seen


@case()
def a_list_that_drops_setgid(d: Path) -> Any:
    """A caller outside the group clears the bit by setting a list. Compare posix_acl_update_mode."""
    os.close(new("f")), os.chown("f", ALICE, 77), os.chmod("f", 0o2775)
    value = acl((USER_OBJ, 7), (USER, 6, BOB), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 5))
    return [alice(os.setxattr, "f", ACCESS, value), mode("f")]


@case()
def a_list_that_is_removed_drops_setgid(d: Path) -> Any:
    """Removing a list clears the bit as setting one does, even where the file had no list."""
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
