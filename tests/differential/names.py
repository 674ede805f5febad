"""Operations on paths, and the look at the whole tree."""

import os
import shutil
import stat
import zlib
from typing import Any

from tests.differential.actor import (
    PAGE,
    PATIENCE,
    Actor,
    Missing,
    call,
    data,
    digest,
    loses_bits,
    operation,
    tried,
)

OLD = 10**18
"""Nanoseconds: times before 2001 were set by the program, later ones come from a clock."""
FUTURE = 2**33 * 10**9
NOW, OMIT = -1, -2
"""Instead of a time, as UTIME_NOW and UTIME_OMIT."""
EXTENTS = 64
"""Extents of a file whose content is compared."""


def nanoseconds(atime: int, mtime: int) -> tuple[int, int]:
    """Times of a program: small numbers, of old."""
    return atime * 10**9 + 7, mtime * 10**9 + 8


def timestamp(value: int) -> Any:
    """A time that can be compared: one that the program has set, or that it comes from the clock."""
    return value if value < OLD or value >= FUTURE else "clock"


def described(actor: Actor, status: os.stat_result) -> dict[str, Any]:
    """What stat(2) tells, as far as it must be the same."""
    regular = stat.S_ISREG(status.st_mode)
    told = {
        "mode": stat.filemode(status.st_mode),
        "nlink": status.st_nlink,
        "owner": (status.st_uid, status.st_gid),
        "size": status.st_size,
        "blocks": status.st_blocks,
        "rdev": status.st_rdev,
        "blksize": status.st_blksize,
    }
    special = stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)
    special = special and actor.masks("times of special files")
    stored = actor.masks("time of a store") and actor.calls("store", "fork_store", "pread_into")
    removed = not status.st_size and actor.calls("madvise") and actor.masks("time of MADV_REMOVE")
    written = special and actor.calls("write", "pwritev", "sendfile")
    if not (written or (regular and (stored or removed))):
        told["mtime"] = timestamp(status.st_mtime_ns)
    read = special and actor.calls("read", "preadv", "sendfile")
    if not (read or (regular and actor.masks("time of a read"))):
        told["atime"] = timestamp(status.st_atime_ns)
    return told


def chmod_bits(actor: Actor, mode: int) -> int:
    """The mode to set ("set-id bits of an open file")."""
    return mode & ~0o6000 if actor.masks("set-id bits of an open file") else mode


def check_chown(actor: Actor, status: os.stat_result, uid: int, gid: int) -> None:
    """Raise Missing for a chown that is not compared ("chown to nobody of a set-id file")."""
    nobody = uid == gid == -1 and status.st_uid != os.geteuid() and loses_bits(status)
    if nobody and actor.masks("chown to nobody of a set-id file"):
        raise Missing


@operation
def lstat(actor: Actor, path: str) -> Any:
    """lstat(2)."""
    return described(actor, os.lstat(path))


@operation
def stat_(actor: Actor, path: str) -> Any:
    """stat(2)."""
    return described(actor, os.stat(path))


@operation
def truncate(actor: Actor, path: str, size: int) -> None:
    """truncate(2)."""
    os.truncate(path, size)


@operation
def mkdir(actor: Actor, path: str, mode: int) -> None:
    """mkdir(2)."""
    os.mkdir(path, mode)


@operation
def rmdir(actor: Actor, path: str) -> None:
    """rmdir(2)."""
    os.rmdir(path)


@operation
def unlink(actor: Actor, path: str) -> None:
    """unlink(2)."""
    os.unlink(path)


@operation
def link(actor: Actor, path: str, new: str) -> None:
    """linkat(2) of the name itself."""
    os.link(path, new, follow_symlinks=False)


@operation
def symlink(actor: Actor, target: str, length: int, path: str) -> None:
    """symlink(2); the target is filled up to `length`."""
    os.symlink(target + "/" * (length - len(target)), path)


@operation
def readlink(actor: Actor, path: str) -> Any:
    """readlink(2)."""
    return digest(os.readlink(os.fsencode(path)))


@operation
def rename(actor: Actor, path: str, new: str, flags: int) -> int:
    """renameat2(2)."""
    here = -100  # AT_FDCWD
    return call("renameat2", here, os.fsencode(path), here, os.fsencode(new), flags)


@operation
def mknod(actor: Actor, path: str, mode: int, device: int) -> None:
    """mknod(2)."""
    os.mknod(path, mode, device)


@operation
def chmod(actor: Actor, path: str, mode: int) -> None:
    """chmod(2)."""
    os.chmod(path, chmod_bits(actor, mode))


