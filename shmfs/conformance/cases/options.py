"""What mount options do, and what the root directory is."""

import os
import subprocess
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import mode, new, opened, tried


@case(options="size=1m,nodev")
def nodev(d: Path) -> Any:
    os.mknod("null", 0o20666, os.makedev(1, 3))
    return [opened("null"), mode("null"), tried(os.mkfifo, "p"), opened("p", os.O_RDWR)]


@case(options="size=1m,nosuid")
def nosuid(d: Path) -> Any:
    Path("id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod(".", 0o755), os.chmod("id", 0o6755)
    return [_identity(), mode("id")]


@case()
def set_id_programs_run_so(d: Path) -> Any:
    Path("id").write_bytes(Path("/usr/bin/id").read_bytes())
    os.chmod("id", 0o6755)
    return _identity()


def _identity() -> bytes:
    """The effective user id of a set-id program that user 1000 starts."""
    command = ["./id", "-u"]
    return subprocess.run(
        command, user=1000, group=1000, extra_groups=[], capture_output=True, check=True
    ).stdout


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


@case(options="size=1m,inode32")
def inode32(d: Path) -> Any:
    os.close(new("f"))
    return os.stat("f").st_ino < 1 << 32


@case(options="size=1m,sync,dirsync")
def sync_options(d: Path) -> Any:
    fd = new("f", b"x" * 5000)
    os.mkdir("d")
    return [os.fsync(fd), os.pread(fd, 3, 4998), os.statvfs(".").f_flag & os.ST_SYNCHRONOUS]
