"""Extended attributes: namespaces, sizes, flags, listing, accounting."""

import contextlib
import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import call, free, new, tried, unprivileged

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
def a_list_over_the_limit(d: Path) -> Any:
    os.close(new("f"))
    with contextlib.suppress(OSError):
        for number in range(300):
            os.setxattr("f", f"user.{number:0>240}", b"")
    buffer = ctypes.create_string_buffer(1 << 17)
    return {
        "size": tried(call, "listxattr", "f", 0, 0),
        "list": tried(call, "listxattr", "f", buffer, 1 << 17),
    }


@case()
def listing_order_with_access_lists(d: Path) -> Any:
    os.mkdir("d")
    entries = [(1, 7, 0xFFFFFFFF), (2, 6, 1000), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    names = [
        "system.posix_acl_default",
        "security.x",
        "trusted.c",
        "user.a",
        "user.b",
        "system.posix_acl_access",
    ]
    for name in names:
        os.setxattr("d", name, value if "acl" in name else b"1")
    return os.listxattr("d")


@case()
def listing_order(d: Path) -> Any:
    os.close(new("f"))
    for name in ("user.a", "trusted.b", "security.x", "user.ab", "trusted.a", "user.b"):
        os.setxattr("f", name, b"")
    return os.listxattr("f")


@case(options="size=64k,nr_inodes=24")
def enospc_precedes_bad_flags(d: Path) -> Any:
    os.close(new("f"))
    big, small = b"x" * 32768, b"x"
    seen = [tried(os.setxattr, "f", "trusted.a", big, flags) for flags in (0, 1, 2, 3)]
    seen += [tried(os.setxattr, "f", "trusted.a", small, flags) for flags in (2, 3, 1, 1, 3)]
    return [seen, tried(os.setxattr, "f", "trusted.a", big, 1), os.statvfs(".").f_ffree]
