"""`pytest --shmfs`: the /dev/shm of a whole run is shmfs.

Each process that runs tests has a mount of its own, in the namespaces of its daemon: pytest itself joins them
before it loads a conftest.py, and pytest-xdist's workers are started in them. So what the tests of one worker
leave behind or use up is no other's.
"""

import os
import shlex
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any

import msgspec
import pytest

from shmfs.analysis.budgets import describe, left
from shmfs.client import control, launch
from shmfs.errors import ShmfsError
from shmfs.events.records import Statistics
from shmfs.report.text import plural, size
from shmfs.sandbox.bind import SHM
from shmfs.sandbox.follow import Followed, Follower
from shmfs.system import namespaces
from shmfs.testing.mount import complaint, named, settled
from shmfs.testing.plugin import limit_of

if TYPE_CHECKING:
    from shmfs.client.launch import Server

_JOIN = 5
"""Words before those that xdist starts a worker with."""
KEY = "shmfs"
"""In what xdist hands to its workers and takes from them."""


class Ended(msgspec.Struct):
    """What a process that ran tests knows at its end."""

    statistics: Statistics | None = None
    followed: Followed | None = None


class Host:
    """A mount for one process that runs tests."""

    def __init__(self, options: str) -> None:
        self.name = ""
        """Of xdist's worker."""
        self.ended = Ended()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the daemon
        self.server: Server = launch.start(
            os.path.realpath(SHM), options, sandbox=True, exact=True, stderr=self._log
        )

    def stop(self) -> None:
        """Unmount; what is left in it is gone."""
        self.server.stop()
        self._log.close()

    def summary(self) -> list[str]:
        """Lines that say how it was used."""
        statistics, followed = self.ended.statistics, self.ended.followed
        if statistics is None:  # a worker that crashed
            try:
                statistics = self.server.statistics()
            except ShmfsError as error:
                return [str(error), *self._complaints()]
        limit = f" of {size(statistics.size_limit)}" if statistics.size_limit else ""
        count = len(statistics.segments) + statistics.segments_dropped
        facts = [plural(count, "segment"), f"peak {size(statistics.peak)}{limit}"]
        if statistics.refused:
            facts.append(f"{statistics.refused} refused")
        if followed and followed.seen:
            faults = followed.minor + followed.major + followed.failed
            lost = f", {followed.lost} lost" if followed.lost else ""
            facts.append(f"{plural(faults, 'page fault')} ({followed.major} major{lost})")
        lines = [" · ".join(facts)]
        leaks = left(statistics)
        if leaks:
            lines.append(f"left behind: {describe(leaks)}")
        return [*lines, *(followed.said if followed else ()), *self._complaints()]

    def _complaints(self) -> list[str]:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").splitlines()
        return ["shmfs itself failed:", *said] if said else []


