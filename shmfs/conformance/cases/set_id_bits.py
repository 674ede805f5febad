"""Set-user-ID and set-group-ID bits and file capabilities: who may set them, what clears them."""

import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import NOBODY, PAGE, Mapping, blocks, call, child, mode, new, tried, unprivileged
from shmfs.conformance.users import alice, bob, owner, shared_directory

OTHER = 65533


# ---- creation


@case()
def set_group_id_directories(d: Path) -> Any:
    os.mkdir("g"), os.chown("g", 0, 4242), os.chmod("g", 0o2777)
    seen = {}

    def make(prefix: str) -> Any:
        (
            os.close(new(f"g/{prefix}f", mode=0o2775)),
            os.mkdir(f"g/{prefix}d", 0o755),
            os.symlink("x", f"g/{prefix}s"),
        )
        os.mkfifo(f"g/{prefix}p", 0o2755), os.close(new(f"g/{prefix}d/inside", mode=0o666))
        names = [prefix + suffix for suffix in ("f", "d", "s", "p", "d/inside")]
        return [[os.lstat(f"g/{n}").st_uid, os.lstat(f"g/{n}").st_gid, mode(f"g/{n}")] for n in names]

    seen["root"] = make("r")
    seen["user"] = child(make, "u", uid=1000, gid=1000)
    seen["member"] = child(make, "m", uid=1000, gid=1000, groups=(4242,))
    os.rename("g/rd", "moved")
    return [seen, mode("moved"), os.stat("moved").st_gid]


@case()
def setgid_of_a_foreign_group_is_dropped(d: Path) -> Any:
    os.close(new("f"))
    os.chown("f", 1000, 55)
    return [child(os.chmod, "f", 0o2755, uid=1000, gid=1000), mode("f")]


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
    """Creation by a caller outside the group drops the set-gid bit. Compare fs/inode.c:mode_strip_sgid."""
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
def o_trunc_of_new_and_existing_files(d: Path) -> Any:
    """O_TRUNC clears set-id bits of an existing file, but not when the open creates the file."""
    os.chmod(".", 0o777)
    seen = []
    for _ in range(2):
        unprivileged(lambda: os.close(os.open("f", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o6777)))
        seen.append(mode("f"))
    return seen


def _create(flags: int) -> Any:
    os.close(os.open("new", os.O_WRONLY | os.O_CREAT | flags, 0o6755))
    return mode("new")


@case()
def o_trunc_with_write_only_access(d: Path) -> Any:
    os.chmod(".", 0o777)
    seen = [unprivileged(_create, os.O_TRUNC)]
    return [*seen, unprivileged(_create, os.O_TRUNC)]  # the second finds it


# ---- what clears them


@case()
def every_operation(d: Path) -> Any:
    """Operations by root and by the owner, on files with and without group execution."""
    os.chmod(".", 0o777)
    actions = {
        "write": lambda fd, path: os.pwrite(fd, b"x", 0),
        "write nothing": lambda fd, path: os.pwrite(fd, b"", 0),
        "truncate": lambda fd, path: os.truncate(path, 3),
        "truncate same": lambda fd, path: os.truncate(path, 5),
        "ftruncate": lambda fd, path: os.ftruncate(fd, 3),
        "O_TRUNC": lambda fd, path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        "chown": lambda fd, path: os.chown(path, -1, 1000),
        "chown to itself": lambda fd, path: os.chown(path, 1000, 1000),
        "chown nothing": lambda fd, path: os.chown(path, -1, -1),
        "fchown": lambda fd, path: os.fchown(fd, -1, 1000),
        "chmod": lambda fd, path: os.chmod(path, 0o6777),
        "utime": lambda fd, path: os.utime(path),
        "rename": lambda fd, path: os.rename(path, path),
        "mapped store": lambda fd, path: Mapping(fd).store(b"x"),
        "copy_file_range": lambda fd, path: os.copy_file_range(os.open("source", os.O_RDONLY), fd, 2, 0, 0),
        "setxattr": lambda fd, path: os.setxattr(path, "user.x", b"1"),
    }
    os.close(new("source", b"source", 0o644))
    seen = {}
    for bits in (0o4777, 0o2777, 0o6777, 0o6755, 0o6766, 0o2767, 0o6666, 0o2747):
        for who in (0, 1000):
            for name, action in actions.items():
                os.close(new("f", b"12345"))
                os.chown("f", 1000, 1000), os.chmod("f", bits)

                def act(action: Any = action) -> Any:
                    return action(os.open("f", os.O_RDWR), "f")

                answer = child(act, uid=who, gid=who)
                seen[f"{bits:o} {name} by {who}"] = [answer if isinstance(answer, str) else "", mode("f")]
                os.unlink("f")
    return seen


