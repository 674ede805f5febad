"""The demo ends by naming a page to look at."""

import os
import subprocess
from pathlib import Path

import pytest

from shmfs.testing.plugin import why_absent

ROOT = Path(__file__).parents[2]


@pytest.mark.mount
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="the demo would install its .venv first")
def test_it_names_the_report_that_it_wrote(tmp_path: Path) -> None:
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    command = [ROOT / "scripts/demo", "--frames", "6", "--size", "32x24", "--workers", "2"]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    named = Path(done.stdout.splitlines()[-1].strip())
    assert named.is_relative_to(tmp_path)
    assert named.read_text().startswith("<!doctype html>")
    assert "Checked: all 6 frames" in done.stdout
