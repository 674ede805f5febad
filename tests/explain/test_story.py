"""The claims of the story, beside what the kernel tells somebody else at the same moment."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from operator import sub
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmfs.errors import ShmfsError
from shmfs.explain import kernel, records, stage, story
from shmfs.system import pagemap
from shmfs.testing.plugin import why_absent

pytestmark = pytest.mark.mount

PRESENT, OF_FILE = 1 << 63, 1 << 61
FRAME = (1 << 55) - 1
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="frame numbers are for root")


lane_only = pytest.mark.skipif(
    os.environ.get("SHMFS_EXTENSION") == "0" or find_spec("shmfs.fuse._lane") is None,
    reason="without the extension stat drops pages that were written back: a second look finds them gone",
)


class Witness(NamedTuple):
    """A step, and what the kernel said just then to somebody who asked for himself."""

    chapter: str
    step: records.Step
    lines: list[str | None]
    """Of maps, for each view."""
    entries: list[list[int]]
    """Of pagemap, for each view."""
    counters: dict[str, tuple[int, int]]
    """Minor and major faults of A and B so far."""
    used: int
    """Pages in use, by statfs."""
    holders: dict[tuple[str, bool], int]
    """Frames of page 0 by process and whether it is a private copy, as `shmfs map` finds them."""


class Seen(NamedTuple):
    """The story on one store."""

    managed: bool
    witnesses: list[Witness]
    skipped: dict[str, str]

    def chapter(self, name: str) -> list[Witness]:
        return [witness for witness in self.witnesses if witness.chapter == name]


def look(scene: stage.Stage, chapter: str, step: records.Step) -> Witness:
    actors = {"A": scene.a.pid, "B": scene.b.pid}
    names = {pid: name for name, pid in actors.items()}
    vmas = [view.vma for view in step.views if view.vma]
    holders = {}
    if vmas:
        for page in pagemap.matrix(vmas[0].device, vmas[0].inode, names).sharing().pages:
            if page.page == 0:
                holders = {(names[one.pid], one.private): one.frame or 0 for one in page.processes}
    return Witness(
        chapter,
        step,
        [line(view) for view in step.views],
        [[entry(view, page.page) for page in view.pages] if view.vma else [] for view in step.views],
        {name: counters(pid) for name, pid in actors.items()},
        df(scene),
        holders,
    )


def line(view: records.View) -> str | None:
    for one in Path(f"/proc/{view.pid}/maps").read_text().splitlines():
        if view.vma and one.startswith(f"{view.vma.start:x}-"):
            return " ".join(one.split())
    return None


def entry(view: records.View, page: int) -> int:
    assert view.vma
    with open(f"/proc/{view.pid}/pagemap", "rb", buffering=0) as file:
        file.seek((view.vma.start // 4096 + page) * 8)
        return int.from_bytes(file.read(8), "little")


def counters(pid: int) -> tuple[int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]), int(fields[9])


def df(scene: stage.Stage) -> int:
    """As another process on the machine sees it; root may look into a sandbox."""
    path = f"/proc/{scene.server.pid}/root/dev/shm"
    found = os.statvfs(path) if os.geteuid() == 0 else None
    return found.f_blocks - found.f_bfree if found else scene.used()


@contextmanager
def opened(pages: str) -> Iterator[stage.Stage]:
    reason = why_absent()
    if reason:
        pytest.skip(f"no FUSE here: {reason}")
    try:
        with stage.open_stage(pages) as scene:
            yield scene
    except ShmfsError as failure:
        if pages == "native" and str(failure).startswith("native pages "):
            pytest.skip(str(failure))
        raise


@pytest.fixture(scope="module", params=["managed", "native"])
def seen(request: pytest.FixtureRequest) -> Seen:
    witnesses, skipped = [], {}
    with opened(request.param) as scene:
        for name, (_, tell) in story.CHAPTERS.items():
            scene.forget()
            try:
                witnesses += [look(scene, name, step) for step in tell(scene)]
            except stage.Skip as skip:
                skipped[name] = str(skip)
        return Seen(scene.managed, witnesses, skipped)


def test_every_claim_holds(seen: Seen) -> None:
    for one in seen.witnesses:
        assert one.step.claims
        assert [claim for claim in one.step.claims if not claim.holds] == [], one.step.title
    told = {one.chapter for one in seen.witnesses} | set(seen.skipped)
    assert told == set(story.CHAPTERS)
    assert set(seen.skipped) == (set() if seen.managed or kernel.swaps() else {"swap"})


@lane_only
def test_what_is_shown_of_pages_is_what_the_kernel_tells_others(seen: Seen) -> None:
    shown = 0
    for one in seen.witnesses:
        for view, line, entries in zip(one.step.views, one.lines, one.entries, strict=True):
            assert line == (" ".join(view.vma.line().split()) if view.vma else None), one.step.title
            for page, found in zip(view.pages, entries, strict=False):
                assert bool(found & PRESENT) == page.present, one.step.title
                if page.present:
                    shown += 1
                    assert bool(found & OF_FILE) == page.of_file
                    assert (found & FRAME or None) == page.frame
    assert shown > 20


def test_what_is_charged_is_what_statfs_tells_others(seen: Seen) -> None:
    assert [one.step.used for one in seen.witnesses] == [one.used for one in seen.witnesses]
    assert {0, 1, 4, stage.PAGES} == {one.used for one in seen.witnesses}
    assert all(one.step.blocks == one.used for one in seen.witnesses if one.step.blocks is not None)


def test_the_counters_of_the_processes_go_up_by_what_is_said(seen: Seen) -> None:
    """Or by more: a process may fault for itself between two steps."""
    for before, after in pairwise(seen.witnesses):
        if before.chapter != after.chapter:
            continue
        for name in ("A", "B"):
            own = [touch for touch in after.step.touches if touch.process == name and len(touch.value) == 1]
            minor, major = map(sub, after.counters[name], before.counters[name])
            assert minor >= sum(touch.minor for touch in own), after.step.title
            assert major >= sum(touch.major for touch in own), after.step.title


def test_a_touch_counts_its_own_faults_alone() -> None:
    """Every page is touched twice: one fault each, exactly, and then none."""
    with opened("managed") as scene:
        fd = scene.a.call("open", "/dev/shm/many", os.O_RDWR | os.O_CREAT, 0o600)
        scene.a.call("ftruncate", fd, stage.PAGES * 4096)
        mapping = scene.map(scene.a, fd, stage.PAGES)
        touches = [scene.load(mapping, page) for page in range(stage.PAGES)]
        again = [scene.load(mapping, page) for page in range(stage.PAGES)]
    assert {(touch.minor, touch.major) for touch in touches} == {(0, 1)}
    assert {(touch.minor, touch.major) for touch in again} == {(0, 0)}


@lane_only
@root_only
def test_frames_are_the_same_and_others_as_the_matrix_has_them(seen: Seen) -> None:
    found = {one.step.title: one.holders for one in seen.chapter("map")}
    maps, first, both, stored, copied, synced, gone, again, unlinked, freed = found.values()
    frame = first["A", False]
    assert maps == gone == freed == {}
    assert first == {("A", False): frame}
    assert both == stored == {("A", False): frame, ("B", False): frame}
    assert copied == synced
    assert copied.keys() == {("A", False), ("B", False), ("B", True)}
    assert copied["A", False] == copied["B", False] == frame != copied["B", True]
    assert again == unlinked == {("A", False): again["A", False], ("B", False): again["A", False]}


@root_only
def test_how_often_a_frame_is_mapped_and_what_it_is(seen: Seen) -> None:
    views = [one.step.views for one in seen.chapter("map")][:6]
    mappings = [[page.mappings for view in several for page in view.pages] for several in views]
    assert mappings == [[None], [1], [2, 2], [2, 2], [2, 1], [2, 2]]
    assert "anon" in (views[4][1].pages[0].flags or [])
    dirty = ["dirty" in (several[0].pages[0].flags or []) for several in views]
    if seen.managed:
        assert dirty == [False, False, False, True, True, False]  # until msync has written it back


def test_what_shmfs_logged(seen: Seen) -> None:
    logged = {
        one.step.title: [event["event"] for event in one.step.events if event["event"] != "usage"]
        for one in seen.witnesses
    }
    assert logged["A maps the file"] == ["create", "open", "resize"]
    assert logged["A touches page 0 for the first time"] == ["allocate", "page_in"][: 2 * seen.managed]
    assert logged["B maps and touches the same page"] == ["open"]
    assert logged["A stores, B sees it"] == logged["B stores into a MAP_PRIVATE mapping"] == []
    assert "evict" in logged["The last unmap"]
    [refused] = [one.step for one in seen.witnesses if one.step.title == "A page more"]
    pages = {event["page"] for event in refused.events if event["event"] == "refuse"}
    assert pages == ({stage.PAGES - 1} if seen.managed else set())


def test_segments_of_system_v_go_with_their_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that the story had no time to remove; where the kernel serves them it would stay."""
    monkeypatch.setenv("SHMFS_EXTENSION", "0")
    with opened("managed") as scene:
        segment = scene.a.call("shmget", 0, 4096, 0o1600)
        assert str(segment) in segments()
    assert str(segment) not in segments()


