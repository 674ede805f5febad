"""Signals of failure and failed calls: what the probe records, and what the processes know themselves."""

import contextlib
import os
import platform
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmfs.errors import ShmfsError
from shmfs.system import syscall_table, syscalls
from shmfs.tracing import bpf, btf, layout, perf, probe, processors
from shmfs.tracing.changes import Exec, FailedCall, Fork, Mmap, Signal, Written
from shmfs.tracing.decode import Decoded, decode
from shmfs.tracing.perf import Perf

needs_bpf = pytest.mark.skipif(bool(probe.why_not()), reason=probe.why_not() or "permitted")
needs_pids = pytest.mark.skipif(
    os.stat("/proc/self/ns/pid").st_ino != layout.INITIAL_PID_NAMESPACE,
    reason="needs the initial pid namespace, to know the targets of signals that were sent",
)
WRITE, FTRUNCATE = {"x86_64": (1, 77), "aarch64": (64, 46)}.get(platform.machine(), (0, 0))
PAGE = 4096
LIMIT = 256
"""Pages of the places where files are."""

PRELUDE = r"""
import ctypes, os, resource, signal, sys, threading
PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]

def segment(pages, mapped):
    global fd
    fd = os.open(os.path.join(sys.argv[1], "segment"), os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, pages * PAGE)
    return libc.mmap(None, mapped * PAGE, 3, 1, fd, 0)

def store(address):
    ctypes.memset(address, 1, 1)

class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p)]

@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def replace(number, info, context):
    address = ctypes.c_uint64.from_address(info + 16).value
    os.write(1, b"%d %d\n" % (threading.get_native_id(), address))
    libc.mmap(address & -PAGE, PAGE, 3, 0x32, -1, 0)  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS

def handle():
    action = Action(ctypes.cast(replace, ctypes.c_void_p).value, flags=4)  # SA_SIGINFO
    libc.sigaction(7, ctypes.byref(action), None)
"""


class Watch:
    """All signals and failed calls on the machine, from the beginning on, and what became of children."""

    def __init__(self, *, calls: bool = False) -> None:
        self.perf = Perf(os.getpid(), faults=False, signals=True, calls=calls)
        self.perf.enable()
        assert self.perf.signals, self.perf.notes
        self.found = Decoded()

    def read(self) -> Decoded:
        for cpu, ring in enumerate(self.perf.rings):
            decoded = decode(ring.read(), self.perf.events, cpu)
            for name in ("samples", "changes", "signals", "failed_calls"):
                getattr(self.found, name).extend(getattr(decoded, name))
            self.found.lost += decoded.lost
        return self.found

    def signals_of(self, *pids: int) -> list[Signal]:
        found = [one for one in self.read().signals if {one.pid, one.sender} & set(pids)]
        return sorted(found, key=lambda one: one.time)

    def failed_calls_of(self, pid: int) -> list[FailedCall]:
        return sorted((one for one in self.read().failed_calls if one.pid == pid), key=lambda one: one.time)


MakeWatch = Callable[..., Watch]


@pytest.fixture
def watch() -> Iterator[MakeWatch]:
    with contextlib.ExitStack() as ends:

        def make(**options: Any) -> Watch:
            made = Watch(**options)
            ends.callback(made.perf.close)
            return made

        yield make


