"""Samples of several events in one ring."""

import os
import sys

import numpy as np
import pytest

from shmfs.errors import ShmfsError
from shmfs.tracing import decode
from shmfs.tracing.perf import Event, Perf

PROGRAM = (
    "import mmap; m = mmap.mmap(-1, 1000 * 4096, mmap.MAP_PRIVATE)\nfor i in range(1000): m[i * 4096] = 1"
)


def test_faults_and_their_ends_are_decoded_in_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of two sizes in turn would be decoded one by one, so slowly that the rings fill."""
    try:
        perf = Perf(os.getpid(), ends=True)
    except ShmfsError as refused:
        pytest.skip(str(refused))
    runs: list[int] = []
    run = decode._run

    def counted(words: np.ndarray, place: int, size: int) -> int:
        runs.append(run(words, place, size))
        return runs[-1]

    monkeypatch.setattr(decode, "_run", counted)
    try:
        if not perf.tracepoints:
            pytest.skip("needs root, for the tracepoints of faults")
        pid = os.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
        os.waitpid(pid, 0)
        found = [decode.decode(ring.read(), perf.events, 0) for ring in perf.rings]
    finally:
        perf.close()
    samples = decode.in_order([one for each in found for one in each.samples])
    faults, ends = (int(np.count_nonzero(samples.event == event)) for event in (Event.FAULT, Event.MINOR))
    assert faults >= 1000
    assert faults * 0.9 <= ends <= faults
    assert sum(runs) / len(runs) > 10
