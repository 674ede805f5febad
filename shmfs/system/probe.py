"""Which signals of failure and which failed calls there are, from BPF programs in the kernel.

Page faults and writes of native pages never reach the daemon, and neither do limits of a process. The kernel
knows of each failure: it generates SIGBUS or SIGXFSZ, or the call returns an error. The programs look at all
processes of the machine and emit a record for a failure only.

A record is `RECORD`, which shmfs.trace.decode reads: the raw data of a perf sample.
"""

import contextlib
import os
import platform
import resource
from typing import NamedTuple

from shmfs.system import bpf, btf
from shmfs.system.bpf import FRAME, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Helper, MapKind, Program, Register

RECORD: dict[str, tuple[str, int]] = {
    "number": ("<u4", 0),  # of the signal; 0 for a call that failed
    "code": ("<i4", 4),  # si_code, or what the call returned
    "address": ("<u8", 8),  # si_addr where si_code is positive
    "target_tid": ("<u4", 16),  # 0: the thread that the sample is of; NOT_KNOWN
    "target_pid": ("<u4", 20),
    "call": ("<u8", 24),  # a system call and its first arguments; 0 where not known
    "arguments": ("(3,)<u8", 32),
    "inode": ("<u8", 56),  # of the file that the call was to write to; 0 where not known, and for SIGBUS
    "device": ("<u8", 64),  # of that file, as the kernel has it: major << 20 | minor
    "file_size_limit": ("<u8", 72),  # RLIMIT_FSIZE of the process then, in bytes; 0 where not known
}
"""Fields by name: type and offset in bytes."""
RECORD_BYTES = 80
NOT_KNOWN = (1 << 32) - 1

SIGBUS, SIGXFSZ = 7, 25
FAILURES = -28, -122, -27
"""What calls return that is emitted: ENOSPC, EDQUOT, EFBIG."""
SI_KERNEL = 0x80
"""The si_code of signals that the kernel sends without saying more."""
_SIGNAL_IGNORED = 1  # enum: TRACE_SIGNAL_IGNORED

_CURRENT_CPU = 0xFFFF_FFFF  # BPF_F_CURRENT_CPU
_SIGINFO_BYTES = 24  # struct kernel_siginfo: si_signo, si_errno, si_code, padding, si_addr or si_pid
_SI_CODE, _SI_ADDR = 8, 16
_PRIVATE_SIGINFO = 2  # SEND_SIG_NOINFO and SEND_SIG_PRIV are 0 and 1

_RECORD = -RECORD_BYTES
_SCRATCH = _RECORD - _SIGINFO_BYTES
"""Where things are on the stack."""
_TASK_BYTES = 8192
_READ = 512
_INITIAL_PID_NAMESPACE = 0xEFFF_FFFC  # PROC_PID_INIT_INO


class _Registers(NamedTuple):
    """Offsets in struct pt_regs, in bytes."""

    call: int
    call_bytes: int
    arguments: tuple[int, int, int]
    mode: tuple[int, int, int]
    """Of a register, bits of it, and their value in 64-bit code: in 32-bit code calls have other numbers."""


_REGISTERS = {
    # orig_ax; di, si, dx; cs is __USER_CS, or Xen's FLAT_USER_CS64
    "x86_64": _Registers(120, 8, (112, 104, 96), (136, 0xFF, 0x33)),
    # syscallno; orig_x0, regs[1], regs[2]; pstate lacks PSR_MODE32_BIT
    "aarch64": _Registers(280, 4, (272, 8, 16), (264, 0x10, 0)),
}

_TO_THIRD = {"x86_64": (275, 326), "aarch64": (76, 285)}.get(platform.machine(), ())
"""splice(2) and copy_file_range(2): they write to their third argument, all others to their first."""


class _Layout(NamedTuple):
    """Offsets in bytes on the way from a task to the inode of one of its files, and to its limits."""

    files: int
    fdt: int
    fd: int
    inode: int
    number: int
    superblock: int
    device: int
    signal: int
    file_size: int

    @classmethod
    def here(cls) -> "_Layout | None":
        """That of the running kernel; None where it does not describe itself."""
        try:
            with contextlib.closing(btf.Types()) as types:
                places = [types.offset(*one) for one in _PLACES]
        except (OSError, KeyError):
            return None
        places[-1] += 16 * resource.RLIMIT_FSIZE  # struct rlimit has two words of 8 bytes
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
    ("signal_struct", "rlim"),
)
"""Structures and their members, in the order of `_Layout`."""


