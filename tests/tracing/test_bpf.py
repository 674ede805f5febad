"""The assembler and the loader, with the kernel that runs the programs."""

import contextlib
import operator
import os
import platform
from collections.abc import Iterator

import pytest

from shmfs.tracing import bpf
from shmfs.tracing.bpf import FRAME, R0, R1, R2, R3, R6, R7, BpfRefusedError, Helper, MapKind, Program
from shmfs.tracing.probe import why_not

needs_bpf = pytest.mark.skipif(bool(why_not()), reason=why_not() or "permitted")
MASK = (1 << 64) - 1


@pytest.fixture
def ends() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as ends:
        yield ends


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def run(program: Program, ends: contextlib.ExitStack, values: int) -> list[int]:
    """What the program has in `values` slots of 8 bytes below the end of its stack, the last slot first."""
    result = bpf.create_map(MapKind.ARRAY, values * 8, 1)
    ends.callback(os.close, result)
    program.store(FRAME, -values * 8 - 8, 0)
    for register, offset in ((R2, -values * 8 - 8), (R3, -values * 8)):
        program.set(register, FRAME)
        program.arithmetic("+", register, offset)
    program.map(R1, result)
    program.set(bpf.R4, 0)
    program.call(Helper.MAP_UPDATE_ELEM)
    program.set(R0, 0)
    program.exit()
    fd = bpf.load(program, "test")
    ends.callback(os.close, fd)
    bpf.run_once(fd)
    content = bpf.lookup(result, 0, values * 8)
    return [int.from_bytes(content[at : at + 8], "little") for at in range(0, values * 8, 8)]


VALUES = 0, 1, 7, 0x7FFF_FFFF, 0x8000_0000, 0x1234_5678_9ABC_DEF0, MASK
ARITHMETIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "|": operator.or_,
    "&": operator.and_,
    "^": operator.xor,
    "=": lambda left, right: right,
    "<<": lambda left, right: left << (right & 63),
    ">>": lambda left, right: left >> (right & 63),
    "s>>": lambda left, right: signed(left) >> (right & 63),
}
CONDITIONS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "&": lambda left, right: bool(left & right),
    "s>": lambda left, right: signed(left) > signed(right),
    "s>=": lambda left, right: signed(left) >= signed(right),
    "s<": lambda left, right: signed(left) < signed(right),
    "s<=": lambda left, right: signed(left) <= signed(right),
}


@needs_bpf
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str, ends: contextlib.ExitStack) -> None:
    program = Program()
    pairs = [(left, right) for left in VALUES for right in (1, 3, 63)]
    for slot, (left, right) in enumerate(pairs):
        program.set(R6, left)
        program.set(R7, right)
        program.arithmetic(name, R6, R7)
        program.store(FRAME, (slot - len(pairs)) * 8, R6)
    expected = [ARITHMETIC[name](left, right) & MASK for left, right in pairs]
    assert run(program, ends, len(pairs)) == expected


@needs_bpf
@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions(name: str, ends: contextlib.ExitStack) -> None:
    program = Program()
    pairs = [(left, right) for left in VALUES for right in VALUES]
    for slot, (left, right) in enumerate(pairs):
        program.set(R6, left)
        program.set(R7, right)
        program.store(FRAME, (slot - len(pairs)) * 8, 1)
        program.jump(name, R6, R7, f"holds {slot}")
        program.store(FRAME, (slot - len(pairs)) * 8, 0)
        program.label(f"holds {slot}")
    assert run(program, ends, len(pairs)) == [CONDITIONS[name](left, right) for left, right in pairs]


@needs_bpf
def test_constants_and_sizes(ends: contextlib.ExitStack) -> None:
    program = Program()
    program.store(FRAME, -24, -1)
    program.store(FRAME, -24, 0x12, 1)
    program.store(FRAME, -22, 0x3456, 2)
    program.store(FRAME, -20, 0x789ABCDE, 4)
    program.load(R6, FRAME, -22, 2)
    program.arithmetic("<<", R6, 32)
    program.arithmetic("-", R6, 2)
    program.store(FRAME, -16, R6)
    program.set(R7, 3)
    program.jump("s>", R7, -1, "forwards")
    program.set(R7, 0)
    program.label("forwards")
    program.goto("store")
    program.label("store")
    program.store(FRAME, -8, R7)
    assert run(program, ends, 3) == [0x789A_BCDE_3456_FF12, (0x3456 << 32) - 2, 3]


@needs_bpf
def test_what_the_verifier_refuses_is_in_the_message(ends: contextlib.ExitStack) -> None:
    before = os.listdir("/proc/self/fd")
    program = Program()
    program.load(R0, R6, 0)
    program.exit()
    with pytest.raises(BpfRefusedError, match=r"verifier refuses the program wrong: .*R6 !read_ok"):
        bpf.load(program, "wrong")
    assert os.listdir("/proc/self/fd") == before


@needs_bpf
def test_locked_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier then refuses a helper; the reason is another."""
    monkeypatch.setattr(bpf, "_is_locked_down", lambda: True)
    program = Program()
    program.load(R0, R6, 0)
    program.exit()
    with pytest.raises(BpfRefusedError, match="Permission denied; the kernel is locked down"):
        bpf.load(program, "wrong")


@needs_bpf
def test_a_tracepoint_that_does_not_exist(ends: contextlib.ExitStack) -> None:
    program = Program()
    program.set(R0, 0)
    program.exit()
    fd = bpf.load(program, "nothing")
    ends.callback(os.close, fd)
    with pytest.raises(BpfRefusedError, match="cannot attach a program to none_such: No such file"):
        bpf.attach(fd, "none_such")


def test_labels() -> None:
    program = Program()
    program.goto("nowhere")
    with pytest.raises(KeyError):
        program.assemble()
    program.label("nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        program.label("nowhere")


def test_an_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert why_not() == "bpf(2) cannot be called: its number on vax is not known to shmfs"


@pytest.mark.parametrize(
    ("initial", "locked", "user", "reason"),
    [
        (False, False, 0, "it is not permitted in a user namespace"),
        (True, True, 0, "locked down"),
        (True, False, 1000, "it takes root, or CAP_BPF and CAP_PERFMON"),
        (True, False, 0, "no seccomp filter or security module"),
    ],
)
def test_reasons(
    monkeypatch: pytest.MonkeyPatch, initial: bool, locked: bool, user: int, reason: str
) -> None:
    def refused(*arguments: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "_bpf", refused)
    monkeypatch.setattr(bpf.proc, "is_initial_user_namespace", lambda: initial)
    monkeypatch.setattr(bpf, "_is_locked_down", lambda: locked)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert why_not().startswith("bpf(2) cannot create a map: Operation not permitted; ")
    assert reason in why_not()
