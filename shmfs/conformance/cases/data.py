"""Content: read, write, truncate, the open flags, and copies inside the kernel."""

import errno
import fcntl
import mmap
import os
import random
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    Mapping,
    blocks,
    call,
    content,
    digest,
    new,
    opened,
    tried,
    unprivileged,
)

MAX = (1 << 63) - 1


@case()
def random_writes_and_truncations(d: Path) -> Any:
    choose = random.Random(1)
    fd = new("f")
    mapping = Mapping(fd, 64 * PAGE)
    seen: list[Any] = []
    for _ in range(400):
        offset, size = choose.randrange(60 * PAGE), choose.randrange(1, 3 * PAGE)
        action = choose.randrange(5)
        if action == 0:
            os.ftruncate(fd, offset)
        elif action == 1 and offset < os.fstat(fd).st_size:
            mapping.store(choose.randbytes(1), offset)
        elif action == 2:
            seen.append(digest(os.pread(fd, size, offset)))
        elif action == 3 and offset < os.fstat(fd).st_size:
            seen.append(mapping.load(offset, min(64, os.fstat(fd).st_size - offset)))
        else:
            os.pwrite(fd, choose.randbytes(size), offset)
        seen.append(os.fstat(fd).st_size)
    mapping.sync(4)
    return [seen, digest(content("f"))]


@case()
def random_readers_and_writers(d: Path) -> Any:
    """Descriptors and mappings of every kind come and go over one file with holes."""
    choose = random.Random(4)
    os.close(new("f"))
    fds: list[tuple[int, int]] = []
    mappings: list[tuple[int, Mapping]] = []
    seen: list[Any] = []
    pages = 12
    for step in range(1500):
        action, offset = choose.randrange(12), choose.randrange(pages * PAGE)
        data = choose.randbytes(choose.randrange(1, 2 * PAGE))
        size = os.stat("f").st_size
        writers = [fd for fd, flags in fds if flags != os.O_RDONLY]
        if action == 0 and len(fds) < 5:
            flags = choose.choice((os.O_RDONLY, os.O_RDONLY, os.O_RDWR))
            fds.append((os.open("f", flags), flags))
        elif action == 1 and fds:
            os.close(fds.pop(choose.randrange(len(fds)))[0])
        elif action == 2 and fds and len(mappings) < 5:
            fd, flags = choose.choice(fds)
            protection = 1 if flags == os.O_RDONLY else 3
            mappings.append((protection, Mapping(fd, pages * PAGE, protection, choose.choice((1, 1, 2)))))
        elif action == 3 and mappings:
            mappings.pop(choose.randrange(len(mappings)))[1].unmap()
        elif action == 4:
            os.truncate("f", offset)
        elif action == 5 and writers:
            seen.append(os.pwrite(choose.choice(writers), data, offset))
        elif action == 6 and writers:
            os.ftruncate(choose.choice(writers), offset)
        elif action in (7, 8) and fds and fds != [fd for fd in fds if fd[1] == os.O_WRONLY]:
            seen.append(digest(os.pread(choose.choice(fds)[0], len(data), offset)))
        elif action in (9, 10) and mappings and offset < size:
            seen.append(choose.choice(mappings)[1].load(offset, min(8, size - offset)))
        elif action == 11 and mappings and offset < size:
            protection, mapping = choose.choice(mappings)
            if protection == 3:
                mapping.store(data[: min(8, size - offset)], offset)
        if step % 100 == 99:
            seen.append(digest(content("f")))
    return [seen, digest(content("f")), os.stat("f").st_size]


@case()
def one_reads_what_another_has_written(d: Path) -> Any:
    first, second = new("f", b"a" * 10000), os.open("f", os.O_RDWR)
    seen: list[Any] = [os.pread(second, 3, 9999)]
    os.pwrite(first, b"bb", 4095)
    seen.append(os.pread(second, 4, 4094))
    os.ftruncate(second, 4096)
    seen += [os.pread(first, 10, 4090), os.fstat(first).st_size]
    return seen


@case()
def vectors_and_flags(d: Path) -> Any:
    fd = new("f")
    parts = [b"x" * 5000, b"", b"y" * 10]
    seen: list[Any] = [
        os.writev(fd, parts),
        os.pwritev(fd, parts, 3),
        os.pwritev(fd, [b"end"], 0, os.RWF_APPEND),
    ]
    buffers = [bytearray(4), bytearray(6000)]
    seen += [os.preadv(fd, buffers, 2), bytes(buffers[0]), digest(bytes(buffers[1]))]
    seen += [os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size]
    seen += [tried(os.pwritev, fd, [b"s"], 0, os.RWF_SYNC), tried(os.pwritev, fd, [b"s"], 0, os.RWF_DSYNC)]
    return seen


@case()
def nowait(d: Path) -> Any:
    fd = new("f", b"x")
    return {
        "read": tried(os.preadv, fd, [bytearray(1)], 0, os.RWF_NOWAIT),
        "write": tried(os.pwritev, fd, [b"x"], 0, 8),
        "atomic": tried(os.pwritev, fd, [b"x"], 0, 0x40),
        "unknown": tried(os.pwritev, fd, [b"x"], 0, 0x4000),
    }


