"""Extended attributes and access lists, by their raw values."""

import os
import struct
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
    call,
    child,
    free,
    mode,
    new,
    opened,
    renameat2,
    tried,
    unprivileged,
)

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


@case()
def basics(d: Path) -> Any:
    os.close(new("f"))
    os.mkdir("d")
    seen: dict[str, Any] = {"empty list": os.listxattr("f"), "missing": tried(os.getxattr, "f", "user.none")}
    for space in ("user", "trusted", "security", "system", "other", ""):
        name = f"{space}.name"
        seen[space] = [
            tried(os.setxattr, "f", name, b"value"),
            tried(os.getxattr, "f", name),
            tried(os.setxattr, "d", name, b""),
            tried(os.getxattr, "d", name),
            tried(os.removexattr, "f", name),
            tried(os.removexattr, "f", name),
        ]
    seen["list"] = sorted(os.listxattr("d"))
    seen["bare"] = [tried(os.setxattr, "f", name, b"1") for name in ("user", "user.", "trusted.", "name")]
    return seen


@case()
def flags(d: Path) -> Any:
    os.close(new("f"))
    put = os.setxattr
    return {
        "replace the missing": tried(put, "f", "user.a", b"1", REPLACE),
        "create": tried(put, "f", "user.a", b"1", CREATE),
        "create again": tried(put, "f", "user.a", b"2", CREATE),
        "replace": tried(put, "f", "user.a", b"3", REPLACE),
        "both, existing": tried(put, "f", "user.a", b"4", CREATE | REPLACE),
        "both, missing": tried(put, "f", "user.b", b"4", CREATE | REPLACE),
        "unknown": tried(put, "f", "user.a", b"4", 8),
        "value": os.getxattr("f", "user.a"),
    }


@case()
def sizes(d: Path) -> Any:
    os.close(new("f"))
    seen: dict[str, Any] = {}
    for size in (0, 1, 4096, 65535, 65536, 65537):
        answer = tried(os.setxattr, "f", "user.size", b"x" * size)
        value = tried(os.getxattr, "f", "user.size")
        seen[f"value {size}"] = [answer, value if isinstance(value, str) else len(value)]
    for length in (249, 250, 251, 300):
        seen[f"name {length}"] = tried(os.setxattr, "f", "user." + "n" * length, b"1")
    small = bytearray(2)
    from ctypes import c_char

    buffer = (c_char * 2).from_buffer(small)
    os.setxattr("f", "user.size", b"12345")
    seen["small buffer"] = tried(call, "getxattr", "f", b"user.size", buffer, 2)
    seen["probe"] = call("getxattr", "f", b"user.size", None, 0)
    seen["small list"] = tried(call, "listxattr", "f", buffer, 2)
    seen["list probe"] = call("listxattr", "f", None, 0)
    os.setxattr("f", b"user.\xff\n", b"\0\xff")
    seen["bytes"] = os.getxattr("f", b"user.\xff\n")
    return seen


@case(options="size=1m,nr_inodes=20")
def are_charged_as_inodes(d: Path) -> Any:
    os.close(new("f"))
    seen: list[Any] = [free()]
    for name, size in (
        ("user.a", 10),
        ("user.b", 2000),
        ("user.a", 3000),
        ("security.c", 5),
        ("trusted.d", 5),
    ):
        seen.append([tried(os.setxattr, "f", name, b"x" * size), free()])
    seen.append([tried(os.setxattr, "f", "user.huge", b"x" * 30000), free(), sorted(os.listxattr("f"))])
    seen.append([tried(os.setxattr, "f", "user.a", b"x" * 30000), len(os.getxattr("f", "user.a"))])
    os.removexattr("f", "user.b")
    seen.append([free()])
    os.link("f", "g"), os.unlink("f"), os.unlink("g")
    return seen


@case()
def on_other_kinds(d: Path) -> Any:
    os.symlink("missing", "s"), os.mkfifo("p"), os.mknod("dev", 0o20666, os.makedev(1, 3))
    seen = {}
    for name in ("s", "p", "dev"):
        for space in ("user", "trusted", "security"):
            put = tried(os.setxattr, name, f"{space}.x", b"1", 0, follow_symlinks=False)
            seen[f"{space} {name}"] = [put, tried(os.getxattr, name, f"{space}.x", follow_symlinks=False)]
        seen[name] = [os.listxattr(name, follow_symlinks=False)]
    return seen


@case()
def by_nobody(d: Path) -> Any:
    os.close(new("mine", mode=0o644)), os.close(new("all", mode=0o666)), os.mkdir("sticky")
    os.chmod("all", 0o666), os.chmod("sticky", 0o1777)
    os.setxattr("all", "trusted.t", b"secret"), os.setxattr("all", "user.u", b"open")

    def look() -> Any:
        return {
            "read": tried(os.getxattr, "all", "user.u"),
            "write": tried(os.setxattr, "all", "user.v", b"1"),
            "write mine": tried(os.setxattr, "mine", "user.v", b"1"),
            "read trusted": tried(os.getxattr, "all", "trusted.t"),
            "write trusted": tried(os.setxattr, "all", "trusted.w", b"1"),
            "write security": tried(os.setxattr, "all", "security.w", b"1"),
            "sticky": tried(os.setxattr, "sticky", "user.w", b"1"),
            "list": sorted(os.listxattr("all")),
        }

    return unprivileged(look)


@case()
def survive_rename_and_links(d: Path) -> Any:
    os.close(new("f"))
    os.setxattr("f", "user.a", b"1")
    os.link("f", "g"), os.rename("f", "h")
    os.setxattr("g", "user.b", b"2")
    return [sorted(os.listxattr("h")), os.getxattr("h", "user.b")]


@case()
def access_lists(d: Path) -> Any:
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
def a_whiteout_inherits_a_list(d: Path) -> Any:
    os.setxattr(".", DEFAULT, FULL), os.close(new("f"))
    return [renameat2("f", "g", RENAME_WHITEOUT), mode("f"), os.getxattr("f", ACCESS, follow_symlinks=False)]


@case()
def without_a_list_the_umask_counts(d: Path) -> Any:
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


@case()
def capabilities(d: Path) -> Any:
    """security.capability goes with a write and with chown."""
    seen = []
    value = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    for take in (
        lambda: os.pwrite(os.open("f", os.O_RDWR), b"x", 0),
        lambda: os.chown("f", 1, 1),
        lambda: os.truncate("f", 0),
        lambda: os.chmod("f", 0o700),
    ):
        fd = new("f", b"#!/bin/sh\n", 0o755)
        os.setxattr("f", "security.capability", value)
        there = os.getxattr("f", "security.capability") == value
        take()
        seen.append([there, tried(os.getxattr, "f", "security.capability") == value])
        os.close(fd), os.unlink("f")
    return seen
