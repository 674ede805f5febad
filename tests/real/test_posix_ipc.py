"""posix_ipc and multiprocessing.shared_memory, unmodified, with the mount as their /dev/shm."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mount


def run(shmfs: Any, program: str) -> str:
    """What a program printed that has the mount as /dev/shm."""
    command = [sys.executable, "-c", program]
    result = shmfs.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


POSIX_IPC = """
import mmap, os, posix_ipc

memory = posix_ipc.SharedMemory("/frames", posix_ipc.O_CREX, size=8 * 4096)
there, back = (posix_ipc.Semaphore(name, posix_ipc.O_CREX) for name in ("/there", "/back"))
pid = os.fork()
if pid == 0:
    # everything by its name, as another program would
    view = mmap.mmap(posix_ipc.SharedMemory("/frames").fd, 0)
    there, back = posix_ipc.Semaphore("/there"), posix_ipc.Semaphore("/back")
    for number in range(100):
        there.acquire(20)
        assert view[number * 300 : number * 300 + 4] == b"%04d" % number
        view[number * 300 : number * 300 + 4] = b"done"
        back.release()
    os._exit(0)
view = mmap.mmap(memory.fd, 0)
for number in range(100):
    view[number * 300 : number * 300 + 4] = b"%04d" % number
    there.release()
    back.acquire(20)
    assert view[number * 300 : number * 300 + 4] == b"done"
assert os.waitpid(pid, 0)[1] == 0
assert sorted(os.listdir("/dev/shm")) == ["frames", "sem.back", "sem.there"], os.listdir("/dev/shm")
try:
    posix_ipc.SharedMemory("/frames", posix_ipc.O_CREX, size=1)
except posix_ipc.ExistentialError:
    print("exists")
there.unlink(), back.unlink(), memory.unlink()
print(there.value, os.listdir("/dev/shm"))
try:
    posix_ipc.Semaphore("/there")
except posix_ipc.ExistentialError:
    print("gone")
"""


def test_posix_ipc(shmfs: Any) -> None:
    pytest.importorskip("posix_ipc", reason="posix_ipc is not installed")
    assert run(shmfs, POSIX_IPC).split("\n") == ["exists", "0 []", "gone", ""]
    frames = shmfs.segment("/frames")
    assert (frames.size, frames.resident, frames.peak_resident) == (8 * 4096, 0, 8)
    assert len(frames.opened_by) == 2
    assert shmfs.segment("/sem.there").size == 32


MULTIPROCESSING = """
import multiprocessing, os, sys
from multiprocessing import shared_memory

def work(name, number, lock):
    memory = shared_memory.SharedMemory(name)
    part = memory.buf[number * 5000 : (number + 1) * 5000]
    part[:] = bytes([number + 1]) * 5000
    part.release()
    with lock:
        memory.buf[-1] += 1
    memory.close()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else "fork")
    memory = shared_memory.SharedMemory(create=True, size=8 * 5000 + 1)
    lock = context.Lock()
    workers = [context.Process(target=work, args=(memory.name, number, lock)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert bytes(memory.buf[:40000]) == b"".join(bytes([number + 1]) * 5000 for number in range(8))
    assert memory.buf[-1] == 8
    listed = shared_memory.ShareableList(["a", 1, 2.5, None])
    again = shared_memory.ShareableList(name=listed.shm.name)
    again[1] = 77
    assert listed[1] == 77
    assert len([name for name in os.listdir("/dev/shm") if name.startswith("psm_")]) == 2
    again.shm.close(), listed.shm.close(), listed.shm.unlink()
    memory.close(), memory.unlink()
    print("ok", [name for name in os.listdir("/dev/shm") if name.startswith("psm_")])
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_shared_memory(method: str, shmfs: Any, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(MULTIPROCESSING)
    result = shmfs.run([sys.executable, program, method], capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout, result.stderr) == (0, "ok []\n", "")
    segments = [segment for segment in shmfs.segments() if segment.path.startswith("/psm_")]
    assert [segment.nlink for segment in segments] == [0, 0]
    assert max(len(segment.opened_by) for segment in segments) == 9
    eventually(lambda: shmfs.statistics().used == 0)


KILLED = """
import os, signal
from multiprocessing import shared_memory

memory = shared_memory.SharedMemory(create=True, size=100000, name="left")
memory.buf[:5] = b"hello"
print(os.listdir("/dev/shm"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_resource_tracker_cleans_up_after_a_kill(shmfs: Any) -> None:
    result = shmfs.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (-9, "['left']\n")
    assert "leaked shared_memory" in result.stderr
    left = eventually(lambda: (segment := shmfs.segment("/left")).evicted and segment)
    assert left.peak_resident == 1
    assert shmfs.statistics().used == 0
    assert not any(shmfs.path.iterdir())


def test_a_segment_without_a_tracker_is_left_behind_and_seen(shmfs: Any) -> None:
    quiet = "from multiprocessing import resource_tracker as t; t.register = lambda *a: None\n"
    result = shmfs.run([sys.executable, "-c", quiet + KILLED], capture_output=True, text=True, timeout=100)
    assert result.returncode == -9
    eventually(lambda: shmfs.segment("/left").open_handles == 0)
    left = shmfs.segment("/left")
    assert (left.nlink, left.evicted, left.resident) == (1, False, 1)
    assert (shmfs.path / "left").read_bytes()[:5] == b"hello"