class Probe:
    """The programs, loaded but idle until `attach`. Any thread may call, one at a time."""

    def __init__(self, *, calls: bool = False) -> None:
        """Load; with `calls` also what emits each call that returns one of `FAILURES`.

        Raises BpfRefusedError.
        """
        self._ends = contextlib.ExitStack()
        self._layout = _Layout.here()
        try:
            self._output = self._own(
                bpf.create_map(MapKind.PERF_EVENT_ARRAY, 4, os.sysconf("SC_NPROCESSORS_CONF"))
            )
            self._programs = {"signal_generate": self._load_signals()}
            if calls:
                program = _failed_calls(self._output, self._layout)
                self._programs["sys_exit"] = self._own(bpf.load(program, "shmfs_calls"))
        except BaseException:
            self.close()
            raise

    def emit_to(self, cpu: int, event: int) -> None:
        """Emit what happens on a CPU to a perf event of it: PERF_COUNT_SW_BPF_OUTPUT, enabled, for any pid.

        The descriptor may be closed afterwards. Raises BpfRefusedError.
        """
        bpf.update(self._output, cpu, event.to_bytes(4, "little"))

    def attach(self) -> None:
        """Begin to emit. Raises BpfRefusedError."""
        for tracepoint, program in self._programs.items():
            self._own(bpf.attach(program, tracepoint))

    def close(self) -> None:
        """Detach, and free everything."""
        self._ends.close()

    def _own(self, fd: int) -> int:
        self._ends.callback(os.close, fd)
        return fd

    def _load_signals(self) -> int:
        """Load, without the system call where the kernel has no BTF to check access to registers by."""
        try:
            pids = _offset_of_pids()
        except (bpf.BpfRefusedError, OSError):  # Linux before 5.10, or no /proc
            pids = None
        registers = _REGISTERS.get(platform.machine())
        try:
            return self._own(bpf.load(_signals(self._output, pids, registers, self._layout), "shmfs_signals"))
        except bpf.BpfRefusedError:
            return self._own(bpf.load(_signals(self._output, pids, None, None), "shmfs_signals"))


def why_not() -> str:
    """Why signals cannot be watched, or "" where they can: tried, with nobody to read the records."""
    try:
        with contextlib.closing(Probe()) as probe:
            probe.attach()
    except bpf.BpfRefusedError as refused:
        return str(refused)
    return ""


def _signals(output: int, pids: int | None, registers: _Registers | None, layout: _Layout | None) -> Program:
    """On signal_generate(sig, info, task, group, result): see include/trace/events/signal.h."""
    program = Program()
    program.set(R6, R1)
    program.load(R7, R6, 0)
    program.jump("==", R7, SIGXFSZ, "wanted")
    program.jump("!=", R7, SIGBUS, "end")
    program.load(R8, R6, 32)
    program.jump("==", R8, _SIGNAL_IGNORED, "end")
    program.label("wanted")
    _clear(program)
    program.store(FRAME, _RECORD, R7, 4)
    program.store(FRAME, _RECORD + 4, SI_KERNEL, 4)
    program.load(R8, R6, 8)
    program.jump("<=", R8, _PRIVATE_SIGINFO, "target")
    _read(program, _SCRATCH, _SIGINFO_BYTES, R8)
    program.load(R1, FRAME, _SCRATCH + _SI_CODE, 4)
    program.store(FRAME, _RECORD + 4, R1, 4)
    program.arithmetic("<<", R1, 32)
    program.arithmetic("s>>", R1, 32)
    program.jump("s<=", R1, 0, "target")  # by kill(2) and others: the sender's pid and uid are there
    program.load(R1, FRAME, _SCRATCH + _SI_ADDR)
    program.store(FRAME, _RECORD + 8, R1)

    program.label("target")
    program.load(R9, R6, 16)
    program.call(Helper.GET_CURRENT_TASK)
    program.jump("==", R0, R9, "itself")
    program.store(FRAME, _RECORD + 16, -1)  # NOT_KNOWN, twice
    if pids is not None:
        _read(program, _RECORD + 16, 8, R9, pids)
    program.goto("emit")
    program.label("itself")
    if registers:
        program.jump("!=", R7, SIGXFSZ, "emit")
        program.call(Helper.GET_CURRENT_TASK_BTF)
        program.set(R1, R0)
        program.call(Helper.TASK_PT_REGS)
        program.set(R7, R0)
        _copy_call(program, registers, R7)
        _copy_file(program, layout)
    program.label("emit")
    _emit(program, output)
    return program


