"""The connection to the kernel: pyfuse3 with what INIT must agree on, mounted and unmounted.

Importing this module imports pyfuse3, after the extension that has to be loaded before it.
"""

import os
import stat
import sys
from pathlib import Path

from shmfs.errors import ShmfsError
from shmfs.fs.options import MountOptions
from shmfs.fs.superblock import Superblock
from shmfs.fuse import protocol as p
from shmfs.fuse.lane import Handler, Reply
from shmfs.fuse.populate import PopulateEnd
from shmfs.fuse.rewrite import Rewriter
from shmfs.mm import PAGE_SIZE

_flags = sys.getdlopenflags()
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
try:
    if os.environ.get("SHMFS_EXTENSION") == "0":  # for tests, and to tell whose fault something is
        raise ImportError
    from shmfs.fuse import _lane
except ImportError:
    _lane = None  # type: ignore[assignment]
finally:
    sys.setdlopenflags(_flags)

import pyfuse3  # noqa: E402  the extension comes first

_NOT_FOR_LIBFUSE = {"rw", "relatime", "norelatime", "strictatime", "diratime", "nodiratime"}
"""Defaults, and what libfuse refuses: `fs.attributes.accessed` carries it out, as FUSE leaves atime to us."""

EXTENSION_MISSING = (
    "the C extension is missing: no fallocate, SEEK_HOLE, O_TMPFILE, slower requests, and stat"
    " after a write drops cached pages; reinstall shmfs with a C compiler and libfuse3-dev"
)
_FUSE_DEVICE = os.makedev(10, 229)
_BUDGET_NS = 4_000_000
_BUDGET_REQUESTS = 64


def extension() -> bool:
    """Whether the extension is loaded, and with it the lane."""
    return _lane is not None


def takes(flag: int) -> bool:
    """Whether INIT agreed on `flag`."""
    flags = _lane.negotiated() if _lane else None
    return bool((flags[1] if flags else p.HANDLE_KILLPRIV) & flag)  # libfuse's default without the extension


def serve_lane(handler: Handler, options: MountOptions) -> None:
    """Have requests answered by `handler` from now on."""
    _lane.serve(handler, _BUDGET_NS, _BUDGET_REQUESTS, options.poll * 1000)


def reply(unique: int, result: Reply) -> None:
    """Answer a request that the lane left open."""
    _lane.reply(unique, result)


def device() -> int:
    """The descriptor of /dev/fuse. Raises ShmfsError if there is none."""
    if _lane:
        return _lane.device()
    for name in os.listdir("/proc/self/fd"):  # pyfuse3 does not pass it on
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # that of the listing
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _FUSE_DEVICE:
            return int(name)
    raise ShmfsError("no descriptor of /dev/fuse")


def populate_end(superblock: Superblock, mountpoint: str) -> PopulateEnd:
    """Return what ends populates of this connection."""
    send = _lane.end_populate if _lane else None
    return PopulateEnd(device(), superblock, Rewriter(mountpoint), send)


def mount(
    operations: pyfuse3.Operations, mountpoint: str, options: MountOptions, *, sandbox: bool, native: bool
) -> None:
    """Mount and make the session; raises ShmfsError with libfuse's reason."""
    if _lane:
        wanted = p.DONT_MASK | p.EXPLICIT_INVAL_DATA | p.HANDLE_KILLPRIV_V2 | p.SETXATTR_EXT
        wanted |= p.PASSTHROUGH if native else 0
        # On tmpfs a direct read or write is done when the call returns, also one of io_submit or io_uring
        # (which forgets the provided buffer of a read that ends later); and with ASYNC_DIO one that the limit
        # cuts short is EIO (fuse_get_res_by_io).
        refused = p.AUTO_INVAL_DATA | p.ASYNC_DIO | p.HANDLE_KILLPRIV | p.DO_READDIRPLUS
        _lane.configure(wanted, refused, options.readahead * PAGE_SIZE, 1)
    with open(os.memfd_create("libfuse"), "w+b") as said:  # no directory need be writable
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            pyfuse3.init(operations, mountpoint, _libfuse_options(options, sandbox=sandbox))
            failed = False
        except RuntimeError:
            failed = True
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        said.seek(0)
        reason = said.read().decode(errors="replace").strip().splitlines()
    if failed:
        raise ShmfsError(f"cannot mount on {mountpoint}: {_explain(reason[0] if reason else 'FUSE refused')}")


def _libfuse_options(options: MountOptions, *, sandbox: bool) -> set[str]:
    """As tmpfs: devices and set-id programs work for root unless refused; libfuse's default refuses them."""
    chosen = {"fsname=shmfs", "subtype=shmfs", "default_permissions", *options.vfs} - _NOT_FOR_LIBFUSE
    root = os.geteuid() == 0
    if root and not sandbox:
        chosen |= {"dev"} - {"dev" for o in chosen if o == "nodev"}
        chosen |= {"suid"} - {"suid" for o in chosen if o == "nosuid"}
    if options.allow_other or (options.allow_other is None and (root or sandbox)):
        chosen.add("allow_other")
    return chosen


def _explain(reason: str) -> str:
    """A sentence for the commonest of libfuse's and fusermount's messages."""
    if not Path("/dev/fuse").exists():
        return "/dev/fuse is missing; run `modprobe fuse`, or give the container --device /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened; ask an administrator for access to it"
    if "fusermount" in reason and "not found" in reason.lower():
        return "fusermount3 is missing; install the package fuse3, or run as root"
    if os.geteuid() == 0 and "Operation not permitted" in reason:
        return "the right to mount is missing; give the container --cap-add SYS_ADMIN"
    return reason.removeprefix("fuse: ").removeprefix("fusermount3: ")


def tune(device: str, options: MountOptions) -> list[str]:
    """Set the mount's backing device as a tmpfs wants it, where permitted; returns notes on what was not.

    FUSE devices start with strict_limit, which throttles processes that store through a mapping hard.
    """
    directory = Path("/sys/class/bdi") / device
    settings = {"strict_limit": "0", "max_ratio": "100", "read_ahead_kb": str(options.readahead * 4)}
    for name, value in settings.items():
        try:
            (directory / name).write_text(value)
        except OSError:
            continue  # not root, or a kernel without the file
    try:
        kilobytes = int((directory / "read_ahead_kb").read_text())
    except (OSError, ValueError):
        return []
    if kilobytes > options.readahead * 4:
        return [f"the kernel reads {kilobytes} KiB ahead of a page, which may not be changed without root"]
    return []


def close(*, unmount: bool) -> None:
    """End the session; a mount that is busy is detached."""
    pyfuse3.close(unmount=unmount)


async def serve() -> None:
    """Answer requests until the mount is gone."""
    await pyfuse3.main()
