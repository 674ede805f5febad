"""Each SIGBUS and each refused call counts once, whoever reports it."""

from typing import Any

import msgspec
import pytest

from shmfs.analysis.totals import refused
from shmfs.events.records import Death, Refusal
from tests.analysis.test_budgets import made

LIMIT = 1 << 20


def death(count: int = 1, pid: int = 10, limit: int = LIMIT, **more: Any) -> Death:
    died = Death(pid, pid, "python3", "/a", 2, 5, "the mount is full", limit, [], None, 1, True)
    return msgspec.structs.replace(died, count=count, **more)


def refusal(count: int = 1, errno: str = "SIGBUS", pid: int = 10, inode: int = 2) -> Refusal:
    call = "page fault" if errno == "SIGBUS" else "write"
    one = Refusal(errno, call, "size", LIMIT, 4096, pid, pid, "python3", "/a", inode, 0, 1, [], None)
    return msgspec.structs.replace(one, count=count)


@pytest.mark.parametrize(
    ("refusals", "deaths", "calls", "total"),
    [
        ([], [], [], 0),
        ([refusal(2)], [death()], [], 1),  # the kernel asked twice
        ([refusal(1)], [death()], [], 1),
        ([refusal(1024)], [death(512)], [], 512),
        ([refusal(3)], [death(3)], [], 3),  # it asked once each
        ([refusal(1024)], [death()], [], 512),  # no signals are seen
        ([refusal(1024)], [], [], 512),
        ([refusal(2, pid=0)], [death()], [], 1),  # the daemon does not know who
        ([refusal(2), refusal(2, inode=3)], [death()], [], 2),
        ([refusal(2), refusal(5, "ENOSPC")], [death()], [], 6),
        ([], [death(3)], [], 3),  # native pages
        ([], [death(3), death(2, pid=11)], [refusal(4, "ENOSPC")], 9),
        ([], [death(limit=0), death(limit=0, sent=True)], [], 0),  # behind the end of the file; sent
    ],
)
def test_each_counts_once(
    refusals: list[Refusal], deaths: list[Death], calls: list[Refusal], total: int
) -> None:
    known = sum(one.count for one in refusals)
    assert refused(made({"refusals": refusals, "refused": known}), deaths, calls) == total


def test_what_was_not_recorded_any_more() -> None:
    assert refused(made({"refusals": [refusal(2)], "refused": 10}), [death()], []) == 9
