"""PostgreSQL: its data, its sockets and its dynamic shared memory on the mount."""

from pathlib import Path
from typing import Any

import pytest

from tests.real.support import REAL, SHM, as_nobody, needs, run

pytestmark = [*REAL, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("postgresql.sh").read_text()  # which nobody else may be able to read
SAID = [
    "number of failed transactions: 0 (0.000%)",
    "t|t",
    "300000|t",
    "Workers Launched: 2",
    "t|t",  # after a crash
    "t|t",  # in a copy
    "t|t",
    "Bad checksums:  0",
]


def programs() -> Path:
    """Where Debian has the programs of the newest version; else where the one on PATH is."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return (versions[-1] if versions else Path(needs("initdb", "postgresql")).resolve()).parent


@pytest.mark.parametrize("options", ["size=1g"])
def test_postgresql(shmfs: Any) -> None:
    environment = {"PATH": f"{programs()}:/usr/bin:/bin", "HOME": str(SHM)}
    said = run(shmfs, *as_nobody("bash", "-c", SCRIPT), env=environment, cwd="/")
    assert said.splitlines() == SAID
    # "PostgreSQL.%u": dsm_impl_posix. min_dynamic_shared_memory is there from the start.
    segments = [segment for segment in shmfs.segments() if segment.path.startswith("/PostgreSQL.")]
    assert len(segments) > 2
    assert max(segment.size for segment in segments) >= 1 << 20
    assert all(segment.evicted for segment in segments)
