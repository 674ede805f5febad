"""Runs programs on a mount with the library preloaded, and C programs built for a test."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmfs.ipc import library

PREAMBLE = """
import ctypes, errno, os, sys, time
from shmfs.conformance.doors import *
from shmfs.conformance.tools import *
doors = Doors(ctypes.CDLL(None, use_errno=True))
KEY = 0x5EC
def load(address, size=1): return ctypes.string_at(address, size)
def store(address, data=b"x"): ctypes.memmove(address, data, len(data))
def ours(): return [int(n) for n in os.listdir("/proc/self/fd")
    if os.path.islink(f"/proc/self/fd/{n}") and os.readlink(f"/proc/self/fd/{n}").endswith(".shmfs")]
def anonymous(pages=1): return doors.map(pages * PAGE, READ | WRITE, SHARED | 0x20)
def maps(word): return sum(word in line for line in open("/proc/self/maps"))
"""


def environment(mountpoint: str | Path, *doors: str) -> dict[str, str]:
    """This process's, with the library for a mount."""
    if library.path() is None:
        pytest.skip("the library could not be built here")
    added = library.environment(os.environb, str(mountpoint), doors or library.DOORS)
    return os.environ | {os.fsdecode(name): os.fsdecode(text) for name, text in added.items()}


def run(mountpoint: str | Path, *command: str | Path, doors: tuple[str, ...] = (), **more: Any) -> str:
    """What a program says that has the library preloaded, and ends well."""
    result = start(mountpoint, *command, doors=doors, **more)
    try:
        said, _ = result.communicate(timeout=60)
    finally:
        result.kill()
    assert result.returncode == 0, said
    return str(said)


def start(
    mountpoint: str | Path, *command: str | Path, doors: tuple[str, ...] = (), **more: Any
) -> "subprocess.Popen[str]":
    """Start a program with the library."""
    return subprocess.Popen(
        [os.fspath(word) for word in command],
        env=environment(mountpoint, *doors) | more.pop("env", {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )


def python(mountpoint: str | Path, program: str, **more: Any) -> str:
    """What a Python program says, after PREAMBLE."""
    return run(mountpoint, sys.executable, "-c", PREAMBLE + program, **more)


def compiled(where: Path, source: str, *options: str) -> Path:
    """An executable of a C program."""
    program = where / "program"
    (where / "program.c").write_text(source)
    command = ["gcc", "-O1", "-o", str(program), str(where / "program.c"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"gcc cannot build it: {done.stderr.strip()[-200:]}")
    return program
