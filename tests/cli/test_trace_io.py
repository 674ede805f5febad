"""`shmfs run --trace-io`: every read and write of a native file in the trace, and the same content."""

import json
import mmap
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import shmfs.trace
from shmfs.client import control, launch
from shmfs.errors import ShmfsError
from shmfs.testing.plugin import why_absent
from tests.cli.conftest import SHMFS, Cli, alive, eventually

pytestmark = pytest.mark.mount

CALLS = """
import ctypes, mmap, os, sys, threading
said = sys.argv[1]
os.chdir(sys.argv[2])
PAGE = 4096
fd = os.open("data", os.O_RDWR | os.O_CREAT, 0o600)
events = []

def write(data, offset):
    events.append(["write", offset, os.pwrite(fd, data, offset), os.getpid(), threading.get_native_id()])

def read(length, offset):
    data = os.pread(fd, length, offset)
    events.append(["read", offset, len(data), os.getpid(), threading.get_native_id()])
    return data

for page in range(8):
    write(bytes([page]) * PAGE, page * PAGE)
memory = mmap.mmap(fd, 8 * PAGE)
assert memory[3 * PAGE] == 3
memory[5:9] = b"mmap"
assert read(13, 0) == bytes(5) + b"mmap" + bytes(4)
write(b"call", 4095)  # across two pages, and not aligned
assert memory[4094:4100] == b"\\0call\\1"
assert read(100, 8 * PAGE - 1) == b"\\7"
assert read(100, 1 << 30) == b""
with open("data", "rb", buffering=0) as other:
    assert other.readinto(bytearray(10)) == 10
    events.append(["read", 0, 10, os.getpid(), os.getpid()])
thread = threading.Thread(target=read, args=(77, 1))
thread.start()
thread.join()
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    events.append(["read", 0, 5, child, child])
else:
    read(5, 0)
    os._exit(0)
appended = os.open("data", os.O_WRONLY | os.O_APPEND)
os.write(appended, b"end")
events.append(["write", 8 * PAGE, 3, os.getpid(), os.getpid()])
assert os.fstat(fd).st_size == 8 * PAGE + 3
import hashlib, json
content = hashlib.sha256(memory[:]).hexdigest()
with open(said, "w") as file:
    json.dump([content, events], file)
"""

needs_native = pytest.mark.skipif(os.geteuid() != 0, reason="native pages need root")

FIELDS = "event", "offset", "length", "pid", "tid"


@pytest.fixture(autouse=True)
def _fuse() -> None:
    if reason := why_absent():
        pytest.skip(f"no FUSE here: {reason}")


class Mounted(NamedTuple):
    """A mount with native pages."""

    path: Path
    device: str


@pytest.fixture
def native(cli: Cli, directory: Path) -> Iterator[Mounted]:
    done = cli("mount", "--json", "-o", "pages=native", directory)
    if "native pages cannot be had" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    mount = json.loads(done.stdout)
    yield Mounted(directory, mount["device"])
    launch.umount(str(directory))
    eventually(lambda: not alive(mount["pid"]))


@contextmanager
def recorded(mounted: Mounted, trace: Path) -> Iterator["subprocess.Popen[str]"]:
    """`shmfs record --trace-io`, once it records; killed if it does not end."""
    path = mounted.path / "mapped"
    path.write_bytes(bytes(4096))
    words = [*SHMFS, "record", "--trace-io", "--trace", str(trace), str(mounted.path)]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        recorder = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            eventually(lambda: begun(trace) or recorder.poll() is not None)
            yield recorder
        finally:
            recorder.kill()
            recorder.communicate(timeout=60)


def begun(trace: Path) -> bool:
    """Whether a recorder has looked at what was mapped before, which it does once it sees everything."""
    try:
        with shmfs.trace.open(trace) as opened:
            return bool(opened.segments)
    except (ShmfsError, OSError):
        return False


def calls(trace: Path) -> list[dict[str, Any]]:
    with shmfs.trace.open(trace) as opened:
        return [one for one in opened.events() if one["event"] in ("read", "write")]


