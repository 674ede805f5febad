"""The benchmark runs and cleans up; its figures are judged by people, not by a loaded machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts" / "bench.py"


@pytest.mark.mount
@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse cannot be opened")
def test_a_round_measures_everything_and_leaves_no_mount(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--quick", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    of_root = {"segment, second touch"}  # an IPC namespace of its own
    with_target = [
        measure["name"]
        for measure in document["measures"]
        if measure["store"] == "managed" and measure["target"] and measure["name"] not in of_root
    ]
    assert with_target == [
        "sequential write, 1 MiB",
        "sequential read, 1 MiB",
        "mmap, second touch",
        "mmap, first touch, readahead=32",
        "create + close, pinned",
        "open + close, pinned",
        "unlink, pinned",
        "rename, pinned",
        "mkdir, pinned",
        "rmdir, pinned",
        "readdir, per entry, pinned",
        "stat, known name, pinned",
        "stat, missing name, pinned",
        "create + close",
        "open + close",
    ]
    stores = ["managed"] if os.geteuid() else ["native", "managed"]
    assert all(measure["ratio"] > 0 for measure in document["measures"])
    assert [daemon["store"] for daemon in document["daemons"]] == stores
    assert all(daemon["lean"] and daemon["stat_without_round_trip"] for daemon in document["daemons"])
    assert list(tmp_path.iterdir()) == []