@case()
def set_group_id_without_execution(d: Path) -> Any:
    """The set-gid bit of a file without group execution is cleared for callers outside the group."""
    actions = {
        "write": lambda: os.pwrite(os.open("f", os.O_WRONLY), b"x", 0),
        "truncate": lambda: os.truncate("f", 10),
        "open": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
        "allocate": lambda: os.posix_fallocate(os.open("f", os.O_WRONLY), 0, 100),
        "chown": lambda: os.chown("f", -1, -1),
    }
    callers: dict[str, tuple[int, int, tuple[int, ...]]] = {
        "root": (0, 0, ()),
        "group": (NOBODY, NOBODY, ()),
        "supplementary": (NOBODY, OTHER, (NOBODY, 1)),
        "neither": (NOBODY, OTHER, (1,)),
    }
    seen = {}
    for what, action in actions.items():
        for who, (uid, gid, groups) in callers.items():
            os.close(new("f", b"content"))
            os.chown("f", NOBODY, NOBODY)
            os.chmod("f", 0o6666)
            child(action, uid=uid, gid=gid, groups=groups)
            seen[f"{what}, {who}"] = mode("f")
            os.unlink("f")
    return seen


@case()
def chown_without_a_change(d: Path) -> Any:
    seen: dict[str, Any] = {}
    os.close(new("f"))
    os.chmod("f", 0o4755)
    seen["another's"] = [unprivileged(os.chown, "f", -1, -1), mode("f")]
    os.unlink("f")
    for bits in (0o755, 0o4755, 0o2755, 0o2745, 0o6755):
        os.close(new("f"))
        os.chmod("f", bits)
        seen[oct(bits)] = [tried(os.chown, "f", -1, -1), mode("f")]
        os.chown("f", 65534, 65534)
        os.chmod("f", bits)
        seen[oct(bits)] += [unprivileged(os.chown, "f", -1, -1), mode("f")]
        os.unlink("f")
    return seen


def _written(path: str) -> Any:
    return tried(os.pwrite, os.open(path, os.O_WRONLY), b"x" * PAGE, 0)


@case(options="size=64k,nr_inodes=24")
def a_write_that_fails_with_enospc(d: Path) -> Any:
    os.pwrite(new("filler"), b"x" * 16 * PAGE, 0)
    seen = []
    for bits in (0o4755, 0o2755, 0o6777):
        os.close(new("f"))
        os.chown("f", 65534, 65534)
        os.chmod("f", bits)
        seen.append([mode("f"), unprivileged(_written, "f"), mode("f"), os.stat("f").st_size])
        os.unlink("f")
    return seen


def _write_into_what_is_allocated() -> Any:
    fd = new("s", mode=0o2366)
    call("fallocate", fd, 1, 0, 3 * PAGE)
    return [os.pwrite(fd, b"x", 0), blocks("s"), mode("s"), os.pwrite(fd, b"x", PAGE), blocks("s")]


@case()
def a_write_keeps_preallocation(d: Path) -> Any:
    """A write that clears set-id bits frees no pages beyond the end, with either store."""
    os.chmod(".", 0o777)
    return unprivileged(_write_into_what_is_allocated)


# ---- file capabilities


@case()
def every_operation_and_capabilities(d: Path) -> Any:
    """Changes of the content remove security.capability, whoever makes them."""
    capability = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
    seen: dict[str, Any] = {}
    actions = {
        "write": lambda: os.pwrite(os.open("f", os.O_WRONLY), b"y", 0),
        "append": lambda: os.write(os.open("f", os.O_WRONLY | os.O_APPEND), b"y"),
        "read": lambda: os.read(os.open("f", os.O_RDWR), 1),
        "truncate": lambda: os.truncate("f", 50),
        "open": lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC)),
        "chmod": lambda: os.chmod("f", 0o700),
        "chown": lambda: os.chown("f", -1, 7),
    }
    os.close(new("f", b"x" * 100))
    for user in (0, 65534):
        for name, action in actions.items():
            os.chown("f", user, user), os.chmod("f", 0o777)
            os.setxattr("f", "security.capability", capability)
            answer = child(lambda action=action: isinstance(action(), object), uid=user, gid=user)
            seen[f"{user} {name}"] = answer, os.listxattr("f")
    return seen


@case()
def writes_and_chown_and_capabilities(d: Path) -> Any:
    """A write and chown(2) remove security.capability."""
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
