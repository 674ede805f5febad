"""Observers that fail: what is said of them, and that nothing else suffers."""

import json
import logging
import os
import stat
import threading
import time

import pytest

from shmfs.daemon import stale as stale_module
from shmfs.daemon.history import FIGURES, History
from shmfs.daemon.log import JsonLines
from shmfs.events.hooks import HOOKS, Instruments
from shmfs.events.records import Segment
from shmfs.fs.superblock import Credentials, Superblock
from shmfs.fuse.operations import Operations

FILE = stat.S_IFREG | 0o600


class Broken:
    """An observer that raises at each allocation."""

    name = "broken"
    figures = ("pictures", "sounds")

    def __init__(self) -> None:
        self.calls = 0

    def allocate(self, inode, page, pages):
        self.calls += 1
        raise ValueError("boom")

    def free(self, inode, page, pages):
        raise AssertionError("it was to be removed")


class Listener:
    def __init__(self):
        self.seen = []
        self.failures = []

    def allocate(self, *arguments):
        self.seen.append(arguments)

    def stale(self, failure):
        self.failures.append(failure)


class BrokenHistory(History):
    """A history that fails at the file with inode 5, in every hook that is named."""

    broken = ("allocate",)


def fail_at_5(hook):
    def method(self, inode, *rest):
        if hook in self.broken and inode == 5:
            raise KeyError("lost my place")
        getattr(History, hook)(self, inode, *rest)

    return method


for _hook in FIGURES:
    setattr(BrokenHistory, _hook, fail_at_5(_hook))


def test_an_observer_that_raises_is_named_removed_and_leaves_the_others(caplog):
    instruments, before, broken, after = Instruments(), Listener(), Broken(), Listener()
    for one in (before, broken, after):
        instruments.install(one)
    start = time.time_ns()
    with caplog.at_level(logging.ERROR):
        for page in range(3):
            instruments.call("allocate", 5, page, 1)
        instruments.call("free", 5, 0, 1)
    assert before.seen == after.seen == [(5, 0, 1), (5, 1, 1), (5, 2, 1)]
    assert broken.calls == 1
    (failure,) = instruments.failures
    assert failure[:2] == ("broken", ("pictures", "sounds"))
    assert start <= failure.since <= time.time_ns()
    assert failure.reason == "ValueError in allocate: boom"
    assert before.failures == after.failures == [failure]
    (record,) = caplog.records
    assert record.getMessage() == (
        "the observer broken failed in allocate; stale from now on: pictures, sounds"
    )
    assert record.exc_info


def test_an_observer_without_a_name_has_that_of_its_class():
    class Nameless:
        def evict(self, inode):
            raise RuntimeError

    instruments = Instruments()
    instruments.install(Nameless())
    instruments.call("evict", 5)
    assert [one.observer for one in instruments.failures] == ["Nameless"]
    assert "evict" not in instruments


def test_a_function_that_listens_is_removed_alone():
    instruments, heard = Instruments(), []

    def broken(inode):
        raise RuntimeError

    instruments["evict"] = [broken, heard.append]
    instruments.call("evict", 5)
    instruments.call("evict", 6)
    assert heard == [5, 6]
    assert instruments["evict"] == [heard.append]


def test_one_whose_note_of_a_failure_fails_harms_nobody():
    instruments, last = Instruments(), Listener()

    class Worse(Broken):
        def stale(self, failure):
            raise OSError

    for one in (Worse(), last):
        instruments.install(one)
    instruments.call("allocate", 5, 0, 1)
    assert len(last.failures) == 1


@pytest.mark.parametrize("hook", sorted(FIGURES))
def test_history_stays_and_its_figures_are_stale(hook, caplog):
    """It goes on with what it can know, and says once what it cannot."""
    instruments, history, listener = Instruments(), BrokenHistory(), Listener()
    history.broken = (hook,)
    instruments.install(history, keep=True)
    instruments.install(listener)
    arguments = {
        "create": ("/a", FILE, 1), "door": ("sysv", 1, 2), "open": (2, 1), "release": (2,), "link": ("/b", 1),
        "unlink": ("/b", 1, 1), "rename": ("/a", "/c", 1), "resize": (0, 9, 1), "evict": (),
        "usage": (4096, 1), "refuse": (0, 1, "size"), "allocate": (0, 1), "page_in": (0, 1), "free": (0, 1),
    }[hook]  # fmt: skip
    if hook != "create":
        instruments.call("create", 5, "/a", FILE, 1)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            instruments.call(hook, 5, *arguments)
    (failure,) = instruments.failures
    assert (failure.observer, failure.figures) == ("history", FIGURES[hook])
    assert len(caplog.records) == 1
    assert listener.failures == [failure]
    instruments.call("create", 6, "/later", FILE, 1)
    instruments.call("allocate", 6, 0, 7)
    later = next(one for one in history.segments() if one.inode == 6)
    assert (later.path, later.resident) == ("/later", 7)


def test_history_knows_the_figures_of_each_hook():
    known = set(Segment.__struct_fields__) | {"segments"}
    assert {one for many in FIGURES.values() for one in many} <= known
    instruments = Instruments()
    instruments.install(History())
    assert set(instruments) == set(FIGURES) <= set(HOOKS)


