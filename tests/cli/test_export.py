"""`shmfs export` as a user runs it."""

import csv
import json
import os
import pty
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from shmfs.cli.export import BINARY
from shmfs.tracefile.stream import FAULT, Writer
from tests.cli.conftest import SHMFS, Cli


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of 200,000 faults of a process on a segment."""
    path = tmp_path / "one.shmtrace"
    writer = Writer(path, {"host": "here"})
    writer.event("process", "perf", process=0, pid=7, parent=None, command="python", start_time=None)
    writer.event("segment", "perf", segment=0, device="0:57", inode=2, path="/frames")
    faults = np.zeros(200_000, FAULT)
    faults["page"] = np.arange(len(faults))
    faults["kind"] = 1
    writer.faults(faults)
    writer.close()
    return path


def test_standard_output(cli: Cli, trace: Path) -> None:
    result = cli("export", trace)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["page"] for line in lines if line["event"] == "fault"] == list(range(200_000))


def test_a_closed_standard_output(trace: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *SHMFS, "export", str(trace)]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        "shmfs: standard output is closed: name a file with -o\n",
    )


def test_a_file(cli: Cli, trace: Path, tmp_path: Path) -> None:
    for form in ("csv", "parquet"):
        result = cli("export", "-f", form, "-o", tmp_path / form, trace)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    with open(tmp_path / "csv", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["/frames"] * 200_000
    assert pyarrow.parquet.read_table(tmp_path / "parquet")["page"].to_pylist() == list(range(200_000))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "perfetto"])
def test_whoever_reads_has_enough(trace: Path, form: str) -> None:
    command = [*SHMFS, "export", "-f", form, str(trace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 1)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "perfetto"])
def test_a_full_disk(cli: Cli, trace: Path, form: str) -> None:
    result = cli("export", "-f", form, "-o", "/dev/full", trace)
    assert (result.returncode, result.stderr) == (
        1,
        "shmfs: /dev/full cannot be written: No space left on device\n",
    )
    assert os.path.exists("/dev/full")


def test_what_is_not_finished_does_not_stay(cli: Cli, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell = f"ulimit -f 100; exec {' '.join(SHMFS)} export -o {out} {trace}"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (1, f"shmfs: {out} cannot be written: File too large\n")
    assert not out.exists()


def test_sentences(cli: Cli, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    for arguments, status, words in (
        ([tmp_path / "text"], 1, "text is not a shmfs trace"),
        ([tmp_path / "absent"], 1, "absent: No such file or directory"),
        (["-o", trace, trace], 2, "is the trace itself: name another file with -o"),
        (["-o", tmp_path / "no/where", trace], 1, "cannot be written: No such file or directory"),
        (["-o", tmp_path, trace], 1, "cannot be written: Is a directory"),
    ):
        result = cli("export", *arguments)
        assert (result.returncode, result.stdout) == (status, "")
        assert result.stderr.startswith("shmfs: ")
        assert result.stderr.endswith(f"{words}\n")
        assert result.stderr.count("\n") == 1
    assert len(cli("export", trace).stdout) > 10_000


def test_without_pyarrow(cli: Cli, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    result = cli("export", "-f", "parquet", trace, env={"PYTHONPATH": str(tmp_path)})
    sentence = "shmfs: Parquet needs pyarrow, which is not installed: pip install 'shmfs[parquet]'\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", sentence)
    assert cli("export", "-f", "csv", trace, env={"PYTHONPATH": str(tmp_path)}).returncode == 0


def test_without_perfetto(cli: Cli, trace: Path, tmp_path: Path) -> None:
    (tmp_path / "perfetto.py").write_text("raise ImportError")
    result = cli("export", "-f", "perfetto", trace, env={"PYTHONPATH": str(tmp_path)})
    sentence = "Perfetto needs the package perfetto, which is not installed: pip install 'shmfs[perfetto]'\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"shmfs: {sentence}")


def test_perfetto(cli: Cli, trace: Path, tmp_path: Path) -> None:
    result = cli("export", "-f", "perfetto", "-o", tmp_path / "pftrace", trace)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    decoded = Trace()
    decoded.ParseFromString((tmp_path / "pftrace").read_bytes())
    tracks = [packet.track_descriptor for packet in decoded.packet]
    (thread,) = [track.uuid for track in tracks if track.name == "thread 0"]
    events = [packet.track_event for packet in decoded.packet]
    pages = [event.debug_annotations[0].uint_value for event in events if event.track_uuid == thread]
    assert pages == list(range(200_000))


@pytest.mark.parametrize("form", ["parquet", "perfetto"])
def test_bytes_on_a_terminal(trace: Path, form: str) -> None:
    ours, theirs = pty.openpty()
    try:
        command = [*SHMFS, "export", "-f", form, str(trace)]
        done = subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stderr) == (
        2,
        f"shmfs: {BINARY[form]} is no text for a terminal: name a file with -o\n",
    )


def test_what_is_missing_is_said(cli: Cli, trace: Path, tmp_path: Path) -> None:
    whole = trace.read_bytes()
    trace.write_bytes(whole[:-5])
    result = cli("export", "-f", "csv", trace)
    assert result.returncode == 0
    assert result.stdout.count("\n") == 200_001
    assert "it ends within a chunk" in result.stderr
    writer = Writer(tmp_path / "growing", {})
    assert "the recorder still runs" in cli("export", tmp_path / "growing").stderr
    writer.close({"lost": 3})
    assert "lacks 3 records that were lost" in cli("export", tmp_path / "growing").stderr
