"""The screens of `shmfs top`, as text: what they show, and what the keys do.

SHMFS_UPDATE_SCREENS=1 writes what is seen now into tests/live/screens, for a person to look at.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from shmfs.live import palette, rows
from shmfs.live.app import Help, Top
from shmfs.live.listing import Listing
from shmfs.live.model import Rates
from shmfs.system.pagemap import Matrix
from tests.live import fake
from tests.live.fake import Fake

SCREENS = Path(__file__).parent / "screens"
SIZES = {"120x40": (120, 40), "80x24": (80, 24), "40x20": (40, 20)}
PLACES = {
    "segments": [],
    "processes": ["2"],
    "segment": ["down", "enter"],
    "pages": ["down", "enter", "tab"],
    "process": ["2", "enter"],
    "help": ["question_mark"],
}
Script = Callable[[Top, "Pilot[Any]"], Awaitable[None]]


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORFGBG", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def run(script: Script, watched: Fake | None = None, size: tuple[int, int] = (120, 40)) -> Top:
    async def main() -> Top:
        app = Top(watched or Fake(), 3600)
        async with app.run_test(size=size) as pilot:
            await looked(app, pilot, 1)
            await script(app, pilot)
        return app

    return asyncio.run(asyncio.wait_for(main(), 60))


async def looked(app: Top, pilot: "Pilot[Any]", count: int) -> None:
    """Wait for so many looks in all."""
    while app.looks < count:
        await asyncio.sleep(0.005)
    await pilot.pause()


async def press(app: Top, pilot: "Pilot[Any]", *keys: str) -> None:
    """Press, and wait for the pages of a segment that was opened."""
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        while app.view.place in ("segment", "pages") and not (
            app.matrix and app.matrix.inode == app.view.subject
        ):
            await asyncio.sleep(0.005)
    await pilot.pause()


def text(app: Top) -> str:
    strips = app.screen._compositor.render_strips()
    return "".join("".join(segment.text for segment in strip).rstrip() + "\n" for strip in strips)


@pytest.mark.parametrize("size", SIZES)
def test_the_screens_are_as_they_were(size):
    async def script(app, pilot):
        for place, keys in PLACES.items():
            await press(app, pilot, "1", "home", *keys)
            seen = text(app)
            assert len(seen.splitlines()) == SIZES[size][1]
            path = SCREENS / f"{place}-{size}.txt"
            if os.environ.get("SHMFS_UPDATE_SCREENS"):
                path.write_text(seen)
            assert seen == path.read_text(), f"{place} at {size}"

    run(script, size=SIZES[size])


def names(app: Top) -> list[str]:
    return [app._table.name(row) for row in app.query_one(Listing).rows]


def test_sorting():
    async def script(app, pilot):
        assert names(app)[0] == "/film"  # by what is resident
        await press(app, pilot, "s", "s", "s")
        assert "FAULTS/S▼" in text(app)
        assert names(app)[:3] == ["/film", "/frames", "/[red]evil\\n\\x1b[31m\\u202e"]
        await press(app, pilot, "r")
        assert "FAULTS/S▲" in text(app)
        assert names(app)[-1] == "/film"
        await press(app, pilot, "S", "S", "S", "S", "S")
        assert "SEGMENT▲" in text(app)
        assert names(app) == sorted(names(app), key=lambda name: "" if name.startswith("(inode") else name)

    run(script)


def test_filtering():
    async def script(app, pilot):
        await press(app, pilot, "slash", *"FRA")
        assert names(app) == ["/frames"]
        await press(app, pilot, "enter")
        assert "filter: fra" in text(app)
        await press(app, pilot, "escape")
        assert len(names(app)) == 5
        await press(app, pilot, "slash", *"nowhere")
        assert "nothing here has a name with 'nowhere'" in text(app)
        await press(app, pilot, "escape")
        assert len(names(app)) == 5
        await press(app, pilot, "slash", "q")  # is typed, and quits nothing
        assert app.is_running

    run(script)


def test_from_a_segment_to_a_process_and_back():
    async def script(app, pilot):
        await press(app, pilot, "down", "enter")
        assert app.view == ("segment", 2)
        assert f"{len(fake.MATRIX.shared())} shared" in text(app)
        await press(app, pilot, "enter")
        assert app.view == ("process", 100)
        await press(app, pilot, "escape", "escape")
        assert app.view == ("segments", 0)
        assert app.query_one(Listing).current.path == "/frames"  # where one came from
        await press(app, pilot, "tab")
        assert app.view.place == "processes"
        await press(app, pilot, "1")
        assert app.view.place == "segments"

    run(script)


def test_pausing_and_looking():
    watched = Fake()

    async def script(app, pilot):
        await press(app, pilot, "space")
        await looked(app, pilot, 2)
        assert "paused" in text(app).splitlines()[0]
        await press(app, pilot, "n")
        await looked(app, pilot, 3)
        await press(app, pilot, "space")
        await looked(app, pilot, 4)
        assert "paused" not in text(app)
        await press(app, pilot, "plus")
        await looked(app, pilot, 5)

    app = run(script, watched)
    assert watched.looks == app.looks == 5


def test_the_cursor_follows_its_row():
    later = fake.snapshot()
    later.segments[0].resident = 1_000_000  # /frames comes first

    async def script(app, pilot):
        await press(app, pilot, "down")
        assert app.query_one(Listing).current.path == "/frames"
        await press(app, pilot, "n")
        await looked(app, pilot, 2)
        assert app.query_one(Listing).cursor == 0
        assert app.query_one(Listing).current.path == "/frames"

    run(script, Fake(fake.snapshot(), later))


def test_what_vanishes_while_it_is_shown():
    later = fake.snapshot()
    later.segments, later.processes, later.shares = [], [], []

    class Gone(Fake):
        def matrix(self, inode: int) -> Matrix:
            if self.looks > 2:
                raise ProcessLookupError(3, "No such process")
            return super().matrix(inode)

    async def script(app, pilot):
        await press(app, pilot, "down", "enter")
        await pilot.press("n")
        await looked(app, pilot, 3)
        assert "is gone" in text(app)
        await pilot.press("tab", "escape")
        assert "no segments" in text(app)
        await press(app, pilot, "enter", "down", "end", "pagedown", "2", "enter")
        assert "maps a file here" in text(app)

    run(script, Gone(fake.snapshot(), fake.snapshot(), later))


def test_trouble_is_told_and_ends():
    dead = fake.snapshot()
    dead.trouble = "/mnt/shm: its daemon is gone, and its files with it; \x1b[2J"

    async def script(app, pilot):
        await press(app, pilot, "n")
        await looked(app, pilot, 2)
        assert "! /mnt/shm: its daemon is gone" in text(app)
        assert "\x1b" not in text(app)
        assert "/frames" in text(app)  # what was seen last
        await press(app, pilot, "n")
        await looked(app, pilot, 3)
        assert "daemon is gone" not in text(app)

    run(script, Fake(fake.snapshot(), dead, fake.snapshot()))


def test_ten_thousand_segments():
    many = fake.snapshot()
    many.segments = [
        fake.segment(number, f"/segment-{number:05}", 4096, number % 7, faults=Rates())
        for number in range(10_000)
    ]
    drawn = []

    async def script(app, pilot):
        listing = app.query_one(Listing)
        cells = listing._cells
        listing._cells = lambda row: drawn.append(row) or cells(row)
        await press(app, pilot, "end")
        assert "/segment-09996" in text(app)
        await press(app, pilot, "home", "s")
        await press(app, pilot, "slash", *"0777")
        assert names(app) == ["/segment-00777", *(f"/segment-0777{digit}" for digit in range(10))]

    run(script, Fake(many))
    assert 0 < len(drawn) < 2000  # only what is seen


def test_any_size():
    async def script(app, pilot):
        for size in ((12, 4), (20, 6), (300, 90)):
            await pilot.resize_terminal(*size)
            await press(app, pilot, "down", "enter", "tab", "escape")
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "/film" in text(app)

    run(script, size=(1, 1))


@pytest.mark.parametrize("color", [None, "1"])
def test_the_cursor_is_seen_without_color(color, monkeypatch):
    if color:
        monkeypatch.setenv("NO_COLOR", color)

    async def script(app, pilot):
        [line] = [line for line in text(app).splitlines() if "▌" in line]
        assert "/film" in line
        await press(app, pilot, "t")
        assert app.theme == "shmfs-light"

    run(script)


def test_help_ends_with_any_of_its_keys():
    async def script(app, pilot):
        for key in ("escape", "q", "enter"):
            await press(app, pilot, "question_mark")
            assert isinstance(app.screen, Help)
            await press(app, pilot, key)
            assert not isinstance(app.screen, Help)
        await press(app, pilot, "q")
        assert not app.is_running

    run(script)


def test_what_the_terminal_says_of_its_ground():
    assert palette.ground({"COLORFGBG": "0;15"}) == "light"
    assert palette.ground({"COLORFGBG": "15;0"}) == "dark"
    assert palette.ground({}) == "dark"


@pytest.mark.parametrize(
    ("part", "drawn"),
    [(0, ""), (0.001, "▏"), (0.5, "████"), (0.9999, "███████▉"), (1, "████████"), (2, "████████")],
)
def test_a_bar_is_full_only_if_all_is(part, drawn):
    assert rows.bar(part, 8) == drawn


def test_a_trend_shows_what_is_not_0():
    assert rows.trend([0, 0.001, 4, 8], 4) == " ▁▄█"
    assert rows.trend([1, 2], 1, 4) == "▄"


def test_a_snapshot_is_json():
    assert msgspec.json.decode(msgspec.json.encode(fake.snapshot()))["segments"][0]["path"] == "/frames"


@pytest.mark.parametrize("size", [(1, 50), (20, 5)])
def test_any_key_in_a_tiny_terminal(size: tuple[int, int]) -> None:
    """Also where no column fits in."""

    async def script(app: Top, pilot: "Pilot[Any]") -> None:
        await pilot.resize_terminal(*size)
        await press(
            app, pilot, "s", "r", "enter", "s", "escape", "tab", "s", "j", "space", "question_mark", "escape"
        )
        await pilot.resize_terminal(200, 60)
        await pilot.pause()
        await press(app, pilot, "s")

    assert not run(script).return_code
