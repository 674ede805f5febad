"""Remounts: how limits and flags of a mount change."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.mounting import remount, with_options
from shmfs.conformance.tools import PAGE, content, new, opened, tried


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


# ---- limits


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


# ---- read only


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