def _failed_calls(output: int, layout: _Layout | None) -> Program:
    """On sys_exit(regs, ret): see include/trace/events/syscalls.h."""
    program = Program()
    program.load(R2, R1, 8)
    for failure in FAILURES:
        program.jump("==", R2, failure, "failed")
    program.set(R0, 0)
    program.exit()
    program.label("failed")
    program.set(R6, R1)
    _clear(program)
    program.store(FRAME, _RECORD + 4, R2, 4)
    registers = _REGISTERS.get(platform.machine())
    if registers:
        program.load(R7, R6, 0)
        _copy_call(program, registers, R7)
        _copy_file(program, layout)
    program.label("emit")
    _emit(program, output)
    return program


def _clear(program: Program) -> None:
    for offset in range(_SCRATCH, 0, 8):
        program.store(FRAME, offset, 0)


def _read(program: Program, to: int, size: int, base: Register, offset: int = 0) -> None:
    """Read kernel memory into the stack; zeros where that fails."""
    program.set(R1, FRAME)
    program.arithmetic("+", R1, to)
    program.set(R2, size)
    program.set(R3, base)
    program.arithmetic("+", R3, offset)
    program.call(Helper.PROBE_READ_KERNEL)


def _copy_call(program: Program, registers: _Registers, base: Register) -> None:
    """Put the system call that is being made into the record; jumps to "emit" in 32-bit code."""
    offset, bits, value = registers.mode
    _read(program, _SCRATCH, 2, base, offset)
    program.load(R1, FRAME, _SCRATCH, 2)
    program.arithmetic("&", R1, bits)
    program.jump("!=", R1, value, "emit")
    _read(program, _RECORD + 24, registers.call_bytes, base, registers.call)
    for number, offset in enumerate(registers.arguments):
        _read(program, _RECORD + 32 + 8 * number, 8, base, offset)


def _copy_file(program: Program, layout: _Layout | None) -> None:
    """Put the file that the call was to write to into the record, and the limit of the size of files.

    When the record is read the process may have ended, and its descriptors with it. What cannot be read is 0.
    """
    if layout is None:
        return
    program.load(R8, FRAME, _RECORD + 32)
    program.load(R7, FRAME, _RECORD + 24)
    for call in _TO_THIRD:
        program.jump("==", R7, call, "third")
    program.goto("descriptor")
    program.label("third")
    program.load(R8, FRAME, _RECORD + 48)
    program.label("descriptor")
    program.arithmetic("<<", R8, 32)
    program.arithmetic(">>", R8, 32 - 3)  # an int, and pointers of 8 bytes
    program.call(Helper.GET_CURRENT_TASK)
    program.set(R9, R0)
    _read(program, _SCRATCH, 8, R9, layout.signal)
    program.load(R7, FRAME, _SCRATCH)
    _read(program, _RECORD + 72, 8, R7, layout.file_size)
    for offset in (layout.files, layout.fdt, layout.fd):
        _follow(program, R9, offset)
    program.arithmetic("+", R9, R8)
    _follow(program, R9, 0)
    _follow(program, R9, layout.inode)
    _read(program, _RECORD + 56, 8, R9, layout.number)
    _follow(program, R9, layout.superblock)
    _read(program, _RECORD + 64, 4, R9, layout.device)


def _follow(program: Program, register: Register, offset: int) -> None:
    """`register` = the pointer at `register` + `offset`."""
    _read(program, _SCRATCH, 8, register, offset)
    program.load(register, FRAME, _SCRATCH)


def _emit(program: Program, output: int) -> None:
    """Emit the record, with the context in R6, and end."""
    program.set(R1, R6)
    program.map(R2, output)
    program.set(R3, _CURRENT_CPU)
    program.set(R4, FRAME)
    program.arithmetic("+", R4, _RECORD)
    program.set(R5, RECORD_BYTES)
    program.call(Helper.PERF_EVENT_OUTPUT)
    program.label("end")
    program.set(R0, 0)
    program.exit()


def _offset_of_pids() -> int | None:
    """Where `pid` and `tgid` are in struct task_struct, in bytes; None where that cannot be found.

    They are beside each other, and their offset differs from kernel to kernel. A program copies the task of
    this thread, and both are looked for in it. That takes a millisecond; to read BTF takes fifty.

    The numbers are those of the initial pid namespace, so in another they are of no use.
    """
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
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
