"""What few programs ask for, and suites of tests do: overlays, mapped ids, pages handed to the kernel."""

import contextlib
import ctypes
import os
import signal
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import call, mode, new, tried

MS_PRIVATE = 0x44000  # with MS_REC
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def own_mounts() -> None:
    """Keep what is mounted from now on to this process."""
    call("unshare", CLONE_NEWNS)
    call("mount", "none", "/", 0, MS_PRIVATE, 0)


# ---- files


@case()
def more_names_of_attributes_than_can_be_listed(d: Path) -> Any:
    os.close(new("f"))
    with contextlib.suppress(OSError):
        for number in range(300):
            os.setxattr("f", f"user.{number:0>240}", b"")
    buffer = ctypes.create_string_buffer(1 << 17)
    return {
        "size": tried(call, "listxattr", "f", 0, 0),
        "list": tried(call, "listxattr", "f", buffer, 1 << 17),
    }


@case()
def ioctls_that_no_file_has(d: Path) -> Any:
    """FITRIM, with an argument and with none, and FS_IOC_GETFSUUID."""
    fd = new("f")
    room = ctypes.create_string_buffer(64)
    return {
        "argument": tried(call, "ioctl", fd, 0xC0185879, room),
        "none": tried(call, "ioctl", fd, 0xC0185879, 0),
        "identity": tried(call, "ioctl", fd, 0x80111500, room),
    }


# ---- mounts


@case()
def fanotify_of_every_name(d: Path) -> Any:
    """A mark on the file system that tells events by handle (FAN_REPORT_DFID_NAME)."""
    watch = tried(call, "fanotify_init", 0xC00, os.O_RDONLY)
    if isinstance(watch, str):
        return {"mark": watch}
    return {"mark": tried(call, "fanotify_mark", watch, 0x101, ctypes.c_ulonglong(0x300), -100, ".")}


@case(mounts=True)
def other_ids_by_a_mount(d: Path) -> Any:
    """An idmapped bind mount (MOUNT_ATTR_IDMAP)."""
    own_mounts()
    os.mkdir("a"), os.mkdir("b")
    os.close(new("a/f"))
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            call("unshare", CLONE_NEWUSER)
            os.write(told, b"x")
            signal.pause()
        os._exit(1)
    os.close(told)
    if not os.read(ready, 1):
        return {"answer": "no user namespace"}
    for which in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{which}").write_text("0 1000 10")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    tree = call("syscall", "open_tree", -100, "a", 1)
    attributes = struct.pack("QQQQ", 1 << 20, 0, 0, namespace)
    seen = {"answer": tried(call, "syscall", "mount_setattr", tree, "", 0x1000, attributes, 32), "owner": -1}
    if seen["answer"] == 0:
        call("syscall", "move_mount", tree, "", -100, "b", 4)
        seen["owner"] = os.stat("b/f").st_uid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return seen


@case(mounts=True)
def layers_of_an_overlay(d: Path) -> Any:
    """Copied up, renamed, removed; what is copied up keeps its set-id bits though its owner is set last."""
    own_mounts()
    here = Path.cwd()
    for name in ("lower", "upper", "work", "m", "lower/d"):
        os.mkdir(name)
    for name in ("f", "gone", "d/f", "program"):
        os.close(new(f"lower/{name}", b"content"))
    os.chmod("lower/program", 0o4755)
    layers = ",".join(
        f"{key}={here / name}"
        for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
    )
    answer = tried(call, "mount", "overlay", here / "m", "overlay", 0, layers)
    if answer:
        return {"answer": answer}
    os.chdir("m")
    seen: dict[str, Any] = {
        "write": tried(os.truncate, "f", 3),
        "write a set-id program": tried(os.pwrite, os.open("program", os.O_WRONLY), b"x", 0),
        "rename": tried(os.rename, "f", "d/g"),
        "rename a directory": tried(os.rename, "d", "e"),
        "link": tried(os.link, "d/f", "h"),
        "unlink": tried(os.unlink, "gone"),
        "attribute": tried(os.setxattr, "h", "user.a", b"1"),
        "list": sorted(os.listdir(".")),
        "below": sorted((name, mode(here / "upper" / name)) for name in os.listdir(here / "upper")),
    }
    os.chdir(here)
    call("umount2", here / "m", 2)  # MNT_DETACH
    return seen
