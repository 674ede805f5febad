"""`shmfs report`, as a user runs it."""

import json
from pathlib import Path

from tests.cli.conftest import Cli
from tests.record.recording import Recording


def small(path: Path) -> Path:
    recording = Recording(path, command=["./a.out"])
    process, segment = recording.process(10, "a.out"), recording.segment(5, "/x\x1b[31m")
    recording.map(process, segment, 0.5)
    recording.touch(process, 10, segment, range(7), 1, 2)
    return recording.close(status=0)


def test_tables(cli: Cli, tmp_path: Path) -> None:
    result = cli("report", small(tmp_path / "x.shmtrace"))
    assert (result.returncode, result.stderr) == (0, "")
    assert r"/x\x1b[31m" in result.stdout
    assert "7 · 7 minor · 7 writes (perf, exact)" in result.stdout
    narrow = cli("report", tmp_path / "x.shmtrace", env={"COLUMNS": "40"})
    assert max(map(len, narrow.stdout.splitlines())) <= 40


def test_json(cli: Cli, tmp_path: Path) -> None:
    result = cli("report", "--json", small(tmp_path / "x.shmtrace"))
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["faults"]["total"] == 7
    assert found["segments"][0]["used_by"][0]["pages"] == 7
    assert found["sizing"]["basis"] == "estimate"


def test_what_is_no_trace(cli: Cli, tmp_path: Path) -> None:
    foreign, empty, newer = (tmp_path / name for name in ("foreign", "empty", "newer"))
    foreign.write_text("hello, world: this is not it\n" * 9)
    empty.touch()
    data = bytearray(small(tmp_path / "x.shmtrace").read_bytes())
    data[8] = 2
    newer.write_bytes(data)
    for path, words in (
        (foreign, "is not a shmfs trace"),
        (empty, "is not a shmfs trace"),
        (newer, "is a trace of version 2"),
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "is not a shmfs trace"),
    ):
        result = cli("report", path)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith(f"shmfs: {path}")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_trace_that_grows(cli: Cli, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "x.shmtrace")
    process, segment = recording.process(10, "a"), recording.segment(5, "/x")
    recording.touch(process, 10, segment, range(3), 1, 2)
    path = recording.cut()
    assert "3 · 3 minor" in cli("report", path).stdout
    recording.touch(process, 10, segment, range(3), 2, 3)
    recording.cut()
    result = cli("report", path)
    assert "6 · 6 minor" in result.stdout
    assert "there is no end" in result.stdout
    recording.close(status=0)
    assert "there is no end" not in cli("report", path).stdout