@case()
def bad_offsets(d: Path) -> Any:
    fd = new("f", b"x")
    return {
        "pread": tried(os.pread, fd, 1, -1),
        "pwrite": tried(os.pwrite, fd, b"x", -1),
        "read far": tried(os.pread, fd, 1, MAX - 1),
        "lseek": tried(os.lseek, fd, -1, os.SEEK_SET),
        "lseek before": tried(os.lseek, fd, -2, os.SEEK_END),
        "lseek far": tried(os.lseek, fd, MAX, os.SEEK_SET),
        "read there": tried(os.read, fd, 1),
        "write there": tried(os.write, fd, b"x"),
        "lseek over": tried(os.lseek, fd, 1, os.SEEK_CUR),
        "whence": tried(call, "lseek", fd, 0, 77),
        "truncate": tried(os.ftruncate, fd, -1),
        "truncate far": tried(os.ftruncate, fd, MAX),
        "size": os.fstat(fd).st_size,
    }


@case()
def writes_at_the_far_end(d: Path) -> Any:
    fd = new("f")
    seen = {
        "last byte": tried(os.pwrite, fd, b"x", MAX - 1),
        "beyond": tried(os.pwrite, fd, b"x", MAX),
        "across": tried(os.pwrite, fd, b"xyz", MAX - 2),
        "size": os.fstat(fd).st_size,
        "blocks": blocks("f"),
        "read": tried(os.pread, fd, 10, MAX - 2),
    }
    os.ftruncate(fd, 0)
    return seen


@case()
def append(d: Path) -> Any:
    fd = new("f", b"start")
    end = os.open("f", os.O_RDWR | os.O_APPEND)
    seen: list[Any] = [os.write(end, b"1"), os.pwrite(end, b"2", 0), os.lseek(end, 0, os.SEEK_CUR)]
    os.pwrite(fd, b"#", 10)
    seen += [os.write(end, b"3"), os.lseek(end, 0, os.SEEK_CUR), content("f")]
    fcntl.fcntl(end, fcntl.F_SETFL, 0)
    return [seen, os.pwrite(end, b"4", 0), content("f")]


@case()
def many_append_at_once(d: Path) -> Any:
    os.close(new("f"))

    def writer(letter: bytes) -> int:
        fd = os.open("f", os.O_WRONLY | os.O_APPEND)
        return sum(os.write(fd, letter * 10) for _ in range(200))

    pids = []
    for letter in (b"a", b"b", b"c", b"d"):
        pid = os.fork()
        if pid == 0:
            writer(letter)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    data = content("f")
    whole = all(len(set(data[i : i + 10])) == 1 for i in range(0, len(data), 10))
    return [len(data), whole, sorted(data.count(letter) for letter in (b"a", b"b", b"c", b"d"))]


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
def direct(d: Path) -> Any:
    fd = tried(os.open, "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    if isinstance(fd, str):
        return fd
    aligned = mmap.mmap(-1, 4 * PAGE)
    aligned[:] = b"d" * 4 * PAGE
    seen = [os.pwritev(fd, [memoryview(aligned)[: 2 * PAGE]], 0), tried(os.pwrite, fd, b"odd", 5)]
    seen += [tried(os.preadv, fd, [aligned], 0), tried(os.pread, fd, 10, 3), os.fstat(fd).st_size]
    other = os.open("f", os.O_RDWR)
    mapping = Mapping(other, PAGE)
    mapping.store(b"mapped", 100)
    seen += [
        os.pread(fd, 10, 98),
        os.pwrite(fd, b"direct", 200),
        mapping.load(199, 8),
        Mapping(fd).load(99, 9),
    ]
    return seen


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
def sync(d: Path) -> Any:
    fd = new("f", b"x" * 10000)
    directory = os.open(".", os.O_RDONLY)
    return {
        "fsync": tried(os.fsync, fd),
        "fdatasync": tried(os.fdatasync, fd),
        "of a reader": tried(os.fsync, os.open("f", os.O_RDONLY)),
        "of a directory": tried(os.fsync, directory),
        "syncfs": tried(call, "syncfs", fd),
        "sync_file_range": tried(call, "sync_file_range", fd, 0, 4096, 7),
        "fadvise": [tried(os.posix_fadvise, fd, 0, 0, advice) for advice in range(6)],
        "readahead": tried(call, "readahead", fd, 0, 8192),
        "content": digest(content("f")),
    }


@case()
def many_descriptors(d: Path) -> Any:
    os.close(new("f", b"x"))
    fds = [os.open("f", os.O_RDWR) for _ in range(500)]
    for index, fd in enumerate(fds):
        os.pwrite(fd, b"y", index)
    os.unlink("f")
    return [os.fstat(fds[0]).st_size, os.fstat(fds[-1]).st_nlink, errno.errorcode[errno.EIO]]