@pytest.fixture(params=["tmpfs", "managed", "native"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of `LIMIT` pages: the kernel's, and shmfs with each store."""
    size = f"size={LIMIT * PAGE}"
    if request.param != "tmpfs":
        try:
            yield request.getfixturevalue("shmfs_mount")(options=f"{size},pages={request.param}").path
        except ShmfsError as failure:
            pytest.skip(str(failure))
        return
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs of the kernel")
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", 0, size)
    yield tmp_path
    syscalls.umount(str(tmp_path))


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """What is on the kernel's tmpfs only."""
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", 0, f"size={LIMIT * PAGE}")
    yield tmp_path
    syscalls.umount(str(tmp_path))


def start(program: str, place: Path | str = ".") -> "subprocess.Popen[str]":
    command = [sys.executable, "-S", "-c", PRELUDE + program, str(place)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(program: str, place: Path | str = ".") -> tuple[int, int, list[list[int]]]:
    """The pid, the exit status, and the numbers of each line that the program prints."""
    process = start(program, place)
    output, _ = process.communicate(timeout=60)
    return (
        process.pid,
        process.returncode,
        [[int(word) for word in line.split()] for line in output.splitlines()],
    )


@needs_bpf
def test_beyond_the_end(watch: MakeWatch, place: Path) -> None:
    watching = watch()
    program = (
        "base = segment(2, 8); print(base, flush=True); store(base + PAGE); store(base + 3 * PAGE + 123)"
    )
    pid, status, [[base]] = run(program, place)
    assert status == -signal.SIGBUS
    [found] = watching.signals_of(pid)
    assert found == Signal(found.time, pid, pid, 7, 2, base + 3 * PAGE + 123, 0, 0, (0, 0, 0))


@needs_bpf
def test_without_space(watch: MakeWatch, place: Path) -> None:
    watching = watch()
    program = f"base = segment({2 * LIMIT}, {2 * LIMIT}); print(base, flush=True)\n"
    program += f"for page in range({2 * LIMIT}): store(base + page * PAGE)"
    pid, status, [[base]] = run(program, place)
    assert status == -signal.SIGBUS
    [found] = watching.signals_of(pid)
    assert (found.code, found.address) == (2, base + LIMIT * PAGE)


@needs_bpf
def test_handled_again_and_again_in_two_threads(watch: MakeWatch, place: Path) -> None:
    watching = watch()
    program = """
base = segment(0, 64)
handle()
def use(first):
    for page in range(first, first + 20):
        store(base + page * PAGE + page)
threads = [threading.Thread(target=use, args=(first,)) for first in (0, 32)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    pid, status, lines = run(program, place)
    assert status == 0
    assert len(lines) == 40
    found = watching.signals_of(pid)
    assert sorted((one.tid, one.address) for one in found) == sorted(map(tuple, lines))
    assert {(one.pid, one.number, one.code, one.sender) for one in found} == {(pid, 7, 2, 0)}
    assert len({one.tid for one in found}) == 2


@needs_bpf
@needs_pids
def test_sent_by_another_process(watch: MakeWatch) -> None:
    watching = watch()
    target = start("print(1, flush=True); sys.stdin.read()")
    assert target.stdout
    target.stdout.readline()
    sender = subprocess.Popen(["sh", "-c", f"kill -7 {target.pid}"])
    assert sender.wait(60) == 0
    target.communicate(timeout=60)
    assert target.returncode == -signal.SIGBUS
    [found] = watching.signals_of(target.pid)
    expected = Signal(found.time, target.pid, target.pid, 7, 0, 0, sender.pid, 0, (0, 0, 0))
    assert found == expected


@needs_bpf
def test_sent_to_itself(watch: MakeWatch) -> None:
    watching = watch()
    pid, status, _ = run("signal.pthread_kill(threading.get_ident(), 7)")
    assert status == -signal.SIGBUS
    [found] = watching.signals_of(pid)
    assert (found.pid, found.code, found.address, found.sender) == (pid, -6, 0, pid)


@needs_bpf
def test_a_timer_is_no_sender(watch: MakeWatch) -> None:
    watching = watch()
    program = """
class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("number", ctypes.c_int), ("rest", ctypes.c_int * 13)]
timer = ctypes.c_void_p()
assert libc.timer_create(0, ctypes.byref(Event(0, 7)), ctypes.byref(timer)) == 0
libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1000000), None)
signal.pause()
"""
    pid, status, _ = run(program)
    assert status == -signal.SIGBUS
    assert [(one.code, one.sender) for one in watching.signals_of(pid)] == [(-2, 0)]


@needs_bpf
@pytest.mark.parametrize("action", ["SIG_DFL", "SIG_IGN"])
def test_beyond_the_limit_of_file_sizes(watch: MakeWatch, place: Path, action: str) -> None:
    watching = watch()
    program = f"""
signal.signal(signal.SIGXFSZ, signal.{action})
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PAGE, 2 * PAGE))
segment(2, 2)
print(fd, flush=True)
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]) & 127)
try:
    os.lseek(fd, 2 * PAGE, 0)
    os.write(fd, bytes(100))
except OSError:
    os.ftruncate(fd, 12345)
