"""The trace: what was written is read, from whole files, growing ones and what is left of them."""

import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import shmfs.trace
from shmfs.errors import ShmfsError
from shmfs.tracefile import format as format_module
from shmfs.tracefile import writer as writer_module
from shmfs.tracefile.stream import FAULT, KEPT, Faults, Meta, Trace, Writer

ABOUT = {
    "host": "here",
    "boot_id": "b",
    "mount": "/mnt",
    "sources": [{"source": "perf", "figures": ["faults"]}],
}


def some_faults(count: int, start: int = 0) -> Faults:
    """Faults that are told apart by their page, of random bytes but for the process and segment."""
    faults = np.frombuffer(np.random.default_rng(start).bytes(count * FAULT.itemsize), FAULT).copy()
    faults["page"] = np.arange(start, start + count)
    faults["process"] = faults["segment"] = 0
    return faults


def like_real(count: int, seed: int = 0) -> Faults:
    """Two processes on two processors, a segment each, pages in order, two microseconds a fault."""
    random = np.random.default_rng(seed)
    faults = np.zeros(count, FAULT)
    faults["time"] = 1_763_800_000_000_000_000 + np.cumsum(random.gamma(3, 600, count).astype("u8"))
    second = random.random(count) < 0.5
    for which, number in ((~second, 0), (second, 1)):
        faults["page"][which] = np.arange(which.sum()) % (1 << 18)
        faults["ip"][which] = 0x7F33_1234_5678 + 4096 * number
        for name, value in (("segment", 0), ("process", 1), ("tid", 4711), ("cpu", 0)):
            faults[name][which] = value + number
    faults["kind"], faults["access"] = 1, 2
    return faults


def write(path: Path, faults: Faults, events: list[dict[str, Any]], **options: Any) -> None:
    writer = Writer(path, ABOUT, **options)
    for event in events:
        writer.event(**event)
    writer.faults(faults)
    writer.close({"status": 0})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.shmtrace"


# What was written is read.