@pytest.fixture
def traced(cli: Cli, tmp_path: Path) -> tuple[Path, str, list[list[Any]]]:
    """A trace of CALLS, the checksum of what it left, and the calls that it made."""
    trace, said = tmp_path / "a.shmtrace", tmp_path / "said"
    program = ("--", sys.executable, "-c", CALLS, said, "/dev/shm")
    done = cli("run", "-q", "--trace", trace, "--trace-io", *program)
    if "native pages cannot be had" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    content, events = json.loads(said.read_text())
    without = cli("run", "-q", "--trace", tmp_path / "b.shmtrace", "-o", "pages=native", *program)
    assert (without.returncode, without.stderr) == (0, "")
    assert json.loads(said.read_text())[0] == content
    assert not calls(tmp_path / "b.shmtrace")
    return trace, content, events


@needs_native
def test_every_call_is_in_the_trace_with_its_figures(
    cli: Cli, traced: tuple[Path, str, list[list[Any]]]
) -> None:
    trace, _, made = traced
    seen = calls(trace)
    assert sorted([one[name] for name in FIELDS] for one in seen) == sorted(made)
    assert {(one["path"], one["source"]) for one in seen} == {("/data", "fuse")}

    exported = [json.loads(line) for line in cli("export", "-f", "jsonl", trace).stdout.splitlines()]
    assert [
        {name: one[name] for name in seen[0]} for one in exported if one["event"] in ("read", "write")
    ] == seen

    reported = json.loads(cli("report", "--json", trace).stdout)
    segment = next(one for one in reported["segments"] if one["path"] == "/data")
    assert segment["calls"] == _sum(made)
    pids = Counter(pid for *_, pid, _ in made)
    assert len(pids) == 2
    by_id = {one["process"]: one["pid"] for one in reported["processes"]}
    uses = {by_id[use["process"]]: use["calls"] for use in segment["used_by"] if use["calls"]}
    processes = {one["pid"]: one["calls"] for one in reported["processes"] if one["calls"]}
    assert uses == processes == {pid: _sum([one for one in made if one[3] == pid]) for pid in pids}

    shown = cli("report", trace).stdout
    assert "read(), write(): fuse, exact" in shown
    heading = next(line for line in shown.splitlines() if line.startswith("SEGMENT"))
    assert heading.index("READ()") < heading.index("WRITE()")


def _sum(made: list[list[Any]]) -> dict[str, int]:
    read = [length for event, _, length, *_ in made if event == "read"]
    written = [length for event, _, length, *_ in made if event == "write"]
    return {
        "reads": len(read),
        "bytes_read": sum(read),
        "writes": len(written),
        "bytes_written": sum(written),
    }


@pytest.mark.parametrize(
    ("options", "wrong"), [("pages=managed", "pages=managed"), ("readahead=4", "readahead")]
)
def test_the_managed_store_has_no_calls_to_show(cli: Cli, tmp_path: Path, options: str, wrong: str) -> None:
    (tmp_path / "old").write_bytes(b"kept")
    for name in "new", "old":
        done = cli("run", "-o", options, "--trace", tmp_path / name, "--trace-io", "--", "true")
        assert done.returncode == 125
        assert (
            done.stderr
            == f"shmfs: read and write calls can be traced on native pages only; leave {wrong} out\n"
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"kept"}


def test_a_trace_is_needed(cli: Cli) -> None:
    done = cli("run", "--trace-io", "--", "true")
    assert done.returncode == 125
    assert done.stderr == "shmfs: --trace-io writes into a trace; name its file with --trace FILE\n"