def test_two_hooks_of_history_are_two_failures():
    instruments, history = Instruments(), BrokenHistory()
    history.broken = ("allocate", "resize")
    instruments.install(history, keep=True)
    instruments.call("allocate", 5, 0, 1)
    instruments.call("resize", 5, 0, 1, 1)
    assert [one.figures for one in instruments.failures] == [FIGURES["allocate"], FIGURES["resize"]]


# ---- the file system beside them


def test_requests_are_served_while_observers_fail():
    """Each observer fails in each hook: what a request answers is as without observers."""

    class All:
        pass

    def broken(self, *arguments):
        raise ValueError

    for hook in HOOKS:
        setattr(All, hook, broken)

    def done(instruments):
        operations = Operations(Superblock(instruments=instruments, clock=lambda: 1))
        inode, handle = operations.create(1, b"f", FILE, os.O_RDWR, Credentials())
        stored = operations.write(handle, 0, b"x" * 9000)
        operations.release(handle)
        operations.unlink(1, b"f", Credentials())
        operations.forget([(inode.ino, inode.nlookup)])
        sb = operations.superblock
        return inode.ino, stored, sb.blocks.used, sb.blocks.peak, sb.inode_space.used, sorted(sb.inodes)

    instruments = Instruments()
    instruments.install(All())
    assert done(instruments) == done(Instruments())
    assert instruments == {}
    assert [one.observer for one in instruments.failures] == ["All"]


def test_ids_are_given_back_whatever_observers_do():
    evicted, instruments = [], Instruments()

    class Bad:
        def evict(self, inode):
            raise ValueError

    instruments.install(Bad())
    superblock = Superblock(instruments=instruments)
    superblock.evicted = evicted.append
    operations = Operations(superblock)
    for _ in range(3):
        inode, handle = operations.create(1, b"f", FILE, os.O_RDWR, Credentials())
        operations.release(handle)
        operations.unlink(1, b"f", Credentials())
        operations.forget([(inode.ino, inode.nlookup)])
        assert evicted[-1] == inode.ino
    assert len(evicted) == 3


# ---- the log


@pytest.fixture
def log(tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield JsonLines(fd)
    os.close(fd)


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_the_log_has_the_failures_of_others(log, tmp_path):
    instruments = Instruments()
    instruments.install(log)
    instruments.install(Broken())
    instruments.call("allocate", 5, 0, 1)
    instruments.call("evict", 5)
    log.close()
    stale = next(line for line in lines(tmp_path) if line["event"] == "stale")
    assert stale == {
        "time": instruments.failures[0].since,
        "event": "stale",
        "observer": "broken",
        "figures": ["pictures", "sounds"],
        "reason": "ValueError in allocate: boom",
        "source": "fuse",
    }


def test_the_log_ends_with_its_own_failure(log, tmp_path, monkeypatch):
    instruments = Instruments()
    instruments.install(log)
    instruments.call("create", 5, "/a", FILE, 1)
    monkeypatch.setattr(log, "_end_runs", lambda: 1 / 0)
    instruments.call("open", 5, 2, 1)
    monkeypatch.undo()
    log.close()
    assert instruments == {}
    assert [line["event"] for line in lines(tmp_path)] == ["create", "stale"]
    assert lines(tmp_path)[-1]["figures"] == ["events"]
    assert lines(tmp_path)[-1]["observer"] == "log"


def test_a_writer_that_fails_is_seen_at_once_and_removed_at_the_next_event(log, tmp_path, monkeypatch):
    instruments = Instruments()
    instruments.install(log)

    def broken():
        raise ValueError("no encoder")

    monkeypatch.setattr(log, "_take", broken)
    instruments.call("create", 5, "/a", FILE, 1)
    log._writer.join(10)
    assert not log._writer.is_alive()
    (found,) = stale_module.failed(instruments.failures, log)
    assert (found.observer, found.figures, found.since) == ("log", ["events"], log.failed_at)
    assert "no encoder" in found.reason
    assert lines(tmp_path)[-1]["event"] == "stale"
    assert log.lost == 1
    instruments.call("evict", 5)
    assert instruments == {}
    (found,) = stale_module.failed(instruments.failures, log)
    assert found.since == log.failed_at
    assert log.lost == 2
    log.close()


def test_a_follower_that_fails_makes_no_statistics_stale(log):
    instruments = Instruments()
    log.name = stale_module.FOLLOWER
    instruments.install(log)
    instruments.call("create")  # too few arguments
    found = stale_module.failed(instruments.failures, None)
    assert [one.observer for one in found] == ["follower"]
    assert stale_module.of_statistics(found) == []
    log.close()


def test_records_that_a_failing_writer_had_taken_are_lost(log, monkeypatch):
    instruments = Instruments()
    instruments.install(log)

    def broken(records):
        raise ValueError("no encoder")

    gate, take = threading.Event(), log._take
    monkeypatch.setattr(log, "_take", lambda: gate.wait(60) and take())
    monkeypatch.setattr(log, "_encode", broken)
    for inode in range(200):
        instruments.call("evict", inode)
    gate.set()
    log._writer.join(10)
    assert log.lost == 200
