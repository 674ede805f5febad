"""The table of system calls against the kernel's headers, and the names that it gives."""

import re
from pathlib import Path

import pytest

from shmfs.system import families

HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", [0, 1], ids=["x86-64", "aarch64"])
def test_the_numbers_are_the_kernels(machine: int) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"needs {HEADERS[machine]}")
    text = HEADERS[machine].read_text()
    known = dict(re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.MULTILINE))
    assert {name: int(known[name]) for name in families._NUMBERS} == {
        name: numbers[machine] for name, numbers in families._NUMBERS.items()
    }


@pytest.mark.parametrize(
    ("call", "name"),
    [("pwrite64", "write"), ("pwritev2", "write"), ("preadv", "read"), ("mlock2", "mlock"), ("mmap", "mmap")],
)
def test_variants_have_one_name(call: str, name: str) -> None:
    assert families.family(call) == name


def test_a_writer_is_named_by_its_family() -> None:
    named = {families.NAMES[number]: writer.name for number, writer in families.WRITERS.items()}
    expected = {call: families.family(call) for call in named if call not in ("sendfile", "splice")}
    assert {call: name for call, name in named.items() if call in expected} == expected
