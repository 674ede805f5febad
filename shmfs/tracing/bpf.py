"""BPF programs without libbpf or a compiler: an assembler, and bpf(2) through ctypes.

A program is assembled instruction by instruction, loaded, and attached to a raw tracepoint by name::

    program = Program()
    program.load(R1, R1, 0)  # the first argument of the tracepoint
    program.jump("!=", R1, 7, "end")
    ...
    program.label("end")
    program.set(R0, 0)
    program.exit()
    attached = attach(load(program, "example"), "signal_generate")

Every descriptor that is returned is close-on-exec and the caller's to close. A program runs for as long as
the descriptor of its attachment is open. Any thread may call any function.

Sources: Documentation/bpf/standardization/instruction-set.rst, bpf(2), bpf-helpers(7), and the kernel's
include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import struct
from enum import IntEnum
from pathlib import Path

from shmfs.errors import ShmfsError
from shmfs.system import proc
from shmfs.system.syscalls import syscall

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _PROG_TEST_RUN, _RAW_TRACEPOINT_OPEN = 0, 1, 2, 5, 10, 17
_RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT
_LICENCE = ctypes.create_string_buffer(
    b"Dual MIT/GPL"
)  # most helpers are for programs compatible with the GPL
_LOG_BYTES = 1 << 18
_LOG_LINES = 6
"""Lines of the verifier's log that an error ends with; the reason is among the last ones."""


class Register(IntEnum):
    """A register; a plain `int` in its place is a constant."""

    R0 = 0
    """What a helper returns, and the program."""
    R1 = 1
    """The context when the program begins; R1 to R5 are the arguments of a helper, which overwrites them."""
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    """R6 to R9 keep their values when a helper is called."""
    R7 = 7
    R8 = 8
    R9 = 9
    FRAME = 10
    """The end of the stack; its 512 bytes have negative offsets."""


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FRAME = Register