@operation
def lchown(actor: Actor, path: str, uid: int, gid: int) -> None:
    """lchown(2)."""
    check_chown(actor, os.lstat(path), uid, gid)
    os.lchown(path, uid, gid)


@operation
def utimens(actor: Actor, path: str, atime: int, mtime: int) -> None:
    """utimensat(2) of the name itself."""
    os.utime(path, ns=nanoseconds(atime, mtime), follow_symlinks=False)


@operation
def access(actor: Actor, path: str, mode: int) -> bool:
    """access(2)."""
    return os.access(path, mode)


@operation
def setxattr(actor: Actor, path: str, name: str, tag: int, size: int, flags: int) -> None:
    """lsetxattr(2)."""
    os.setxattr(path, name, data(tag, size), flags, follow_symlinks=False)


@operation
def setacl(actor: Actor, path: str, name: str, value: bytes) -> None:
    """setxattr(2) of an access control list."""
    os.setxattr(path, name, value)


@operation
def getxattr(actor: Actor, path: str, name: str) -> Any:
    """lgetxattr(2)."""
    return digest(os.getxattr(path, name, follow_symlinks=False))


@operation
def listxattr(actor: Actor, path: str) -> list[str]:
    """llistxattr(2)."""
    return os.listxattr(path, follow_symlinks=False)


@operation
def removexattr(actor: Actor, path: str, name: str) -> None:
    """lremovexattr(2)."""
    os.removexattr(path, name, follow_symlinks=False)


@operation
def listdir(actor: Actor, path: str) -> list[str]:
    """The names of a directory in their order."""
    names = os.listdir(path)
    if "rename" in actor.names and actor.masks("place of a replaced name"):
        names.sort()
    return names


@operation
def statvfs(actor: Actor) -> Any:
    """statvfs(3)."""
    status = os.fstatvfs(actor.root)
    return status.f_bsize, status.f_frsize, status.f_blocks, status.f_bavail, status.f_files, status.f_namemax


# ---- what every program begins and ends with


@operation
def enter(actor: Actor, path: str, names: tuple[str, ...]) -> None:
    """Work in a directory; `names` are those of the program's operations."""
    os.chdir(path)
    actor.names = names
    actor.patience = PATIENCE


@operation
def leave(actor: Actor, path: str) -> None:
    """Let everything go and work elsewhere."""
    actor.reset()
    os.chdir(path)
    root, actor.root = actor.root, os.open(path, os.O_PATH | os.O_CLOEXEC)
    if root >= 0:
        os.close(root)


@operation
def exit_(actor: Actor) -> None:
    """Let everything go, as a process does that ends."""
    actor.reset()


@operation
def make_room(actor: Actor, path: str) -> None:
    """A new directory that everybody may work in."""
    os.mkdir(path)
    os.chmod(path, 0o777)


@operation
def remove_room(actor: Actor, path: str) -> list[str]:
    """Delete the directory; what is left of it."""
    shutil.rmtree(path, ignore_errors=True)
    return os.listdir(".")


@operation
def check(actor: Actor, whole: bool = False) -> Any:
    """Everything below the working directory; with `whole` what holes read as too."""
    found: dict[str, Any] = {".": described(actor, os.stat("."))}
    seen: dict[int, int] = {}
    _walk(actor, ".", found, seen, whole=whole)
    return found


def _walk(actor: Actor, directory: str, found: dict[str, Any], seen: dict[int, int], *, whole: bool) -> None:
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        status = os.lstat(path)
        told = described(actor, status)
        told["inode"] = seen.setdefault(status.st_ino, len(seen))  # which names are of one inode
        told["xattrs"] = [
            (key, tried(lambda path, key: digest(os.getxattr(path, key, follow_symlinks=False)), path, key))
            for key in tried(lambda path: sorted(os.listxattr(path, follow_symlinks=False)), path)
        ]
        if stat.S_ISREG(status.st_mode):
            told["content"] = tried(_content, path, status.st_size, whole)
        elif stat.S_ISLNK(status.st_mode):
            told["target"] = digest(os.readlink(os.fsencode(path)))
        found[path] = told
        if stat.S_ISDIR(status.st_mode):
            _walk(actor, path, found, seen, whole=whole)


def _content(path: str, size: int, whole: bool) -> Any:
    """Where the data are and their checksum; also of the holes where they are few."""
    flags = os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags)
    try:
        if whole and size <= 512 * PAGE:
            return digest(os.read(fd, size + 1))
        found: list[tuple[int, int, int]] = []
        end = 0
        while len(found) < EXTENTS:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: no more of them
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, end, zlib.crc32(os.pread(fd, min(end - start, 1 << 20), start))))
        return found
    finally:
        os.close(fd)
