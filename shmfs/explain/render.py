"""The story as text, at any width."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from shmfs.explain.draw import picture
from shmfs.explain.records import Chapter, Claim, Page, Step, Telling, Touch, View
from shmfs.explain.stage import PAGES
from shmfs.explain.story import NAMES_OF, TERMS
from shmfs.report.text import clean, labelled, plural

PLACE = "A and B are two processes on a private mount of {} pages, whose pages {}."
HOLDERS = {
    "managed": "shmfs holds (managed); the kernel caches them",
    "native": "the kernel holds (native), in a tmpfs behind it",
}

HIDDEN = (
    "The kernel shows frame numbers to root only. That two processes have the same frame is told here by two "
    "bits of pagemap: both have the file's page (61), and somebody else has it too (not 56)."
)


OTHER_KERNEL = "The kernel's functions are named as in Linux {}; this is {}, where some may be others."

BEHIND = (
    "Native pages are those of a tmpfs behind the files of the mount, and the kernel goes there by itself: "
    "shmfs is not asked for pages, and cachestat of a file of the mount finds none."
)
"""The claims of the step of the first touch say so too."""


def terms(telling: Telling, width: int) -> list[RenderableType]:
    """Five lines that say what the words mean; and what is to be known about the rest."""
    lines: list[RenderableType] = [labelled([(name, Text(text)) for name, text in TERMS], width)]
    lines += [Text(), Text(PLACE.format(PAGES, HOLDERS[telling.store]))]
    if not telling.frames_visible:
        lines += [Text(), Text(HIDDEN, "dim")]
    if not f"{telling.kernel}.".startswith(f"{NAMES_OF}."):
        lines += [Text(), Text(OTHER_KERNEL.format(NAMES_OF, telling.kernel), "dim")]
    return lines


def heading(chapter: Chapter) -> list[RenderableType]:
    """The title of a chapter."""
    return [Text(), Text(chapter.title, "bold underline")]


def skipped(chapter: Chapter) -> list[RenderableType]:
    """Why a chapter is not told."""
    return [Text(), Text(f"{chapter.title}: not shown, {chapter.skipped}.")]


def verdict(telling: Telling) -> Text:
    """How many claims there were, and how many did not hold."""
    claims = telling.claims()
    failed = sum(not claim.holds for claim in claims)
    text = Text(f"{telling.store} pages: {plural(len(claims), 'claim')} checked, ")
    return text.append(f"{failed} did not hold" if failed else "all hold", "bold red" if failed else "green")


def differences(one: Telling, other: Telling, width: int) -> list[RenderableType]:
    """The steps in which the other store goes another way; and whatever failed there."""
    lines: list[RenderableType] = []
    number = 0
    for chapter, same in zip(one.chapters, other.chapters, strict=True):
        if same.skipped:
            lines += [Text(), Text(f"{chapter.title}: not shown, {same.skipped}.")]
            continue
        for step, twin in zip(chapter.steps, same.steps, strict=False):
            number += 1
            lines += _difference(number, step, twin, (one.store, other.store), width)
    title = Text(f"The same with {other.store} pages, where it differs", "bold underline")
    return [Text(), title, Text(), Text(BEHIND if lines else "No step differs."), *lines]


def _difference(
    number: int, one: Step, other: Step, stores: tuple[str, str], width: int
) -> Iterator[RenderableType]:
    facts: list[tuple[str, Text]] = []
    if one.functions != other.functions:
        facts.append(("kernel", _functions(other)))
    for name, say in (("faults", _touches), ("shmfs", _log)):
        said = say(one), say(other)
        if said[0] != said[1]:
            facts += [(name, Text(f"{store}: {text}")) for store, text in zip(stores, said, strict=True)]
    failed = [claim for claim in other.claims if not claim.holds]
    if not facts and not failed:
        return
    yield Text()
    yield Text().append(f"{number}. ", "dim").append(other.title, "bold")
    body: list[RenderableType] = [Text(other.sentence)] if other.sentence != one.sentence else []
    body += [labelled(facts, width - 3)] if facts else []
    body += [_claims(failed)] if failed else []
    for part in body:
        yield Padding(part, (0, 0, 0, 3), expand=False)


def step(one: Step, number: int, width: int) -> list[RenderableType]:
    """All of a step."""
    title = Text().append(f"{number}. ", "dim").append(one.title, "bold")
    facts = labelled(list(_facts(one)), width - 3)
    drawn = picture(one, width - 3)
    body: list[RenderableType] = [Text(one.sentence), *drawn, facts, _claims(one.claims)]
    return [Text(), title, *(Padding(part, (0, 0, 0, 3), expand=False) for part in body)]


def _facts(one: Step) -> Iterator[tuple[str, Text]]:
    if one.functions:
        yield "kernel", _functions(one)
    for view in one.views:
        yield "maps", _maps(view)
    pages = [(view.process, page) for view in one.views if view.vma for page in view.pages]
    if pages:
        yield "pagemap", Text(" · ").join(_pagemap(name, page) for name, page in pages)
    frames = {page.frame: page for _, page in pages if page.frame and page.flags is not None}
    for page in frames.values():
        yield "frame", _frame(page)
    if one.touches:
        yield "faults", Text(_touches(one))
    if one.cache:
        yield "cache", Text(_cache(one))
    for name, text in one.facts:
        yield name, Text(clean(text))
    blocks = "" if one.blocks is None else f" (st_blocks {one.blocks * 8})"
    yield "shmfs", Text(f"{_log(one)}; charged {plural(one.used, 'page')}{blocks}")


def _functions(one: Step) -> Text:
    return Text(" → ".join(one.functions) or "nothing to do", "magenta")


def _touches(one: Step) -> str:
    return " · ".join(_touch(touch) for touch in one.touches)


def _maps(view: View) -> Text:
    text = Text().append(f"{view.process} {view.pid} ", "bold")
    return text.append(clean(view.vma.line()) if view.vma else "nothing there", "" if view.vma else "dim")


def _pagemap(process: str, page: Page) -> Text:
    text = Text().append(f"{process} ", "bold").append(f"page {page.page}: ")
    if not page.present:
        return text.append("not present", "dim")
    text.append(f"frame {page.frame:#x}" if page.frame else "present")
    text.append("" if page.of_file else ", of no file")
    return text.append(", mapped by nobody else" if page.alone else "")


def _frame(page: Page) -> Text:
    times = "once" if page.mappings == 1 else f"{page.mappings} times"
    text = Text(f"{page.frame:#x}: mapped {times} (kpagecount), ")
    return text.append(f"{' '.join(page.flags or ())} (kpageflags)")


def _touch(touch: Touch) -> str:
    if len(touch.value) > 1:
        return f"{touch.process}'s child {touch.what}s page {touch.page}: {touch.value}"
    return f"{touch.process} {touch.what}s page {touch.page}: {touch.faults()}"


def _cache(one: Step) -> str:
    if one.cache is None:
        return ""
    resident = [str(page) for page, there in enumerate(one.cache.resident) if there]
    said = f"mincore: page {', '.join(resident)}" if resident else "mincore: none"
    if one.cache.cached is None:
        return said
    return f"{said} · cachestat: {plural(one.cache.cached, 'page')}, {one.cache.dirty} dirty"


def _log(one: Step) -> str:
    """What was logged, each event once, with all its pages; not what was merely looked at."""
    said: dict[str, list[int]] = {}
    for event in one.events:
        if event["event"] == "usage":
            continue
        name = event["event"].replace("_", "-")
        if event["event"] == "resize":
            name += f" {event['old_size']}→{event['size']}"
        first = event["page"] if event["event"] in ("allocate", "page_in", "free", "refuse") else None
        said.setdefault(name, []).extend([] if first is None else range(first, first + event["pages"]))
    logged = ", ".join(name + _pages(sorted(set(pages))) for name, pages in said.items())
    return f"logged {logged or 'nothing'}"


def _pages(pages: list[int]) -> str:
    """Those of an event; they are next to each other in all that the story does."""
    if not pages:
        return ""
    return f" page {pages[0]}" if len(pages) == 1 else f" pages {pages[0]} to {pages[-1]}"


def _claims(claims: list[Claim]) -> Text:
    lines = []
    for claim in claims:
        mark = Text().append(*(("✓ ", "green") if claim.holds else ("✗ ", "bold red")))
        mark.append(_said(claim), "" if claim.holds else "bold red")
        if claim.reason:
            mark.append(f"\n  {claim.reason} ({claim.function})", "dim")
        lines.append(mark)
    return Text("\n").join(lines)


def _said(claim: Claim) -> str:
    value = claim.expected
    text = claim.text if isinstance(value, bool | dict) else f"{claim.text}: {value}"
    return clean(text if claim.holds else f"{text}, but it was {claim.observed}")
