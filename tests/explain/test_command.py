"""`shmfs explain` as a user runs it: text at any width, JSON, wrong usage, few rights, and an early end."""

import json
import os
import pty
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from shmfs.cli.group import main
from shmfs.explain import draw, records, render, story
from shmfs.explain.chapters.tools import claim
from shmfs.explain.stage import Stage
from shmfs.report.text import show
from shmfs.testing.plugin import why_absent
from tests.cli.conftest import SHMFS, alive, cli, eventually
from tests.unprivileged import as_nobody

__all__ = ["cli"]

pytestmark = pytest.mark.mount
needs_fuse = pytest.mark.skipif(why_absent() is not None, reason=f"no FUSE here: {why_absent()}")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def workers(director: int) -> list[int]:
    """The processes of the story of one director: those that have it as their parent, and its daemon."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == director:
            found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def told() -> records.Story:
    """What `shmfs explain --json` says, without an error, and leaving no mount behind."""
    if reason := why_absent():
        pytest.skip(f"no FUSE here: {reason}")
    for _ in range(2):  # reclaim may take a page in between: only what fails again is wrong
        done = subprocess.run([*SHMFS, "explain", "--json"], capture_output=True, timeout=55, check=False)
        assert done.stderr == b""
        found = msgspec.json.decode(done.stdout, type=records.Story)
        if not done.returncode:
            break
    assert (done.returncode, wrong(found)) == (0, [])
    return found


def wrong(found: records.Story) -> list[str]:
    """The claims that were not confirmed."""
    chapters = [chapter for store in found.stores for chapter in store.chapters]
    claims = [(step.title, claim) for chapter in chapters for step in chapter.steps for claim in step.claims]
    return [f"{title}: {claim}" for title, claim in claims if not claim.holds]


def test_json_of_both_stores(told: records.Story) -> None:
    assert told.failed == 0
    assert told.claims > 100
    managed, native = told.stores
    assert [managed.store, native.store] == ["managed", "native"]
    assert [chapter.name for chapter in managed.chapters] == list(story.CHAPTERS)
    for step in (step for chapter in managed.chapters for step in chapter.steps):
        assert step.title
        assert step.sentence.endswith(".")
        assert step.claims
    if os.geteuid() != 0:
        assert native.impossible
    else:
        assert managed.frames_visible
        assert managed.chapters[0].steps[1].touches == [records.Touch("A", "load", 0, 0, 1, "\0")]
        assert native.chapters[0].steps[1].touches == [records.Touch("A", "load", 0, 1, 0, "\0")]


@pytest.mark.parametrize("columns", [30, 40, 79, 80, 120])
def test_every_step_fits_any_width(told: records.Story, columns: int) -> None:
    out = StringIO()
    console = Console(file=out, width=columns, markup=False, highlight=False)
    managed, native = told.stores
    show(console, *render.terms(managed, columns))
    for chapter in managed.chapters:
        for number, step in enumerate(chapter.steps, 1):
            show(console, *render.step(step, number, columns))
    if not native.impossible:
        show(console, *render.differences(managed, native, columns))
    text = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in text) <= columns
    assert ("┌─frame" in out.getvalue()) == (columns > 78)
    if columns == 120 and not native.impossible:
        assert "faults  native: A loads page 0: 1 minor fault" in out.getvalue()
        assert "shmfs   managed: logged allocate page 0, page-in page 0" in out.getvalue()
    if columns > 78:
        assert [line.split()[0] for line in text[:5]] == [name for name, _ in story.TERMS]


@needs_fuse
def test_text_in_a_narrow_terminal(cli: Any) -> None:
    done = cli("explain", "map", "refuse", env={"COLUMNS": "40", "PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stderr) == (0, "")
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 40
    assert "\x1b" not in done.stdout
    assert "✗" not in done.stdout
    assert "managed pages: " in done.stdout
    assert "native pages" in done.stdout


@needs_fuse
def test_text_for_a_terminal_that_knows_ascii_only(cli: Any) -> None:
    environment = {"COLUMNS": "80", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = cli("explain", "--pages", "managed", "map", env=environment)
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "\\u" not in done.stdout
    assert "---> |" in done.stdout
    assert "v B has the same frame as A" in done.stdout


@needs_fuse
def test_without_the_extension(cli: Any) -> None:
    done = cli("explain", "--json", env={"SHMFS_EXTENSION": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["failed"] == 0
    assert "need the C extension" in found["stores"][1]["impossible"]


@needs_fuse
def test_a_pause_after_each_step_ends_with_the_input(cli: Any) -> None:
    done = cli("explain", "--pause", "--pages", "managed", "full", input="\n", stdin=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3. A removes its other file" in done.stdout


@needs_fuse
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_early_end_leaves_nothing(how: signal.Signals) -> None:
    """In the middle of a chapter, at a terminal, which waits for Enter."""
    ours, its = pty.openpty()
    director = subprocess.Popen(
        [*SHMFS, "explain", "--pause", "--pages", "managed", "sysv"],
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(its)
    try:
        os.write(ours, b"\n")
        assert director.stdout
        while "2. A attaches" not in director.stdout.readline():
            assert director.poll() is None
        family = workers(director.pid)
        assert len(family) == 3
        director.send_signal(how)
        out, err = director.communicate(timeout=30)
        assert director.returncode == (130 if how == signal.SIGINT else -how)
        assert "Traceback" not in out + err
        eventually(lambda: not any(alive(pid) for pid in family))
    finally:
        os.close(ours)
        director.kill()
        director.communicate()


@needs_fuse
@needs_fuse
def test_what_somebody_else_has_written_back_is_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's sync(2) between the store and the look at the page cache."""
    look, seen = Stage.cache, set()

    def cache(stage: Stage, mapping: Any, fd: int | None = None) -> Any:
        found, caller = look(stage, mapping, fd), sys._getframe(1).f_code.co_name
        if found.dirty and caller not in seen:
            seen.add(caller)
            found.dirty = 0
        return found

    monkeypatch.setattr(Stage, "cache", cache)
    done = CliRunner().invoke(main, ["explain", "--pages", "managed", "map"])
    assert "write_back" in seen
    assert (done.exit_code, "did not hold" in done.output) == (0, False)


