"""Redis: snapshots and its append-only log on the mount, over restarts and a kill."""

from pathlib import Path
from typing import Any

import pytest

from tests.real.support import REAL, needs, run

pytestmark = REAL

SCRIPT = Path(__file__).with_name("redis.sh")


@pytest.mark.parametrize("options", ["size=512m"])
def test_redis(shmfs: Any) -> None:
    needs("redis-server")
    needs("redis-benchmark", "redis-tools")
    said = run(shmfs, "bash", SCRIPT)
    assert said.splitlines() == [
        "loaded from a snapshot",
        "loaded from the log",
        "loaded from the log after a kill",
    ]
