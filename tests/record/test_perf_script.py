"""perf(1) as the oracle: it records the same run at the same time, and must have seen the same faults."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from shmfs import trace
from shmfs.client import launch
from shmfs.errors import ShmfsError
from shmfs.system import mounts
from shmfs.testing.plugin import why_absent
from shmfs.tracefile.format import KINDS, SOURCES
from tests.cli.conftest import SHMFS, eventually
from tests.record.conftest import Child
from tests.record.touching import PRELUDE

pytestmark = pytest.mark.mount

SHM = "/dev/shm"

PROGRAM = """
import resource, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
NAMES, PAGES = ["s0", "s1", "s2", "s3"], 160
fds = [segment(name, PAGES) for name in NAMES]
places = [map(fd, PAGES) for fd in fds]

def load(address, page):
    ctypes.c_char.from_address(address + page * PAGE).value

def touch(seed, places, pages):
    chosen = random.Random(seed)
    order = [(place, page) for place in places for page in range(0, pages, chosen.randint(1, 3))]
    chosen.shuffle(order)
    for place, page in order:
        chosen.choice((load, store))(place, page)

def threads():
    several = [threading.Thread(target=touch, args=(n, places, PAGES)) for n in range(10, 13)]
    for thread in several: thread.start()
    for thread in several: thread.join()

def addresses_used_again():
    for n in range(8):
        place = map(fds[n % 4], 20, first=5 * n, flags=1 + n % 2)     # shared, and private
        touch(20 + n, [place], 20)
        map(fds[-1 - n % 4], 7, at=place + 6 * PAGE, first=90)
        touch(30 + n, [place], 20)
        libc.munmap(place, 20 * PAGE)

def kernel():                              # it touches pages for us, and so do its faults
    with open("/dev/zero", "rb", buffering=0) as zero:
        zero.readinto((ctypes.c_char * (64 * PAGE)).from_address(places[1]))

def unlinked():
    place = map(segment("gone", 30), 30)
    os.unlink("gone")
    touch(40, [place], 30)

def executed():
    code = "import mmap, os; f = os.open('s2', 2); m = mmap.mmap(f, 160 * 4096); m[4096] = m[2 * 4096] = 1"
    os.execv(sys.executable, [sys.executable, "-S", "-c", code])

def killed():
    fd = segment("short", 8)
    place = map(fd, 8)
    os.ftruncate(fd, 2 * PAGE)
    touch(50, [place], 2)
    store(place, 5)

works = [lambda n=n: touch(n, places, PAGES) for n in range(4)]
works += [threads, addresses_used_again, kernel, unlinked, executed, killed]
for work in works:
    if os.fork() == 0:
        work()
        os._exit(0)
