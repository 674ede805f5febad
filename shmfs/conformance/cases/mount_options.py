"""Mount options: which are refused, what they mean, and the root directory."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.mounting import another, with_options
from shmfs.conformance.tools import PAGE, mode, new, opened, tried


def limits(directory: Path) -> list[int]:
    figures = os.statvfs(directory)
    return [figures.f_blocks, figures.f_files]


def each(*options: str, look: Callable[[Path], Any] = limits) -> dict[str, Any]:
    return {words: with_options(words, look) for words in options}


def refused(*options: str) -> dict[str, Any]:
    return each(*options, look=lambda directory: "mounted")


# ---- refused options


@case(mounts=True)
def an_unknown_option(d: Path) -> Any:
    return refused("bogus", "bogus=1", "Size=1m", "sizes=1m")


@case(mounts=True)
def a_bare_size(d: Path) -> Any:
    return refused("size", "size=", "nr_blocks", "nr_inodes", "nr_inodes=")


@case(mounts=True)
def a_percentage_of_a_count(d: Path) -> Any:
    return refused("nr_blocks=10%", "nr_inodes=10%")


@case(mounts=True)
def a_malformed_size(d: Path) -> Any:
    return refused("size=1.5m", "size=1mb", "size=x", "size=10%%", "size=1 m", "size=k1")


@case(mounts=True)
def a_malformed_count(d: Path) -> Any:
    return refused("nr_inodes=many", "nr_blocks=1x", "nr_inodes=0x")


@case(mounts=True)
def a_malformed_mode(d: Path) -> Any:
    return refused("mode=789", "mode=rwx", "mode", "mode=")


@case(mounts=True)
def a_malformed_owner(d: Path) -> Any:
    return refused("uid=root", "gid=-1", "uid=", "gid", "uid=4294967295", "gid=1.5")


@case(mounts=True)
def a_value_of_a_flag(d: Path) -> Any:
    return refused("inode32=1", "inode64=yes")


# ---- the meaning of values


@case(mounts=True)
def suffixes_of_size(d: Path) -> Any:
    return each(
        "size=1048576", "size=1024k", "size=1024K", "size=1m", "size=1M", "size=1g", "size=1G", "size=1t"
    )


@case(mounts=True)
def other_bases_of_size(d: Path) -> Any:
    return each("size=0x100000", "size=0X10k", "size=04000000", "nr_blocks=0x40", "nr_inodes=0100")


@case(mounts=True)
def size_in_percent(d: Path) -> Any:
    return each("size=1%", "size=50%", "size=100%", "size=0%")


@case(mounts=True)
def size_rounds_up_to_pages(d: Path) -> Any:
    return each("size=1", f"size={PAGE - 1}", f"size={PAGE}", f"size={PAGE + 1}")


@case(mounts=True)
def suffixes_of_counts(d: Path) -> Any:
    return each("nr_blocks=1k", "nr_inodes=1k", "nr_blocks=2M,nr_inodes=1m")


@case(mounts=True)
def no_limits(d: Path) -> Any:
    return each("size=0", "nr_blocks=0", "nr_inodes=0", "size=0,nr_inodes=0")


@case(mounts=True)
def the_last_of_size_and_nr_blocks_wins(d: Path) -> Any:
    return each("size=1m,nr_blocks=10", "nr_blocks=10,size=1m", "size=1m,size=2m", "nr_inodes=5,nr_inodes=9")


@case(mounts=True)
def empty_words(d: Path) -> Any:
    return each("", ",", "size=1m,,nr_inodes=5", ",size=1m")


@case(mounts=True)
def inode_numbers_of_either_width(d: Path) -> Any:
    def small(_: Path) -> Any:
        os.close(new("f"))
        return os.stat("f").st_ino < 1 << 32

    return each("inode32", "inode64", "inode64,inode32", look=small)


@case(options="size=1m,inode32")
def inode32(d: Path) -> Any:
    os.close(new("f"))
    return os.stat("f").st_ino < 1 << 32


@case(mounts=True)
def no_huge_pages_and_no_policy(d: Path) -> Any:
    return refused("huge=never", "mpol=default")


# ---- the root directory


@case(mounts=True)
def modes_of_the_root(d: Path) -> Any:
    return each(
        "mode=755", "mode=0", "mode=1777", "mode=2770", "mode=7777", "mode=00700", look=lambda _: mode(".")
    )


@case(mounts=True)
def owners_of_the_root(d: Path) -> Any:
    def owner(_: Path) -> Any:
        status = os.stat(".")
        return [status.st_uid, status.st_gid]

    return each("uid=0,gid=0", "uid=1000", "gid=2000", "uid=4294967294", "", look=owner)


@case(options="size=1m,mode=0750,uid=1000,gid=2000")
def mode_and_owner_of_the_root(d: Path) -> Any:
    status = os.stat("..")
    return [mode(".."), status.st_uid, status.st_gid, status.st_nlink, status.st_size, status.st_blocks]


@case(options="")
def the_root(d: Path) -> Any:
    status = os.stat("..")
    return [
        mode(".."),
        status.st_uid,
        status.st_nlink,
        status.st_size,
        tried(os.rmdir, ".."),
        tried(os.rename, "..", "x"),
    ]


# ---- flags of the mount


@case(mounts=True)
def flags_reported_by_statvfs(d: Path) -> Any:
    known = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
    words = "ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosuid,nodev,noexec"
    return each(*words, look=lambda directory: os.statvfs(directory).f_flag & known)


@case(mounts=True)
def read_only_from_the_start(d: Path) -> Any:
    return each("ro", "rw", "ro,rw", "rw,ro", look=lambda _: opened("f", os.O_CREAT | os.O_RDWR))


@case(options="size=1m,ro")
def read_only(d: Path) -> Any:
    return {
        "create": tried(new, "f"),
        "mkdir": tried(os.mkdir, "d"),
        "symlink": tried(os.symlink, "a", "b"),
        "mkfifo": tried(os.mkfifo, "p"),
        "chmod": tried(os.chmod, ".", 0o700),
        "utime": tried(os.utime, "."),
        "setxattr": tried(os.setxattr, ".", "user.a", b"1"),
        "unlink": tried(os.unlink, "none"),
        "rename": tried(os.rename, "none", "other"),
        "access": [os.access(".", os.W_OK), os.access(".", os.R_OK)],
        "list": os.listdir("."),
        "open for writing": tried(os.open, "none", os.O_RDWR),
    }


@case(options="size=1m,nodev")
def nodev(d: Path) -> Any:
    os.mknod("null", 0o20666, os.makedev(1, 3))
    return [opened("null"), mode("null"), tried(os.mkfifo, "p"), opened("p", os.O_RDWR)]


def _identity() -> bytes:
    """The effective user id of a set-id program that user 1000 starts."""
    command = ["./id", "-u"]
    return subprocess.run(
        command, user=1000, group=1000, extra_groups=[], capture_output=True, check=True
    ).stdout


@case(options="size=1m,nosuid")
def nosuid(d: Path) -> Any:
    Path("id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod(".", 0o755), os.chmod("id", 0o6755)
    return [_identity(), mode("id")]


@case()
def set_id_programs_without_nosuid(d: Path) -> Any:
    Path("id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod("id", 0o6755)
    return _identity()


@case(options="size=1m,sync,dirsync")
def sync_options(d: Path) -> Any:
    fd = new("f", b"x" * 5000)
    os.mkdir("d")
    return [os.fsync(fd), os.pread(fd, 3, 4998), os.statvfs(".").f_flag & os.ST_SYNCHRONOUS]


@case(mounts=True)
def two_mounts_are_independent(d: Path) -> Any:
    def look(directory: Path) -> Any:
        os.close(new("f", b"one"))
        here = os.stat(".").st_dev
        with another("size=1m") as other:
            return [
                os.listdir(other),
                os.stat(other).st_dev == here,
                tried(os.rename, "f", other / "f"),
                tried(os.link, "f", other / "f"),
                os.stat(other).st_ino == os.stat(".").st_ino,
            ]

    return with_options("size=1m", look)