"""
    pid, _, [[fd]] = run(program, place)
    forks = {one.pid for one in watching.read().changes if isinstance(one, Fork) and one.parent == pid}
    found = watching.signals_of(*forks)
    assert {(one.number, one.code, one.address, one.sender) for one in found} == {(25, 0x80, 0, 0)}
    calls = [(one.call, one.arguments[0], one.arguments[2 if one.call == WRITE else 1]) for one in found]
    assert calls == [(WRITE, fd, 100), (FTRUNCATE, fd, 12345)][: 1 if action == "SIG_DFL" else 2]
    assert [one.file for one in found] == written(place, 2 * PAGE, len(calls))


def written(place: Path, limit: int, times: int) -> list[Written | None]:
    """What calls that were to write to the segment have recorded of it, though the process has ended."""
    if not os.path.exists(btf.VMLINUX):
        return [None] * times
    status = (place / "segment").stat()
    device = os.major(status.st_dev), os.minor(status.st_dev)
    return [Written(device, status.st_ino, limit & (1 << 64) - 1)] * times


@needs_bpf
@pytest.mark.skipif(not os.path.exists(btf.VMLINUX), reason="the kernel does not describe its types")
def test_the_file_that_a_copy_was_to_be_written_to(watch: MakeWatch, tmpfs: Path) -> None:
    """splice(2) and copy_file_range(2) name it third, sendfile(2) first."""
    watching = watch(calls=True)
    program = f"""
segment(0, 1)
os.write(fd, bytes({LIMIT} * PAGE))
other = os.open(sys.executable, os.O_RDONLY)
reader, writer = os.pipe()
os.write(writer, b"x" * 100)
for copy in (lambda: os.copy_file_range(fd, fd, 4096, 0), lambda: os.splice(reader, fd, 100),
             lambda: os.sendfile(fd, other, 0, 100)):
    try: copy()
    except OSError as error: print(error.errno, flush=True)
"""
    pid, status, errors = run(program, tmpfs)
    assert (status, errors) == (0, [[28]] * 3)
    found = watching.failed_calls_of(pid)
    assert [one.file for one in found] == written(tmpfs, resource.RLIM_INFINITY, 3)


@needs_bpf
@pytest.mark.skipif(platform.machine() != "x86_64", reason="a program for x86")
def test_a_program_of_32_bits(watch: MakeWatch, tmpfs: Path) -> None:
    """Its calls have other numbers, so none is recorded."""
    code = bytes.fromhex("b85d000000 31db b939300000 cd80 89c3 b801000000 cd80")  # exit(ftruncate(0, 12345))
    header = (
        b"\x7fELF\1\1\1"
        + bytes(9)
        + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x10054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    )
    segment = struct.pack("<8I", 1, 0, 0x10000, 0x10000, 84 + len(code), 84 + len(code), 5, 4096)
    (tmpfs / "program").write_bytes(header + segment + code)
    (tmpfs / "program").chmod(0o755)
    watching = watch()
    with (tmpfs / "file").open("w") as file:
        limited = ["prlimit", "--fsize=4096", str(tmpfs / "program")]
        process = subprocess.Popen(limited, stdin=file, stderr=subprocess.PIPE)
        _, complaint = process.communicate(timeout=60)
    if b"Exec format error" in complaint:
        pytest.skip("the kernel runs no programs of 32 bits")
    found = [(one.number, one.call, one.arguments) for one in watching.signals_of(process.pid)]
    assert found == [(25, 0, (0, 0, 0))]


@needs_bpf
def test_other_signals(watch: MakeWatch) -> None:
    watching = watch()
    program = """
signal.signal(7, signal.SIG_IGN)
signal.signal(10, signal.SIG_IGN)
os.kill(os.getpid(), 7)
os.kill(os.getpid(), 10)
ctypes.string_at(0)
"""
    pid, status, _ = run(program)
    assert status == -signal.SIGSEGV
    assert watching.signals_of(pid) == []


@needs_bpf
def test_a_reader_is_woken_at_once(watch: MakeWatch, tmpfs: Path) -> None:
    watching = watch()
    poll = select.poll()
    poll.register(watching.perf, select.POLLIN)
    process = start("base = segment(0, 1); handle(); store(base); sys.stdin.read()", tmpfs)
    try:
        while not watching.signals_of(process.pid):
            assert poll.poll(60_000), "not woken"
    finally:
        process.communicate(timeout=60)


@needs_bpf
def test_mappings_and_processes_without_faults(watch: MakeWatch, tmpfs: Path) -> None:
    watching = watch()
    pid, _, _ = run("base = segment(0, 5); store(base)", tmpfs)
    found = watching.read()
    assert found.samples == []
    changes = [one for one in found.changes if one.pid == pid]
    assert {type(one) for one in changes} >= {Fork, Exec, Mmap}
    [signalled] = watching.signals_of(pid)
    [mapped] = [one for one in changes if isinstance(one, Mmap) and one.path.endswith(b"/segment")]
    assert mapped.address == signalled.address
    assert mapped.time < signalled.time


@needs_bpf
def test_calls_without_space(watch: MakeWatch, place: Path) -> None:
    watching = watch(calls=True)
    program = f"""
