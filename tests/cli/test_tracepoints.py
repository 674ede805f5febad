"""What root's recordings see by tracepoints, where tracefs is mounted and where it is not."""

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import shmfs.trace
from shmfs.system import mounts
from shmfs.testing.plugin import why_absent
from tests.cli.conftest import SHMFS, eventually
from tests.cli.test_trace_io import begun
from tests.tracing.test_tracefs import WITHOUT, detached_is_refused

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(bool(detached_is_refused()), reason=detached_is_refused() or "permitted"),
]

STATES = {"mounted": WITHOUT + "mount -t tracefs tracefs /sys/kernel/tracing && ", "not mounted": WITHOUT}

TOUCH = """
import json, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 64 * 4096)
written = mmap.mmap(fd, 64 * 4096)
for page in range(32): written[page * 4096] = 1
if os.fork() == 0:
    seen = mmap.mmap(fd, 64 * 4096, prot=mmap.PROT_READ)
    seen[20 * 4096]
    maps = [line for line in open("/proc/self/maps") if line.rstrip().endswith(os.path.basename(sys.argv[1]))]
    (start,) = [int(line.split("-")[0], 16) for line in maps if "r--s" in line]
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(start // 4096 * 8)
        entries = memoryview(file.read(64 * 8)).cast("Q")
    print(json.dumps([page for page in range(64) if entries[page] >> 63]), flush=True)
    os._exit(0)
os.wait()
print(json.dumps([os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")[:-1]]))
"""
READ, WRITE, AROUND = 1, 2, 1


@pytest.fixture(params=STATES)
def prefix(request: pytest.FixtureRequest) -> list[str]:
    """The beginning of a command, for a mount namespace in which tracefs is mounted or not."""
    return ["unshare", "-m", "sh", "-c", STATES[request.param] + 'exec "$@"', "sh"]


def check(trace: Path, name: str, present: list[int]) -> None:
    """The faults on a file after TOUCH: 32 pages written by one process, then one read and some around it.

    The reader has the pages `present` by /proc/PID/pagemap.
    """
    with shmfs.trace.open(trace) as opened:
        notes = [source.note for source in opened.meta.sources]
        faults = opened.fault_array()
        (segment,) = [one["segment"] for one in opened.segments if one["path"].endswith(name)]
    assert not [note for note in notes if "distinguished" in note]
    faults = faults[faults["segment"] == segment]
    own, around = faults[faults["source"] != AROUND], faults[faults["source"] == AROUND]
    assert own["page"][own["access"] == WRITE].tolist() == list(range(32))
    assert own["page"][own["access"] == READ].tolist() == [20]
    assert len(present) > 1
    assert sorted([20, *around["page"].tolist()]) == present


@pytest.mark.parametrize("pages", ["managed", "native"])
def test_run(prefix: list[str], pages: str, tmp_path: Path) -> None:
    if reason := why_absent():
        pytest.skip(f"no FUSE here: {reason}")
    program = [sys.executable, "-c", TOUCH, "/dev/shm/touched"]
    options = ["-q", "-o", f"size=1m,pages={pages}", "--trace", str(tmp_path / "trace")]
    command = [*prefix, *SHMFS, "run", *options, "--", *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "cannot be had" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    present, descriptors = map(json.loads, done.stdout.splitlines())
    assert not [name for name in descriptors if "trac" in name or name == "/"]
    check(tmp_path / "trace", "/touched", present)


def test_record(prefix: list[str], tmp_path: Path) -> None:
    mount = mounts.containing("/dev/shm")
    if mount is None or mount.fstype != "tmpfs":
        pytest.skip("needs a tmpfs of the kernel on /dev/shm")
    trace = tmp_path / "trace"
    words = [*prefix, *SHMFS, "record", "--trace", str(trace), "/dev/shm"]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as own, open(f"{own}/before", "w+b") as before:
        os.ftruncate(before.fileno(), 4096)
        with mmap.mmap(before.fileno(), 4096):
            recorder = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
            try:
                eventually(lambda: begun(trace) or recorder.poll() is not None)
                touch = [sys.executable, "-c", TOUCH, f"{own}/touched"]
                done = subprocess.run(touch, check=True, capture_output=True)
                recorder.send_signal(signal.SIGINT)
                _, said = recorder.communicate(timeout=60)
            finally:
                recorder.kill()
                recorder.communicate()
    assert recorder.returncode == 0, said
    check(trace, f"{os.path.basename(own)}/touched", json.loads(done.stdout.splitlines()[0]))
