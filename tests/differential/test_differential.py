"""Random programs on tmpfs and on shmfs (scripts/differential), and the harness itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.differential import execute  # noqa: F401  it fills the table of operations
from tests.differential.actor import OPERATIONS
from tests.differential.generate import GROUPS, MAKERS, generate
from tests.differential.masks import MASKS
from tests.differential.program import Program, Step, parse
from tests.differential.shrink import shrink

ROOT = Path(__file__).parents[2]
SEED = 1
"""Of what CI runs: always the same programs, as many as there is time for."""
FRAME = {"enter", "leave", "make_room", "remove_room"}
"""Operations of every program's frame."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs of the kernel")


def differential(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.differential", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@needs_root
@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["managed", "native"])
def test_a_store_does_what_tmpfs_does(store):
    done = differential("--store", store, "--seed", str(SEED), "--programs", "1000")  # about a minute
    if store == "native" and done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{store}, seed {SEED}" in done.stdout
    assert "no difference" in done.stdout


@needs_root
def test_tmpfs_does_what_tmpfs_does():
    done = differential("--store", "tmpfs", "--seed", str(SEED), "--programs", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 programs" in done.stdout


@needs_root
def test_a_wrong_call_is_found_and_shrunk():
    driver = [sys.executable, "-m", "tests.differential.wrong_differential"]
    done = subprocess.run(driver, cwd=ROOT, capture_output=True, text=True, timeout=110)
    program = parse(done.stdout)
    assert [step.name for step in program.steps][-1] == "ftruncate", done.stdout + done.stderr
    assert len(program.steps) <= 3
    assert 4096 < program.steps[-1].arguments[1] <= 8192, "the smallest size that is wrong, nearly"


@needs_root
def test_a_saved_program_is_replayed(tmp_path):
    saved = tmp_path / "program"
    saved.write_text("# a comment\n" + generate(SEED, 3).text())
    done = differential("--store", "tmpfs", "--replay", str(saved))
    assert (done.returncode, done.stdout) == (0, "no difference\n"), done.stderr


def test_a_program_is_its_seed_and_number():
    assert generate(7, 5) == generate(7, 5)
    assert generate(7, 5) != generate(7, 6)
    assert generate(7, 5) != generate(8, 5)


def test_programs_survive_being_printed():
    for number in range(50):
        program = generate(SEED, number)
        assert parse(program.text()) == program


@pytest.mark.parametrize("text", ["", "'size=1m'\n(0,", "'size=1m'\n(0, 'read', (1,), 4)"])
def test_what_is_no_program_is_refused(text):
    with pytest.raises(ValueError, match=r"no program|not enough"):
        parse(text)


def test_every_operation_is_generated():
    assert set(MAKERS) == {name for group in GROUPS.values() for name in group}
    made = {step.name for number in range(300) for step in generate(SEED, number).steps}
    assert made == set(OPERATIONS) - FRAME


def test_masks_are_used():
    """Each entry of the table is asked for somewhere, and nothing else is."""
    package = Path(sys.modules["tests.differential"].__file__).parent
    modules = [path for path in package.glob("*.py") if path.name not in ("masks.py", Path(__file__).name)]
    sources = "".join(path.read_text() for path in modules)
    for name in MASKS:
        assert f'masks("{name}")' in sources, name
    assert sources.count(".masks(") == sum(sources.count(f'.masks("{name}")') for name in MASKS)


def steps_of(*names: str) -> tuple[Step, ...]:
    return tuple(Step(2, name, (5, 70_000)) for name in names)


def test_shrinking_leaves_what_is_needed():
    program = Program("", steps_of(*"abcdefghijklmnop"))

    def differs(program: Program) -> bool:
        names = [step.name for step in program.steps]
        arguments = [step.arguments[1] for step in program.steps if step.name == "k"]
        return "c" in names and arguments != [] and arguments[0] > 4096

    smallest = shrink(program, differs)
    assert [step.name for step in smallest.steps] == ["c", "k"]
    assert {step.actor for step in smallest.steps} == {0}
    assert smallest.steps[0].arguments == (0, 0)
    assert 4096 < smallest.steps[1].arguments[1] < 9000


def test_shrinking_ends_after_so_many_tries():
    tried = []

    def differs(program: Program) -> bool:
        tried.append(program)
        return len(tried) % 3 == 0

    shrink(Program("", steps_of(*"abcdefgh" * 20)), differs, tries=40)
    assert len(tried) <= 40
