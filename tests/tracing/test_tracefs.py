"""Tracepoints where tracefs is not mounted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shmfs.tracing import tracefs

WITHOUT = "for d in /sys/kernel/tracing /sys/kernel/debug; do while umount $d 2>/dev/null; do :; done; done; "
"""Shell commands that unmount tracefs; for a mount namespace of its own."""

PROGRAM = """
import os
from shmfs.tracing import tracefs

def state():
    with open("/proc/self/mountinfo") as table:
        return table.read(), sorted(os.listdir("/proc/self/fd"))

before = state()
with tracefs.directory() as root:
    print(tracefs.mounted() or "not mounted")
    print(tracefs.event_id(root, "signal/signal_generate"))
    print(state()[0] == before[0])
    print(os.get_inheritable(int(os.path.basename(root))))
print(state() == before)
"""


def detached_is_refused() -> str:
    """Why a mount of tracefs is not permitted here."""
    try:
        with tracefs.detached() as root:
            tracefs.event_id(root, "signal/signal_generate")
    except OSError as failure:
        return f"the kernel refuses a detached mount of tracefs: {failure.strerror}"
    return ""


pytestmark = pytest.mark.skipif(bool(detached_is_refused()), reason=detached_is_refused() or "permitted")


def test_where_it_is_not_mounted() -> None:
    command = ["unshare", "-m", "sh", "-c", WITHOUT + 'exec "$@"', "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mounted, number, table_stays, inheritable, all_closed = done.stdout.splitlines()
    assert mounted == "not mounted"
    assert int(number) > 0
    assert table_stays == "True"
    assert inheritable == "False"
    assert all_closed == "True"


def test_an_unknown_tracepoint() -> None:
    with tracefs.directory() as root, pytest.raises(FileNotFoundError):
        tracefs.event_id(root, "signal/none_such")


def test_where_it_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events").mkdir()
    monkeypatch.setattr(tracefs, "PLACES", ("/none", str(tmp_path)))
    before = os.listdir("/proc/self/fd")
    with tracefs.directory() as root:
        assert root == str(tmp_path)
        assert os.listdir("/proc/self/fd") == before
