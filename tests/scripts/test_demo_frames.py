"""The demo's program knows nothing of shmfs: it runs as well on the system's own /dev/shm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts" / "demo_frames.py"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_by(pid: int) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if f"demo-{pid}-" in name]


def test_result_equals_a_serial_run() -> None:
    program = start("--frames", "6", "--size", "32x24", "--workers", "2")
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    assert out.startswith("Checked: all 6 frames of 32x24 made by 4 processes in ")
    assert left_by(program.pid) == []


def test_a_worker_that_dies_ends_the_run_and_leaves_nothing() -> None:
    program = start("--frames", "3000", "--size", "320x200", "--workers", "1")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    while not left_by(program.pid) or len(workers := children.read_text().split()) < 4:
        assert program.poll() is None, program.stderr and program.stderr.read()
    os.kill(int(workers[2]), signal.SIGKILL)  # after the resource tracker and the producer
    _, err = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "the worker 1 ended with exit status -9" in err
    assert left_by(program.pid) == []


def test_interrupt_leaves_nothing() -> None:
    program = start("--frames", "3000", "--size", "320x200")
    while not left_by(program.pid):
        assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGTERM
    assert left_by(program.pid) == []


@pytest.mark.parametrize("size", ["640", "0x4", "axb"])
def test_a_bad_size_is_a_sentence(size: str) -> None:
    program = start("--size", size)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 2
    assert "WIDTH" in err.splitlines()[-1]
