"""Which signals of failure and which failed calls there are, from BPF programs in the kernel.

Page faults and writes of native pages never reach the daemon, and neither do limits of a process. The kernel
knows of each failure: it generates SIGBUS or SIGXFSZ, or the call returns an error. The programs look at all
processes of the machine and emit a record for a failure only.

A record is `RECORD`, which shmfs.tracing.decode reads: the raw data of a perf sample.
"""

import contextlib
import os
import platform
from typing import NamedTuple

from shmfs.system import syscall_table
from shmfs.tracing import bpf
from shmfs.tracing.bpf import (
    FRAME,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    Helper,
    MapKind,
    Program,
    Register,
)
from shmfs.tracing.layout import Layout, offset_of_pids

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
    "limit": ("<u8", 72),  # RLIMIT_FSIZE of the process then, in bytes, or RLIMIT_MEMLOCK; 0 where not known
}
"""Fields by name: type and offset in bytes."""
RECORD_BYTES = 80
NOT_KNOWN = (1 << 32) - 1

SIGBUS, SIGXFSZ = 7, 25
FAILURES = -28, -122, -27
"""What calls return that is emitted: ENOSPC, EDQUOT, EFBIG."""
POPULATE_FAILURES = -12, -14
"""What calls return that could not bring pages in, as emitted: ENOMEM, EFAULT."""
UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY."""
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

_CAP_IPC_LOCK = 1 << 14


class Probe:
    """The programs, loaded but idle until `attach`. Any thread may call, one at a time."""

    def __init__(self, *, calls: bool = False) -> None:
        """Load; with `calls` also what emits each call that returns one of `FAILURES`.

        Of mlock(2), and of madvise(2) that populates, it emits those that return one of `POPULATE_FAILURES`.

        Raises BpfRefusedError.
        """
        self._ends = contextlib.ExitStack()
        self._layout = Layout.here()
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
            pids = offset_of_pids()
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


def _signals(output: int, pids: int | None, registers: _Registers | None, layout: Layout | None) -> Program:
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
        _copy_call(program, registers, R7, "emit")
        _copy_file(program, layout)
    program.label("emit")
    _emit(program, output)
    return program


def _failed_calls(output: int, layout: Layout | None) -> Program:
    """On sys_exit(regs, ret): see include/trace/events/syscalls.h."""
    program = Program()
    program.load(R2, R1, 8)
    registers = _REGISTERS.get(platform.machine())
    for failure in FAILURES:
        program.jump("==", R2, failure, "failed")
    for failure in POPULATE_FAILURES if registers else ():
        program.jump("==", R2, failure, "unpopulated")
    program.set(R0, 0)
    program.exit()
    if registers:
        program.label("unpopulated")
        _begin_call(program)
        _copy_call(program, registers, R7, "end")
        _copy_locks(program, layout)
    program.label("failed")
    _begin_call(program)
    if registers:
        _copy_call(program, registers, R7, "emit")
        _copy_file(program, layout)
    program.label("emit")
    _emit(program, output)
    return program


def _begin_call(program: Program) -> None:
    """Begin a record of sys_exit(regs, ret), with the context in R1 and the result in R2."""
    program.set(R6, R1)
    _clear(program)
    program.store(FRAME, _RECORD + 4, R2, 4)
    program.load(R7, R6, 0)


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


def _copy_call(program: Program, registers: _Registers, base: Register, otherwise: str) -> None:
    """Put the system call that is being made into the record; jumps to `otherwise` in 32-bit code."""
    offset, bits, value = registers.mode
    _read(program, _SCRATCH, 2, base, offset)
    program.load(R1, FRAME, _SCRATCH, 2)
    program.arithmetic("&", R1, bits)
    program.jump("!=", R1, value, otherwise)
    _read(program, _RECORD + 24, registers.call_bytes, base, registers.call)
    for number, offset in enumerate(registers.arguments):
        _read(program, _RECORD + 32 + 8 * number, 8, base, offset)


def _copy_file(program: Program, layout: Layout | None) -> None:
    """Put the file that the call was to write to into the record, and the limit of the size of files.

    When the record is read the process may have ended, and its descriptors with it. What cannot be read is 0.
    """
    if layout is None:
        return
    program.load(R8, FRAME, _RECORD + 32)
    program.load(R7, FRAME, _RECORD + 24)
    for call in syscall_table.THIRD:
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


def _copy_locks(program: Program, layout: Layout | None) -> None:
    """Continue with calls alone that populate, and put into the record what limits the memory to lock.

    CAP_IPC_LOCK lifts the limit, in the initial user namespace.
    """
    program.load(R7, FRAME, _RECORD + 24)
    for call in syscall_table.LOCKING:
        program.jump("==", R7, call, "locks")
    program.jump("!=", R7, syscall_table.MADVISE, "end")
    program.load(R8, FRAME, _RECORD + 48)
    program.arithmetic("<<", R8, 32)
    program.arithmetic(">>", R8, 32)
    for advice in syscall_table.POPULATE:
        program.jump("==", R8, advice, "emit")
    program.goto("end")
    program.label("locks")
    if layout is None:
        program.goto("emit")
        return
    program.call(Helper.GET_CURRENT_TASK)
    program.set(R9, R0)
    program.set(R8, R9)
    _follow(program, R8, layout.signal)
    _read(program, _RECORD + 72, 8, R8, layout.locked_memory)
    _follow(program, R9, layout.cred)
    _read(program, _SCRATCH, 8, R9, layout.capabilities)
    program.load(R1, FRAME, _SCRATCH)
    program.arithmetic("&", R1, _CAP_IPC_LOCK)
    program.jump("==", R1, 0, "emit")
    _follow(program, R9, layout.user_namespace)
    _read(program, _SCRATCH, 4, R9, layout.level)
    program.load(R1, FRAME, _SCRATCH, 4)
    program.jump("!=", R1, 0, "emit")
    program.store(FRAME, _RECORD + 72, -1)  # UNLIMITED
    program.goto("emit")


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
