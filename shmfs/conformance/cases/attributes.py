"""What stat(2), statx(2), statfs(2) and pathconf(3) report."""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, SETFLAGS, Mapping, blocks, call, child, new, tried

BTIME, BASIC = 0x800, 0x7FF


def statx(path: str, mask: int = BASIC | BTIME, flags: int = 0x100, at: int = -100) -> Any:
    """See statx(2): mask, blksize, attributes, nlink, mode, size, blocks, or the name of the errno."""
    buffer = ctypes.create_string_buffer(256)
    answer = tried(call, "statx", at, path, flags, mask, buffer)
    if answer != 0:
        return answer
    figures = struct.unpack_from("<IIQIIIHHQQQ", buffer.raw)
    told, blksize, attributes, nlink, _, _, bits, _, _, size, blocks = figures
    return [hex(told & (BASIC | BTIME)), blksize, hex(attributes & ~0x2000), nlink, oct(bits), size, blocks]


def birth(path: str) -> tuple[int, int]:
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, path, 0x100, BTIME, buffer)
    found: tuple[int, int] = struct.unpack_from("<qI", buffer.raw, 0x50)
    return found


@case()
def statx_of_every_kind(d: Path) -> Any:
    os.close(new("f", b"x" * 5000)), os.mkdir("d"), os.symlink("f", "s"), os.mkfifo("p")
    return {name: statx(name) for name in ("f", "d", "s", "p")}


@case()
def statx_of_few_fields(d: Path) -> Any:
    os.close(new("f", b"x"))
    return [int(statx("f", mask)[0], 16) & mask == mask for mask in (0, 0x200, 0x1, BTIME)]


@case()
def statx_refused(d: Path) -> Any:
    os.close(new("f"))
    return [
        statx("f", 1 << 31),
        statx("f", flags=1 << 20),
        statx("none"),
        statx("f/x"),
        statx("f", flags=0x6000),
    ]


@case()
def statx_without_sync(d: Path) -> Any:
    fd = new("f", b"x")
    seen = [statx("f", flags=0x4000)[5]]
    os.pwrite(fd, b"more", 10)
    return [*seen, statx("f", flags=0x2000)[5]]


@case()
def statx_of_a_descriptor(d: Path) -> Any:
    fd = new("f", b"x" * 100)
    os.unlink("f")
    return statx("", flags=0x1000, at=fd)


@case()
def statx_fields(d: Path) -> Any:
    os.close(new("f", b"x" * 5000)), os.symlink("f", "s"), os.mkdir("d")
    seen: dict[Any, Any] = {}
    for name in ("f", "s", "d"):
        buffer = ctypes.create_string_buffer(256)
        call("statx", -100, name, 0x100, 0x17FF, buffer)
        figures = struct.unpack_from("<IIQIIIHHQQQ", buffer.raw)
        mask, blksize, attributes, nlink, _, _, bits, _, _, size, blocks = figures
        seen[name] = {
            "basic": hex(mask & 0x7FF),
            "btime": bool(mask & 0x800),
            "blksize": blksize,
            "attributes": hex(attributes & ~0x2000),
            "nlink": nlink,
            "mode": oct(bits),
            "size": size,
            "blocks": blocks,
        }
    buffer = ctypes.create_string_buffer(256)
    seen["flags"] = [
        tried(call, "statx", -100, "f", flag, 0x7FF, buffer) for flag in (0x2000, 0x4000, 0x6000)
    ]
    seen["empty path"] = tried(call, "statx", os.open("f", os.O_PATH), "", 0x1000, 0x7FF, buffer)
    return seen


@case()
def statx_file_flags(d: Path) -> Any:
    """The flags in stx_attributes_mask, and stx_attributes of a file with FS_NODUMP_FL."""
    fd = new("f")
    fcntl.ioctl(fd, SETFLAGS, struct.pack("l", 0x40))
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, "f", 0, 0x7FF, buffer)
    flags = 0x10 | 0x20 | 0x40  # STATX_ATTR_IMMUTABLE, APPEND, NODUMP
    attributes, known = (struct.unpack_from("<Q", buffer, at)[0] for at in (8, 56))
    return {"known": hex(known & flags), "set": hex(attributes & flags)}


@case()
def birth_is_kept(d: Path) -> Any:
    os.close(new("f"))
    born = birth("f")
    os.utime("f", (1, 2)), os.chmod("f", 0o600), os.truncate("f", 100), os.rename("f", "g"), os.link("g", "h")
    return [birth("g") == born, birth("h") == born]


