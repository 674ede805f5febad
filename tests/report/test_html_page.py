"""The HTML page in a browser: what is seen, what hover, keys and clicks do, and that it asks for nothing."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmfs import trace
from shmfs.errors import ShmfsError
from shmfs.report import html
from shmfs.report.html.extract import extract
from shmfs.report.html.render import render, write
from shmfs.tracefile.format import FAULT, Source
from tests.record.recording import MIB, SECOND, START, Recording
from tests.report.test_trace_report import film

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
MARKUP = "/</script><img src=x onerror=alert(1)>&amp;<b>\u2028]]>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip(f"there is no {' or '.join(NAMES)}: `./scripts/test --real` installs one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Open the page of a trace; it must complain of nothing and ask for nothing but itself."""
    contexts, complaints, requests = [], [], []

    def show(path: Path, width: int = 1200, scheme: str = "light") -> Any:
        out = path.with_suffix(".html")
        with trace.open(path) as opened:
            write(render(extract(opened)), str(out))
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(out.as_uri())
        page.wait_for_selector("#sources")
        settle(page)
        assert requests[-1] == out.as_uri()
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(requests) == len(contexts)


def settle(page: Any) -> None:
    """Return when what was asked for is drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def colors(page: Any, selector: str, y: float) -> list[tuple[int, ...]]:
    """The colours of the pixels of a line of a canvas, `y` of its height down."""
    settle(page)
    found: list[int] = page.evaluate(
        """([selector, y]) => {
            const canvas = document.querySelector(selector), copy = document.createElement("canvas");
            copy.width = canvas.width;
            copy.height = 1;
            const context = copy.getContext("2d");
            context.drawImage(canvas, 0, -Math.floor(y * canvas.height));
            return [...context.getImageData(0, 0, copy.width, 1).data];
        }""",
        [selector, y],
    )
    line = list(zip(*[iter(found)] * 4, strict=True))
    return line[80:-30]  # without the axes


def point(page: Any, selector: str, x: float, y: float) -> str:
    """Point at a place of an element, and return what the page says then."""
    target = page.locator(selector).first
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    text: str = page.inner_text("#tip")
    return " ".join(text.split())


SECTIONS = ["memory", "segments", "sharing", "faults", "processes", "lives", "sizing", "sources"]
HEAT = "#segment figure:first-child canvas"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1600])
def test_it_fits_every_width(show: Open, tmp_path: Path, width: int, scheme: str) -> None:
    page = show(film(tmp_path / "film.shmtrace"), width, scheme)
    assert page.evaluate("[...document.querySelectorAll('section')].map(one => one.id)") == SECTIONS
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    empty = "[...document.querySelectorAll('canvas')].filter(one => !one.width || !one.height).length"
    assert page.evaluate(empty) == 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 22)"
    assert dark == (scheme == "dark")
    text = page.inner_text("body")
    for words in ("python3 film.py", "exit 0", "8,192", "16 MiB", "/frames", "still linked (8 MiB): /psm_1",
                  "--shm-size=16m", "sizeLimit: 16Mi", "worker 102", "SIGKILL", "perf, exact"):  # fmt: skip
        assert words in text


def test_pointing_tells(show: Open, tmp_path: Path) -> None:
    page = show(film(tmp_path / "film.shmtrace"))
    said = point(page, HEAT, 0.3, 0.3)
    assert said.startswith("pages ")
    assert " ms" in said or " s" in said
    # The main process touches every page in the first third of the time, one after the other.
    touched = [point(page, HEAT, x / 100, 0.4) for x in range(14, 26)]
    assert any("by python3 100" in text and "perf, exact" in text for text in touched)
    assert any("not touched then" in text for text in touched)
    assert "distinct" in page.inner_text("#segment")
    strips = "#segment .strips .chart:nth-child(2) canvas"
    assert "worker 101 pages" in point(page, strips, 0.5, 0.2)
    assert "touched first by python3 100" in point(page, "#segment .strips canvas", 0.5, 0.2)
    assert "charged in all" in point(page, "#memory canvas", 0.6, 0.5)
    assert "faults (" in point(page, "#faults canvas", 0.3, 0.5)
    said = point(page, "#sharing canvas", 0.92, 0.5)
    assert said.startswith("worker 101 and worker 102 2,048 pages (8 MiB) that both touched")
    assert "from 200 ms to 2.7 s" in point(page, "#row-1 .track", 0.5, 0.5)
    page.mouse.move(1, 1)
    assert page.is_hidden("#tip")


def test_choosing_drills_down(show: Open, tmp_path: Path) -> None:
    page = show(film(tmp_path / "film.shmtrace"))
    names = page.locator(".lane .name").all_inner_texts()
    assert page.inner_text("#segment h3") == names[0]
    page.click("#lane-1")
    page.wait_for_function("name => document.querySelector('#segment h3').textContent === name", arg=names[1])
    assert page.get_attribute("#lane-1", "aria-pressed") == "true"
    assert page.get_attribute("#lane-0", "aria-pressed") == "false"
    page.click("#segment tbody tr:nth-child(2) a")
    page.wait_for_selector("#process h3")
    assert page.inner_text("#process h3").startswith("worker 10")
    assert page.locator("#process tbody tr").count() == 2
    page.click("#process tbody a >> nth=0")
    page.wait_for_function("name => document.querySelector('#segment h3').textContent === name", arg=names[0])
    page.go_back()
    page.wait_for_function("() => location.hash.startsWith('#process')")


def test_colours_follow_what_is_chosen(show: Open, tmp_path: Path) -> None:
    page = show(film(tmp_path / "film.shmtrace"))
    [ground] = set(colors(page, HEAT, 0.9)[-200:])

    def shown() -> set[tuple[int, ...]]:
        return set(colors(page, HEAT, 0.2)) - {ground}

    by_process = shown()
    assert by_process
    page.check("input[value=touches]")
    assert shown() != by_process
    page.click(".chips button >> nth=1")
    assert page.is_checked("input[value=process]")
    assert page.get_attribute(".chips button >> nth=1", "aria-pressed") == "true"
    assert shown() != by_process
    page.click(".chips button >> nth=1")
    assert shown() == by_process
    page.emulate_media(color_scheme="dark")
    assert ground not in colors(page, HEAT, 0.9)


def test_keys_do_all_of_it(show: Open, tmp_path: Path) -> None:
    page = show(film(tmp_path / "film.shmtrace"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#lane-1")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'segment'")
    page.focus(HEAT)
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#tip")
    assert first.startswith("pages 0")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#tip") != first
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'process'")
    page.focus(HEAT)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")


def test_names_are_text(show: Open, tmp_path: Path) -> None:
    path = film(tmp_path / "film.shmtrace", names=(MARKUP, "/a\x1b[2Jb\u202e"), host="<i>host</i>")
    page = show(path)
    assert page.locator(".lane .name").all_inner_texts() == [
        "/</script><img src=x onerror=alert(1)>&amp;<b>\\u2028]]>", "/a\\x1b[2Jb\\u202e",
    ]  # fmt: skip
    assert page.locator("img, #segment b img, body > b").count() == 0
    assert "<i>host</i>" in page.inner_text("#head")


def test_the_network_is_forbidden(chromium: Any, tmp_path: Path) -> None:
    path = film(tmp_path / "film.shmtrace")
    with trace.open(path) as opened:
        path.with_suffix(".html").write_bytes(render(extract(opened)))
    page = chromium.new_page()
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: asked.append(request.failure))
    page.goto(path.with_suffix(".html").as_uri())
    refused = page.evaluate(
        """() => new Promise(done => {
            const seen = new Set();
            document.addEventListener("securitypolicyviolation", event => {
                seen.add(event.effectiveDirective);
                if (seen.size === 3) done([...seen].sort());
            });
            fetch("http://127.0.0.1:9/").catch(() => {});
            new Image().src = "http://127.0.0.1:9/x.png";
            const script = document.createElement("script");
            script.textContent = "window.intruder = true";
            document.body.append(script);
        })"""
    )
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert page.evaluate("window.intruder") is None
    page.close()
    assert asked[0] == path.with_suffix(".html").as_uri()
    assert set(asked[1:]) <= {"csp"}  # begun, and ended by the policy


def large(path: Path, pages: int, people: int, segments: int) -> Path:
    """Everybody touches pages of every segment, at random."""
    recording = Recording(path, command=["train"], size_limit=1 << 30)
    for i in range(people):
        recording.process(100 + i, "worker", 0.01 * i, 0 if i else None)
    for i in range(segments):
        recording.segment(5 + i, f"/{i}", 0.05)
    random, number = np.random.default_rng(3), 400_000
    faults = np.zeros(number, FAULT)
    faults["time"] = START + np.arange(number, dtype=np.uint64) * np.uint64(9 * SECOND // number)
    faults["process"], faults["kind"] = random.integers(0, people, number), 1
    faults["segment"] = random.integers(0, segments, number)
    faults["page"] = random.integers(0, pages // segments, number)
    recording.writer.faults(faults)
    return recording.close(status=0, duration=10.0)


def test_a_large_trace_is_drawn_in_bounded_steps(show: Open, tmp_path: Path) -> None:
    path = large(tmp_path / "large.shmtrace", pages=100_000, people=64, segments=50)
    page = show(path)
    assert path.with_suffix(".html").stat().st_size < 5_000_000
    assert page.locator("*").count() < 4000
    assert page.locator("canvas").count() <= 50
    cells = (
        "[...document.querySelectorAll('canvas')].map(one => one.width * one.height).reduce((a, b) => a + b)"
    )
    assert page.evaluate(cells) < 6_000_000
    assert "40 of 50 segments are shown" in page.inner_text("#sources")
    assert "… and 10 segments more" in page.inner_text("#segments")
    assert "touch" in point(page, HEAT, 0.5, 0.5)
    page.click("#lane-7")
    page.wait_for_function("() => location.hash === '#segment-7'")
    assert page.locator(".chips button").count() == 64
    assert "pages" in point(page, "#sharing canvas", 0.6, 0.5)
    page.click("#lane-39")
    page.wait_for_function("() => !document.querySelector('#segment figure')")
    assert "most faults only" in page.inner_text("#segment")


@pytest.mark.parametrize("kind", ["empty", "one", "cut", "refused"])
def test_little_is_shown_too(show: Open, tmp_path: Path, kind: str) -> None:
    refused = {"sources": [Source("perf", [], note="perf events may not be opened")]}
    recording = Recording(tmp_path / "x.shmtrace", **(refused if kind == "refused" else {}))
    if kind != "empty":
        process, segment = recording.process(7, "python"), recording.segment(5, "/one")
        if kind != "refused":
            recording.touch(process, 7, segment, range(1), 0.1, 0.1)
    page = show(recording.cut() if kind == "cut" else recording.close())
    text = page.inner_text("body")
    assert ("there is no end" in text) == (kind == "cut")
    assert ("not seen" in page.inner_text(".tiles")) == (kind in ("empty", "refused"))
    assert ("perf events may not be opened" in text) == (kind == "refused")
    if kind in ("one", "cut"):
        assert point(page, HEAT, 0.5, 0.5).startswith("page 0")
        assert page.locator("#sharing").count() == 0


def test_a_death_is_explained(show: Open, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "x.shmtrace")
    process, segment = recording.process(7, "python"), recording.segment(5, "/full")
    recording.touch(process, 7, segment, range(64), 0.1, 0.5)
    recording.touch(process, 7, segment, range(64, 65), 0.6, 0.6, kind=3)
    recording.event("sigbus", 0.6, "perf", process=process, tid=7, segment=segment, page=64, path="/full",
                    reason="the limit of the mount is reached", limit=MIB,
                    holders=[{"path": "/full", "bytes": MIB, "processes": [0]}], enough="2m")  # fmt: skip
    page = show(recording.close())
    text = page.inner_text("#deaths")
    for words in ("python 7 at 0.6 s, page 64 of /full", "limit was 1 MiB", "size=2m"):
        assert words in text
    page.click("#deaths a >> nth=1")
    page.wait_for_selector("#process h3")


def test_on_paper_it_is_white(show: Open, tmp_path: Path) -> None:
    page = show(film(tmp_path / "film.shmtrace"), scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.is_hidden("fieldset")
    assert set(colors(page, HEAT, 0.9)[-200:]) == {(238, 238, 238, 255)}


def test_it_is_small() -> None:
    """The page without data, and what is ours of it."""
    files = list(Path(html.__file__).parent.glob("page.*"))
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 60_000
    assert sum(len(path.read_text().splitlines()) for path in files if path.suffix == ".js") <= 620


@pytest.mark.parametrize("before", [None, b"old"])
def test_nothing_half_written_stays(tmp_path: Path, before: bytes | None, monkeypatch: Any) -> None:
    out = tmp_path / "out.html"
    if before is not None:
        out.write_bytes(before)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ShmfsError, match="cannot be written: No space left on device"):
        write(b"new", str(out))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])
