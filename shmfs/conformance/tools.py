"""What the cases are made with: raw system calls, mappings, and children that may die."""

import ast
import contextlib
import ctypes
import errno
import hashlib
import os
import resource
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shmfs.system import syscall_table

PAGE = 4096
NOBODY = 65534
"""A user and a group without rights."""

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p

READ, WRITE, EXEC = 1, 2, 4
SHARED, PRIVATE, SHARED_VALIDATE, FIXED = 1, 2, 3, 0x10
LOCKED, POPULATE, SYNC, FIXED_NOREPLACE = 0x2000, 0x8000, 0x80000, 0x100000

KEEP_SIZE, PUNCH_HOLE, NO_HIDE_STALE, COLLAPSE, ZERO, INSERT, UNSHARE = (1 << n for n in range(7))
PUNCH = KEEP_SIZE | PUNCH_HOLE
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x400, 0x1000
GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS."""


def call(name: str, *arguments: Any) -> int:
    """A function of the C library; raises OSError where it answers -1. A system call is named: "futex"."""
    if name == "syscall":
        arguments = (syscall_table.number(arguments[0]), *arguments[1:])
    converted = [os.fsencode(a) if isinstance(a, str | Path) else a for a in arguments]
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in converted]
    result = getattr(libc, name)(*converted)
    if result in (-1, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result or 0)


def tried(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What the function returns, or the name of its errno."""
    try:
        return function(*arguments, **keywords)
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]


def opened(path: Any, flags: int = os.O_RDWR, mode: int = 0o666) -> Any:
    """Whether it can be opened: "ok" or the name of the errno."""
    fd = tried(os.open, path, flags, mode)
    if isinstance(fd, int):
        os.close(fd)
        return "ok"
    return fd


