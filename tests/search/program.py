"""Programs: roles made of steps, as the actor reads them, and the records that it logs."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PAGE = 4096

STEPS: dict[str, tuple[str, ...]] = {
    "open": ("file", "name", "how"),
    "tmpfile": ("file",),
    "close": ("file",),
    "ftruncate": ("file", "bytes"),
    "fallocate": ("file", "mode", "offset", "length"),
    "write": ("file", "offset", "length"),
    "read": ("file", "offset", "length"),
    "unlink": ("name",),
    "rename": ("name", "other"),
    "mmap": ("map", "file", "first", "pages", "how"),
    "attach": ("map", "key", "pages"),
    "remove": ("key",),
    "anonymous": ("map", "pages"),
    "munmap": ("map",),
    "mremap": ("map", "pages"),
    "madvise": ("map", "first", "pages", "advice"),
    "mlock": ("map", "first", "pages"),
    "munlock": ("map",),
    "mprotect": ("map", "writable"),
    "touch": ("map", "first", "count", "stride", "store"),
    "kernel_touch": ("map", "page", "store"),
    "timer": ("microseconds", "map"),
    "fork": ("role",),
    "daemon": ("role",),
    "thread": ("role",),
    "join": (),
    "wait": (),
    "exec": ("role", "first"),
    "kill": ("target", "signal"),
    "bus": ("recover",),
    "exit": ("status",),
    "sleep": ("microseconds",),
    "fsize": ("bytes",),
    "census": (),
    "gate": (),
}
"""What a program can do, with the names of the arguments."""

LOGGED = ("role", "begin", "touched", "settled", "start", "thread_end")
"""What is in the log besides, or only in the file that the actor reads (role)."""

OPERATIONS = (*STEPS, *LOGGED)


def header() -> str:
    """The operations as the actor's C has them."""
    return "enum op {" + ", ".join(f"OP_{name.upper()}" for name in OPERATIONS) + "};\n"


class Step(NamedTuple):
    """One step of a role."""

    name: str
    arguments: tuple[int, ...] = ()

    def __str__(self) -> str:
        named = zip(STEPS[self.name], self.arguments, strict=True)
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in named)})"


class Program(NamedTuple):
    """Roles by number; the first process runs role 0. `size` is the limit of the mount in bytes."""

    size: int
    roles: tuple[tuple[Step, ...], ...]

    def __str__(self) -> str:
        lines = [f"size={self.size}"]
        for number, steps in enumerate(self.roles):
            if steps:
                lines += [f"role {number}", *(f"    {step}" for step in steps)]
        return "\n".join(lines)

    @property
    def steps(self) -> int:
        """How many there are."""
        return sum(len(steps) for steps in self.roles)

    def text(self) -> str:
        """As the actor reads it."""
        lines = []
        for number, steps in enumerate(self.roles):
            for name, arguments in (("role", (number,)), *steps):
                padded = (*arguments, *(0,) * (6 - len(arguments)))
                lines.append(" ".join(map(str, (OPERATIONS.index(name), *padded))))
        return "\n".join(lines) + "\n"


def parse(text: str) -> Program:
    """The program that `str` made."""
    size, number = 0, 0
    roles: list[list[Step]] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("size="):
            size = int(line[5:])
        elif line.startswith("role "):
            number = int(line[5:])
            roles += [[] for _ in range(number + 1 - len(roles))]
        elif line:
            name, _, rest = line.rstrip(")").partition("(")
            roles[number].append(
                Step(name, tuple(int(part.partition("=")[2]) for part in rest.split(", ") if part))
            )
    return Program(size, tuple(map(tuple, roles)))


_RECORD = struct.Struct("<QQIIIHH6q")


class Record(NamedTuple):
    """What the actor logs; times are CLOCK_MONOTONIC in nanoseconds."""

    begin: int
    end: int
    pid: int
    tid: int
    role: int
    step: int
    name: str
    a: tuple[int, ...]


def _record(row: tuple[int, ...]) -> Record:
    begin, end, pid, tid, role, step, number = row[:7]
    return Record(begin, end, pid, tid, role, step, OPERATIONS[number], row[7:])


def read_log(path: Path) -> list[Record]:
    """All whole records in the order of the log."""
    data = path.read_bytes()
    whole = data[: len(data) - len(data) % _RECORD.size]
    return [_record(row) for row in _RECORD.iter_unpack(whole)]


def with_roles(program: Program, roles: Sequence[Sequence[Step]]) -> Program:
    """The same with other steps."""
    return program._replace(roles=tuple(tuple(steps) for steps in roles))
