"""How processes, segments and lists of them are called."""

import pytest

from shmfs.events.names import people, process_name, segment_name, some
from shmfs.events.records import Process

WORKERS = [Process(10, "worker", 1), Process(11, "worker", 2), Process(12, "", 3)]


def test_processes() -> None:
    assert [process_name(one) for one in WORKERS] == ["worker 10", "worker 11", "pid 12"]


@pytest.mark.parametrize(
    ("number", "most", "text"),
    [
        (0, 1, ""),
        (1, 1, "worker 10"),
        (2, 1, "worker \u00d72"),
        (3, 1, "worker \u00d72, ?"),
        (3, 3, "worker 10, worker 11, pid 12"),
    ],
)
def test_several_processes(number: int, most: int, text: str) -> None:
    assert people(WORKERS[:number], most) == text


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/a", "posix", "/a"),
        ("", "posix", "(inode 7, no name)"),
        ("/dev/zero", "anon", "/dev/zero (inode 7)"),
        ("", "anon", "(inode 7, no name)"),
    ],
)
def test_segments(path: str, kind: str, text: str) -> None:
    assert segment_name(path, "inode 7", kind) == text


def test_lists() -> None:
    assert some(["a", "b", "c"], 3) == "a, b, c"
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some(["a"], 2, more=4) == "a and 4 more"
    assert some([], 2) == ""