@case()
def birth_is_the_first_ctime(d: Path) -> Any:
    os.close(new("f")), os.mkdir("d"), os.symlink("x", "s")
    return [birth(name) == divmod(os.lstat(name).st_ctime_ns, 10**9) for name in ("f", "d", "s")]


@case()
def birth_after_utime(d: Path) -> Any:
    os.close(new("f"))
    before = os.stat("f")
    os.utime("f", (1, 2))
    buffer = ctypes.create_string_buffer(256)
    call("statx", -100, "f", 0, 0xFFF, buffer)
    seconds, nanoseconds = struct.unpack_from("<qI", buffer.raw, 0x50)
    return {"kept": (seconds, nanoseconds) == divmod(before.st_ctime_ns, 10**9)}


@case()
def blocks_after_each_way_to_store(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 20 * PAGE)
    seen = [blocks("f")]
    os.pwrite(fd, b"x", 5 * PAGE)
    seen.append(blocks("f"))
    Mapping(fd, 20 * PAGE).store(b"x", 7 * PAGE)
    seen.append(blocks("f"))
    os.copy_file_range(fd, fd, PAGE, 5 * PAGE, 9 * PAGE)
    return [*seen, blocks("f")]


@case()
def size_after_each_change(d: Path) -> Any:
    fd = new("f")
    seen = []
    for size in (1, 100, PAGE, 10 * PAGE, 50):
        os.ftruncate(fd, size)
        seen.append([os.stat("f").st_size, child(lambda: os.stat("f").st_size), os.lseek(fd, 0, os.SEEK_END)])
    os.pwrite(fd, b"x", 1000)
    return [*seen, child(lambda: os.stat("f").st_size)]


@case()
def links_are_counted(d: Path) -> Any:
    fd = new("f")
    seen = [os.fstat(fd).st_nlink]
    steps: list[Callable[[], Any]] = [
        lambda: os.link("f", "g"),
        lambda: os.rename("g", "h"),
        lambda: os.link("f", "g"),
        lambda: os.rename("g", "h"),
        lambda: os.unlink("f"),
        lambda: os.unlink("g"),
        lambda: os.unlink("h"),
    ]
    for step in steps:
        tried(step)
        seen.append(os.fstat(fd).st_nlink)
    return seen


@case()
def directories_count_their_names(d: Path) -> Any:
    os.mkdir("d")
    seen = []
    steps: list[Callable[[], Any]] = [
        lambda: os.mkdir("d/a"),
        lambda: os.close(new("d/f")),
        lambda: os.symlink("x", "d/s"),
        lambda: os.link("d/f", "d/g"),
        lambda: os.rename("d/a", "away"),
        lambda: os.rename("d/f", "d/g2"),
        lambda: os.unlink("d/g2"),
        lambda: os.rename("away", "d/back"),
    ]
    for step in steps:
        step()
        status = os.stat("d")
        seen.append([status.st_nlink, status.st_size, status.st_blocks])
    return seen


@case()
def inode_numbers_are_kept(d: Path) -> Any:
    os.close(new("f")), os.mkdir("d")
    number = os.stat("f").st_ino
    os.rename("f", "d/g"), os.link("d/g", "h"), os.chmod("h", 0o600)
    with os.scandir("d") as found:
        listed = [entry.inode() == number for entry in found]
    return [os.stat("d/g").st_ino == number, os.stat("h").st_ino == number, listed]


@case()
def inode_numbers_are_not_given_again_at_once(d: Path) -> Any:
    seen = set()
    for _ in range(50):
        os.close(new("f"))
        seen.add(os.stat("f").st_ino)
        os.unlink("f")
    return len(seen)


@case()
def the_kind_of_file_system(d: Path) -> Any:
    """f_type of statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    call("statfs", ".", buffer)
    kind, bsize, *_ = struct.unpack_from("qq", buffer.raw)
    return {"type": hex(kind), "bsize": bsize}


@case()
def pathconf(d: Path) -> Any:
    names = (
        "PC_NAME_MAX",
        "PC_PATH_MAX",
        "PC_LINK_MAX",
        "PC_PIPE_BUF",
        "PC_CHOWN_RESTRICTED",
        "PC_NO_TRUNC",
        "PC_FILESIZEBITS",
    )
    return {name: tried(os.pathconf, ".", name) for name in names}
