"""Programs whose faults are easily taken for failures, and processes that are easily taken for dead."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shmfs.analysis.deaths import Touched
from shmfs.client import launch
from shmfs.record import recording
from shmfs.record.outcomes import FAILED, UNKNOWN
from shmfs.record.recording import Recording, Subject
from shmfs.testing.plugin import why_absent
from shmfs.tracefile import stream
from shmfs.tracing import perf
from shmfs.tracing.exits import Statuses
from tests.record.conftest import SHM, Child, Traced, refuse, seen
from tests.record.test_recorder import Explained

TICKING = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
static char deep[64 * 4096];
static volatile long ticks;
static void tick(int s) { deep[ticks++ % 64 * 4096] = 1; }
static void bus(int s) { _exit(77); }
int main(int argc, char **argv) {
  long pages = atol(argv[2]);
  char go;
  read(atoi(argv[3]), &go, 1);
  signal(SIGBUS, bus);
  struct sigaction a = {.sa_handler = tick, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &a, 0);
  int fd = open(argv[1], O_CREAT | O_RDWR, 0600);
  ftruncate(fd, pages * 4096);
  char *p = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  struct itimerval t = {{0, 200}, {0, 200}};
  setitimer(ITIMER_REAL, &t, 0);
  for (long i = 0; i < pages; i++) p[i * 4096] = 1;
  return 0;
}
"""


HANDING_ON = r"""
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
static __thread sigjmp_buf leave;
static __thread volatile int inside;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long pages, next, count, left[65536], whose[65536];
static char *p;
static void tick(int s) { if (inside) siglongjmp(leave, 1); }
static long take(long me) {
  long page = -1;
  pthread_mutex_lock(&lock);
  if (count && (whose[count - 1] != me || next == pages)) page = left[--count];
  else if (next < pages) page = next++;
  pthread_mutex_unlock(&lock);
  return page;
}
static void *work(void *me) {
  volatile long page;
  while ((page = take((long)me)) >= 0) {
    if (!sigsetjmp(leave, 1)) {
      inside = 1;
      p[page * 4096] = 1;
      inside = 0;
      continue;
    }
    inside = 0;
    pthread_mutex_lock(&lock);
    left[count] = page, whose[count++] = (long)me;
    pthread_mutex_unlock(&lock);
  }
  return 0;
}
int main(int argc, char **argv) {
  pages = atol(argv[2]);
  char go;
  read(atoi(argv[3]), &go, 1);
  struct sigaction a = {.sa_handler = tick, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &a, 0);
  int fd = open(argv[1], O_CREAT | O_RDWR, 0600);
  ftruncate(fd, pages * 4096);
  p = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  struct itimerval t = {{0, 300}, {0, 300}};
  setitimer(ITIMER_REAL, &t, 0);
  pthread_t other;
  pthread_create(&other, 0, work, (void *)1);
  work(0);
  pthread_join(other, 0);
  return 0;
}
"""


