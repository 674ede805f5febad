"""Observers that fail in a daemon: the mount serves on, and all that shows figures says which are stale.

A `sitecustomize` of the test's own makes them fail, in the daemon that `shmfs` starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmfs.client import launch
from shmfs.testing.plugin import why_absent

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(bool(why_absent()), reason=f"no FUSE here: {why_absent()}"),
]

FAILING = """
import os, sys
if "recorder" in os.environ["FAILING_HOOKS"] and "run" in sys.orig_argv:
    from shmfs.record import recorder

    def round_(self, **how):
        raise RuntimeError("made to fail")

    recorder.Recorder._round = round_
if "sampler" in os.environ["FAILING_HOOKS"] and "run" in sys.orig_argv:
    from shmfs.sandbox import supervisor

    original = supervisor._Supervisor.pids

    def pids(self):
        if sys._getframe(1).f_code.co_name == "_take_sample":
            raise RuntimeError("made to fail")
        return original(self)

    supervisor._Supervisor.pids = pids
if sys.argv[:1] == ["-m"] and "shmfs.daemon.serve" in sys.orig_argv:
    from shmfs.daemon import history, log

    def failing(kind, hook, when):
        original = getattr(kind, hook)

        def method(self, inode, *rest):
            if when(self, inode, rest):
                raise KeyError("made to fail")
            return original(self, inode, *rest)

        setattr(kind, hook, method)

    hooks = os.environ["FAILING_HOOKS"].split(",")
    if "history" in hooks:
        failing(history.History, "allocate", lambda self, inode, rest: rest[0] == 3)  # page 3
    if "log" in hooks:
        failing(log.JsonLines, "unlink", lambda self, inode, rest: True)
"""

PROGRAM = """
import os
for name in "ab":
    with open(f"/dev/shm/{name}", "wb", buffering=0) as file:
        for page in range(6):
            file.write(bytes(4096))
os.unlink("/dev/shm/a")
with open("/dev/shm/c", "wb") as file:
    file.write(bytes(8192))
print(sum(os.stat(f"/dev/shm/{name}").st_blocks * 512 for name in "bc"))
"""


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names the observers that fail in daemons started from now on."""
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    return lambda *names: monkeypatch.setenv("FAILING_HOOKS", ",".join(names))


def shmfs(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "shmfs", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_run_with_a_history_that_fails(failing: Any, tmp_path: Path) -> None:
    """Its other figures are right, the program sees nothing, budgets on others are measured."""
    failing("history")
    report = tmp_path / "report.json"
    done = shmfs(
        *("run", "--json", "--report", report, "-o", "pages=managed", "--fail-on", "peak>1m"),
        *("--", sys.executable, "-c", PROGRAM),
    )
    assert done.stdout == f"{8 * 4096}\n"
    assert done.returncode == 0
    assert (
        "the observer history failed in allocate; stale from now on: resident, peak_resident" in done.stderr
    )
    assert done.stderr.count("KeyError: 'made to fail'") == 1  # logged once, though it happened twice
    found = json.loads(report.read_text())
    (failed,) = found["stale"]
    assert (failed["observer"], failed["figures"]) == ("history", ["resident", "peak_resident"])
    assert any("'history' failed" in note for note in found["notes"])
    rows = {row["segment"]["path"]: row["segment"] for row in found["segments"]}
    assert {path: row["size"] for path, row in rows.items()} == {"/a": 24576, "/b": 24576, "/c": 8192}
    assert rows["/b"]["resident"] == 5  # one event was missed, later ones count
    assert 12 * 4096 <= found["peak"] <= 14 * 4096  # the kernel forgets /a when it likes
    assert {one["source"]: one["exact"] for one in found["sources"]}["mm"] is False


def test_budgets_of_run_that_rest_on_a_failing_log(failing: Any, tmp_path: Path) -> None:
    failing("log")
    trace = tmp_path / "t.shmtrace"
    done = shmfs(
        *("run", "-q", "-o", "pages=managed", "--trace", trace, "--fail-on", "lost>5"),
        *("--", sys.executable, "-c", PROGRAM),
    )
    assert done.returncode == 1
    assert "lost records could not be measured: events: as of " in done.stderr
    assert "the observer 'log' failed: KeyError in unlink: 'made to fail'" in done.stderr
    told = json.loads(shmfs("report", "--json", trace).stdout)
    assert [one["observer"] for one in told["stale"]] == ["log"]
    shown = shmfs("report", trace).stdout
    assert "events: as of " in " ".join(shown.split())
    page = tmp_path / "page.html"
    assert shmfs("report", "--html", page, trace).returncode == 0
    assert "events: as of " in page.read_text()


@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
def test_run_with_a_recorder_that_fails(failing: Any, tmp_path: Path, traced: bool) -> None:
    """Its report is made all the same, and says what is missing; shmfs has failed, so the status is 125."""
    failing("recorder")
    report, trace = tmp_path / "report.json", tmp_path / "t.shmtrace"
    wanted = ("--trace", trace) if traced else ()
    done = shmfs("run", "--json", "--report", report, *wanted, "--", sys.executable, "-c", PROGRAM)
    assert done.returncode == 125
    assert "recording failed: RuntimeError: made to fail" in done.stderr
    (failed,) = json.loads(report.read_text())["stale"]
    assert failed["observer"] == "recorder"
    assert {"deaths", "refusals", "fault"} <= set(failed["figures"])
    if traced:
        told = json.loads(shmfs("report", "--json", trace).stdout)
        assert [one["observer"] for one in told["stale"]] == ["recorder"]


def test_run_whose_processes_cannot_be_sampled(failing: Any, tmp_path: Path) -> None:
    failing("sampler")
    report = tmp_path / "report.json"
    done = shmfs("run", "--json", "--report", report, "--", sys.executable, "-c", PROGRAM)
    assert done.returncode == 0
    found = json.loads(report.read_text())
    (failed,) = found["stale"]
    assert failed["figures"] == ["mapped_by", "shared", "sample"]
    assert {one["source"]: one["exact"] for one in found["sources"]}["fuse"] is True


def test_ps_says_what_is_stale(failing: Any, tmp_path: Path) -> None:
    failing("history")
    point = tmp_path / "mount"
    point.mkdir()
    server = launch.start(str(point), "pages=managed")
    try:
        with (point / "f").open("wb", buffering=0) as file:
            for _ in range(6):
                file.write(bytes(4096))
        for arguments in ([], [point]):
            done = shmfs("ps", *arguments)
            assert done.returncode == 0
            assert "resident, peak resident: as of " in done.stderr
        (one,) = [row for row in json.loads(shmfs("ps", "--json").stdout) if row["mountpoint"] == str(point)]
        assert one["stale"][0]["figures"] == ["resident", "peak_resident"]
        of_one = json.loads(shmfs("ps", "--json", point).stdout)
        assert of_one["stale"] == one["stale"]
        assert [segment["size"] for segment in of_one["segments"]] == [24576]
    finally:
        server.stop()
    assert not os.listdir(point)
