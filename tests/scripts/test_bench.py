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
    with_target = [measure["name"] for measure in document["measures"] if measure["target"]]
    assert with_target == [
        "write, 1 MiB blocks",
        "read, cached",
        "mmap, second touch (mapped again, read)",
        "mmap, first touch, readahead=32",
    ]
    assert all(measure["ratio"] > 0 for measure in document["measures"])
    assert document["daemon"]["lean"]
    assert document["daemon"]["stat_without_round_trip"]
    assert list(tmp_path.iterdir()) == []