TEXT = st.text(max_size=8)
EVENT = st.fixed_dictionaries(
    {"event": TEXT, "source": TEXT, "time": st.integers(0, 2**63)},
    optional={
        "path": TEXT,
        "count": st.integers(),
        "holders": st.lists(st.dictionaries(TEXT, TEXT), max_size=2),
    },
).filter(lambda event: abs(event.get("count", 0)) < 2**63)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.binary(max_size=40 * FAULT.itemsize), max_size=6),
    events=st.lists(EVENT, max_size=20),
    rows=st.integers(1, 50),
    flushed=st.booleans(),
)
def test_round_trip(tmp_path_factory, parts, events, rows, flushed):
    path = tmp_path_factory.mktemp("trace") / "trace"
    arrays = [np.frombuffer(part[: len(part) // 40 * 40], FAULT) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "ROWS", rows)
        writer = Writer(path, ABOUT)
        for array in arrays:
            writer.faults(array)
        for event in events:
            writer.event(**event)
            if flushed:
                writer.flush()
        writer.close({"status": 3, "lost": 5})
    with shmfs.trace.open(path) as trace:
        everything = np.concatenate([np.empty(0, FAULT), *arrays])
        assert trace.fault_array().tobytes() == everything.tobytes()
        assert all(0 < len(some) <= rows for some in trace.faults())
        assert list(trace.events()) == events
        assert (trace.meta.host, trace.meta.sources[0].source) == ("here", "perf")
        assert trace.complete
        assert trace.damage == ""
        done = trace.done
    assert (done.faults, done.status, done.lost) == (len(everything), 3, 5)
    assert (done.dropped, done.dropped_events) == (0, 0)


def test_as_documented(path: Path) -> None:
    """A reader written from the docstring alone."""
    faults = some_faults(1000)
    write(path, faults, [{"event": "exec", "source": "perf", "time": 5, "command": "x"}])
    data = path.read_bytes()
    assert struct.unpack_from("<8sII", data) == (b"\x89SHMTRC\n", 1, 0)
    at, chunks = 16, []
    while at < len(data):
        kind, stored, raw, crc = struct.unpack_from("<4sIII", data, at)
        payload = data[at + 16 : at + 16 + stored]
        assert zlib.crc32(data[at : at + 12] + payload) == crc
        chunks.append((kind, zstandard.decompress(payload)))
        assert len(chunks[-1][1]) == raw
        at += 16 + stored
    assert [kind for kind, _ in chunks] == [b"META", b"EVNT", b"FLTS", b"DONE"]
    assert json.loads(chunks[0][1])["mount"] == "/mnt"
    assert json.loads(chunks[1][1]) == {"event": "exec", "source": "perf", "time": 5, "command": "x"}
    assert json.loads(chunks[3][1])["faults"] == 1000
    raw, columns, at = chunks[2][1], [], 8
    assert struct.unpack_from("<II", raw) == (1000, 0)
    for width in (8, 8, 8, 4, 4, 4, 1, 1, 1, 1):
        planes = [raw[at + 1000 * byte : at + 1000 * (byte + 1)] for byte in range(width)]
        columns.append([int.from_bytes(bytes(value), "little") for value in zip(*planes, strict=True)])
        at += 1000 * width
    assert at == len(raw)
    for row in range(1, 1000):
        columns[0][row] = (columns[0][row] + columns[0][row - 1]) % 2**64
    assert list(zip(*columns, strict=True)) == faults.tolist()


def test_names_by_id(path: Path) -> None:
    process = {"event": "process", "source": "perf", "parent": None, "start_time": 1}
    events: list[dict[str, Any]] = [
        process | {"time": 1, "process": 0, "pid": 7, "command": "sh"},
        process | {"time": 2, "process": 1, "pid": 8, "command": "sh"},
        {"event": "exec", "source": "perf", "time": 3, "process": 1, "command": "python"},
        {"event": "exit", "source": "perf", "time": 4, "process": 1, "status": 9},
        process | {"time": 5, "process": 2, "pid": 8, "command": "the pid came round"},
        {
            "event": "segment",
            "source": "perf",
            "time": 6,
            "segment": 0,
            "device": "0:5",
            "inode": 2,
            "path": "/a",
        },
        {"event": "open", "source": "fuse", "time": 6, "inode": 2, "path": "/a", "pid": 7},
        {"event": "exec", "source": "perf", "time": 7, "process": 0},
        {"event": "exit", "source": "perf", "time": 7, "process": "0"},
        process | {"time": 7, "process": 2**31, "pid": 9, "command": "an id that nobody could list"},
    ]
    write(path, some_faults(1), events)
    with shmfs.trace.open(path) as trace:
        known = [(one["pid"], one["command"], one["exit"], one["status"]) for one in trace.processes]
        assert known == [(7, "sh", None, None), (8, "python", 4, 9), (8, "the pid came round", None, None)]
        assert [one["path"] for one in trace.segments] == ["/a"]


def test_names_that_are_no_unicode(path: Path) -> None:
    write(
        path,
        some_faults(0),
        [{"event": "segment", "source": "perf", "path": "/a\udcff", "more": [["b\udcfe"]]}],
    )
    with shmfs.trace.open(path) as trace:
        (event,) = trace.events()
    assert (event["path"], event["more"]) == ("/a\\xff", [["b\\xfe"]])
    assert event["time"] > 10**18


def test_about_this_machine() -> None:
    meta = Meta.here(command=["true"], mount="/dev/shm")
    assert meta.host == os.uname().nodename
    assert meta.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (meta.command, meta.mount, meta.version) == (["true"], "/dev/shm", shmfs.__version__)


def test_whoever_only_opens_nothing_loads_nothing() -> None:
    program = "import sys, shmfs.trace; print({'numpy', 'zstandard'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# While it grows, and what is left after a crash.


def test_a_growing_file(path: Path) -> None:
    writer = Writer(path, ABOUT)
    with shmfs.trace.open(path) as trace:
        assert (trace.done, trace.complete, trace.damage, trace.growing) == (None, False, "", True)
        assert len(trace.fault_array()) == 0
    writer.event("exec", "perf", process=0, command="x")
    writer.faults(some_faults(10))
    writer.flush()
    first = shmfs.trace.open(path)
    writer.faults(some_faults(10, 10))
    writer.flush()
    second = shmfs.trace.open(path)
    writer.close()
    third = shmfs.trace.open(path)
    assert [len(trace.fault_array()) for trace in (first, second, third)] == [10, 20, 20]
    assert [len(list(trace.events())) for trace in (first, second, third)] == [1, 1, 1]
    assert (second.done, third.complete, third.growing) == (None, True, False)


def test_what_waits_is_written_after_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(writer_module.time, "monotonic", lambda: now)
    writer = Writer(path, ABOUT)
    writer.faults(some_faults(1))
    writer.event("exec", "perf")
    assert len(shmfs.trace.open(path).fault_array()) == 0
    now += 1
    writer.faults(some_faults(0))
    assert len(shmfs.trace.open(path).fault_array()) == 1
    assert len(list(shmfs.trace.open(path).events())) == 1
    writer.close()


def test_the_recorder_is_killed(path: Path) -> None:
    program = (
        "import os, sys; from tests.tracefile.test_stream import *; writer = Writer(sys.argv[1], ABOUT)\n"
        "writer.event('exec', 'perf'); writer.faults(some_faults(100)); writer.flush()\n"
        "writer.faults(some_faults(100)); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", program, path], cwd=root, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with shmfs.trace.open(path) as trace:
        assert (trace.done, trace.complete, trace.damage, trace.growing) == (None, False, "", False)
        assert trace.fault_array().tobytes() == some_faults(100).tobytes()


def small(path: Path) -> tuple[bytes, list[int]]:
    """Return a trace of two chunks of faults and two of events, and where its chunks end."""
    writer = Writer(path, {})
    for round_ in range(2):
        writer.event("exec", "perf", time=round_, process=round_, command="x")
        writer.faults(some_faults(3, 3 * round_))
        writer.flush()
    writer.close()
    data, ends = path.read_bytes(), [16]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 16 + struct.unpack_from("<I", data, ends[-1] + 4)[0])
    assert len(ends) == 7
    return data, ends


def what(trace: Trace) -> tuple[int, int]:
    """Check that it is a beginning of `small`, and return how much: events and faults."""
    events, faults = list(trace.events()), trace.fault_array()
    assert [event["process"] for event in events] == [0, 1][: len(events)]
    assert faults.tobytes() == np.concatenate([some_faults(3), some_faults(3, 3)])[: len(faults)].tobytes()
    return len(events), len(faults)


def test_cut_at_every_byte(path: Path) -> None:
    data, ends = small(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        whole = sum(end <= length for end in ends) - 1
        if whole < 1:
            with pytest.raises(ShmfsError) as caught:
                shmfs.trace.open(path)
            sentence = "is not a shmfs trace" if length < 16 else "without a beginning"
            assert sentence in str(caught.value)
            continue
        with shmfs.trace.open(path) as trace:
            assert what(trace) == [(0, 0), (1, 0), (1, 3), (2, 3), (2, 6)][whole - 1]
            assert not trace.complete
            assert bool(trace.damage) == (length not in ends)


def test_each_byte_damaged(path: Path) -> None:
    data, ends = small(path)
    for at in range(16, len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        whole = sum(end <= at for end in ends) - 1
        if whole == 0:
            with pytest.raises(ShmfsError, match="without a beginning"):
                shmfs.trace.open(path)
            continue
        with shmfs.trace.open(path) as trace:
            assert what(trace) == [(0, 0), (1, 0), (1, 3), (2, 3), (2, 6)][whole - 1]
            assert not trace.complete
            assert trace.damage.startswith(("it is damaged at byte", "it ends within"))


def chunk(kind: bytes, raw: bytes, *, claimed: int | None = None) -> bytes:
    stored = zstandard.compress(raw)
    head = struct.pack("<4sII", kind, len(stored), len(raw) if claimed is None else claimed)
    return head + struct.pack("<I", format_module.checksum(head, stored)) + stored


def test_an_unknown_kind_is_skipped(path: Path) -> None:
    data, ends = small(path)
    path.write_bytes(data[: ends[2]] + chunk(b"NEWS", b"of a later version") + data[ends[2] :])
    with shmfs.trace.open(path) as trace:
        assert what(trace) == (2, 6)
        assert trace.complete


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"FLTS", b"\x02\0\0\0\0\0\0\0" + b"x" * 40),
        chunk(b"FLTS", b"\x02"),
        chunk(b"FLTS", b"\0" * 8, claimed=9),
        chunk(b"EVNT", b'{"event": "exec"'),
        chunk(b"EVNT", b"[1]\n"),
        chunk(b"EVNT", b"\xff\n"),
    ],
)
def test_a_sound_chunk_with_something_else(path: Path, bad: bytes) -> None:
    data, ends = small(path)
    path.write_bytes(data[: ends[3]] + bad)
    with shmfs.trace.open(path) as trace, pytest.raises(ShmfsError, match="cannot be read"):
        what(trace)


def test_a_chunk_that_claims_a_terabyte(path: Path) -> None:
    data, ends = small(path)
    bomb = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + b"\x01\0\0"
    head = struct.pack("<4sII", b"FLTS", len(bomb), 48)
    path.write_bytes(data[: ends[3]] + head + struct.pack("<I", format_module.checksum(head, bomb)) + bomb)
    with shmfs.trace.open(path) as trace, pytest.raises(ShmfsError, match="cannot be read"):
        what(trace)


# Files that are none.


def test_no_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("time,event\n" * 10)
    (tmp_path / "parquet").write_bytes(b"PAR1" * 100)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "text", "parquet", "directory", "pipe"):
        with pytest.raises(ShmfsError, match=f"{name} is not a shmfs trace$"):
            shmfs.trace.open(tmp_path / name)
    with pytest.raises(ShmfsError, match=r"absent: No such file or directory$"):
        shmfs.trace.open(tmp_path / "absent")


