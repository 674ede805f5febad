"""open(2): flags, the access they give, and many open files."""

import errno
import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import Mapping, child, content, free, mode, new, opened, tried, unprivileged

# ---- flags and access


@case()
def open_flags(d: Path) -> Any:
    os.close(new("f", b"content"))
    os.mkdir("d")
    os.symlink("f", "s")
    os.symlink("missing", "dangling")
    os.mkfifo("p")
    creating = os.O_CREAT | os.O_RDWR
    return {
        "exclusive": opened("f", creating | os.O_EXCL),
        "exclusive link": opened("dangling", creating | os.O_EXCL),
        "create by link": opened("dangling", creating),
        "made": os.path.exists("missing"),
        "nofollow": opened("s", os.O_RDONLY | os.O_NOFOLLOW),
        "nofollow path": opened("s", os.O_PATH | os.O_NOFOLLOW),
        "directory": opened("f", os.O_RDONLY | os.O_DIRECTORY),
        "a directory": opened("d", os.O_RDONLY | os.O_DIRECTORY),
        "directory for writing": opened("d", os.O_RDWR),
        "create a directory": opened("d", creating),
        "create and directory": opened("new", os.O_CREAT | os.O_DIRECTORY),
        "slash": opened("f/", os.O_RDONLY),
        "create slash": opened("newfile/", creating),
        "fifo, nobody reads": opened("p", os.O_WRONLY | os.O_NONBLOCK),
        "sync": opened("f", os.O_RDWR | os.O_SYNC | os.O_DSYNC),
        "async": opened("f", os.O_RDWR | os.O_ASYNC),
        "noatime": opened("f", os.O_RDONLY | os.O_NOATIME),
        "noatime of another's": unprivileged(opened, "f", os.O_RDONLY | os.O_NOATIME),
        "access mode 3": opened("f", 3),
        "truncate for reading": opened("f", os.O_RDONLY | os.O_TRUNC),
        "size": os.stat("f").st_size,
        "empty": tried(os.open, "", os.O_RDONLY),
    }


@case()
def access_mode_of_descriptors(d: Path) -> Any:
    os.close(new("f", b"content"))
    reader, writer, path = (os.open("f", flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH))
    return {
        "write to reader": tried(os.write, reader, b"x"),
        "read from writer": tried(os.read, writer, 1),
        "read from path": tried(os.read, path, 1),
        "fchmod of path": tried(os.fchmod, path, 0o600),
        "directory": tried(os.read, os.open(".", os.O_RDONLY), 1),
        "pread of directory": tried(os.pread, os.open(".", os.O_RDONLY), 1, 0),
    }


@case()
def o_trunc_keeps_others_open(d: Path) -> Any:
    fd = new("f", b"content")
    m = Mapping(fd)
    os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
    return [os.pread(fd, 10, 0), child(m.load), os.pwrite(fd, b"end", 10), content("f"), m.load(10, 3)]


@case()
def o_noatime_is_for_the_owner(d: Path) -> Any:
    os.close(new("f", mode=0o644))
    return [opened("f", os.O_RDONLY | os.O_NOATIME), unprivileged(opened, "f", os.O_RDONLY | os.O_NOATIME)]


@case()
def o_creat_without_rights(d: Path) -> Any:
    """The mode of a new file does not restrict the descriptor that created it."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0)
    return [os.write(fd, b"x"), mode("f"), unprivileged(opened, "f", os.O_RDONLY)]


# ---- many open files


@case()
def many_descriptors(d: Path) -> Any:
    os.close(new("f", b"x"))
    fds = [os.open("f", os.O_RDWR) for _ in range(500)]
    for index, fd in enumerate(fds):
        os.pwrite(fd, b"y", index)
    os.unlink("f")
    return [os.fstat(fds[0]).st_size, os.fstat(fds[-1]).st_nlink, errno.errorcode[errno.EIO]]


@case()
def ten_thousand_opens(d: Path) -> Any:
    os.close(new("f", b"x"))
    for _ in range(10_000):
        os.close(os.open("f", os.O_RDONLY))
    return [content("f"), os.stat("f").st_nlink]


@case()
def five_hundred_open_unlinked_files(d: Path) -> Any:
    before = free()
    fds = []
    for index in range(500):
        fds.append(new(f"f{index}", b"%d" % index))
        os.unlink(f"f{index}")
    return [
        os.listdir("."),
        before[0] - free()[0],
        [os.pread(fd, 9, 0) for fd in fds] == [b"%d" % i for i in range(500)],
    ]