class Helper(IntEnum):
    """Functions of the kernel that a program may call. See bpf-helpers(7)."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    GET_CURRENT_PID_TGID = 14
    PERF_EVENT_OUTPUT = 25
    GET_CURRENT_TASK = 35
    PROBE_READ_KERNEL = 113
    GET_CURRENT_TASK_BTF = 158
    TASK_PT_REGS = 175


class MapKind(IntEnum):
    """Kinds of maps: enum bpf_map_type."""

    ARRAY = 2
    PERF_EVENT_ARRAY = 4


class BpfRefusedError(ShmfsError):
    """The kernel does not permit or does not know what was asked of bpf(2); the message has the reason."""


_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_LDX_MEM, _ST_MEM, _STX_MEM, _ALU64, _JUMP, _BY_REGISTER = 0x61, 0x62, 0x63, 0x07, 0x05, 0x08
_ARITHMETIC = {"+": 0x00, "-": 0x10, "*": 0x20, "|": 0x40, "&": 0x50} | {
    "<<": 0x60, ">>": 0x70, "^": 0xA0, "=": 0xB0, "s>>": 0xC0
}  # fmt: skip
_CONDITIONS = {"==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50} | {
    "s>": 0x60, "s>=": 0x70, "<": 0xA0, "<=": 0xB0, "s<": 0xC0, "s<=": 0xD0
}  # fmt: skip
_CALL, _EXIT, _LOAD_64 = 0x85, 0x95, 0x18
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD
_INSTRUCTION = struct.Struct("<BBhi")


class Program:
    """Instructions of one program, in order. All are of 64 bits; operators that begin with "s" are signed."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        """Opcode, registers, offset, constant."""
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def arithmetic(self, operator: str, to: Register, value: Register | int) -> None:
        """`to` = `to` operator `value`; a constant has 32 bits and is sign-extended."""
        self._either(_ALU64 | _ARITHMETIC[operator], to, value, 0)

    def set(self, to: Register, value: Register | int) -> None:
        """`to` = `value`; a constant has 64 bits at most."""
        if isinstance(value, Register) or -(1 << 31) <= value < 1 << 31:
            self.arithmetic("=", to, value)
        else:
            self._wide(to, 0, value)

    def map(self, to: Register, fd: int) -> None:
        """`to` = the map of a descriptor, for a helper."""
        self._wide(to, _MAP_FD, fd)

    def load(self, to: Register, base: Register, offset: int, size: int = 8) -> None:
        """`to` = `size` bytes at `base` + `offset`, zero-extended."""
        self._add(_LDX_MEM | _SIZES[size], base << 4 | to, offset, 0)

    def store(self, base: Register, offset: int, value: Register | int, size: int = 8) -> None:
        """Store `size` bytes of `value` at `base` + `offset`."""
        self._either(_ST_MEM | _SIZES[size], base, value, offset, _STX_MEM | _SIZES[size])

    def jump(self, condition: str, register: Register, value: Register | int, label: str) -> None:
        """Jump forwards or back to `label` if the condition holds; "&" holds if any of the bits is set."""
        self._jumps[len(self._code)] = label
        self._either(_JUMP | _CONDITIONS[condition], register, value, 0)

    def goto(self, label: str) -> None:
        """Jump in any case."""
        self._jumps[len(self._code)] = label
        self._add(_JUMP, 0, 0, 0)

    def label(self, name: str) -> None:
        """Name the next instruction."""
        if name in self._labels:
            raise ValueError(f"the label {name!r} is there twice")
        self._labels[name] = len(self._code)

    def call(self, helper: Helper) -> None:
        """Call a helper with R1 to R5; the result is in R0."""
        self._add(_CALL, 0, 0, helper)

    def exit(self) -> None:
        """Return R0."""
        self._add(_EXIT, 0, 0, 0)

    def assemble(self) -> bytes:
        """Return the instructions, 8 bytes each; raises KeyError for a jump to a label that is nowhere."""
        code = []
        for place, (opcode, registers, offset, constant) in enumerate(self._code):
            label = self._jumps.get(place)
            distance = offset if label is None else self._labels[label] - place - 1
            code.append(_INSTRUCTION.pack(opcode, registers, distance, constant))
        return b"".join(code)

    def _either(
        self, opcode: int, to: Register, value: Register | int, offset: int, by_register: int = 0
    ) -> None:
        if isinstance(value, Register):
            self._add(by_register or opcode | _BY_REGISTER, value << 4 | to, offset, 0)
        else:
            self._add(opcode, to, offset, value)

    def _wide(self, to: Register, kind: int, value: int) -> None:
        """Two instructions: the second has the upper half of the constant."""
        low, high = struct.unpack("<ii", struct.pack("<Q", value & (1 << 64) - 1))
        self._add(_LOAD_64, kind << 4 | to, 0, low)
        self._add(0, 0, 0, high)

    def _add(self, opcode: int, registers: int, offset: int, constant: int) -> None:
        self._code.append((opcode, registers, offset, constant))


def create_map(kind: MapKind, value_size: int, entries: int) -> int:
    """Create a map with keys of 4 bytes and return its descriptor; sizes are bytes.

    Raises BpfRefusedError.
    """
    return _asked("create a map", _MAP_CREATE, struct.pack("=IIIII24x", kind, 4, value_size, entries, 0))


def update(map_fd: int, key: int, value: bytes) -> None:
    """Set an entry. Raises BpfRefusedError, also for a perf event that the map cannot take."""
    _with_entry("set an entry of a map", _MAP_UPDATE, map_fd, key, ctypes.create_string_buffer(value))


def lookup(map_fd: int, key: int, size: int) -> bytes:
    """Return an entry of `size` bytes. Raises BpfRefusedError, also where there is none."""
    value = ctypes.create_string_buffer(size)
    _with_entry("read an entry of a map", _MAP_LOOKUP, map_fd, key, value)
    return value.raw


def load(program: Program, name: str) -> int:
    """Load a program for a raw tracepoint and return its descriptor; `name` has 15 bytes at most.

    Raises BpfRefusedError, with the end of the verifier's log where the program is what it refuses.
    """
    code = ctypes.create_string_buffer(program.assemble())
    length = (len(code) - 1) // _INSTRUCTION.size

    def attributes(level: int, size: int, log: int) -> bytes:
        return struct.pack(
            "=IIQQIIQII16sII",
            *(_RAW_TRACEPOINT, length, ctypes.addressof(code), ctypes.addressof(_LICENCE), level, size, log),
            *(0, 0, name.encode(), 0, 0),
        )

    try:
        return _bpf(_PROG_LOAD, attributes(0, 0, 0))
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _bpf(_PROG_LOAD, attributes(1, _LOG_BYTES, ctypes.addressof(log)))
        except OSError:
            lines = "; ".join(log.value.decode(errors="replace").strip().splitlines()[-_LOG_LINES:])
            refused = f"the kernel's verifier refuses the program {name}: {lines}"
            # Locked down, it does not know the helpers that read kernel memory.
            known = lines and not _is_locked_down()
            raise BpfRefusedError(refused if known else _why_not("load a program", error)) from None


def attach(program_fd: int, tracepoint: str) -> int:
    """Attach a program to a raw tracepoint and return the descriptor whose closing detaches it.

    Raises BpfRefusedError, also where the kernel has no such tracepoint.
    """
    name = ctypes.create_string_buffer(tracepoint.encode())
    attributes = struct.pack("=QI4x", ctypes.addressof(name), program_fd)
    return _asked(f"attach a program to {tracepoint}", _RAW_TRACEPOINT_OPEN, attributes)


def run_once(program_fd: int) -> None:
    """Run a program that uses no context, in this thread. Raises BpfRefusedError."""
    _asked("run a program", _PROG_TEST_RUN, struct.pack("=I76x", program_fd))


def _with_entry(what: str, command: int, map_fd: int, key: int, value: ctypes.Array[ctypes.c_char]) -> None:
    at = ctypes.c_uint32(key)
    attributes = struct.pack("=I4xQQQ", map_fd, ctypes.addressof(at), ctypes.addressof(value), 0)
    _asked(what, command, attributes)


def _asked(what: str, command: int, attributes: bytes) -> int:
    try:
        return _bpf(command, attributes)
    except OSError as error:
        raise BpfRefusedError(_why_not(what, error)) from None


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    try:
        return syscall("bpf", command, buffer, len(attributes))
    except ShmfsError as unknown:
        raise BpfRefusedError(str(unknown)) from None


def _why_not(what: str, error: OSError) -> str:
    """What was refused, and the most probable reason: the kernel has one error for many."""
    refused = f"bpf(2) cannot {what}: {error.strerror}"
    if error.errno == errno.ENOSYS:
        return f"{refused}; the kernel was built without CONFIG_BPF_SYSCALL"
    if _is_locked_down():
        return f"{refused}; the kernel is locked down (confidentiality)"
    if error.errno not in (errno.EPERM, errno.EACCES):
        return refused
    if not proc.is_initial_user_namespace():
        return f"{refused}; it is not permitted in a user namespace"
    if os.geteuid() != 0:
        return f"{refused}; it takes root, or CAP_BPF and CAP_PERFMON"
    return f"{refused}; it takes CAP_BPF and CAP_PERFMON, and no seccomp filter or security module against it"


def _is_locked_down() -> bool:
    try:
        return "[confidentiality]" in Path("/sys/kernel/security/lockdown").read_text()
    except OSError:
        return False
