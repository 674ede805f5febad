"""Random programs whose reports are compared with what they know (scripts/search), and the search itself."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from shmfs.system import mounts
from shmfs.testing.plugin import why_absent
from shmfs.tracefile.format import FAULT, Meta
from shmfs.tracefile.writer import Writer
from tests.search.compare import compare
from tests.search.execute import Outcome, compile_actor
from tests.search.generate import MAIN, THREAD, generate
from tests.search.masks import ALL, MASKS
from tests.search.program import STEPS, Program, Step, parse, read_log
from tests.search.shrink import shrink

ROOT = Path(__file__).parents[2]
SECONDS = 60
"""For each target."""
SEED = 20
"""The same each time, so that a change is judged by the programs that passed before it. `scripts/search`
takes another seed each time."""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to compile the programs")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and to see every fault")


@needs_root
@needs_gcc
@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", ["run-managed", "run-native", "record-tmpfs"])
def test_reports_are_what_the_programs_know(target: str) -> None:
    if reason := why_absent():
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.search", "--target", target, "--seed", str(SEED)]
    with subprocess.Popen(
        [*command, "--minutes", str(SECONDS / 60)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as search:  # fmt: skip
        try:
            output, _ = search.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            search.send_signal(signal.SIGINT)  # it ends its recorder and its mount, which a kill would leave
            output, _ = search.communicate(timeout=50)
    assert search.returncode == 0, output
    assert f"{target}, seed {SEED}" in output
    assert "no difference" in output


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to compile the programs")
    return compile_actor(tmp_path_factory.mktemp("actor"))


TOUCHES = Program(
    1 << 20,
    (
        (
            Step("bus", (1,)),
            Step("open", (0, 0, 1)),
            Step("ftruncate", (0, 4 * 4096)),
            Step("mmap", (0, 0, 0, 6, 0)),
            Step("touch", (0, 0, 6, 1, 1)),
            Step("touch", (0, 1, 1, 1, 0)),
            Step("fork", (1,)),
            Step("wait"),
            Step("exit", (3,)),
        ),
        (Step("touch", (0, 0, 1, 1, 1)), Step("exit", (5,))),
    ),
)
"""Stores to four pages, and to two that lie behind the end; a child touches one of them."""


@pytest.fixture
def outcome(actor: Path, tmp_path: Path) -> Outcome:
    """What the program logs; it is not recorded."""
    if (mount := mounts.containing("/dev/shm")) is None or mount.fstype != "tmpfs":
        pytest.skip("needs a tmpfs of the kernel on /dev/shm")
    (tmp_path / "program").write_text(TOUCHES.text())
    with tempfile.TemporaryDirectory(prefix="shmfs-test-", dir="/dev/shm") as directory:
        arguments = [str(tmp_path / "program"), directory, str(tmp_path / "log"), "0", "start"]
        status = subprocess.run([str(actor), *arguments], timeout=60).returncode
    log = read_log(tmp_path / "log")
    return Outcome(TOUCHES, "record-tmpfs", log, status, tmp_path / "trace", {}, None, "", alone=True)


def test_a_program_logs_what_it_does(outcome: Outcome) -> None:
    touched = [record.a for record in outcome.log if record.name == "touched"]
    first = outcome.log[0].pid
    assert [one[1] for one in touched if one[4] == 0] == [0, 1, 2, 3, 1, 0]
    assert [(one[1], one[5]) for one in touched if one[4] == 7] == [(4, 4), (5, 5)]
    assert [one[3] for one in touched] == [1 << 32] * 4 + [0, 0, 0, 1 << 32]
    [wait] = [record for record in outcome.log if record.name == "wait"]
    assert wait.a[1] == 5 << 8
    assert {record.pid for record in outcome.log} == {first, wait.a[0]}


class Forgery:
    """A trace of what the program did, with something wrong in it."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        start = min(record.begin for record in outcome.log)
        first = outcome.log[0].pid
        self.pids = list(dict.fromkeys([first, *(record.pid for record in outcome.log)]))
        self.ends = {pid: max(one.end for one in outcome.log if one.pid == pid) + 1 for pid in self.pids}
        self.statuses = [outcome.status, 5]
        self.parents: list[int | None] = [None, 0]
        self.start = start
        self.rows = []
        for record in outcome.log:
            if record.name == "touched":
                inode, page, bits, counts, signal, _ = record.a
                kinds = [1] * (counts >> 32) + [2] * (counts & 0xFFFFFFFF) + [3] * (signal == 7)
                self.inode = inode
                self.rows += [
                    [(record.begin + record.end) // 2, page, self.pids.index(record.pid), record.tid, kind,
                     1 + (bits & 1)]
                    for kind in kinds
                ]  # fmt: skip

    def differences(self) -> list[str]:
        writer = Writer(
            self.outcome.trace, Meta(started=self.start, mount="/m", device="0:57", store="tmpfs")
        )
        for number, pid in enumerate(self.pids):
            writer.event("process", "perf", time=self.start, process=number, pid=pid, command="actor",
                         parent=self.parents[number], start_time=self.start)  # fmt: skip
        writer.event(
            "segment", "perf", time=self.start, segment=0, device="0:57", inode=self.inode, path="/s0"
        )
        for record in self.outcome.log:
            if record.name == "mmap":
                at = (record.begin + record.end) // 2
                writer.event("map", "perf", time=at, process=0, segment=0, address=record.a[2], page=0,
                             length=6 * 4096, protection="rw-", shared=True)  # fmt: skip
        rows = np.zeros(len(self.rows), FAULT)
        for row, values in zip(rows, sorted(self.rows), strict=True):
            for name, value in zip(("time", "page", "process", "tid", "kind", "access"), values, strict=True):
                row[name] = value
        writer.faults(rows)
        bus = self.rows[4]
        writer.event("sigbus", "perf", time=bus[0], process=0, tid=bus[3], segment=0, page=4, path="/s0",
                     reason="", limit=0, holders=[], enough=None)  # fmt: skip
        for number, pid in enumerate(self.pids):
            writer.event("exit", "perf", time=self.ends[pid], process=number, status=self.statuses[number])
        writer.close({"status": self.outcome.status, "lost": 0})
        return compare([self.outcome])[0].differences


