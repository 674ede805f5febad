"""The table of system calls: against headers, on machines of which none is known, and the names it gives."""

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

from shmfs.errors import ShmfsError
from shmfs.ipc import attaches
from shmfs.record.recording import Subject, _perf
from shmfs.system import mounting, syscall_table
from shmfs.tracing.perf import Perf

SUBJECT = Subject("/mnt", "0:1", "managed")

EVERYWHERE = [name for name, numbers in syscall_table._NUMBERS.items() if len(numbers) == 4]
NAMES = (*syscall_table._NUMBERS, *syscall_table._SHARED)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.fixture
def vax(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "vax")


def test_numbers_are_those_of_the_kernel_s_headers():
    done = subprocess.run(
        ["gcc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("needs gcc and the C library's headers")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)$", done.stdout, re.MULTILINE))
    compared = [name for name in NAMES if name in known]  # headers may be older than a call
    assert {name: syscall_table.find(name) for name in compared} == {
        name: int(known[name]) for name in compared
    }
    assert len(compared) > 15


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_a_machine_s_headers(monkeypatch, machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"needs {HEADERS[machine]}")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    pattern = r"^#define __NR(?:3264)?_(\w+)\s+(\d+)"
    known = dict(re.findall(pattern, HEADERS[machine].read_text(), re.MULTILINE))
    compared = [name for name in NAMES if name in known]
    assert {name: syscall_table.find(name) for name in compared} == {
        name: int(known[name]) for name in compared
    }
    assert set(syscall_table._NUMBERS) <= set(compared)


@pytest.mark.parametrize("name", [*EVERYWHERE, *syscall_table._SHARED])
@pytest.mark.parametrize("machine", sorted(syscall_table._COLUMNS))
def test_every_known_machine_has_every_number(monkeypatch, machine, name):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert isinstance(syscall_table.number(name), int)
    assert syscall_table.missing() == []


@pytest.mark.parametrize("name", EVERYWHERE)
def test_an_unknown_machine_is_an_error_that_says_so(vax, name):
    with pytest.raises(ShmfsError, match=rf"^{name}\(2\) cannot be called: its number on vax is not known"):
        syscall_table.number(name)


def test_a_process_of_32_bits_has_other_numbers(monkeypatch):
    monkeypatch.setattr(syscall_table.struct, "calcsize", lambda code: 4)
    with pytest.raises(ShmfsError, match=r"on \w+ \(32-bit process\)"):
        syscall_table.number("kcmp")


def test_calls_since_5_1_have_one_number_on_all_machines(vax, monkeypatch):
    assert syscall_table.number("fsopen") == 430
    monkeypatch.setattr(platform, "machine", lambda: "alpha")
    assert syscall_table.number("fsopen") == 540


def test_no_recording_on_an_unknown_machine(vax):
    with pytest.raises(ShmfsError, match=r"perf_event_open.* on vax"):
        Perf(os.getpid())
    assert _perf(os.getpid(), SUBJECT, faults=True, calls=False)[1].startswith(
        "perf_event_open(2) cannot be called"
    )
    with pytest.raises(ShmfsError, match="on vax"):
        _perf(-1, SUBJECT, faults=True, calls=False)


def test_processes_that_cannot_be_compared_count_each(vax):
    assert not attaches._same_memory(os.getpid(), os.getpid())


def test_a_detached_mount_on_an_unknown_machine(vax):
    """Which has the shared numbers: the kernel answers, whatever."""
    try:
        os.close(mounting.detached("tmpfs"))
    except PermissionError:
        assert os.geteuid()


@pytest.mark.parametrize(
    ("call", "name"),
    [("pwrite64", "write"), ("pwritev2", "write"), ("preadv", "read"), ("mlock2", "mlock"), ("mmap", "mmap")],
)
def test_variants_have_one_name(call, name):
    assert syscall_table.family(call) == name


def test_a_writer_is_named_by_its_family():
    named = {syscall_table.NAMES[number]: writer.name for number, writer in syscall_table.WRITERS.items()}
    expected = {call: syscall_table.family(call) for call in named if call not in ("sendfile", "splice")}
    assert {call: name for call, name in named.items() if call in expected} == expected