def new(path: Any, content: bytes = b"", mode: int = 0o666) -> int:
    """A descriptor, for reading and writing, of a new file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    if os.pwrite(fd, content, 0) != len(content):
        raise RuntimeError(f"{path} took only a part of its content")
    return fd


def content(path: Any) -> bytes:
    """All of a file."""
    return Path(os.fsdecode(path)).read_bytes()


def blocks(path: Any) -> int:
    """Allocated pages."""
    return os.stat(path).st_blocks // 8


def digest(data: bytes) -> str:
    """A short word for much data."""
    return hashlib.sha256(data).hexdigest()[:16]


def state(path: Any = "f") -> tuple[int, int]:
    """Size and allocated pages."""
    return os.stat(path).st_size, blocks(path)


def allocate(fd: int, how: int, offset: int, length: int) -> Any:
    """fallocate(2): 0 or the name of its errno."""
    return tried(call, "fallocate", fd, how, offset, length)


def renameat2(old: Any, new_name: Any, flags: int) -> int:
    """renameat2(2) in the working directory."""
    return call("renameat2", AT_FDCWD, old, AT_FDCWD, new_name, flags)


def mode(path: Any) -> str:
    """Type and permissions, as ls(1) shows them."""
    return stat.filemode(os.lstat(path).st_mode)


def eventually(look: Callable[[], Any], wanted: Any) -> Any:
    """What `look` sees, waiting a while for `wanted`: FUSE tells of a last close after it has returned."""
    deadline = time.monotonic() + 10
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    return seen


def free(path: Any = ".") -> tuple[int, int]:
    """Free blocks and inodes of the file system."""
    figures = os.statvfs(path)
    return figures.f_bfree, figures.f_ffree


class Mapping:
    """A mapping made with mmap(2) itself, which refuses what Python's module would not even ask for."""

    def __init__(
        self,
        fd: int,
        length: int = PAGE,
        protection: int = READ | WRITE,
        flags: int = SHARED,
        offset: int = 0,
        address: int = 0,
    ) -> None:
        self.length = length
        self.address = call("mmap", address, length, protection, flags, fd, offset)

    def __repr__(self) -> str:
        return "'mapped'"  # the address is nobody's business

    def load(self, offset: int = 0, size: int = 1) -> bytes:
        """Bytes of it."""
        return ctypes.string_at(self.address + offset, size)

    def store(self, data: bytes, offset: int = 0) -> None:
        """Put bytes into it."""
        ctypes.memmove(self.address + offset, data, len(data))

    def protect(self, protection: int) -> int:
        """mprotect(2)."""
        return call("mprotect", self.address, self.length, protection)

    def advise(self, advice: int, offset: int = 0, length: int | None = None) -> int:
        """madvise(2)."""
        return call("madvise", self.address + offset, length or self.length - offset, advice)

    def sync(self, flags: int) -> int:
        """msync(2)."""
        return call("msync", self.address, self.length, flags)

    def resident(self) -> list[int]:
        """mincore(2)."""
        vector = (ctypes.c_ubyte * -(-self.length // PAGE))()
        call("mincore", self.address, self.length, vector)
        return [page & 1 for page in vector]

    def unmap(self) -> int:
        """munmap(2)."""
        return call("munmap", self.address, self.length)


class Channel:
    """One end of a conversation between two processes: values that repr() and literal_eval() carry."""

    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = os.fdopen(source, "r"), os.fdopen(sink, "w")

    def send(self, value: Any = None) -> None:
        """Tell the other end."""
        self.sink.write(f"{value!r}\n")
        self.sink.flush()

    def receive(self) -> Any:
        """What the other end has told; "gone" when it has ended."""
        line = self.source.readline()
        return ast.literal_eval(line) if line else "gone"

    def close(self) -> None:
        """End the conversation."""
        self.source.close()
        self.sink.close()


@contextlib.contextmanager
def process(function: Callable[..., Any], *arguments: Any) -> Iterator[Channel]:
    """A child that runs `function(channel, *arguments)`; it is waited for at the end."""
    (theirs, ours), (mine, its) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours), os.close(mine)
        try:
            function(Channel(theirs, its), *arguments)
        except OSError as failure:
            os.write(its, repr(errno.errorcode[failure.errno or 0]).encode() + b"\n")
        finally:
            os._exit(0)
    os.close(theirs), os.close(its)
    channel = Channel(mine, ours)
    channel.pid = pid  # type: ignore[attr-defined]
    try:
        yield channel
    finally:
        channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


class NeedsRootError(Exception):
    """What a case does is for root alone."""


def child(
    function: Callable[..., Any], *arguments: Any, uid: int = 0, gid: int = 0, groups: tuple[int, ...] = ()
) -> Any:
    """What `function(*arguments)` returns in a child (as another user): data, an errno's name, a signal's."""
    if (uid or gid) and os.geteuid() != 0:
        raise NeedsRootError("only root may become another user")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if uid or gid:
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            os.write(writer, repr(tried(function, *arguments)).encode())
            os._exit(0)
        except BaseException as failure:
            os.write(writer, repr(f"{failure!r}").encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return (
        ast.literal_eval(said.decode()) if said else f"ended with status {os.waitstatus_to_exitcode(status)}"
    )


def unprivileged(function: Callable[..., Any], *arguments: Any) -> Any:
    """`child` as nobody."""
    return child(function, *arguments, uid=NOBODY, gid=NOBODY)


def aged(path: Any, *, follow: bool = True) -> tuple[int, int, int]:
    """Give a file old times, and let the clock move on; returns them: atime, mtime, ctime."""
    if isinstance(path, int):
        os.utime(path, ns=(10**18, 10**18 + 1))
    else:
        os.utime(path, ns=(10**18, 10**18 + 1), follow_symlinks=follow)
    time.sleep(0.012)  # the kernel's own stamps are only as fine as its tick
    return times(path, follow=follow)


def times(path: Any, *, follow: bool = True) -> tuple[int, int, int]:
    """In nanoseconds: atime, mtime, ctime."""
    status = os.stat(path) if follow else os.lstat(path)
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns


def changed(before: tuple[int, int, int], path: Any, *, follow: bool = True) -> str:
    """Which times are others than before: some of "amc"."""
    after = times(path, follow=follow)
    return "".join(name for name, old, now in zip("amc", before, after, strict=True) if old != now)


def changes(action: Callable[[], Any], **paths: Any) -> dict[str, Any]:
    """Which times of which files an action changes."""
    before = {name: aged(path, follow=False) for name, path in paths.items()}
    result = tried(action)
    seen: dict[str, Any] = {name: changed(before[name], paths[name], follow=False) for name in paths}
    if isinstance(result, str):
        seen["answer"] = result
    return seen


def fill_file_system(path: str = "filler") -> int:
    """Write a file until the file system is full, and return its descriptor."""
    fd = new(path)
    offset = 0
    while (stored := tried(os.pwrite, fd, b"f" * PAGE, offset)) == PAGE:
        offset += PAGE
    if stored != "ENOSPC":
        raise RuntimeError(f"it is not full: {stored}")
    return fd


def data_file(flags: int = os.O_RDWR, pages: int = 4) -> int:
    """Create "f" with pages of data, and open it with these flags."""
    os.close(new("f", b"x" * pages * PAGE))
    return os.open("f", flags)


def try_map(fd: int, *arguments: Any, **more: Any) -> Any:
    """A mapping of the descriptor, or the name of the errno; the arguments are those of Mapping."""
    return tried(Mapping, fd, *arguments, **more)


def mapped_file(
    pages: int = 4, letter: bytes = b"x", flags: int = SHARED, protection: int = READ | WRITE
) -> Mapping:
    """A mapping of a new file "f" that is filled with a letter."""
    return Mapping(new("f", letter * pages * PAGE), pages * PAGE, protection, flags)


def mapped_hole(pages: int = 4, flags: int = SHARED) -> Mapping:
    """A mapping of a new file "f" that is one hole."""
    fd = new("f")
    os.ftruncate(fd, pages * PAGE)
    return Mapping(fd, pages * PAGE, READ | WRITE, flags)


def preadv_with_flags(flags: int) -> Any:
    """preadv2(2) of a new file "f", with these flags: the bytes read, or the name of the errno."""
    return tried(os.preadv, new("f", b"content"), [bytearray(4)], 0, flags)


def pwritev_with_flags(flags: int) -> Any:
    """pwritev2(2) to a new file "f", with these flags: the answer, and the content of the file."""
    return [tried(os.pwritev, new("f", b"content"), [b"NEW"], 0, flags), content("f")]


def ask(channel: Channel, *order: Any) -> Any:
    """Send an order, and return the answer."""
    channel.send(order)
    return channel.receive()