class Session:
    """All mounts of a run, and what this process has to do with its own; pytest's hooks."""

    def __init__(self, options: str) -> None:
        self._options = options
        self._hosts: list[Host] = []
        self.device = ""
        """Of the mount on /dev/shm of this process; "" where it runs no tests."""
        self._follower: Follower | None = None
        self._known: set[int] | None = None
        """Inodes that were there before a test that may leave none; None in other tests."""
        self._limit: int | None = None
        """Bytes, to go back to after the test."""

    def enter(self) -> None:
        """Make the mount this process's /dev/shm; raises pytest.UsageError."""
        host = self._host()
        try:
            namespaces.join(host.server.pid)
        except ShmfsError as error:
            self.pytest_unconfigure()
            raise pytest.UsageError(
                f"--shmfs: {error}; where something has started threads already, use -n 1 of pytest-xdist, or"
                " `shmfs run -- pytest`"
            ) from None
        self.device = host.server.device

    def _host(self) -> Host:
        try:
            host = Host(self._options)
        except (ShmfsError, OSError) as error:
            raise pytest.UsageError(f"--shmfs: {error}") from None
        self._hosts.append(host)
        return host

    def pytest_report_header(self) -> str:
        """Say where tests are."""
        return f"shmfs: {SHM} is private{f' ({self._options})' if self._options else ''}"

    # ---- where tests run

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin to record."""
        given = getattr(session.config, "workerinput", {}).get(KEY)
        if given:
            self.device = str(given)
        if self.device:
            self._follower = Follower(self.device, SHM)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell what was recorded to who makes the summary."""
        if not self._follower:
            return
        ended = Ended()
        try:
            ended.followed = self._follower.stop()
            ended.statistics = control.statistics(self.device)
        except ShmfsError:
            pass  # the summary says that the daemon is gone
        if self._hosts:
            self._hosts[0].ended = ended
        else:
            session.config.workeroutput[KEY] = msgspec.json.encode(ended).decode()  # type: ignore[attr-defined]

    # ---- xdist's controller

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: "list[Any]") -> None:
        """Have each worker started in the sandbox of a daemon of its own."""
        for spec in specs:
            if not spec.popen or spec.via:
                raise pytest.UsageError(f"--shmfs: the worker {spec} would run on another machine")
            self._prepare(spec, shlex.split(spec.python) if spec.python else [sys.executable])

    def _prepare(self, spec: Any, words: list[str]) -> None:
        join = [sys.executable, "-P", "-m", "shmfs.sandbox.join", str(self._host().server.pid)]
        assert len(join) == _JOIN  # noqa: S101
        spec.python = shlex.join([*join, *words])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker its mount."""
        host = self._of(node)
        host.name = node.gateway.id
        node.workerinput[KEY] = host.server.device

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker has to say; one that takes the place of a crashed one gets a new mount."""
        said = (getattr(node, "workeroutput", None) or {}).get(KEY)
        if said:
            self._of(node).ended = msgspec.json.decode(said, type=Ended)
        else:
            spec = node.gateway.spec
            self._prepare(spec, shlex.split(spec.python)[_JOIN:])

    def _of(self, node: Any) -> Host:
        words = shlex.split(node.gateway.spec.python)
        return next(host for host in self._hosts if str(host.server.pid) in words)

    # ---- the end

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what happened to shared memory."""
        terminalreporter.section("shmfs")
        for host in self._hosts:
            if not (host.name or self.device):
                continue  # for a worker that was not needed any more
            first, *more = host.summary()
            terminalreporter.line(f"{host.name or SHM}: {first}")
            for line in more:
                terminalreporter.line(f"  {line}")

    def pytest_unconfigure(self) -> None:
        """Unmount."""
        while self._hosts:
            self._hosts.pop().stop()

    # ---- the markers, where a test uses /dev/shm itself

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Know what was there before the test, and limit it."""
        self._known = self._inodes() if item.get_closest_marker("shm_no_leaks") else None
        limit = None if "shmfs" in getattr(item, "fixturenames", ()) else limit_of(item)
        if limit is not None:
            self._limit = control.statistics(self.device).size_limit
            self._resize(limit)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        """What a fixture makes that outlives the test is not the test's."""
        before = self._inodes() if self._known is not None and fixturedef.scope != "function" else None
        result = yield
        if before is not None and self._known is not None:
            self._known |= self._inodes() - before
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Any:
        """Look at what the test leaves, when its fixtures are gone."""
        known, self._known = self._known, None
        try:
            result = yield
        finally:
            limit, self._limit = self._limit, None
            if limit is not None:
                self._resize(limit)
        left = settled(self.device, known) if known is not None else []
        if left:
            pytest.fail(complaint(left, SHM), pytrace=False)
        return result

    def _resize(self, limit: int) -> None:
        why = ""
        try:
            control.call(self.device, "remount", options=f"size={limit}")
        except ShmfsError as error:
            why = str(error)
        if why:
            pytest.fail(f"{SHM} cannot be limited to {size(limit)}: {why}", pytrace=False)

    def _inodes(self) -> set[int]:
        return {segment.inode for segment in named(self.device)}
