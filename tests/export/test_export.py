"""JSON lines, CSV and Parquet say the same of a trace, which is what was written."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmfs.trace
from shmfs.export import tables
from shmfs.tracefile import writer as writer_module
from shmfs.tracefile.stream import FAULT, Faults, Writer

META = {"host": 'a "host"', "boot_id": "b,1", "mount": "/mnt"}
NAMES = ["/a", "/with,comma", '/with "quotes"', "/line\nfeed", "/return\r", "/ünïcödé", "/\x1b[31m", ""]
KINDS = (None, "minor", "major", "failed")
ACCESSES = (None, "read", "write", "execute")
SOURCES = ("perf", "filemap")

FAULTS = st.lists(
    st.tuples(
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**40),
        st.sampled_from([0, 1, 2**47]),
        st.integers(0, len(NAMES)),
        st.integers(0, 4),
        st.integers(0, 2**32 - 1),
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(0, 2),
        st.integers(0, 255),
    ),
    max_size=30,
)


def make(path: Path, parts: list[Faults]) -> None:
    """A trace of four processes, the last of which execs between the parts, and a segment for each name."""
    writer = Writer(path, META)
    for number, name in enumerate(NAMES):
        writer.event("segment", "perf", time=1, segment=number, device="0:57", inode=number + 2, path=name)
    for number in range(4):
        start = None if number == 0 else 10**18 + number
        parent = number - 1 if number else None
        about = {"pid": 100 + number % 3, "parent": parent, "command": f"c{number}", "start_time": start}
        writer.event("process", "perf", time=1, process=number, **about)
    for number, part in enumerate(parts):
        writer.faults(part)
        writer.flush()
        writer.event("exec", "perf", time=2, process=3, command=f"exec{number}")
    writer.close({"status": 0})


def expected(parts: list[Faults]) -> list[dict[str, Any]]:
    """What the rows must be, from the definition."""
    rows = []
    for number, part in enumerate(parts):
        for time, page, ip, segment, process, tid, kind, access, source, cpu in part.tolist():
            known, named = process < 4, segment < len(NAMES)
            command = f"exec{number - 1}" if process == 3 and number else f"c{process}"
            rows.append(
                {
                    "time": time,
                    "tid": tid,
                    "page": page,
                    "ip": ip or None,
                    "cpu": cpu,
                    "pid": 100 + process % 3 if known else None,
                    "start_time": 10**18 + process if known and process else None,
                    "command": command if known else None,
                    "path": NAMES[segment] if named else None,
                    "device": "0:57" if named else None,
                    "inode": segment + 2 if named else None,
                    "kind": KINDS[kind] if kind < 4 else None,
                    "access": ACCESSES[access] if access < 4 else None,
                    "source": SOURCES[source] if source < 2 else None,
                    "host": META["host"],
                    "boot_id": META["boot_id"],
                }
            )
    return rows


def exported(path: Path, form: str) -> bytes:
    file = io.BytesIO()
    with shmfs.trace.open(path) as trace:
        getattr(tables, form)(trace, trace.chunks(), file)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(FAULTS, max_size=3), rows=st.integers(1, 40), group=st.integers(1, 40))
def test_all_formats(tmp_path_factory, parts, rows, group):
    path = tmp_path_factory.mktemp("trace") / "trace"
    arrays = [np.array(part, FAULT) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "ROWS", rows)
        patch.setattr(tables, "GROUP", group)
        make(path, arrays)
        lines = [json.loads(line) for line in exported(path, "jsonl").splitlines()]
        text = exported(path, "csv").decode()
        table = pyarrow.parquet.read_table(io.BytesIO(exported(path, "parquet")))
    wanted = expected(arrays)
    faults = [line for line in lines if line["event"] == "fault"]
    assert faults == [{"event": "fault"} | row for row in wanted]
    assert (lines[0]["event"], lines[-1]["event"]) == ("meta", "done")
    assert table.to_pylist() == wanted
    assert json.loads(table.schema.metadata[b"shmfs"])["mount"] == "/mnt"
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read == [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in wanted
    ]


def test_the_other_events(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    writer = Writer(path, META)
    about = {"time": 1, "parent": None, "start_time": 5}
    writer.event("process", "perf", process=0, pid=7, command="sh", **about)
    writer.event("process", "perf", process=1, pid=8, command="py", **about | {"parent": 0})
    writer.event("segment", "perf", time=1, segment=0, device="0:57", inode=2, path="/a")
    writer.event("map", "perf", time=2, process=1, segment=0, address=4096, length=4096)
    writer.event("create", "fuse", time=3, inode=9, path="/b", mode=0o100600, pid=44)
    holders = [{"path": "/a", "bytes": 4096, "processes": [1, 0, 5]}]
    writer.event(
        "sigbus", "shmfs", time=4, process=1, tid=9, segment=None, page=None, path="/c", holders=holders
    )
    writer.event("exit", "perf", time=5, process=6, status=None)
    writer.close()
    lines = [json.loads(line) for line in exported(path, "jsonl").splitlines()]
    assert all(line["host"] == META["host"] and line["boot_id"] == META["boot_id"] for line in lines)
    events = {line["event"]: line for line in lines}
    assert (events["process"]["pid"], events["process"]["parent_pid"]) == (8, 7)
    shown = {"pid": 8, "start_time": 5, "command": "py", "path": "/a", "device": "0:57", "inode": 2}
    assert shown.items() <= events["map"].items()
    assert (events["create"]["pid"], events["create"]["path"], events["create"]["inode"]) == (44, "/b", 9)
    assert (events["sigbus"]["path"], events["sigbus"]["pid"]) == ("/c", 8)
    assert events["sigbus"]["holders"] == [holders[0] | {"pids": [8, 7, None]}]
    assert "pid" not in events["exit"]
    assert list(events["map"])[:3] == ["event", "time", "source"]


def test_nothing(tmp_path: Path) -> None:
    """A trace without faults and without an end."""
    path = tmp_path / "trace"
    writer = Writer(path, META)
    assert [json.loads(line)["event"] for line in exported(path, "jsonl").splitlines()] == ["meta"]
    assert exported(path, "csv").decode() == ",".join(tables.COLUMNS) + "\n"
    assert pyarrow.parquet.read_table(io.BytesIO(exported(path, "parquet"))).num_rows == 0
    writer.close()