def test_a_newer_version(path: Path) -> None:
    small(path)
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(data)
    with pytest.raises(ShmfsError, match=r"is a trace of version 2, and this shmfs .* reads version 1 only$"):
        shmfs.trace.open(path)


def test_what_cannot_be_a_trace(tmp_path: Path) -> None:
    with pytest.raises(ShmfsError, match="/dev/full is not a regular file"):
        Writer("/dev/full", {})
    with pytest.raises(IsADirectoryError):
        Writer(tmp_path, {})
    with pytest.raises(ShmfsError, match="too small"):
        Writer(tmp_path / "file", {}, max_size=4096)
    assert os.listdir(tmp_path) == []


def test_two_recorders(path: Path) -> None:
    first = Writer(path, ABOUT)
    first.faults(some_faults(5))
    with pytest.raises(ShmfsError, match="is being written by another recorder"):
        Writer(path, ABOUT)
    first.close()
    assert len(shmfs.trace.open(path).fault_array()) == 5
    Writer(path, ABOUT).close()
    assert len(shmfs.trace.open(path).fault_array()) == 0


# Bounded.

BOUND = 1 << 20
BULK = 30_000
"""Faults of random bytes: more than a MiB."""


def fill(path: Path, when_full: Any, rounds: int = 3) -> list[int]:
    """Write `rounds` times BULK faults with an exec before each 1000, and return the sizes seen."""
    writer, sizes = Writer(path, ABOUT, max_size=BOUND, when_full=when_full), []
    for start in range(0, rounds * BULK, 1000):
        writer.event("exec", "perf", process=start, command="x")
        writer.event("open", "fuse", inode=1, path="/a", flags=0, pid=start)
        writer.faults(some_faults(1000, start))
        sizes.append(path.stat().st_size)
    writer.close()
    return [*sizes, path.stat().st_size]


