"""Random sequences of calls, on the model and on the kernel's tmpfs: every answer must be the same."""

import os
import stat
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fs.support import PAGE, Model, errno_of

TEXT = "size=80k,nr_inodes=12"
settings_ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OFFSETS = st.one_of(
    st.integers(0, 24 * PAGE), st.integers(0, 24).map(lambda page: page * PAGE), st.just((1 << 62) + 5)
)
LENGTHS = st.one_of(st.integers(0, 3 * PAGE), st.integers(0, 24).map(lambda page: page * PAGE))
FILES = st.sampled_from(["a", "b"])


def call(name: str, *arguments: Any) -> Any:
    return st.tuples(st.just(name), st.tuples(*arguments))


TREE = st.one_of(
    call("create", PATHS, st.sampled_from([0o600, 0o644, 0o777])),
    call("mkdir", PATHS, st.sampled_from([0o700, 0o1777])),
    call("mkdir", PATHS, st.just(0o755)),
    call("mknod", PATHS, st.sampled_from([stat.S_IFIFO | 0o600, stat.S_IFCHR | 0o600]), st.just(0)),
    call("symlink", PATHS, st.sampled_from(["/missing", "/missing" + "/x" * 100])),
    call("link", PATHS, PATHS),
    call("unlink", PATHS),
    call("rmdir", PATHS),
    call("rename", PATHS, PATHS, st.sampled_from([0, 0, 0, 1, 2, 2, 4, 4, 5])),
    call("setxattr", PATHS, st.sampled_from(["trusted.a", "trusted.b"]), st.sampled_from([b"", b"x" * 1500])),
    call("removexattr", PATHS, st.sampled_from(["trusted.a", "trusted.b"])),
)

DATA = st.one_of(
    call("write", FILES, OFFSETS, LENGTHS.map(lambda length: b"w" * length)),
    call("write", FILES, OFFSETS, LENGTHS.map(lambda length: os.urandom(7) * (length // 7))),
    call("truncate", FILES, OFFSETS),
    call("fallocate", FILES, st.sampled_from([0, 1, 3, 3, 2]), OFFSETS, LENGTHS),
    call("seek", FILES, OFFSETS, st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE])),
    call("seek", FILES, OFFSETS, st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE])),
    call("read", FILES, OFFSETS, LENGTHS),
)


def walk(fs: Any, path: str = "") -> dict[str, Any]:
    """Everything below with its attributes; links are told by what they share."""
    found: dict[str, Any] = {}
    for name in fs.listdir(path):
        below = f"{path}/{name}" if path else name
        status = fs.stat(below)
        mode = status["mode"]
        found[name] = (status, fs.listxattr(below), walk(fs, below) if stat.S_ISDIR(mode) else None)
    return found


def compare(kernel_tmpfs: Any, calls: list[tuple[str, tuple[Any, ...]]], files: tuple[str, ...] = ()) -> None:
    model, kernel = Model(TEXT), kernel_tmpfs(TEXT)
    mask = os.umask(0)
    try:
        for fs in (model, kernel):
            for path in files:
                fs.create(path)
        for name, arguments in calls:
            answers = [errno_of(getattr(fs, name), *arguments) for fs in (model, kernel)]
            assert answers[0] == answers[1], (name, arguments)
            assert model.statfs() == kernel.statfs(), (name, arguments)
            assert walk(model) == walk(kernel), (name, arguments)
        for path in files:
            size = min(model.stat(path)["size"], 30 * PAGE)
            assert model.read(path, 0, size) == kernel.read(path, 0, size)
        model.check()
    finally:
        os.umask(mask)
        model.close_arena()
        kernel.destroy()


@settings_
@given(calls=st.lists(TREE, min_size=5, max_size=40))
def test_names(kernel_tmpfs, calls):
    compare(kernel_tmpfs, calls)


@settings_
@given(calls=st.lists(DATA, min_size=3, max_size=25))
def test_content(kernel_tmpfs, calls):
    compare(kernel_tmpfs, calls, ("a", "b"))


CHMODS = st.lists(
    st.one_of(
        call("chmod", FILES, st.integers(0, 0o7777)),
        call("chown", FILES, st.sampled_from([0, 5]), st.sampled_from([-1, 0, 5])),
        call("setxattr", FILES, st.just("security.capability"), st.just(b"\1\0\0\2" + b"\0" * 16)),
    ),
    max_size=10,
)


@settings_
@given(calls=CHMODS)
def test_modes_and_owners(kernel_tmpfs, calls):
    compare(kernel_tmpfs, calls, ("a", "b"))


def test_a_difference_is_found(kernel_tmpfs):
    """That `compare` compares: a difference made on purpose is found."""
    with pytest.raises(AssertionError):
        compare(kernel_tmpfs, [("wait", ()), ("listdir", ("",)), ("__repr__", ())])