def test_segments_of_system_v_are_on_the_mount() -> None:
    with opened("managed") as scene:
        before = scene.server.statistics().used
        scene.a.call("shmget", 0, 4096, 0o1600)
        assert scene.server.statistics().used == before + 4096


def segments() -> list[str]:
    return [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]


def test_a_process_that_was_killed_is_missed() -> None:
    with opened("managed") as scene:
        os.kill(scene.b.pid, 9)
        with pytest.raises(ShmfsError, match=r"process B \(\d+\) of the story has ended"):
            list(story.CHAPTERS["map"][1](scene))


INLINED = {"do_read_fault", "do_shared_fault", "wp_page_copy", "file_mmap_ok", "sys_mmap"}
"""Static functions that the compiler put into their callers; and the system call's, which has a prefix."""


@root_only
@pytest.mark.skipif(
    not platform.release().startswith(f"{story.NAMES_OF}."),
    reason=f"names are those of Linux {story.NAMES_OF}",
)
def test_the_functions_are_the_kernels(seen: Seen) -> None:
    lines = Path("/proc/kallsyms").read_text().splitlines()
    known = {line.split()[2].partition(".")[0] for line in lines}
    if len(known) < 1000:
        pytest.skip("this kernel shows no symbols")
    for step in (one.step for one in seen.witnesses):
        named = {*step.functions, *(claim.function for claim in step.claims if claim.function)}
        assert named - INLINED <= known, step.title


def test_unknown_chapters() -> None:
    with pytest.raises(ShmfsError, match="there is no chapter 'mpa'; it is one of map, full"):
        story.Teller("managed", ["map", "mpa"])


def test_chapters_come_in_their_order() -> None:
    assert story.check(["shm", "map", "shm"]) == ["map", "shm"]
    assert story.check([]) == list(story.CHAPTERS)


def claims(*observed: Any) -> list[records.Claim]:
    return [records.Claim("claim", True, one) for one in observed]


def test_a_claim_is_checked() -> None:
    assert [claim.holds for claim in claims(True, False, None)] == [True, False, False]
    step = records.Step("t", "s", [], [], [], None, 0, None, [], claims(True, False))
    telling = records.Telling("managed", "6", True, [records.Chapter("c", "C", [step])])
    assert story.story([telling]).failed == 1
    assert story.story([telling]).claims == 2
