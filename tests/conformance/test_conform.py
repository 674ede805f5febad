"""What the runner of conformance makes of the answers, and that it gives up on cases that hang or die."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from shmfs.conformance import DEFAULT_OPTIONS, Case, judge, known, load, places, report
from shmfs.conformance.isolation import in_child
from shmfs.conformance.messages import Configuration, Outcome
from shmfs.conformance.runner import running

REASON = known.Reason("it differs", "nothing can be done")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known.EVERY, "a.case", {"x": (2, REASON), "y": (..., REASON)})
    monkeypatch.setitem(known.WHOLE, "native", {"a.whole": REASON})


def judged(
    expected: Any, answered: Any, store: str = "managed", name: str = "a.case", **more: Any
) -> Outcome:
    return judge.judge(name, said(expected, answered, store) | more)


def said(expected: Any, answered: Any, store: str = "managed") -> dict[str, Any]:
    both = {"expected": ("value", expected), "answered": ("value", answered)}
    return both | {"complaints": "", "store": store}


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("expected", "answered", "state", "reasons"),
    [
        ({"x": 2, "z": [1]}, {"x": 2, "z": [1]}, "agrees", []),
        ({"x": 1, "y": 1, "z": 1}, {"x": 2, "y": 5, "z": 1}, "known", [str(REASON)] * 2),
        ({"x": 1, "y": 1, "z": 1}, {"x": 3, "y": 1, "z": 1}, "differs", [""]),
        ({"x": 1, "y": 1, "z": 1}, {"x": 2, "y": 1, "z": 2}, "differs", [str(REASON), ""]),
        ({"x": 1}, {"z": 1}, "differs", [""]),
        ([1, [2, 3]], [1, [2, 4]], "differs", [""]),
        ([1, 2], [1], "differs", [""]),
        (b"", "", "differs", [""]),
    ],
)
def test_answers_are_compared(expected: Any, answered: Any, state: str, reasons: list[str]) -> None:
    table = {} if isinstance(expected, dict) and "x" in answered else {"name": "another.case"}
    outcome = judged(expected, answered, **table)
    assert outcome.state == state
    assert [one.reason for one in outcome.differences] == reasons


@pytest.mark.usefixtures("table")
def test_known_differences_are_of_shmfs_alone() -> None:
    assert judged({"x": 1, "y": 1}, {"x": 2, "y": 1}).state == "known"
    assert judged({"x": 1, "y": 1}, {"x": 2, "y": 1}, store="").state == "differs"
    assert judged(1, 2, "native", "a.whole").state == "known"
    assert judged(1, 2, "managed", "a.whole").state == "differs"


@pytest.mark.usefixtures("table")
def test_a_known_difference_that_is_no_more_is_told() -> None:
    outcome = judged({"x": 1, "y": 1}, {"x": 1, "y": 1})
    assert (outcome.state, outcome.note) == ("agrees", "no difference any more: x")


def test_what_fails_is_told() -> None:
    assert judged(1, 1, complaints="it complained").state == "differs"
    hung = judge.judge("a.case", said(1, 1) | {"answered": ("hung", "no end")})
    assert hung.differences[0].answered == "hung: no end"
    assert "it failed" in judge.judge("a.case", said(1, 1) | {"expected": ("error", "Traceback")}).note
    assert judge.judge("a.case", said(1, 1) | {"expected": ("refused", "")}).state == "not run"
    assert judge.judge("a.case", {"why not": "needs a hat"}).note == "needs a hat"


def test_places_are_named() -> None:
    found = judge.differences({"a": [1, {2: b"x"}]}, {"a": [1, {2: b"y"}]})
    assert [(one.where, one.expected, one.answered) for one in found] == [("['a'][1][2]", "b'x'", "b'y'")]


def test_outcomes_are_counted() -> None:
    outcomes = [Outcome("a.1", "a", "agrees"), Outcome("a.2", "a", "known"), Outcome("b.1", "b", "differs")]
    assert report.sections(outcomes) == [report.Count("a", 2, 1, 1, 0, 0), report.Count("b", 1, 0, 0, 1, 0)]


def test_cases_are_chosen() -> None:
    names = ["mmap.length", "mmap.offset", "names.lengths"]
    assert report.chosen(names, []) == names
    assert report.chosen(names, ["length"]) == ["mmap.length", "names.lengths"]
    assert report.chosen(names, ["mmap.*", "names"]) == names
    assert report.chosen(names, ["*.len?th"]) == ["mmap.length"]


def test_a_child_is_given_up() -> None:
    start = time.monotonic()
    assert in_child(lambda: time.sleep(60), 0.2).kind == "hung"
    assert time.monotonic() - start < 30
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL)).value == "ended with status -9"
    assert in_child(lambda: [1, {b"2": None}]) == ("value", [1, {b"2": None}])
    assert in_child(lambda: object).kind == "error"


@pytest.mark.parametrize(
    ("given", "options", "same"),
    [
        ("rw,relatime,size=64k,nr_inodes=16,inode64", "size=64k,nr_inodes=16", True),
        ("rw,nodev,relatime,size=1024k", "size=1m,nodev", True),
        ("rw,size=64k", "size=64k,nr_inodes=16", False),
        ("rw,size=1m", "size=1m,noexec", False),
        ("ro,size=1m", "size=1m", False),
        ("rw,nr_blocks=16", "size=64k", True),
        ("pages=native,size=1m", "size=1m", True),
    ],
)
def test_mounts_are_the_same_by_what_their_options_mean(given: str, options: str, same: bool) -> None:
    assert (places.meaning(given) == places.meaning(options)) is same


def test_a_case_that_takes_what_is_not_there_is_not_run(tmp_path: Path) -> None:
    facts = places.Facts(str(tmp_path))
    facts.size, facts.free, facts.inodes, facts.free_inodes, facts.read_only = 1 << 30, 1 << 30, 0, 0, False
    anywhere, own = Case(print, None), Case(print, DEFAULT_OPTIONS)
    assert facts.why_not(anywhere) == ""
    assert facts.why_not(own) == "needs an empty mount with the options of the case"
    facts.free = 1 << 20
    assert facts.why_not(anywhere) == "needs 16 MiB that are free"
    facts.free, facts.inodes, facts.free_inodes = 1 << 30, 100, 50
    assert facts.why_not(anywhere) == "needs 2000 inodes that are free"
    facts.read_only = True
    assert facts.why_not(anywhere) == "needs a mount that may be written to"


def test_two_directories(tmp_path: Path) -> None:
    """Also without root: no mount is made."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    with running(Configuration("", "", str(one), str(other))) as runner:
        outcomes = [runner.run(name) for name in load() if name.startswith("sharing.")]
    assert {outcome.state for outcome in outcomes} <= {"agrees", "not run"}
    assert "agrees" in {outcome.state for outcome in outcomes}
    assert not [*one.iterdir(), *other.iterdir()]


def test_cases_that_the_code_names_exist() -> None:
    package = Path(known.__file__).parents[1]
    found = [
        name
        for path in package.rglob("*.py")
        for name in re.findall(r"\b[Cc]ase\s+(?:#\s*)?([a-z_]+\.[a-z_0-9]+)", path.read_text())
    ]
    assert len(found) >= 3
    assert set(found) <= set(load())
