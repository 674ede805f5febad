"""Parsers of /proc that take no mmap_lock: stat, status, task, the mount namespace, sysctls.

The daemon may read these files while a client waits for its answer, because a fault on the mount may hold the
client's mmap_lock. Files that take it (maps, cmdline, environ) are read in `maps`. Standard library only.
A parameter `proc` is the path of /proc or a descriptor of it; `pid` is also "self" or "self/task/TID".
"""

import errno
import os
from functools import partial
from typing import NamedTuple

Proc = str | int
Pid = str | int

CAP_SYS_ADMIN = 21
_PF_KTHREAD = 0x200000


def read(pid: Pid, name: str, proc: Proc = "/proc") -> bytes:
    """Read the whole of a file of a process, or of another directory of /proc; raises OSError."""
    path, directory = _at(pid, name, proc)
    with open(path, "rb", buffering=0, opener=partial(os.open, dir_fd=directory)) as file:
        return file.read()


def _at(pid: Pid, name: str, proc: Proc) -> tuple[str, int | None]:
    return (f"{proc}/{pid}/{name}", None) if isinstance(proc, str) else (f"{pid}/{name}", proc)


def pids(proc: Proc = "/proc") -> list[int]:
    """Return every process of this pid namespace."""
    return [int(name) for name in os.listdir(proc) if name.isdecimal()]


def threads(pid: Pid) -> list[int]:
    """Return the threads of a process; raises OSError if it is gone."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


class Stat(NamedTuple):
    """What shmfs uses of /proc/PID/stat; see proc(5)."""

    pid: int
    command: bytes
    state: str
    parent: int
    flags: int
    minor_faults: int
    major_faults: int
    start_time: int
    """Clock ticks since boot."""
    exit_code: int
    """As waitpid(2) returns it; 0 also where the reader may not trace the process."""

    @property
    def is_dead(self) -> bool:
        """Whether the process waits for its parent, or ends this moment."""
        return self.state in "ZX"

    @property
    def is_kernel_thread(self) -> bool:
        """Whether the process has no memory of its own."""
        return bool(self.flags & _PF_KTHREAD)


def stat(pid: Pid, proc: Proc = "/proc") -> Stat:
    """Parse /proc/PID/stat; raises OSError. Compare fs/proc/array.c:do_task_stat.

    The command is in parentheses and may contain parentheses, blanks and any other byte.
    """
    head, _, rest = read(pid, "stat", proc).rpartition(b")")
    try:
        number, _, command = head.partition(b" (")
        fields = rest.split()
        parent, flags, minor, major, start = (int(fields[place]) for place in (1, 6, 7, 9, 19))
        code = int(fields[49]) if len(fields) > 49 else 0
        return Stat(int(number), command, fields[0].decode(), parent, flags, minor, major, start, code)
    except (ValueError, IndexError):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None


def state(pid: Pid) -> str:
    """Return the letter of the state of a process; "" when it is gone."""
    try:
        return stat(pid).state
    except OSError:
        return ""


def command(pid: Pid) -> str | None:
    """Return what a process executes, in bytes that os.fsencode gives back; None when it is gone."""
    try:
        return os.fsdecode(stat(pid).command)
    except OSError:
        return None


def parents(proc: Proc = "/proc", *, zombies: bool = False) -> dict[int, int]:
    """Return the parent of every process; `zombies` adds the dead for which nobody has waited."""
    table = {}
    for pid in pids(proc):
        try:
            found = stat(pid, proc)
        except OSError:
            continue
        if zombies or not found.is_dead:
            table[pid] = found.parent
    return table


def descendants(roots: set[int], table: dict[int, int]) -> set[int]:
    """Return the children of `roots`, their children and so on, by the parents in `table`."""
    found: set[int] = set()
    layer = roots
    while layer:
        layer = {pid for pid, parent in table.items() if parent in layer} - found
        found |= layer
    return found


def line_of(text: bytes, name: bytes) -> list[bytes]:
    """Return the words after the name of a line of status or limits; [] without such a line."""
    return (b"\n" + text).partition(b"\n" + name)[2].partition(b"\n")[0].split()


def status(pid: Pid, name: bytes, proc: Proc = "/proc") -> list[bytes]:
    """Return the words of a line of /proc/PID/status; raises OSError."""
    return line_of(read(pid, "status", proc), name)


def has_capability(number: int) -> bool:
    """Whether a capability of this process is effective; see capabilities(7)."""
    return bool(int(status("self", b"CapEff:")[0], 16) >> number & 1)


def is_initial_user_namespace() -> bool:
    """Whether all uids are mapped, as no other user namespace has them."""
    try:
        return read("self", "uid_map").split() == [b"0", b"0", b"4294967295"]
    except OSError:
        return False


def sysctl(name: str) -> str | None:
    """Return the value of "kernel.shmmax", for example; None where there is none, or it is hidden."""
    try:
        return read("sys", name.replace(".", "/")).decode().strip()
    except OSError:
        return None


def mount_namespace(pid: Pid, proc: Proc = "/proc") -> str | None:
    """Return the name of the mount namespace of `pid` ("mnt:[4026531841]"), None when it may not be known.

    A process that has ended has none, and a non-dumpable process of another user does not show it.
    Compare fs/proc/namespaces.c:proc_ns_readlink.
    """
    path, directory = _at(pid, "ns/mnt", proc)
    try:
        return os.readlink(path, dir_fd=directory)
    except OSError:
        return None