ended = [os.waitstatus_to_exitcode(os.wait()[1]) for work in works]
assert sorted(ended) == [-signal.SIGBUS] + [0] * (len(works) - 1), ended
"""


EVENTS = "page-faults", "minor-faults", "major-faults"
# With the clock of shmfs, for of one fault the kernel tells everybody the time that the first has asked for
# (kernel/events/core.c:do_perf_sw_event has one perf_sample_data for all). Without -B it fills ~/.debug.
PERF = ["perf", "record", "-q", "-B", "-k", "CLOCK_MONOTONIC", "-m", "512", "-c", "1", "-d"]
PERF += ["-e", ",".join(EVENTS)]
STAT = ["perf", "stat", "-x,", "-e", ",".join(EVENTS)]
SCRIPT = ["perf", "script", "-F", "pid,tid,time,event,addr,ip"]
SCRIPT += ["--show-mmap-events", "--show-task-events", "--show-lost-events"]

SAMPLE = re.compile(r"\s*(\d+)/(\d+) .*: +([a-z]+-faults): +(\w+) +(\w+)")
MMAP = re.compile(r".*PERF_RECORD_MMAP2? (\d+)/\d+: \[0x(\w+)\(0x(\w+)\) @ (?:0x)?(\w+) .*\]: \S+ (.*)")
FORK = re.compile(r".*PERF_RECORD_FORK\((\d+):(\d+)\):\((\d+):\d+\)")
EXEC = re.compile(r".*PERF_RECORD_COMM exec: .*:(\d+)/\d+")


class Touch(NamedTuple):
    """A fault: of a process, at a page of a file, by an instruction."""

    pid: int
    name: str
    page: int
    ip: int


Seen = dict[str, dict[int, list[Touch]]]
"""By event, and then by thread, in order."""


class Told:
    """What `perf script` tells: faults on files below a directory, and their number whatever they are on."""

    def __init__(self, lines: list[str], directory: str) -> None:
        self.seen: Seen = {event: {} for event in EVENTS}
        self.counted = dict.fromkeys(EVENTS, 0)
        """Of the command of `perf stat`, from its exec on."""
        self._directory = directory
        self._pages: dict[int, dict[int, tuple[str, int]]] = {}
        """By pid and page of its memory: name and page of the file that is mapped there."""
        self._executed: list[int] = []
        self._command: set[int] = set()
        for line in lines:
            self._take(line)

    def _take(self, line: str) -> None:
        if sample := SAMPLE.fullmatch(line):
            self._fault(sample[3], int(sample[1]), int(sample[2]), int(sample[4], 16), int(sample[5], 16))
        elif mapped := MMAP.fullmatch(line):
            self._map(int(mapped[1]), *(int(word, 16) >> 12 for word in mapped.group(2, 3, 4)), mapped[5])
        elif forked := FORK.fullmatch(line):
            child, thread, parent = (int(word) for word in forked.groups())
            if child == thread:
                self._pages[child] = dict(self._pages.get(parent, {}))
                self._command |= {child} if parent in self._command else set()
        elif executed := EXEC.fullmatch(line):
            pid = int(executed[1])
            self._pages[pid] = {}
            if self._executed and pid != self._executed[0]:  # that is perf(1) itself
                self._command.add(pid)
            self._executed.append(pid)
        assert "PERF_RECORD_LOST" not in line

    def _map(self, pid: int, first: int, count: int, offset: int, path: str) -> None:
        pages = self._pages.setdefault(pid, {})
        for page in [page for page in pages if first <= page < first + count]:
            del pages[page]
        name = path.removesuffix(" (deleted)")
        if name.startswith(self._directory + "/"):
            pages.update({first + n: (name[len(self._directory) + 1 :], offset + n) for n in range(count)})

    def _fault(self, event: str, pid: int, tid: int, address: int, ip: int) -> None:
        self.counted[event] += pid in self._command
        place = self._pages.get(pid, {}).get(address >> 12)
        if place:
            self.seen[event].setdefault(tid, []).append(Touch(pid, *place, ip))


def recorded(path: Path, directory: str) -> Seen:
    """What the trace has of files below a directory, as perf would tell it."""
    seen: Seen = {event: {} for event in EVENTS}
    with trace.open(path) as opened:
        assert opened.done is not None
        assert opened.done.lost == 0
        pids = {one["process"]: one["pid"] for one in opened.processes}
        paths = {one["segment"]: opened.meta.mount + one["path"] for one in opened.segments}
        faults = opened.fault_array()
    for fault in np.sort(faults[faults["source"] == SOURCES.index("perf")], order="time"):
        name = paths[int(fault["segment"])].removeprefix(directory + "/")
        if name.startswith("/"):
            continue
        touch = Touch(pids[int(fault["process"])], name, int(fault["page"]), int(fault["ip"]))
        for event in ("page-faults", f"{KINDS[fault['kind']]}-faults"):
            if event in seen:  # what failed is a page fault, and of neither kind
                seen[event].setdefault(int(fault["tid"]), []).append(touch)
    return seen


def compare(data: Path, counts: Path, path: Path, directory: str) -> None:
    """Recall and precision are 1 if the two are the same."""
    script = subprocess.run([*SCRIPT, "-i", data], capture_output=True, text=True, timeout=60, check=True)
    told, seen = Told(script.stdout.splitlines(), directory), recorded(path, directory)
    for event in EVENTS:
        assert seen[event] == told.seen[event], event
    stat = [line.split(",") for line in counts.read_text().splitlines() if "-faults" in line]
    assert {event: int(count) for count, _, event, *_ in stat} == told.counted  # perf has lost nothing either
    touches = [touch for touches in told.seen["page-faults"].values() for touch in touches]
    assert len({touch.pid for touch in touches}) == 10
    assert {touch.name for touch in touches} == {"s0", "s1", "s2", "s3", "gone", "short"}
    assert len(touches) > 1000


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """PROGRAM under perf(1), but for its directory: samples go to `data`, counts to `counts`."""
    if os.geteuid() != 0:
        pytest.skip("to record everybody, and as perf(1) does it, takes root")
    if shutil.which("perf") is None:
        pytest.skip("perf(1) is missing: Debian's package linux-perf")
    perf = [*PERF, "-o", str(tmp_path / "data"), "--", *STAT, "-o", str(tmp_path / "counts"), "--"]
    tried = subprocess.run([*perf, "true"], capture_output=True, text=True, timeout=60)
    if tried.returncode:
        pytest.skip(f"perf(1) may not record here: {tried.stderr.strip()}")
    return [*perf, sys.executable, "-S", "-c", PRELUDE + PROGRAM]


def options(pages: str) -> list[str]:
    """Mount options for a store, where there is one."""
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    return ["-o", f"pages={pages}"]


@pytest.mark.parametrize("pages", ["managed", "native"])
def test_a_command(pages: str, command: list[str], tmp_path: Path) -> None:
    shmfs = [*SHMFS, "run", "-q", *options(pages), "--trace", str(tmp_path / "trace"), "--"]
    done = subprocess.run([*shmfs, *command, SHM], capture_output=True, text=True, timeout=120)
    if "native pages cannot be had" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    compare(tmp_path / "data", tmp_path / "counts", tmp_path / "trace", SHM)


@pytest.fixture(params=["tmpfs", "managed", "native"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on the kernel's tmpfs, or a mount of shmfs."""
    if request.param == "tmpfs":
        mount = mounts.containing(SHM)
        if mount is None or mount.fstype != "tmpfs":
            pytest.skip("needs a tmpfs of the kernel on /dev/shm")
        with tempfile.TemporaryDirectory(prefix="shmfs-test-", dir=SHM) as path:
            yield Path(path)
        return
    path = tmp_path / "mount"
    path.mkdir()
    done = subprocess.run(
        [*SHMFS, "mount", *options(request.param), path], capture_output=True, text=True, timeout=60
    )
    if "native pages cannot be had" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    try:
        yield path
    finally:
        launch.umount(str(path))


def test_everybody(directory: Path, command: list[str], tmp_path: Path, child: Callable[[], Child]) -> None:
    (directory / "before").write_bytes(bytes(4096))
    child().map(directory / "before", 4096)
    words = [*SHMFS, "record", "--trace", str(tmp_path / "trace"), str(directory)]
    recorder = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: begun(tmp_path / "trace") or recorder.poll() is not None)
        done = subprocess.run([*command, directory], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    finally:
        recorder.send_signal(signal.SIGINT)
        _, said = recorder.communicate(timeout=60)
    assert (recorder.returncode, said.splitlines()[-1].split()[1:3]) == (0, ["faults", "in"]), said
    compare(tmp_path / "data", tmp_path / "counts", tmp_path / "trace", str(directory))


def begun(path: Path) -> bool:
    """Whether a recorder has looked at what was mapped before, which it does once it sees everything."""
    try:
        with trace.open(path) as opened:
            return any(one["path"].endswith("/before") for one in opened.segments)
    except (ShmfsError, OSError):
        return False
