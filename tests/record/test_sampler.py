"""The sampler, with real processes."""

import errno
import os
import threading
import time

import pytest

from shmfs.record import sampler
from shmfs.record.sampler import Sampler
from shmfs.system import maps

PAGE = 4096


def device_of(path):
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


@pytest.fixture
def segment(shm):
    path = shm / "segment"
    path.write_bytes(bytes(4 * PAGE))
    return path


def of(observations, path):
    return next((one for one in observations.segments if one.inode == path.stat().st_ino), None)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_it_keeps_is_the_most_it_saw(segment, child):
    one, two = child(), child()
    watch = Sampler(device_of(segment), lambda: [one.pid, two.pid])
    watch.sample()
    assert of(watch.observations(), segment) is None
    one.map(segment, 2 * PAGE)
    one.store(0)
    watch.sample()
    seen = of(watch.observations(), segment)
    assert (seen.shared, seen.samples, seen.path) == (0, 1, str(segment))
    two.map(segment, 4 * PAGE)
    two.do("for page in range(4): maps[0][page * 4096] = 1")
    one.store(1)
    watch.sample()
    two.do("maps.pop().close()")
    watch.sample()
    two.end()
    watch.sample()
    observations = watch.observations()
    seen = of(observations, segment)
    assert (observations.samples, seen.samples, seen.shared) == (5, 4, 2)
    first, second = seen.mapped_by
    assert (first.process.pid, first.mapped) == (one.pid, 2 * PAGE)
    assert first.pages == 2
    assert (second.process.pid, second.pages, second.mapped) == (two.pid, 4, 4 * PAGE)
    assert second.process.command.startswith("python")
    assert second.process.start_time > 0


def test_the_thread(segment, child):
    one = child()
    one.map(segment, PAGE)
    one.store(0)
    watch = Sampler(device_of(segment), lambda: [one.pid])
    watch.start()
    wait_for(lambda: watch.observations().samples > 2)
    observations = watch.stop()
    assert observations.interval >= sampler.SHORTEST * 0.9
    assert of(observations, segment).samples == observations.samples
    assert not any(thread.name == "shmfs-sampler" for thread in threading.enumerate())


def test_the_interval_follows_the_cost(segment, monkeypatch):
    intervals = []
    watch = Sampler(device_of(segment), list)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    costs = iter([0.0001, 0.01, 5.0])

    def sample():
        now[0] += next(costs)

    def wait(interval):
        intervals.append(interval)
        return len(intervals) == 4

    monkeypatch.setattr(watch, "sample", sample)
    monkeypatch.setattr(watch._stop, "wait", wait)
    watch._run()
    assert intervals == [0.0, sampler.SHORTEST, pytest.approx(0.1), sampler.LONGEST]


def test_a_failure_ends_the_sampling_and_is_logged(segment, caplog):
    def pids():
        raise RuntimeError("no pids")

    watch = Sampler(device_of(segment), pids)
    watch.start()
    wait_for(lambda: not watch._thread.is_alive())
    assert watch.stop().samples == 0
    assert "no pids" in caplog.text


def test_stop_without_start(segment):
    assert Sampler(device_of(segment), list).stop().segments == []


def test_refused_processes_are_counted_once(segment, monkeypatch):
    def refuse(pid, device):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(maps, "mappings", refuse)
    watch = Sampler(device_of(segment), lambda: [1])
    watch.sample()
    watch.sample()
    assert (watch.observations().hidden, watch.observations().samples) == (1, 2)
