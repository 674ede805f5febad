"""Sentences about deaths and refusals."""

from typing import Any

import msgspec
import pytest

from shmfs.analysis.wording import (
    advice,
    amount,
    death_brief,
    death_sentence,
    held_by,
    limit_text,
    refusal_brief,
    refusal_lines,
    refusal_sentence,
    who,
)
from shmfs.events.records import Death, Holder, Refusal

MIB = 1 << 20
FIND = "to find the value, run again with `-o %s=0` and read the peak"


def death(**fields: Any) -> Death:
    made = Death(
        pid=7, tid=7, process="x", path="/a", inode=5, page=2048, reason="the mount is full", limit=8 * MIB,
        holders=[Holder("/a", 8 * MIB, 7, "x")], enough="32m", time=1,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def refusal(**fields: Any) -> Refusal:
    made = Refusal(
        errno="ENOSPC", call="write", limit_name="size", limit=8 * MIB, asked=MIB, pid=7, tid=7, process="x",
        path="/a", inode=5, page=2048, time=1, holders=[], enough="9m",
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x", 7, 7), "x (pid 7)"),
        (("x", 7, 0), "x (pid 7)"),
        (("x", 7, 9), "x (pid 7, thread 9)"),
        (("", 7, 7), "process 7"),
        (("", 7, 9), "process 7, thread 9"),
        (("x", 0, 0), "a process that is not known"),
    ],
)
def test_who(arguments: tuple[str, int, int], text: str) -> None:
    assert who(*arguments) == text


def test_holders() -> None:
    several = [Holder("/a", MIB, 7, "x"), Holder("", 4096), Holder("/c", 1), Holder("/d", 1), Holder("/e", 1)]
    first = "/a 1 MiB (created by x, pid 7), a file without a name 4 KiB, /c 1 B"
    assert held_by(several[:3]) == first
    assert held_by(several) == f"{first} and 2 more"
    assert held_by(several, 80) == f"{first} and 82 more"
    assert held_by([]) == ""


@pytest.mark.parametrize(
    ("option", "enough", "text"),
    [
        ("size", "9m", f"at least size=9m is needed; {FIND % 'size'}"),
        ("size", None, FIND % "size"),
        ("nr_inodes", "5", f"at least nr_inodes=5 is needed; {FIND % 'nr_inodes'}"),
        ("shmmni", "51", "at least shmmni=51 is needed"),
        ("RLIMIT_FSIZE", None, ""),
    ],
)  # fmt: skip
def test_advice_never_promises(option: str, enough: str | None, text: str) -> None:
    assert advice(option, enough) == text
    assert enough is None or text.startswith("at least ")


@pytest.mark.parametrize(
    ("option", "limit", "text"),
    [
        ("size", 8 * MIB, "size=8m"),
        ("size", 12 << 10, "size=12k"),
        ("size", 4097, "size=4097"),
        ("size", 3 << 30, "size=3g"),
        ("size", 0, ""),
        ("nr_inodes", 4096, "nr_inodes=4096"),
        ("shmmni", 1024, "shmmni=1024"),
        ("shmmax", MIB, "shmmax=1m"),
        ("shmall", 30 * 4096, "shmall=30"),
        ("RLIMIT_FSIZE", 102400, "RLIMIT_FSIZE of 100 KiB"),
    ],
)
def test_limits(option: str, limit: int, text: str) -> None:
    assert limit_text(option, limit) == text


def test_amounts() -> None:
    assert [amount("size", 4096), amount("nr_inodes", 1), amount("shmmni", 2)] == [
        "4 KiB",
        "1 inode",
        "2 segments",
    ]
    assert amount("size", 0) == "more space"


def test_a_death() -> None:
    assert death_sentence(death()) == (
        "SIGBUS: x (pid 7) touched page 2048 of /a, but the mount is full (size=8m). Held by: /a 8 MiB "
        "(created by x, pid 7). At least size=32m is needed; to find the value, run again with `-o size=0` "
        "and read the peak."
    )
    assert "Held 12 ms later by: /a" in death_sentence(death(held_after=12_000_000))
    assert "Held by: /a" in death_sentence(death(held_after=400_000))
    assert "and 5 more. At" in death_sentence(death(more_holders=5))


def test_a_death_without_a_limit_gives_no_advice() -> None:
    reason = "that is beyond the end of the file, whose size is 4 KiB"
    assert death_sentence(death(limit=0, reason=reason, holders=[], enough=None)) == (
        f"SIGBUS: x (pid 7) touched page 2048 of /a, but {reason}."
    )
    sent = death(page=None, path="", limit=0, reason="process 9 sent it")
    assert death_sentence(sent) == "SIGBUS: x (pid 7) was killed by signal 7: process 9 sent it."
    assert death_brief(sent) == "x (pid 7) was killed by signal 7 (process 9 sent it)"
    assert death_brief(death(path="")) == "x (pid 7) touched page 2048 of a file without a name"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "ENOSPC: x (pid 7) asked for 1 MiB for /a (write), but size=8m is reached. At least size=9m is"),
        ({"path": "", "call": "pwrite64"}, "asked for 1 MiB for a file without a name (pwrite64), but"),
        ({"asked": 0, "call": "writev"}, "asked for more space for /a (writev), but"),
        ({"limit_name": "nr_inodes", "limit": 3, "asked": 1, "call": "mkdir", "path": "/", "enough": "4"},
         "asked for 1 inode for / (mkdir), but nr_inodes=3 is reached. At least nr_inodes=4 is needed"),
        ({"limit_name": "RLIMIT_FSIZE", "limit": 0, "errno": "EFBIG"}, "but RLIMIT_FSIZE is reached."),
        ({"limit_name": "quota", "limit": 0, "errno": "EDQUOT", "enough": None}, "but quota is reached."),
        ({"call": "", "pid": 0}, "a process that is not known asked for 1 MiB for /a, but size=8m is"),
        ({"held_after": 3_000_000, "more_holders": 2, "holders": [Holder("/b", MIB)]},
         "Held 3 ms later by: /b 1 MiB and 2 more."),
    ],
)  # fmt: skip
def test_a_refusal(fields: dict[str, Any], text: str) -> None:
    assert text in refusal_sentence(refusal(**fields))


def test_a_refusal_among_others() -> None:
    assert refusal_brief(refusal()) == "x (pid 7) asked for 1 MiB for /a (write), beyond size=8m"


def test_one_line_for_each_errno_limit_and_file() -> None:
    """Processes are counted once, though each of their calls has a record."""
    several = [
        refusal(count=3),
        refusal(call="fallocate", count=2),
        refusal(pid=8),
        refusal(path="/b"),
        refusal(errno="EFBIG"),
    ]
    lines = refusal_lines(several)
    assert [label for label, _ in lines] == ["ENOSPC", "ENOSPC", "EFBIG"]
    assert lines[0][1].endswith("read the peak. 6 times in all, by 2 processes.")
    assert "times in all" not in lines[1][1] + lines[2][1]
    assert refusal_lines([refusal(), refusal(call="fallocate")])[0][1].endswith(
        " 2 times in all, by 1 process."
    )