segment(0, 1)
print(fd, flush=True)
os.write(fd, bytes({LIMIT} * PAGE))
for attempt in range(3):
    try: os.write(fd, bytes(100 + attempt))
    except OSError as error: assert error.errno == 28
resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, PAGE))
try: os.ftruncate(fd, 12345678)
except OSError as error: assert error.errno == 27
try: os.close(99)
except OSError: pass
"""
    pid, status, [[fd]] = run(program, place)
    assert status == 0
    found = watching.failed_calls_of(pid)
    assert [(one.call, one.error, one.arguments[0]) for one in found] == [
        *[(WRITE, 28, fd)] * 3,
        (FTRUNCATE, 27, fd),
    ]
    assert [one.arguments[2] for one in found[:3]] == [100, 101, 102]
    assert found[3].arguments[1] == 12345678
    assert [one.file for one in found] == written(place, resource.RLIM_INFINITY, 3) + written(place, PAGE, 1)


BEYOND = """
for name in ("mlock", "madvise"):
    getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * (name == "madvise")
base = segment(1, 4)
print(base, flush=True)
"""
"""Pages behind the end of a file."""
LOCKED = "assert libc.mlock(base, 4 * PAGE) == -1"


@needs_bpf
def test_calls_that_could_not_bring_pages_in(watch: MakeWatch, place: Path) -> None:
    watching = watch(calls=True)
    program = f"""
{BEYOND}
{LOCKED}
assert libc.madvise(base, 4 * PAGE, 22) == libc.madvise(base, 4 * PAGE, 23) == -1
assert libc.madvise(base, 4 * PAGE, 99) == libc.madvise(PAGE, PAGE, 3) == -1  # other advice
libc.mlock(base, PAGE)
try: os.write(fd, (ctypes.c_char * PAGE).from_address(base + 2 * PAGE))  # EFAULT of another call
except OSError: pass
"""
    pid, status, [[base]] = run(program, place)
    assert status == 0
    found = [
        (syscall_table.NAMES[one.call], one.error, one.arguments) for one in watching.failed_calls_of(pid)
    ]
    assert found[0] == ("mlock", 12, (base, 4 * PAGE, found[0][2][2]))
    assert found[1:] == [("madvise", 14, (base, 4 * PAGE, advice)) for advice in (22, 23)]


@needs_bpf
@pytest.mark.skipif(not os.path.exists(btf.VMLINUX), reason="the kernel does not describe its types")
@pytest.mark.parametrize(
    ("before", "limit"),
    [
        ("", probe.UNLIMITED),
        ("os.setresuid(65534, 65534, 65534)", 8 * PAGE),
        ("assert libc.unshare(0x10000000) == 0", 8 * PAGE),  # its capabilities are of no use here
    ],
    ids=["root", "nobody", "user namespace"],
)
def test_the_memory_that_a_process_may_lock(watch: MakeWatch, place: Path, before: str, limit: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root, to become somebody else")
    watching = watch(calls=True)
    change = f"resource.setrlimit(resource.RLIMIT_MEMLOCK, ({8 * PAGE},) * 2); {before}"
    pid, status, _ = run(f"{BEYOND}\n{change}\n{LOCKED}", place)
    assert status == 0
    assert [one.memlock for one in watching.failed_calls_of(pid)] == [limit]


@needs_bpf
def test_descriptors(watch: MakeWatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    watching = watch(calls=True)
    listed = [f"/proc/self/fd/{fd}" for fd in set(os.listdir("/proc/self/fd")) - before]
    new = {os.path.basename(path): os.readlink(path) for path in listed if os.path.lexists(path)}
    assert set(new.values()) >= {"anon_inode:bpf-map", "anon_inode:bpf-prog", "anon_inode:[perf_event]"}
    assert not any(os.get_inheritable(int(fd)) for fd in new)
    watching.perf.close()
    assert set(os.listdir("/proc/self/fd")) == before


@needs_bpf
def test_alone_and_detached() -> None:
    """The probe with rings of its own, which stay when it is closed."""
    with contextlib.ExitStack() as ends:
        probing = probe.Probe()
        ends.callback(probing.close)
        rings, events = [], {}
        for cpu in processors.online():
            flags = perf._SAMPLE_ID_ALL | perf._USE_CLOCKID
            sample = perf.IDENTIFIER | perf.TID | perf.TIME | perf.RAW
            fd = perf._perf_event_open(perf._SOFTWARE, perf._BPF_OUTPUT, sample, flags, -1, cpu, wakeup=1)
            ends.callback(os.close, fd)
            rings.append(perf.Ring(fd, 1 << 16))
            ends.callback(rings[-1].close)
            events[perf._identifier(fd)] = perf.Event.SIGNAL
            probing.emit_to(cpu, fd)

        def signals() -> int:
            pid, status, _ = run("os.kill(os.getpid(), 7)")
            assert status == -signal.SIGBUS
            decoded = [decode(ring.read(), events, 0) for ring in rings]
            return sum(found.pid == pid for one in decoded for found in one.signals)

        assert signals() == 0
        probing.attach()
        assert signals() == 1
        probing.close()
        assert signals() == 0


@needs_bpf
def test_in_another_pid_namespace() -> None:
    """Faults have the pids of the namespace; the target of a signal that was sent is not known."""
    program = """