@pytest.fixture
def forgery(outcome: Outcome) -> Forgery:
    outcome.log[:0] = [outcome.log[0]._replace(name="gate", end=0, begin=0)] * 2
    return Forgery(outcome)


def test_a_true_trace_has_no_difference(forgery: Forgery) -> None:
    assert forgery.differences() == []


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (1, 9, "has no touch of that page"),
        (4, 2, "reported 1 major, expected 1 minor"),
        (4, 3, "reported 1 failed, expected 1 minor"),
        (5, 1, "the access is 1"),
        (2, 1, "the fault is of process"),
        (3, 99, "has no touch of that page"),
        (0, 1, "expected 1 minor"),
    ],
)
def test_a_wrong_row_is_found(forgery: Forgery, column: int, value: int, words: str) -> None:
    forgery.rows[1][column] = value if column else forgery.rows[1][0] + 50_000_000
    assert any(words in sentence for sentence in forgery.differences())


def test_a_missing_and_a_second_fault_are_found(forgery: Forgery) -> None:
    rows = list(forgery.rows)
    forgery.rows = rows[1:]
    assert any("reported nothing, expected 1 minor" in sentence for sentence in forgery.differences())
    forgery.rows = [*rows, rows[0]]
    assert any("reported 2 minor, expected 1 minor" in sentence for sentence in forgery.differences())


def test_wrong_processes_are_found(forgery: Forgery) -> None:
    forgery.statuses, forgery.ends[forgery.pids[1]] = [0, 5], forgery.start - 1
    found = forgery.differences()
    assert any("is reported to end with 0, not 3" in sentence for sentence in found)
    assert any("ends before it starts" in sentence for sentence in found)


# ---- programs


def test_a_program_is_its_seed_and_number() -> None:
    assert generate(7, 5, "run-native") == generate(7, 5, "run-native")
    assert generate(7, 5, "run-native") != generate(7, 6, "run-native")


@pytest.mark.parametrize("target", ALL)
def test_programs_survive_being_printed(target: str) -> None:
    for number in range(50):
        program = generate(1, number, target)
        again = parse(str(program))
        assert (again.size, [role for role in again.roles if role]) == (
            program.size,
            [role for role in program.roles if role],
        )


def test_every_step_is_generated() -> None:
    assert set(MAIN) | {"gate"} == set(STEPS)
    assert set(THREAD) <= set(MAIN)
    made = {
        step.name
        for number in range(150)
        for target in ALL
        for role in generate(1, number, target).roles
        for step in role
    }
    assert made == set(STEPS)


def test_masks_are_used() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path.stem != "masks")
    for name, mask in MASKS.items():
        assert f'"{name}"' in sources, name
        assert set(mask.targets) <= set(ALL)


def test_shrinking_leaves_what_is_needed() -> None:
    program = generate(1, 3, "run-managed")
    while not any(step.name == "mmap" for step in program.roles[0]):
        program = generate(2, program.steps, "run-managed")

    def differs(one: Program) -> list[str]:
        return ["found"] * any(step.name == "mmap" for step in one.roles[0])

    smallest, differences = shrink(program, differs, tries=2000)
    assert differences == ["found"]
    assert [step.name for step in smallest.roles[0]] == ["mmap"]
    assert smallest.steps == 1


def test_what_does_not_differ_again_is_not_shrunk() -> None:
    program = generate(1, 3, "run-managed")
    assert shrink(program, lambda one: []) == (program, [])