@pytest.mark.parametrize("when_full", ["stop", "ring"])
def test_bounded(path: Path, when_full: str) -> None:
    path.touch(0o640)
    sizes = fill(path, when_full)
    assert BOUND // 2 < max(sizes) <= BOUND
    with shmfs.trace.open(path) as trace:
        pages = trace.fault_array()["page"]
        assert trace.done is not None
        assert trace.complete
        assert len(pages) > BULK // 4
        first = 0 if when_full == "stop" else 3 * BULK - len(pages)
        assert np.array_equal(pages, np.arange(first, first + len(pages)))
        assert (trace.done.faults, trace.done.dropped) == (len(pages), 3 * BULK - len(pages))
        events = list(trace.events())
        assert [one["process"] for one in events if one["event"] == "exec"] == list(range(0, 3 * BULK, 1000))
        opened = sum(one["event"] == "open" for one in events)
        assert trace.done.dropped_events == 90 - opened
        assert (opened == 90) == (when_full == "ring")
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("when_full", ["stop", "ring"])
def test_bounded_with_many_events(path: Path, when_full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says who is who stays, and no event is twice or out of order."""
    monkeypatch.setattr(writer_module, "BYTES", 1 << 14)
    writer = Writer(path, ABOUT, max_size=BOUND, when_full=when_full)
    writer.faults(some_faults(1000))
    count = 24_000
    for number in range(count):
        if number % 100 == 0:
            writer.event("process", "perf", process=number // 100, pid=number, command="x")
        writer.event("open", "fuse", number=number, path=os.urandom(64).hex())
    assert path.stat().st_size <= BOUND
    writer.close()
    with shmfs.trace.open(path) as trace:
        assert len(trace.processes) == count // 100
        opened = [one["number"] for one in trace.events() if one["event"] == "open"]
        first = 0 if when_full == "stop" else count - len(opened)
        assert opened == list(range(first, first + len(opened)))
        assert trace.done is not None
        assert len(opened) + trace.done.dropped_events == count
        assert 1000 < len(opened) < count


def test_bounded_with_too_many_that_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "KEEP", 1 << 16)
    writer = Writer(path, ABOUT, max_size=BOUND)
    assert "exec" in KEPT
    for number in range(30_000):
        writer.event("exec", "perf", process=number, command=os.urandom(40).hex())
    writer.close()
    assert path.stat().st_size <= BOUND
    with shmfs.trace.open(path) as trace:
        assert trace.done is not None
        assert sum(1 for _ in trace.events()) + trace.done.dropped_events == 30_000


def test_a_reader_of_a_ring_keeps_what_it_opened(path: Path) -> None:
    fill(path, "ring", rounds=1)
    with shmfs.trace.open(path) as trace:
        before = trace.fault_array()
        os.rename(path, path.with_name("old"))
        fill(path, "ring")
        assert trace.fault_array().tobytes() == before.tobytes()


# A full disk.


@pytest.mark.parametrize("when_full", ["stop", "ring"])
def test_a_full_disk(
    path: Path, when_full: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One complaint; what was written is readable; it goes on when there is room again."""
    monkeypatch.setattr(writer_module, "ROWS", 1000)
    monkeypatch.setattr(writer_module, "RETRY", 0.0)
    writer = Writer(path, ABOUT, max_size=4 * BOUND, when_full=when_full)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        for start in range(0, 10_000, 1000):
            writer.event("exec", "perf", process=start, command="x")
            writer.event("open", "fuse", process=start)
            writer.faults(some_faults(1000, start))
        trace = shmfs.trace.open(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size <= 100_000
    assert trace.damage == ""
    assert 1000 <= len(trace.fault_array()) < 10_000
    writer.faults(some_faults(1000, 10_000))
    writer.close()
    with shmfs.trace.open(path) as trace:
        pages = trace.fault_array()["page"]
        assert pages[0] == 0
        assert pages[-1] == 10_999
        assert trace.done is not None
        assert (trace.done.faults, trace.done.dropped) == (len(pages), 11_000 - len(pages))
        events = list(trace.events())
        assert [one["process"] for one in events if one["event"] == "exec"] == list(range(0, 10_000, 1000))
        assert len(events) + trace.done.dropped_events == 20
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        f"{path} cannot be written: File too large; the trace is cut"
    ]


def test_a_ring_that_cannot_make_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left beside it, and what was there stays."""
    monkeypatch.setattr(writer_module, "RETRY", 0.0)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module._File, "copy", refuse)
    fill(path, "ring")
    assert os.listdir(path.parent) == [path.name]
    with shmfs.trace.open(path) as trace:
        pages = trace.fault_array()["page"]
        assert np.array_equal(pages, np.arange(len(pages)))
        assert trace.done is not None
        assert trace.done.faults + trace.done.dropped == 3 * BULK


# Small.


def test_a_million_faults(path: Path) -> None:
    faults = like_real(1_000_000)
    write(path, faults, [])
    assert path.stat().st_size < 10_000_000
    with shmfs.trace.open(path) as trace:
        assert trace.fault_array().tobytes() == faults.tobytes()
