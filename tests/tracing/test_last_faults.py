"""Deaths by SIGBUS where the kernel reports no signals: the page is that of the last fault."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from shmfs.errors import ShmfsError
from shmfs.tracing import last_faults
from shmfs.tracing.last_faults import LastFault, LastFaults

PAGE = 4096
TOUCH = """
import mmap, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(file, 8 * 4096)
area[0] = 1
os.ftruncate(file, 4096)
print(len(open("/proc/self/maps").read()), flush=True)
area[5 * 4096] = 1
"""


def sample(time: int, pid: int, tid: int, address: int) -> bytes:
    return struct.pack("<IHHIIQQ", 9, 2, 32, pid, tid, time, address)


def test_a_ring_that_went_round_is_read_from_its_head() -> None:
    newest_first = [sample(time, 7, 70 + time, time << 12) for time in (5, 4, 3, 2)]
    data = b"".join(newest_first)
    turned = data[-48:] + data[:-48]  # the head is at 48, and the third sample crosses the end
    found = last_faults._records(turned, (1 << 64) - len(data) + 48, 7)
    assert found == [LastFault(time, 70 + time, time << 12) for time in (5, 4, 3, 2)]


def test_what_was_never_written_and_other_processes_are_left_out() -> None:
    data = sample(2, 7, 7, PAGE) + sample(1, 8, 8, PAGE) + bytes(64)
    assert last_faults._records(data, 0, 7) == [LastFault(2, 7, PAGE)]


def test_the_last_fault_of_a_process_that_died(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8 * PAGE))
    gate, opener = os.pipe()
    wait = f"import os, sys; os.read({gate}, 1); os.execv(sys.executable, sys.argv)"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", wait, "-c", TOUCH, str(tmp_path / "file")],
        pass_fds=(gate,),
        stdout=subprocess.PIPE,
    )
    os.close(gate)
    try:
        faults = LastFaults(process.pid)
    except (OSError, ShmfsError) as refused:
        process.kill()
        process.communicate()
        pytest.skip(f"the kernel permits no perf events here: {refused}")
    finally:
        os.close(opener)
    try:
        process.communicate(timeout=60)
        assert process.returncode == -7
        last, *others = faults.of(process.pid)
        assert last.tid == process.pid
        first = [fault for fault in others if fault.address == last.address - 5 * PAGE]
        assert len(first) == 1, "the page that was touched before it, in the same mapping"
        assert faults.of(1) == []
    finally:
        faults.close()