import os, signal, subprocess, sys
from shmfs.tracing.decode import decode
from shmfs.tracing.perf import Perf
watch = Perf(os.getpid(), faults=False, signals=True)
assert watch.signals, watch.notes
fault = "import mmap, os; fd = os.memfd_create('x'); os.ftruncate(fd, 9); m = mmap.mmap(fd, 9); "
fault += "os.ftruncate(fd, 0); m[0]"
faulting = subprocess.Popen([sys.executable, "-S", "-c", fault])
assert faulting.wait() == -7
sleeping = subprocess.Popen(["sleep", "60"])
sleeping.send_signal(7)
sleeping.wait()
found = [one for ring in watch.rings for one in decode(ring.read(), watch.events, 0).signals]
found = [(one.pid, one.tid, one.code, one.sender) for one in sorted(found, key=lambda one: one.time)]
assert (faulting.pid, faulting.pid, 2, 0) in found, found
assert (0, 0, 0, os.getpid()) in found, found
print("right")
"""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.stderr.startswith("unshare"):
        pytest.skip(f"needs a pid namespace: {done.stderr.strip()}")
    assert done.stdout == "right\n", done.stderr


def test_in_a_user_namespace() -> None:
    program = "from shmfs.tracing import probe; print(probe.why_not())"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.stderr.startswith("unshare"):
        pytest.skip(f"needs user namespaces: {done.stderr.strip()}")
    assert done.stdout.endswith("; it is not permitted in a user namespace\n"), done.stderr


def test_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "_bpf", refused)
    before = os.listdir("/proc/self/fd")
    try:
        watching = Perf(os.getpid(), faults=False, signals=True)
    except ShmfsError as failure:
        pytest.skip(str(failure))
    assert not watching.signals
    [note] = [note for note in watching.notes if "signals" in note]
    assert "cannot create a map: Operation not permitted" in note
    watching.close()
    assert os.listdir("/proc/self/fd") == before


@needs_bpf
def test_a_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, watch: MakeWatch) -> None:
    """Without the registers there are no system calls; the rest stays."""
    load = bpf.load

    def without(program: bpf.Program, name: str) -> int:
        if any(call[0] == bpf._CALL and call[3] == bpf.Helper.TASK_PT_REGS for call in program._code):
            raise bpf.BpfRefusedError("the kernel's verifier refuses the program: no kernel BTF")
        return load(program, name)

    monkeypatch.setattr(bpf, "load", without)
    watching = watch()
    pid, _, _ = run("os.kill(os.getpid(), 25); os.kill(os.getpid(), 7)")
    assert [(one.number, one.call) for one in watching.signals_of(pid)] == [(25, 0), (7, 0)]


def test_the_record_is_as_long_as_its_fields() -> None:
    ends = [offset + np.dtype(kind).itemsize for kind, offset in probe.RECORD.values()]
    assert max(ends) == probe.RECORD_BYTES
