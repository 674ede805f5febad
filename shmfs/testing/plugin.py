"""The pytest plugin: a private mount for a test, and what happened on it.

    def test_frames(shmfs):
        assert shmfs.run(["./render", "--workers", "4"]).returncode == 0
        assert shmfs.segment("frames").peak_resident == 300

    @pytest.mark.shm_limit("1 MB")
    @pytest.mark.shm_no_leaks
    def test_full(shmfs):
        with shmfs.record():
            shmfs.run(["./render"])
        assert len(shmfs.faults(path="/frames", kind="failed")) == 0

`pytest --shmfs` makes the /dev/shm of a whole run such a mount; see `session`.

pytest loads this module in every run, so it imports no more of shmfs than `mount` until that is used.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.testing.mount import MountFactory, PrivateMount, complaint, mount

DEFAULT_OPTIONS = "size=64m"
LIMIT, NO_LEAKS = "shm_limit", "shm_no_leaks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --shmfs and --shmfs-size."""
    group = parser.getgroup("shmfs")
    group.addoption(
        "--shmfs",
        action="store_true",
        help="run all tests with a private /dev/shm that is shmfs, and say at the end what happened to it",
    )
    group.addoption("--shmfs-size", metavar="SIZE", help='its limit, as in 64m or "64 MB" (half of RAM)')


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for line in (
        f'{LIMIT}(size): the limit of the fixture shmfs, or with --shmfs of /dev/shm, as in "64 MB" or "64m"',
        f"{NO_LEAKS}: the test may leave no name behind in the fixture shmfs, or with --shmfs in /dev/shm",
    ):
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Enter the private /dev/shm before anybody opens something there, or starts a thread."""
    known = early_config.known_args_namespace
    if not known.shmfs:
        return
    from shmfs.testing.session import Session

    given = known.shmfs_size
    session = Session("" if given is None else f"size={_bytes(given, '--shmfs-size')}")
    early_config.pluginmanager.register(session, "shmfs-session")
    workers = getattr(known, "numprocesses", None) or getattr(known, "tx", None)
    if not workers or (getattr(known, "usepdb", False) and workers in ("auto", "logical")):
        session.enter()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say so where a marker is for nothing."""
    if item.config.getoption("--shmfs") or "shmfs_mount" in getattr(item, "fixturenames", ()):
        return
    for marker in item.own_markers:
        if marker.name in (LIMIT, NO_LEAKS):
            item.warn(
                pytest.PytestWarning(f"{marker.name} takes the fixture shmfs, or the option --shmfs, to work")
            )


def limit_of(item: Any) -> int | None:
    """Bytes that the marker of a test says; None without one."""
    marker = item.get_closest_marker(LIMIT)
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.kwargs:
        raise pytest.UsageError(f'@pytest.mark.{LIMIT} takes one size, as in {LIMIT}("64 MB")')
    return _bytes(str(marker.args[0]), f"@pytest.mark.{LIMIT}")


def _bytes(text: str, what: str) -> int:
    from shmfs.events.amounts import parse_size

    number = parse_size(text)
    if number is None:
        raise pytest.UsageError(f'{what}: {text!r} is no size: give one as in 64m or "64 MB"')
    return number


def why_absent() -> str | None:
    """Say why this process cannot mount FUSE at all, None if nothing is known to stand against it."""
    import shutil

    try:
        if not stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
            return "/dev/fuse is not a device"
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "there is no /dev/fuse; run `modprobe fuse`, or give the container --device /dev/fuse"
    except OSError as error:
        return f"/dev/fuse may not be opened ({error.strerror})"
    if _may_mount() or (os.geteuid() != 0 and shutil.which("fusermount3")):
        return None
    if os.geteuid() == 0:
        return "the right to mount is missing; give the container --cap-add SYS_ADMIN"
    return "fusermount3 is missing; install the package fuse3"


def _may_mount() -> bool:
    """Say whether this process has CAP_SYS_ADMIN (21)."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split(None, 1)[0], 16) >> 21 & 1)


@pytest.fixture
def shmfs_mount(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountFactory]:
    """Return a function that makes a private mount: `shmfs_mount(options="size=64m")`.

    All of them end with the test. Skips where FUSE is absent. What a daemon wrote to its log (a failure
    of shmfs itself) fails the test.
    """
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    if os.geteuid() != 0 and request.config.getoption("--shmfs"):
        pytest.skip(
            "with --shmfs tests are in a user namespace, where no further mount is possible but as root"
        )
    mounts: list[PrivateMount] = []

    def make(options: str = DEFAULT_OPTIONS) -> PrivateMount:
        mounts.append(mount(tmp_path_factory.mktemp("shmfs"), options))
        return mounts[-1]

    leaks: list[str] = []
    try:
        yield make
        if request.node.get_closest_marker(NO_LEAKS):
            leaks = [complaint(left, str(one.path)) for one in mounts if one.serves and (left := one.leaks())]
    finally:
        for one in reversed(mounts):
            one.stop()
    complaints = "".join(one.complaints() for one in mounts)
    if complaints:
        pytest.fail(f"shmfs itself failed:\n{complaints}", pytrace=False)
    if leaks:
        pytest.fail("\n".join(leaks), pytrace=False)


@pytest.fixture
def shmfs(request: pytest.FixtureRequest, shmfs_mount: MountFactory) -> PrivateMount:
    """Return a private mount of 64 MiB served from another process: `.path`, `.run([...])`, `.segments()`.

    `@pytest.mark.shm_limit("1 MB")` gives it another size. Parametrised indirectly it takes mount options:
    `@pytest.mark.parametrize("shmfs", ["size=1m,reserve=strict"], indirect=True)`. See PrivateMount.
    """
    options = getattr(request, "param", DEFAULT_OPTIONS)
    limit = limit_of(request.node)
    return shmfs_mount(options=options if limit is None else f"{options},size={limit}")
