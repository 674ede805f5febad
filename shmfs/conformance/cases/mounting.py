"""Mount options and remount: what is refused, what the words mean, how limits are changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.mounting import another, remount, with_options
from shmfs.conformance.tools import PAGE, content, mode, new, opened, tried


def limits(directory: Path) -> list[int]:
    figures = os.statvfs(directory)
    return [figures.f_blocks, figures.f_files]


def each(*options: str, look: Callable[[Path], Any] = limits) -> dict[str, Any]:
    return {words: with_options(words, look) for words in options}


def refused(*options: str) -> dict[str, Any]:
    return each(*options, look=lambda directory: "mounted")


# ---- what is refused


@case(mounts=True)
def an_unknown_option(d: Path) -> Any:
    return refused("bogus", "bogus=1", "Size=1m", "sizes=1m")


@case(mounts=True)
def a_bare_size(d: Path) -> Any:
    return refused("size", "size=", "nr_blocks", "nr_inodes", "nr_inodes=")


@case(mounts=True)
def a_percentage_of_what_takes_none(d: Path) -> Any:
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
def a_value_for_what_takes_none(d: Path) -> Any:
    return refused("inode32=1", "inode64=yes")


# ---- what the words mean


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


@case(mounts=True)
def no_huge_pages_and_no_policy(d: Path) -> Any:
    return refused("huge=never", "mpol=default")


@case(mounts=True)
def inode_numbers_of_either_width(d: Path) -> Any:
    def small(_: Path) -> Any:
        os.close(new("f"))
        return os.stat("f").st_ino < 1 << 32

    return each("inode32", "inode64", "inode64,inode32", look=small)


@case(mounts=True)
def read_only_from_the_start(d: Path) -> Any:
    return each("ro", "rw", "ro,rw", "rw,ro", look=lambda _: opened("f", os.O_CREAT | os.O_RDWR))


@case(mounts=True)
def flags_that_statvfs_tells(d: Path) -> Any:
    known = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
    words = "ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosuid,nodev,noexec"
    return each(*words, look=lambda directory: os.statvfs(directory).f_flag & known)


# ---- remount


def remounted(options: str, fill: Callable[[], Any], *changes: str) -> Any:
    """Limits and use after each remount of a mount that `fill` has put something on."""

    def look(directory: Path) -> Any:
        seen: list[Any] = [fill()]
        for change in changes:
            answer = tried(remount, directory, change)
            figures = os.statvfs(directory)
            seen.append([change, answer, figures.f_blocks, figures.f_bfree, figures.f_files])
        return seen

    return with_options(options, look)


def nothing() -> None:
    """Leave it empty."""


def ten_pages() -> None:
    os.close(new("f", b"x" * 10 * PAGE))


@case(mounts=True)
def more_room(d: Path) -> Any:
    return remounted("size=64k", ten_pages, "size=1m", "size=0x200000", "nr_blocks=1000")


@case(mounts=True)
def less_room(d: Path) -> Any:
    return remounted("size=64k", ten_pages, "size=48k", "size=40k", "nr_blocks=10")


@case(mounts=True)
def less_room_than_is_used(d: Path) -> Any:
    return remounted("size=64k", ten_pages, "size=36k", "nr_blocks=9", "size=1", "size=39k")


@case(mounts=True)
def unlimited_by_remount(d: Path) -> Any:
    return remounted("size=64k,nr_inodes=10", ten_pages, "size=0", "nr_inodes=0")


@case(mounts=True)
def limited_again(d: Path) -> Any:
    return remounted("size=0,nr_inodes=0", nothing, "size=1m", "nr_inodes=100", "size=0", "nr_blocks=0")


@case(mounts=True)
def more_and_fewer_inodes(d: Path) -> Any:
    def three() -> None:
        for name in "abc":
            os.mkdir(name)

    return remounted(
        "size=1m,nr_inodes=10", three, "nr_inodes=20", "nr_inodes=4", "nr_inodes=3", "nr_inodes=1"
    )


@case(mounts=True)
def a_refused_remount_changes_nothing(d: Path) -> Any:
    return remounted(
        "size=64k,nr_inodes=10", ten_pages, "nr_inodes=20,size=4k", "size=1m,bogus", "nr_inodes=0x"
    )


@case(mounts=True)
def a_remount_without_options(d: Path) -> Any:
    return remounted("size=64k,nr_inodes=10", ten_pages, "")


@case(mounts=True)
def a_full_file_system_that_grows(d: Path) -> Any:
    def look(directory: Path) -> Any:
        fd = new("f")
        seen = [os.pwrite(fd, b"x" * 20 * PAGE, 0), tried(os.pwrite, fd, b"y" * PAGE, 16 * PAGE)]
        remount(directory, "size=128k")
        seen += [tried(os.pwrite, fd, b"y" * PAGE, 16 * PAGE), len(content("f"))]
        os.close(fd)
        return seen

    return with_options("size=64k", look)


@case(mounts=True)
def read_only_by_remount(d: Path) -> Any:
    def look(directory: Path) -> Any:
        os.close(new("f", b"x"))
        return [
            [tried(remount, directory, change), tried(os.mkdir, change), opened("f"), content("f")]
            for change in ("ro", "rw")
        ]

    return with_options("size=1m", look)


@case(mounts=True)
def read_only_with_an_open_writer(d: Path) -> Any:
    def look(directory: Path) -> Any:
        fd = new("f")
        seen = [tried(remount, directory, "ro"), tried(os.pwrite, fd, b"x", 0)]
        seen += [tried(remount, directory, "ro,size=2m"), os.statvfs(directory).f_blocks]
        os.close(fd)
        seen += [tried(remount, directory, "ro,size=1k"), tried(os.mkdir, "still")]
        return [*seen, tried(remount, directory, "ro"), tried(os.mkdir, "x")]

    return with_options("size=1m", look)


@case(mounts=True)
def two_mounts_know_nothing_of_each_other(d: Path) -> Any:
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
