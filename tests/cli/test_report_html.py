"""`shmfs report --html` as a user runs it."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.record.recording import Recording


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    recording = Recording(tmp_path / "one.shmtrace", command=["python3", "one.py"])
    process, segment = recording.process(7, "python3"), recording.segment(5, "/frames")
    recording.touch(process, 7, segment, range(100), 0.1, 0.9)
    return recording.close(status=0, duration=1.0)


def test_a_file(cli: Cli, trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.html"
    result = cli("report", "--html", out, trace)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert out.read_text().startswith("<!doctype html>")
    printed = cli("report", "--html", "-", trace)
    assert (printed.returncode, printed.stdout, printed.stderr) == (0, out.read_text(), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "one.shmtrace"]


def test_in_any_locale(cli: Cli, trace: Path, tmp_path: Path) -> None:
    pages = []
    for number, environment in enumerate(
        ({}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"})
    ):
        out = tmp_path / f"{number}.html"
        result = cli("report", "--html", out, trace, env=environment)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_where_it_cannot_be_written(cli: Cli, trace: Path, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "none/one.html", trace):
        before = trace.read_bytes()
        result = cli("report", "--html", out, trace)
        assert result.returncode in (1, 2)
        assert result.stderr.startswith("shmfs: ")
        assert result.stderr.count("\n") == 1
        assert str(out) in result.stderr
        assert trace.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["one.shmtrace"]


def test_one_report_at_a_time(cli: Cli, trace: Path, tmp_path: Path) -> None:
    result = cli("report", "--html", tmp_path / "one.html", "--json", trace)
    assert result.returncode == 2
    assert not (tmp_path / "one.html").exists()
