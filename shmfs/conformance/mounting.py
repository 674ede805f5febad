"""Mount a tmpfs, or whatever a case runs on, in the mount namespace of the worker."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmfs.client import launch, service
from shmfs.conformance.tools import call, tried
from shmfs.errors import ShmfsError
from shmfs.fs.options import VFS_OPTIONS, OptionError
from shmfs.system import mounts, syscalls
from shmfs.system.namespaces import CLONE_NEWNS, MS_REC

FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024}
FLAGS |= {"nodiratime": 2048, "relatime": 1 << 21, "strictatime": 1 << 24}
MS_REMOUNT = 32
PRIVATE = MS_REC | 1 << 18
"""Nothing below the mount propagates: MS_REC and MS_PRIVATE."""

more_options = ""
"""Added to the options of every shmfs; the worker sets it."""


def tmpfs(directory: str, options: str, flags: int = 0) -> None:
    """Mount the kernel's own, as mount(8) would; raises OSError."""
    words = [word for word in options.split(",") if word]
    for word in words:
        flags = (flags & ~FLAGS["ro"] if word == "rw" else flags) | FLAGS.get(word, 0)
    rest = ",".join(word for word in words if word not in VFS_OPTIONS)
    syscalls.mount("tmpfs", directory, "tmpfs", flags, rest)


def on_shmfs() -> bool:
    """Whether the case runs on a shmfs."""
    mount = mounts.containing(os.getcwd())
    return mount is not None and mount.fstype == mounts.FSTYPE


@contextmanager
def another(options: str) -> Iterator[Path]:
    """Another mount of the same kind, for as long as needed; raises OSError (EINVAL for bad options)."""
    with tempfile.TemporaryDirectory(prefix="shmfs-case-") as directory:
        if not on_shmfs():
            tmpfs(directory, options)
            try:
                yield Path(directory)
            finally:
                syscalls.umount(directory, lazy=True)
            return
        together = ",".join(filter(None, (options, more_options)))
        try:
            server = launch.start(directory, together)
        except (OptionError, ShmfsError) as failure:
            raise OSError(errno.EINVAL, str(failure)) from None
        try:
            yield Path(directory)
        finally:
            server.stop()


def with_options(options: str, look: Callable[[Path], Any]) -> Any:
    """What is seen of a mount with such options, or the name of the errno that refuses it."""

    def mount_and_look() -> Any:
        with another(options) as directory:
            os.chdir(directory)
            try:
                return look(directory)
            finally:
                os.chdir("/")

    here = os.getcwd()
    try:
        return tried(mount_and_look)
    finally:
        os.chdir(here)


def remount(directory: Path, options: str) -> None:
    """Do what mount(8) does with -o remount; raises OSError."""
    if on_shmfs():
        try:
            service.remount(str(directory), options)
        except (OptionError, ShmfsError) as failure:
            busy = os.strerror(errno.EBUSY) in str(failure)
            raise OSError(errno.EBUSY if busy else errno.EINVAL, str(failure)) from None
    else:
        tmpfs(str(directory), options, MS_REMOUNT)


def unshare_mounts() -> None:
    """Enter a mount namespace from which no mount propagates."""
    call("unshare", CLONE_NEWNS)
    call("mount", "none", "/", 0, PRIVATE, 0)
