"""The story as text, at any width."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from shmfs.explain.draw import picture
from shmfs.explain.records import Chapter, Claim, Step, View
from shmfs.explain.story import TERMS
from shmfs.trace.text import clean, labelled, plural


def terms(width: int) -> list[RenderableType]:
    """Five lines that say what the words mean."""
    return [labelled([(name, Text(text)) for name, text in TERMS], width), Text()]


def heading(chapter: Chapter, store: str) -> list[RenderableType]:
    """The title of a chapter."""
    return [Text(f"{chapter.title} ", "bold underline").append(f"({store} pages)", "not bold not underline")]


def step(one: Step, number: int, width: int) -> list[RenderableType]:
    """All of a step."""
    title = Text(f"{number}. ", "dim").append(one.title, "bold")
    facts = labelled(list(_facts(one)), width - 3)
    drawn = picture(one, width - 3)
    body: list[RenderableType] = [Text(one.sentence), *drawn, facts, _claims(one.claims)]
    return [Text(), title, *(Padding(part, (0, 0, 0, 3)) for part in body)]


def _facts(one: Step) -> Iterator[tuple[str, Text]]:
    if one.functions:
        yield "kernel", Text(" → ".join(one.functions), "magenta")
    for view in one.views:
        yield "maps", _maps(view)
    for view in one.views:
        if view.vma:
            yield "pagemap", _pagemap(view)
    if one.touches:
        yield "faults", Text(" · ".join(_touch(touch) for touch in one.touches))
    if one.cache:
        yield "cache", Text(_cache(one))
    for name, text in one.facts:
        yield name, Text(clean(text))
    yield "shmfs", Text(_log(one))


def _maps(view: View) -> Text:
    text = Text(f"{view.process} {view.pid} ", "bold")
    return text.append(clean(view.vma.line()) if view.vma else "nothing there", "" if view.vma else "dim")


def _pagemap(view: View) -> Text:
    text = Text(f"{view.process} ", "bold")
    for page in view.pages:
        text.append(f"page {page.page}: ")
        if not page.present:
            text.append("not present", "dim")
            continue
        kind = "of the file" if page.of_file else "a private copy"
        text.append(f"present, {kind}{', mapped by nobody else' if page.alone else ''}")
        text.append(f", frame {page.frame:#x}" if page.frame else ", frame number for root only")
        if page.mappings is not None:
            text.append(f", kpagecount {page.mappings}")
        if page.flags:
            text.append(f", {' '.join(page.flags)}", "dim")
    return text


def _touch(touch: Any) -> str:
    if len(touch.value) > 1:
        return f"{touch.process}'s child {touch.what}s page {touch.page}: {touch.value}"
    return f"{touch.process} {touch.what}s page {touch.page}: minor +{touch.minor}, major +{touch.major}"


def _cache(one: Step) -> str:
    assert one.cache  # noqa: S101
    resident = [str(page) for page, there in enumerate(one.cache.resident) if there]
    said = f"mincore: page {', '.join(resident)}" if resident else "mincore: none"
    if one.cache.cached is None:
        return said
    return f"{said} · cachestat: {plural(one.cache.cached, 'page')}, {one.cache.dirty} dirty"


def _log(one: Step) -> str:
    """What was logged, each event once with its count."""
    said: Counter[str] = Counter()
    for event in one.events:
        words = event["event"].replace("_", "-")
        if event["event"] in ("allocate", "page_in", "free", "refuse"):
            words += f" page {event['page']}" + (f" (+{event['pages'] - 1})" if event["pages"] > 1 else "")
        elif event["event"] == "resize":
            words += f" {event['old_size']}→{event['size']}"
        elif event["event"] == "usage":
            words += f" {plural(event['pages'], 'page')}"
        said[words] += 1
    logged = ", ".join(
        word if count == 1 else f"{count} × {word}"  # noqa: RUF001
        for word, count in said.items()
    )
    blocks = "" if one.blocks is None else f", st_blocks {plural(one.blocks, 'page')}"
    return f"logged {logged or 'nothing'} · charged {plural(one.used, 'page')}{blocks}"


def _claims(claims: list[Claim]) -> Text:
    lines = []
    for claim in claims:
        mark = Text("✓ ", "green") if claim.holds else Text("✗ ", "bold red")
        mark.append(_said(claim), "" if claim.holds else "bold red")
        lines.append(mark)
    return Text("\n").join(lines)


def _said(claim: Claim) -> str:
    value = claim.expected
    text = claim.text if isinstance(value, bool | list) else f"{claim.text}: {value}"
    return clean(text if claim.holds else f"{text}, but it was {claim.observed}")
