"""The mount and user namespaces of a sandbox: enter a new one, join another's, kill all that is in it.

The daemon calls `enter_private` and lives in what it made; the command joins it with `join(daemon)`.
Sources: unshare(2), setns(2), user_namespaces(7), mount_namespaces(7). Standard library only: the daemon
imports this module.
"""

import contextlib
import errno
import os
import signal
import time

from shmfs.errors import ShmfsError
from shmfs.system.mounts import mounts
from shmfs.system.proc import descendants, mount_namespace, parents, sysctl
from shmfs.system.syscalls import mount, setns, unshare

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
MS_REC = 0x4000
MS_SLAVE = 1 << 19

SWITCHES = (
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "10000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)
"""Sysctls that refuse user namespaces: name, the refusing value, a value that permits them."""

_private: tuple[str, int] | None = None
"""What `enter_private` made: the name of the mount namespace, and a descriptor of its /proc."""


def enter_private() -> None:
    """Move this process into a mount namespace of its own, from which no mount propagates out.

    With CAP_SYS_ADMIN only the mount namespace is new. Without it a user namespace comes with it, in which
    the user keeps his own uid and gid (programs like PostgreSQL refuse uid 0). The process must have a
    single thread. Raises ShmfsError with the reason where the system refuses; the process should end then.
    """
    global _private
    uid, gid, before = os.geteuid(), os.getegid(), mount_namespace("self")
    try:
        try:
            unshare(CLONE_NEWNS)
        except PermissionError:
            unshare(CLONE_NEWUSER | CLONE_NEWNS)
            _map_ids(uid, gid)
    except OSError as error:
        raise ShmfsError(_why_not(error)) from None
    try:
        mount(None, "/", None, MS_REC | MS_SLAVE)
    except OSError as error:
        if error.errno == errno.EINVAL:
            message = "/ is not a mount point, as in a chroot: run shmfs outside of it"
            raise ShmfsError(message) from None
        raise ShmfsError(_why_not(error)) from None
    here = mount_namespace("self")
    if here is None or here == before:
        raise ShmfsError("the kernel gave no new mount namespace: is /proc mounted?")
    # The descriptor stays good when something in the sandbox mounts over /proc.
    _private = here, os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def join(pid: int) -> None:
    """Enter the user and mount namespaces of process `pid`, keeping the working directory.

    The calling process must have a single thread. The directory is found again by its path, so that it and
    everything relative to it is what the sandbox sees; where the path no longer leads to it (deleted,
    or a parent that may not be searched), the directory itself is kept. Raises ShmfsError.
    """
    names = ("user", "mnt")
    try:
        namespaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]
        directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot open the namespaces of the shmfs process {pid} ({error.strerror}): has it ended?"
        raise ShmfsError(message) from None
    try:
        path = os.getcwd()
    except OSError:
        path = None
    try:
        for name, namespace in zip(names, namespaces, strict=True):
            # setns(2) into the user namespace that one is in already is EINVAL.
            if not os.path.samestat(os.fstat(namespace), os.stat(f"/proc/self/ns/{name}")):
                setns(namespace)
    except OSError as error:
        message = f"cannot join the namespaces of the shmfs process {pid}: {error.strerror}"
        raise ShmfsError(message) from None
    _return_to(path, directory)
    for descriptor in (*namespaces, directory):
        os.close(descriptor)


def hide_sysvipc() -> None:
    """Cover /proc/sysvipc, which tells of the kernel's own segments, in this mount namespace.

    ipcs(1) and lsipc(1) then ask by shmctl(2), as they do where there is no such directory.
    """
    with contextlib.suppress(OSError):
        mount("tmpfs", "/proc/sysvipc", "tmpfs", MS_RDONLY, "size=4k,mode=555")


def leave_ipc() -> None:
    """Move this process into an empty IPC namespace of its own: System V objects and POSIX message queues.

    Raises ShmfsError where that is refused.
    """
    try:
        unshare(CLONE_NEWIPC)
    except OSError as error:
        message = f"cannot make a private IPC namespace ({error.strerror}): leave it out with --preload=anon"
        raise ShmfsError(message) from None


def kill_namespace(device: str | None = None, timeout: float = 2.0) -> int:
    """Kill (SIGKILL) every process of the namespace that `enter_private` made, except the caller.

    With them go their descendants and, given the `device` ("0:57") of the sandbox's file system, who sees
    that from a namespace below (`unshare -m`). Repeats until none is left, at most `timeout` seconds, and
    returns how many are left: a process in the middle of a request to the file system ends only when that
    is answered or the connection aborted, so the serving thread must not wait here. Raises ShmfsError
    unless the caller is still in that namespace: it would kill the whole host.
    """
    if _private is None or mount_namespace("self", _private[1]) != _private[0]:
        raise ShmfsError("kill_namespace was called outside of a private mount namespace")
    namespace, proc = _private
    deadline = time.monotonic() + timeout
    while True:
        members = _members(namespace, device, proc)
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        if not members or time.monotonic() >= deadline:
            return len(members)
        time.sleep(0.005)


def _members(namespace: str, device: str | None, proc: int) -> set[int]:
    """Return the live processes of `namespace` and below, without the caller; see kill_namespace."""
    table = parents(proc)
    inside = {pid for pid in table if mount_namespace(pid, proc) == namespace}
    # Without a mount of ours the number may be somebody else's by now.
    if device and _sees("self", device, proc):
        inside |= {pid for pid in table if _sees(pid, device, proc)}
    inside.discard(os.getpid())
    return (inside | descendants(inside, table)) - {os.getpid()}


def _sees(pid: int | str, device: str, proc: int) -> bool:
    """Say whether `device` is mounted in the namespace of `pid`."""
    try:
        return any(mount.device == device for mount in mounts(pid, proc))
    except OSError:
        return False


def _return_to(path: str | None, directory: int) -> None:
    """Make `path` the working directory; where it cannot be reached, the open `directory`."""
    try:
        if path is not None:
            return os.chdir(path)
    except FileNotFoundError:
        message = f"the working directory {path} does not exist in the sandbox: start from another directory"
        raise ShmfsError(message) from None
    except OSError:
        pass
    return os.fchdir(directory)


def _map_ids(uid: int, gid: int) -> None:
    """Map `uid` and `gid` to themselves in the new user namespace. The order matters."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _why_not(error: OSError) -> str:
    """Say in one sentence why the system refused a private namespace and what to do."""
    for name, refusing, permitting in SWITCHES:
        if (value := sysctl(name)) == refusing:
            remedy = f"run as root, or set it to {permitting} with `sysctl -w {name}={permitting}`"
            return f"user namespaces are switched off (the sysctl {name} is {value}): {remedy}"
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        return f"too many user or mount namespaces exist ({error.strerror}): raise user.max_user_namespaces"
    if error.errno == errno.EINVAL:
        return "a private namespace can only be entered by a process with a single thread"
    remedy = "run as root, in a container with --cap-add SYS_ADMIN and --security-opt apparmor=unconfined"
    return f"the system refuses a private mount namespace ({error.strerror}): {remedy}"
