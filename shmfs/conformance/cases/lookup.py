"""Lookup of paths: openat2(2), O_PATH, symbolic links, paths relative to a directory's descriptor."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    Mapping,
    call,
    child,
    content,
    libc,
    mode,
    new,
    opened,
    tried,
    unprivileged,
)

NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED = 1, 2, 4, 8, 16, 32


def openat2(path: str, flags: int = os.O_RDONLY, mode: int = 0, resolve: int = 0, at: int = AT_FDCWD) -> Any:
    """See openat2(2): "ok" or the name of the errno."""
    how = struct.pack("QQQ", flags, mode, resolve)
    # A mount or a rename anywhere on the machine makes ".." below a root EAGAIN: whoever asks tries again.
    patience = 1000 if resolve & (BENEATH | IN_ROOT) else 0
    while (fd := tried(call, "syscall", "openat2", at, path, how, len(how))) == "EAGAIN" and patience:
        patience -= 1
    if isinstance(fd, int):
        os.close(fd)
        return "ok"
    return fd


def tree() -> None:
    """a/b/f, and links to it of several kinds."""
    os.makedirs("a/b")
    os.close(new("a/b/f", b"content"))
    os.symlink("b/f", "a/inside")
    os.symlink("../a/b/f", "a/around")
    os.symlink(os.path.abspath("a/b/f"), "a/absolute")
    os.symlink("/a/b/f", "a/rooted")


# ---- openat2


def resolved(resolve: int) -> dict[str, Any]:
    tree()
    at = os.open("a", os.O_RDONLY)
    paths = "b/f", "inside", "around", "absolute", "rooted", "..", "../a/b/f", "b/../b/f", "/a/b/f", "none"
    return {path: openat2(path, resolve=resolve, at=at) for path in paths}


@case()
def openat2_no_symlinks(d: Path) -> Any:
    return resolved(NO_SYMLINKS)


@case()
def openat2_beneath(d: Path) -> Any:
    return resolved(BENEATH)


@case()
def openat2_in_root(d: Path) -> Any:
    return resolved(IN_ROOT)


@case()
def openat2_no_xdev(d: Path) -> Any:
    tree()
    os.symlink("/proc/self/status", "a/out")
    at = os.open("a", os.O_RDONLY)
    return [openat2(path, resolve=NO_XDEV, at=at) for path in ("b/f", "inside", "out", "/proc/self/status")]


@case()
def openat2_no_magiclinks(d: Path) -> Any:
    fd = new("f")
    return [openat2(f"/proc/self/fd/{fd}", resolve=resolve) for resolve in (0, NO_MAGICLINKS)]


@case()
def openat2_refused(d: Path) -> Any:
    os.close(new("f"))
    return {
        "unknown flag": openat2("f", 1 << 40),
        "unknown resolve": openat2("f", resolve=1 << 10),
        "mode without O_CREAT": openat2("f", mode=0o600),
        "bad mode": openat2("g", os.O_CREAT | os.O_RDWR, 0o100600),
        "beneath and in root": openat2("f", resolve=BENEATH | IN_ROOT),
        "creating, cached": openat2("g", os.O_CREAT | os.O_RDWR, 0o600, CACHED),
        "size": tried(call, "syscall", "openat2", AT_FDCWD, "f", bytes(24), 8),
    }


@case()
def openat2_creates(d: Path) -> Any:
    return [openat2("f", os.O_CREAT | os.O_RDWR, 0o640, BENEATH), mode("f")]


# ---- O_PATH


@case()
def o_path_of_every_kind(d: Path) -> Any:
    os.close(new("f")), os.mkdir("d"), os.symlink("f", "s"), os.mkfifo("p")
    seen = {}
    for name in ("f", "d", "s", "p"):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW)
        seen[name] = [oct(os.fstat(fd).st_mode), tried(os.read, fd, 1), tried(os.fsync, fd)]
    return seen


@case()
def o_path_is_opened_again(d: Path) -> Any:
    os.close(new("f", b"content"))
    fd = os.open("f", os.O_PATH)
    os.unlink("f")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    return [os.read(again, 7), os.fstat(fd).st_nlink]


@case()
def o_path_permits_nothing(d: Path) -> Any:
    os.close(new("f", b"content"))
    fd = os.open("f", os.O_PATH)
    return [
        tried(os.fchmod, fd, 0o600),
        tried(os.fchown, fd, 1, 1),
        tried(os.ftruncate, fd, 0),
        tried(Mapping, fd, 4096, 1),
        tried(os.getxattr, fd, "user.x"),
        tried(os.lseek, fd, 0, os.SEEK_SET),
        tried(call, "fchmodat", AT_FDCWD, f"/proc/self/fd/{fd}", 0o600, 0),
        mode("f"),
    ]


@case()
def o_path_of_a_symlink_is_read(d: Path) -> Any:
    os.symlink("target", "s")
    fd = os.open("s", os.O_PATH | os.O_NOFOLLOW)
    buffer = ctypes.create_string_buffer(100)
    return [call("readlinkat", fd, "", buffer, 100), buffer.value]


@case()
def o_path_of_an_unreadable_file(d: Path) -> Any:
    os.close(new("f"))
    os.chmod("f", 0)
    return [unprivileged(opened, "f", os.O_PATH), unprivileged(opened, "f")]


@case()
def at_empty_path(d: Path) -> Any:
    fd = new("f", b"content")
    return [
        tried(call, "linkat", fd, "", AT_FDCWD, "g", AT_EMPTY_PATH),
        tried(call, "fchownat", fd, "", 5, 6, AT_EMPTY_PATH),
        os.stat("g").st_uid,
        tried(call, "linkat", fd, "", AT_FDCWD, "h", 0),
    ]


# ---- links that loop, long paths


@case()
def a_link_to_itself(d: Path) -> Any:
    os.symlink("s", "s")
    return {
        "stat": tried(os.stat, "s"),
        "open": opened("s"),
        "create": opened("s", os.O_CREAT | os.O_RDWR),
        "below": tried(os.stat, "s/x"),
        "mkdir": tried(os.mkdir, "s"),
        "mkdir below": tried(os.mkdir, "s/x"),
        "rename below": tried(os.rename, "s/x", "y"),
        "nofollow": opened("s", os.O_RDONLY | os.O_NOFOLLOW),
        "chmod": tried(os.chmod, "s", 0o600),
        "truncate": tried(os.truncate, "s", 0),
        "getxattr": tried(os.getxattr, "s", "user.x"),
        "lstat": mode("s"),
    }


@case()
def forty_links_and_one_more(d: Path) -> Any:
    os.close(new("s0"))
    for step in range(1, 44):
        os.symlink(f"s{step - 1}", f"s{step}")
    return [opened(f"s{step}") for step in (1, 20, 39, 40, 41, 43)]


@case()
def links_in_the_middle(d: Path) -> Any:
    os.makedirs("a/b")
    os.close(new("a/b/f", b"found"))
    os.symlink("a", "l1"), os.symlink("../a/b", "a/l2"), os.symlink("l1/l2", "l3")
    return [content("l1/l2/f"), content("l3/f"), content("l3/../b/f"), tried(os.stat, "l3/../f")]


@case()
def a_link_without_a_target(d: Path) -> Any:
    os.symlink("none", "s")
    seen = [tried(os.stat, "s"), opened("s"), opened("s", os.O_CREAT | os.O_EXCL | os.O_RDWR)]
    return [*seen, opened("s", os.O_CREAT | os.O_RDWR), sorted(os.listdir("."))]


@case()
def a_slash_behind_a_link(d: Path) -> Any:
    os.mkdir("d"), os.close(new("f")), os.symlink("d", "ld"), os.symlink("f", "lf")
    return [
        mode("ld/"),
        tried(os.lstat, "lf/"),
        tried(os.unlink, "ld/"),
        tried(os.rmdir, "ld/"),
        tried(os.rename, "ld/", "x"),
        tried(os.readlink, "ld/"),
    ]


@case()
def a_path_of_4095_bytes(d: Path) -> Any:
    os.mkdir("d")
    path = "d" + "/" * 4093
    return [isinstance(tried(os.stat, path), os.stat_result), tried(os.stat, path + "//")]


@case()
def deep_directories(d: Path) -> Any:
    """Deeper than a path can be long."""
    for _ in range(300):
        os.mkdir("deep-directory")
        os.chdir("deep-directory")
    os.close(new("f", b"below"))
    seen = [content("f"), tried(os.getcwd) == "ENAMETOOLONG" or len(os.getcwd()) > 4096]
    for _ in range(300):
        os.chdir("..")
    return [*seen, os.listdir(".")]


@case()
def a_name_too_long_for_every_call(d: Path) -> Any:
    long, short = "n" * 256, "f"
    os.close(new(short))
    return [
        tried(os.stat, long),
        opened(long),
        opened(long, os.O_CREAT | os.O_RDWR),
        tried(os.mkdir, long),
        tried(os.mkfifo, long),
        tried(os.symlink, "x", long),
        tried(os.link, short, long),
        tried(os.rename, short, long),
        tried(os.unlink, long),
        tried(os.rmdir, long),
        tried(os.truncate, long, 0),
        tried(os.chmod, long, 0),
        tried(os.stat, f"{short}/{long}"),
    ]


# ---- directories as starting points


@case()
def calls_relative_to_a_descriptor(d: Path) -> Any:
    os.mkdir("d")
    at = os.open("d", os.O_RDONLY)
    os.rename("d", "moved")
    os.mkdir("sub", dir_fd=at)
    fd = os.open("f", os.O_CREAT | os.O_RDWR, dir_fd=at)
    os.link("f", "g", src_dir_fd=at, dst_dir_fd=at)
    os.symlink("f", "s", dir_fd=at)
    os.rename("g", "h", src_dir_fd=at, dst_dir_fd=at)
    os.mkfifo("p", dir_fd=at)
    os.close(fd)
    seen = [sorted(os.listdir("moved")), os.readlink("s", dir_fd=at), os.access("f", os.R_OK, dir_fd=at)]
    os.unlink("f", dir_fd=at)
    return [*seen, sorted(os.listdir(at))]


@case()
def relative_to_a_removed_directory(d: Path) -> Any:
    os.mkdir("d")
    at = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    return [
        tried(os.stat, "x", dir_fd=at),
        tried(os.mkdir, "x", dir_fd=at),
        tried(os.open, "x", os.O_CREAT | os.O_RDWR, dir_fd=at),
        tried(os.symlink, "t", "x", dir_fd=at),
        openat2(".", os.O_TMPFILE | os.O_RDWR, 0o600, at=at),
        isinstance(tried(os.stat, ".", dir_fd=at), os.stat_result),
    ]


@case()
def relative_to_a_file(d: Path) -> Any:
    at = new("f")
    return [tried(os.stat, "x", dir_fd=at), tried(os.mkdir, "x", dir_fd=at), tried(os.stat, "x", dir_fd=999)]


@case()
def chroot(d: Path) -> Any:
    os.makedirs("root/inside"), os.close(new("root/f", b"found")), os.symlink("/f", "root/link")

    def inside() -> Any:
        os.chroot("root")
        os.chdir("/")
        return [content("/link"), sorted(os.listdir("/")), os.stat("..").st_ino == os.stat("/").st_ino]

    return child(inside)


# ---- mknod, mkdir and links through other ways


@case()
def link_by_proc(d: Path) -> Any:
    fd = new("f", b"content")
    source = f"/proc/self/fd/{fd}"
    return [
        tried(call, "linkat", AT_FDCWD, source, AT_FDCWD, "g", AT_SYMLINK_FOLLOW),
        tried(call, "linkat", AT_FDCWD, source, AT_FDCWD, "h", 0),
        content("g"),
    ]


@case()
def access_checks(d: Path) -> Any:
    os.close(new("f")), os.mkdir("d"), os.symlink("none", "s")
    os.chmod("f", 0o640), os.chmod("d", 0o711)

    def look() -> Any:
        return {
            name: [tried(call, "faccessat", AT_FDCWD, name, how, 0) for how in range(8)]
            for name in ("f", "d", "s", "none", "f/x")
        }

    return [look(), unprivileged(look), tried(call, "faccessat", AT_FDCWD, "f", 8, 0)]


@case()
def getcwd_follows_renames(d: Path) -> Any:
    os.makedirs("a/b")
    os.chdir("a/b")
    os.rename("../../a", "../../c")
    here = os.getcwd().endswith("/c/b")
    os.rmdir("../b")
    libc.getcwd.restype = ctypes.c_char_p
    return [here, tried(os.getcwd), os.chdir("..") if os.path.exists("..") else "gone"]
