"""Where the running kernel has what the programs of `probe` read of a task. Any thread may call."""

import contextlib
import os
import resource
from typing import NamedTuple

from shmfs.tracing import bpf, btf
from shmfs.tracing.bpf import FRAME, R0, R1, R2, R3, R7, R8, Helper, MapKind, Program

INITIAL_PID_NAMESPACE = 0xEFFF_FFFC  # PROC_PID_INIT_INO
_TASK_BYTES = 8192
_READ = 512


class Layout(NamedTuple):
    """Offsets in bytes on the way from a task to the inode of one of its files, and to its limits."""

    files: int
    fdt: int
    fd: int
    inode: int
    number: int
    superblock: int
    device: int
    signal: int
    cred: int
    capabilities: int
    user_namespace: int
    level: int
    limits: int

    @property
    def file_size(self) -> int:
        """Of RLIMIT_FSIZE, from `signal` on; struct rlimit has two words of 8 bytes."""
        return self.limits + 16 * resource.RLIMIT_FSIZE

    @property
    def locked_memory(self) -> int:
        """Of RLIMIT_MEMLOCK."""
        return self.limits + 16 * resource.RLIMIT_MEMLOCK

    @classmethod
    def here(cls) -> "Layout | None":
        """That of the running kernel; None where it does not describe itself."""
        try:
            with contextlib.closing(btf.Types()) as types:
                places = [types.offset(*one) for one in _PLACES]
        except (OSError, KeyError):
            return None
        return cls(*places)


_PLACES = (
    ("task_struct", "files"),
    ("files_struct", "fdt"),
    ("fdtable", "fd"),
    ("file", "f_inode"),
    ("inode", "i_ino"),
    ("inode", "i_sb"),
    ("super_block", "s_dev"),
    ("task_struct", "signal"),
    ("task_struct", "cred"),
    ("cred", "cap_effective"),
    ("cred", "user_ns"),
    ("user_namespace", "level"),
    ("signal_struct", "rlim"),
)
"""Structures and their members, in the order of `Layout`."""


def offset_of_pids() -> int | None:
    """Where `pid` and `tgid` are in struct task_struct, in bytes; None where that cannot be found.

    They are beside each other, and their offset differs from kernel to kernel. A program copies the task of
    this thread, and both are looked for in it. That takes a millisecond; to read BTF takes fifty.

    The numbers are those of the initial pid namespace, so in another they are of no use.
    """
    if os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE:
        return None
    with contextlib.ExitStack() as ends:

        def own(fd: int) -> int:
            ends.callback(os.close, fd)
            return fd

        size = 8 + _TASK_BYTES
        copy = own(bpf.create_map(MapKind.ARRAY, size, 1))
        bpf.run_once(own(bpf.load(_copy_of_task(copy), "shmfs_task")))
        content = bpf.lookup(copy, 0, size)
    task = content[8:]
    first = task.find(content[:8])
    return first if first >= 0 and task.find(content[:8], first + 1) < 0 else None


def _copy_of_task(to: int) -> Program:
    """Copy what bpf_get_current_pid_tgid returns, and the task behind it, into the entry of a map."""
    program = Program()
    program.store(FRAME, -8, 0)
    program.set(R2, FRAME)
    program.arithmetic("+", R2, -8)
    program.map(R1, to)
    program.call(Helper.MAP_LOOKUP_ELEM)
    program.jump("==", R0, 0, "end")
    program.set(R7, R0)
    program.call(Helper.GET_CURRENT_PID_TGID)
    program.store(R7, 0, R0)
    program.call(Helper.GET_CURRENT_TASK)
    program.set(R8, R0)
    for offset in range(0, _TASK_BYTES, _READ):
        program.set(R1, R7)
        program.arithmetic("+", R1, 8 + offset)
        program.set(R2, _READ)
        program.set(R3, R8)
        program.arithmetic("+", R3, offset)
        program.call(Helper.PROBE_READ_KERNEL)
    program.label("end")
    program.set(R0, 0)
    program.exit()
    return program