def test_without_the_rights(tmp_path: Path) -> None:
    """As root of a user namespace, which is nobody outside."""
    words = ["unshare", "-Urm", *SHMFS, "run", "--trace", str(tmp_path / "t"), "--trace-io", "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if "unshare failed" in done.stderr:
        pytest.skip("needs user namespaces")
    assert done.returncode == 125
    reason, said = done.stderr.removeprefix("shmfs: ").rsplit("; ", 1)
    assert said == "leave --trace-io out, which needs them\n"
    assert reason.startswith("native pages cannot be had: Operation not permitted")
    assert not (tmp_path / "t").exists()


SENDFILE = """
import mmap, os, time
fd = os.open("/dev/shm/data", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(fd, 1 << 20)
memory = mmap.mmap(fd, 1 << 20)
reader, writer = os.pipe()

def sent():
    os.sendfile(writer, fd, 8192, 4)
    return os.read(reader, 4)

for number in range(5):
    memory[8192:8196] = data = number.to_bytes(4, "little")
    end = time.monotonic() + 20
    while sent() != data:  # the kernel's cache follows a moment later
        assert time.monotonic() < end, number
        time.sleep(0.01)
os.pwrite(fd, b"call", 8192)
assert sent() == b"call"
"""


@needs_native
def test_sendfile_sees_what_a_mapping_stored(cli: Cli, tmp_path: Path) -> None:
    trace = tmp_path / "t"
    done = cli("run", "-q", "--trace", trace, "--trace-io", "--", sys.executable, "-c", SENDFILE)
    if "native pages cannot be had" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    assert [one["event"] for one in calls(trace)] == ["write"]


@needs_native
def test_of_a_mount_that_is_there(cli: Cli, native: Mounted, tmp_path: Path) -> None:
    """Calls on files that are opened while somebody records, and no others."""
    trace, said = tmp_path / "a.shmtrace", tmp_path / "said"
    with (native.path / "old").open("w+b", buffering=0) as old, recorded(native, trace) as recorder:
        old.write(b"opened before")
        done = subprocess.run([sys.executable, "-c", CALLS, said, native.path], timeout=60)
        recorder.send_signal(signal.SIGINT)
        recorder.wait(timeout=60)
    assert (done.returncode, recorder.returncode) == (0, 0)
    made = json.loads(said.read_text())[1]
    assert sorted([one[name] for name in FIELDS] for one in calls(trace)) == sorted(made)
    with shmfs.trace.open(trace) as opened:
        assert {"read", "write"} <= {figure for source in opened.meta.sources for figure in source.figures}
    assert "read(), write(): fuse, exact" in cli("report", trace).stdout


@needs_native
def test_a_recorder_that_is_killed_leaves_nothing_switched_on(native: Mounted, tmp_path: Path) -> None:
    with ExitStack() as files:

        def opened(name: str) -> int:
            return files.enter_context((native.path / name).open("w+b", buffering=0)).fileno()

        with recorded(native, tmp_path / "trace") as recorder:
            marker = opened("marker")
            recorder.kill()
            recorder.wait(timeout=60)
        numbers = count()
        eventually(lambda: not told(native, opened(f"file{next(numbers)}"), marker))


def told(mounted: Mounted, fd: int, marker: int) -> bool:
    """Whether calls on `fd` come to the daemon, as those on `marker` do since it was opened."""
    with open(control.events(mounted.device, io=True), encoding="utf-8") as lines:
        while not select.select([lines], [], [], 0)[0]:
            os.pread(marker, 1, 0)  # until the daemon has begun to tell
        os.pread(fd, 1, 0)
        os.pread(marker, 1, 7)
        reads = (event for event in map(json.loads, lines) if event["event"] == "read")
        paths = {event["path"] for event in takewhile(lambda event: event["offset"] != 7, reads)}
        return paths != {"/marker"}


@needs_native
def test_another_who_listens_is_not_told(native: Mounted, tmp_path: Path) -> None:
    with open(control.events(native.device), encoding="utf-8") as lines:
        with recorded(native, tmp_path / "trace"):
            (native.path / "a").write_bytes(b"x")
        (native.path / "last").touch()
        kinds = []
        for event in map(json.loads, lines):
            kinds.append(event["event"])
            if event.get("path") == "/last":
                break
    assert "open" in kinds
    assert not {"read", "write"} & set(kinds)


@pytest.mark.skipif(os.geteuid() != 0, reason="to watch every process takes root")
def test_what_has_no_calls_to_show(cli: Cli, directory: Path, tmp_path: Path) -> None:
    server = launch.start(str(directory), "pages=managed")
    managed = "read and write calls can be traced on native pages only, and those of this mount are managed"
    other = "/dev/shm is no mount of shmfs, and on others calls cannot be traced"
    try:
        for path, why in (directory, managed), ("/dev/shm", other):
            done = cli("record", "--trace-io", "--trace", tmp_path / "trace", path)
            assert (done.returncode, done.stderr) == (1, f"shmfs: {why}\n")
            assert not (tmp_path / "trace").exists()
    finally:
        server.stop()