def test_a_claim_that_does_not_hold_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(stage: Any) -> Any:
        yield stage.step("It happens", "This is wrong.", "do_mmap", [claim("pages charged", 7, stage.used())])

    monkeypatch.setitem(story.CHAPTERS, "map", ("Wrong", wrong))
    done = CliRunner().invoke(main, ["explain", "--pages", "managed", "map"])
    assert done.exit_code == 1
    assert "✗ pages charged: 7, but it was 0" in done.output
    assert "managed pages: 1 claim checked, 1 did not hold" in done.output


@needs_fuse
def test_nobody_reads_to_the_end() -> None:
    command = f"{' '.join(SHMFS)} explain --pages managed map | head -3"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert len(done.stdout.splitlines()) == 3
    assert "Traceback" not in done.stderr


@needs_fuse
@root_only
def test_chapters_that_are_the_same_on_both_stores(cli: Any) -> None:
    done = cli("explain", "refuse", env={"COLUMNS": "80", "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0
    assert "No step differs." in done.stdout or "native pages are not shown" in done.stdout


def test_wrong_usage(cli: Any) -> None:
    done = cli("explain", "maps")
    assert done.returncode == 2
    assert done.stderr.startswith("shmfs: there is no chapter 'maps'; it is one of map, full, refuse, ")
    assert cli("explain", "--pages", "huge").returncode == 2
    done = cli("explain", "--json", "--pause")
    assert done.returncode == 2
    assert "--pause and --json do not go together" in done.stderr


def explain_as_nobody(mode: int, tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `shmfs explain` as a user with a /dev/fuse of that mode, in a mount namespace of its own."""
    return subprocess.run(
        as_nobody(tmp_path, *SHMFS, "explain", *words, mode=mode),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
    )


@needs_fuse
@root_only
def test_without_root_frames_are_not_told_but_sharing_is(tmp_path: Path) -> None:
    done = explain_as_nobody(0o666, tmp_path, "--json")
    if "user namespaces" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["failed"] == 0
    managed, native = found["stores"]
    assert native["chapters"] == []
    assert "native pages cannot be had" in native["impossible"]
    assert not managed["frames_visible"]
    steps = [step for chapter in managed["chapters"] for step in chapter["steps"]]
    pages = [page for step in steps for view in step["views"] for page in view["pages"]]
    assert any(page["present"] for page in pages)
    assert {page["frame"] for page in pages} == {None}
    claims = [claim["text"] for step in steps for claim in step["claims"]]
    assert "B has the same frame as A (by bits 61 and 56 of pagemap)" in claims
    assert "after it B has another frame (by bits 61 and 56 of pagemap)" in claims


@needs_fuse
@root_only
def test_without_root_it_says_what_is_missing(tmp_path: Path) -> None:
    done = explain_as_nobody(0o666, tmp_path, "refuse")
    assert done.returncode == 0
    assert "The kernel shows frame numbers to root only" in done.stdout
    assert "native pages are not shown: native pages cannot be had" in done.stdout.replace(" \n", " ")
    done = explain_as_nobody(0o666, tmp_path, "--pages", "native")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("shmfs: native pages cannot be had")
    done = explain_as_nobody(0o600, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("shmfs: cannot mount on /dev/shm: /dev/fuse may not be opened")


# ---- pictures, of what need not have happened


def view(name: str, *, frame: int | None = None, mapped: bool = True, own: bool = False) -> records.View:
    vma = records.Vma(0x1000, 0x2000, "rw-p" if own else "rw-s", 0, "0:1", 1, "/f") if mapped else None
    page = records.Page(0, frame is not None, of_file=not own, frame=frame)
    return records.View(name, 1, vma, [page])


def step(*views: records.View, resident: bool = False) -> records.Step:
    return records.Step("t", "s", [], list(views), [], records.Cache([resident]), 0, None, [], [])


def lines(one: records.Step, width: int) -> list[str]:
    return [line.plain.strip() for line in draw.picture(one, width) if line.plain.strip()]


def test_the_picture_of_a_shared_frame() -> None:
    one = step(view("A", frame=0x2A), view("B", frame=0x2A))
    assert lines(one, 40) == ["A rw-s page 0 ─▶ PTE ─▶ 0x2a", "B rw-s page 0 ─▶ PTE ─▶ 0x2a"]
    [_, middle, _] = lines(one, 80)
    assert middle == "│ page 0  rw-s││present│ ───▶ │    0x2a    │ ◀─── │present││ page 0  rw-s│"


def test_the_picture_of_two_frames_of_one_and_of_none() -> None:
    two = step(view("A", frame=0x2A), view("B", frame=0x2B, own=True))
    assert [line for line in lines(two, 80) if "page" in line] == [
        "│ page 0  rw-s││present│ ───▶ │    0x2a    │",
        "│    0x2b    │ ◀─── │present││ page 0  rw-p│",
    ]
    assert lines(step(view("A", frame=0x2A), view("B")), 40) == [
        "A rw-s page 0 ─▶ PTE ─▶ 0x2a",
        "B rw-s page 0 ─▶ no PTE",
    ]
    assert lines(step(view("A")), 80)[1] == "│ page 0  rw-s││ none  │         no frame"
    assert "page cache" in lines(step(view("A"), resident=True), 80)[1]
    assert lines(step(view("A", mapped=False)), 40) == ["A no VMA"]
    assert lines(step(), 80) == []


def test_the_picture_without_frame_numbers() -> None:
    a, b = view("A", frame=0), view("B", frame=0)
    for one in (a, b):
        one.pages[0].present, one.pages[0].frame = True, None
    assert [line.split()[-2:] for line in lines(step(a, b), 40)] == [["page", "cache"]] * 2
    b.pages[0].of_file = False
    assert [line.split()[-2:] for line in lines(step(a, b), 40)] == [["page", "cache"], ["own", "copy"]]


def test_names_are_escaped() -> None:
    one = view("A", frame=1)
    assert one.vma
    one.vma.path = "/dev/shm/[bold]\x1b[2J\u202e"
    out = StringIO()
    Console(file=out, width=300, markup=False).print(*render.step(step(one), 1, 300))
    assert "[bold]\\x1b[2J\\u202e" in out.getvalue()