@pytest.fixture(params=["tracepoints", "signals", "software"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How faults are recorded: by tracepoints, by software events with signals beside them, or without."""
    if request.param != "tracepoints":
        monkeypatch.setattr(perf.Perf, "_by_tracepoints", staticmethod(refuse))
    if request.param == "software":
        monkeypatch.setattr(perf.Perf, "_open_signals", lambda watch, *, calls: None)
    elif os.geteuid() != 0:
        pytest.skip("tracepoints and signals need root")
    return str(request.param)


@pytest.fixture(scope="session")
def ticking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that touches pages of a file while a timer interrupts it."""
    return compiled(TICKING, tmp_path_factory.mktemp("ticking"))


@pytest.fixture(scope="session")
def handing_on(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with two threads; what one was interrupted in, the other does."""
    return compiled(HANDING_ON, tmp_path_factory.mktemp("handing_on"))


def compiled(program: str, path: Path) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    (path / "x.c").write_text(program)
    subprocess.run(["gcc", "-O1", "-w", "-pthread", "-o", path / "x", path / "x.c"], check=True, timeout=60)
    return str(path / "x")


class Recorded(NamedTuple):
    status: int
    trace: stream.Trace
    deaths: list[Touched]


@pytest.fixture
def record(by: str, tmp_path: Path) -> Iterator[Callable[..., Recorded]]:
    """Records a program on a mount with managed pages; its arguments: a file, pages, a gate to wait at."""
    if reason := why_absent():
        pytest.skip(f"no FUSE here: {reason}")
    mount = tmp_path / "mount"
    mount.mkdir()
    ends = contextlib.ExitStack()

    def run(options: str, program: str, pages: int) -> Recorded:
        events, log = os.pipe()
        ends.callback(os.close, events)
        server = launch.start(str(mount), f"pages=managed,{options}", log=log)
        os.close(log)
        ends.callback(server.stop)
        gate, opener = os.pipe()
        process = subprocess.Popen([program, mount / "a", str(pages), str(gate)], pass_fds=(gate,))
        os.close(gate)
        ends.callback(process.kill)
        subject = Subject(str(mount), server.device, "managed")
        recorder = Recording(str(tmp_path / "trace"), subject, pid=process.pid, running=True, events=events)
        if by == "tracepoints" and not recorder._perf.tracepoints:
            recorder.stop()
            pytest.skip("the kernel permits no tracepoints here")
        recorder.recorder.deaths = explained = Explained()
        recorder.start()
        os.close(opener)
        status = process.wait(120)
        recorder.stop(status)
        assert recorder.recorder.lost == 0
        return Recorded(status, stream.Trace(tmp_path / "trace"), explained.faults)

    with ends:
        yield run


@pytest.mark.mount
def test_signals_during_faults_are_no_failures(record: Callable[..., Recorded], ticking: str) -> None:
    """The kernel aborts a fault for each of them, and makes it again."""
    status, trace, deaths = record("size=64m", ticking, 3000)
    assert status == 0
    faults = trace.fault_array()
    faults = faults[faults["source"] == 0]
    assert sorted(faults["page"].tolist()) == list(range(3000))
    assert set(faults["kind"].tolist()) <= {1, 2}
    assert not deaths


@pytest.mark.mount
def test_a_fault_that_another_thread_repeats_is_one(record: Callable[..., Recorded], handing_on: str) -> None:
    """The handler leaves, as that of Go does into its scheduler, and any thread may take the signal."""
    status, trace, deaths = record("size=64m", handing_on, 2000)
    assert status == 0
    faults = trace.fault_array()
    faults = faults[faults["source"] == 0]
    assert sorted(faults["page"].tolist()) == list(range(2000))
    assert set(faults["kind"].tolist()) <= {1, 2}
    assert not deaths


@pytest.mark.mount
def test_the_failure_among_signals_is_found(record: Callable[..., Recorded], ticking: str) -> None:
    status, trace, deaths = record("size=4m", ticking, 3000)
    assert status == 77
    faults = trace.fault_array()
    faults = faults[faults["source"] == 0]
    assert sorted(faults["page"].tolist()) == list(range(1025))
    assert faults["page"][faults["kind"] == FAILED].tolist() == [1024]
    assert [(death.page, death.path) for death in deaths] == [(1024, "/a")]


def test_signal_7_of_somebody_else_is_no_failure(traced: Traced) -> None:
    trace, told = traced("""
place = map(segment("a", 8), 8)
taken = []
signal.signal(signal.SIGBUS, lambda *given: taken.append(given))
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
kill, itself = libc.kill, os.getpid()
for page in range(4):
    store(place, page)
    kill(itself, signal.SIGBUS)
assert taken
tell(*(("a", page) for page in range(4)))
""")
    assert seen(trace) == told
    assert not seen(trace, FAILED)


def test_a_page_that_is_protected_does_not_fail_by_the_store(
    traced: Traced, request: pytest.FixtureRequest
) -> None:
    """SIGSEGV: the fault has no end, and the page is no reason."""
    trace, _ = traced("""
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
place = map(segment("a", 8), 8)
libc.mprotect.argtypes = [address, size, number]
store(place, 0)
if os.fork() == 0:
    assert libc.mprotect(place, 8 * PAGE, 1) == 0
    store(place, 3)
assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGSEGV
""")
    assert not seen(trace, FAILED)
    kinds = {fault["page"]: fault["kind"] for fault in trace.fault_array()}
    assert kinds == ({0: 1} if "tracepoints" in request.node.name else {0: 1, 3: UNKNOWN})


def test_a_leader_that_exits_and_a_thread_that_execs(traced: Traced) -> None:
    trace, told = traced("""
import threading, time
fd = segment("a", 64)
place = map(fd, 64)
def later():
    time.sleep(0.5)                       # until the recorder has read the end of the leader
    for page in range(30, 40): store(place, page)
    tell(*(("a", page) for page in range(30, 40)))
    code = "import json, mmap, os; f = os.open('a', 2); m = mmap.mmap(f, 64 * 4096); m[41 * 4096] = 1;"
    code += "os.write(1, json.dumps([os.getpid(), [['a', 41]]]).encode() + b'\\\\n'); os._exit(9)"
    os.execv(sys.executable, [sys.executable, "-S", "-c", code])
child = os.fork()
if child == 0:
    threading.Thread(target=later).start()
    libc.syscall(60, 0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
""")
    assert seen(trace) == told
    (child,) = told
    (process,) = [one for one in trace.processes if one["pid"] == child]
    last = max(trace.fault_array()["time"].tolist())
    assert last <= process["exit"]
    assert process["start_time"] <= process["exit"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to watch everybody")
def test_threads_that_were_there_before(
    by: str, shm: Path, tmp_path: Path, child: Callable[[], Child]
) -> None:
    (shm / "old").write_bytes(bytes(100 * 4096))
    one = child()
    one.do("import threading; gates = [threading.Event() for n in range(3)]")
    one.do("threads = [threading.Thread(target=gate.wait, daemon=True) for gate in gates]")
    one.do("for thread in threads: thread.start()")
    one.map(shm / "old", 100 * 4096)
    status = os.stat(shm)
    subject = Subject(SHM, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "tmpfs")
    everybody = Recording(str(tmp_path / "trace"), subject)
    everybody.start()
    for number in range(3):
        one.do(f"for page in range({number * 20}, {number * 20 + 20}): maps[0][page * 4096] = 1")
        one.do(f"gates[{number}].set(); threads[{number}].join()")
        everybody.catch_up()
    one.do("for page in range(60, 80): maps[0][page * 4096] = 1")
    everybody.stop()
    trace = stream.Trace(tmp_path / "trace")
    assert seen(trace)[one.pid] == [("old", page) for page in range(80)]
    (process,) = [process for process in trace.processes if process["pid"] == one.pid]
    assert process["exit"] is None


def test_how_grandchildren_ended_without_the_process_connector(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_connected", lambda kind: None)
    trace, told = traced("""
import resource, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
store(map(segment("a", 4), 4), 0)
def child(how):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.5)                   # until the recorder has read that it began
        how()
    tell((how.__name__, pid))
def seven(): os._exit(7)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
for how in (seven, kill): child(how)
while True:
    try: os.wait()
    except ChildProcessError: break
time.sleep(0.3)
""")
    if not keeps_exits():
        pytest.skip("PIDFD_GET_INFO has no exit codes before Linux 6.15")
    statuses = {one["pid"]: one["status"] for one in trace.processes}
    ((_, children),) = told.items()
    assert [(name, statuses[pid]) for name, pid in children] == [("seven", 7), ("kill", 128 + 9)]


def keeps_exits() -> bool:
    statuses = Statuses(None)
    try:
        with subprocess.Popen(["sleep", "60"]) as child:
            statuses.follow(child.pid)
            child.kill()
        return statuses.of(child.pid) is not None
    finally:
        statuses.close()


def test_a_failure_is_known_while_the_command_lives_on(by: str, shm: Path, tmp_path: Path) -> None:
    """The fault is the last of its thread, and settled when that ends."""
    program = (
        "import ctypes, mmap, os, resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.ftruncate(f, 8192); m = mmap.mmap(f, 8192);"
        "os.ftruncate(f, 4096); ctypes.c_char.from_buffer(m, 4096).value = b'x'"
    )
    command = [sys.executable, "-S", "-c", program, str(shm / "short")]
    waits = "import subprocess, sys; sys.stdin.readline(); subprocess.run(sys.argv[1:]); sys.stdin.readline()"
    status = os.stat(shm)
    subject = Subject(SHM, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "tmpfs")
    process = subprocess.Popen([sys.executable, "-S", "-c", waits, *command], stdin=subprocess.PIPE)
    assert process.stdin is not None
    recorder = Recording(str(tmp_path / "trace"), subject, pid=process.pid, running=True)
    if by == "tracepoints" and not recorder._perf.tracepoints:
        recorder.stop()
        process.kill()
        pytest.skip("the kernel permits no tracepoints here")
    explained = Explained()
    known = threading.Event()
    failed = explained.failed
    explained.failed = lambda *given: (failed(*given), known.set())  # type: ignore[assignment, method-assign]
    recorder.recorder.deaths = explained
    recorder.start()
    process.stdin.write(b"\n")
    process.stdin.flush()
    try:
        assert known.wait(30)
        assert process.poll() is None
    finally:
        process.communicate(b"\n", timeout=30)
        recorder.stop()
    assert [(fault.page, os.path.basename(fault.path)) for fault in explained.faults] == [(1, "short")]
    assert list(seen(stream.Trace(tmp_path / "trace"), FAILED).values()) == [[("short", 1)]]
