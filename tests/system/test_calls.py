"""Numbers of system calls: those of this machine's headers, and machines of which none is known."""

import os
import platform
import re
import subprocess

import pytest

from shmfs.errors import ShmfsError
from shmfs.ipc import attaches
from shmfs.record.recording import Subject, _perf
from shmfs.system import calls, mounting
from shmfs.tracing.perf import Perf

SUBJECT = Subject("/mnt", "0:1", "managed")

NAMES = (*calls._NAMES, *calls._SHARED)


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
    assert {name: calls.find(name) for name in compared} == {name: int(known[name]) for name in compared}
    assert len(compared) > 15


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("machine", sorted(calls._MACHINES))
def test_every_known_machine_has_every_number(monkeypatch, machine, name):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert isinstance(calls.number(name), int)
    assert calls.missing() == []


@pytest.mark.parametrize("name", calls._NAMES)
def test_an_unknown_machine_is_an_error_that_says_so(vax, name):
    with pytest.raises(ShmfsError, match=rf"^{name}\(2\) cannot be called: its number on vax is not known"):
        calls.number(name)


def test_a_process_of_32_bits_has_other_numbers(monkeypatch):
    monkeypatch.setattr(calls.struct, "calcsize", lambda code: 4)
    with pytest.raises(ShmfsError, match=r"on \w+ \(32-bit process\)"):
        calls.number("kcmp")


def test_calls_since_5_1_have_one_number_on_all_machines(vax, monkeypatch):
    assert calls.number("fsopen") == 430
    monkeypatch.setattr(platform, "machine", lambda: "alpha")
    assert calls.number("fsopen") == 540


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
