"""The lines around the table: what is watched, how full it is, what happens; tabs, sources, keys, help."""

import time
from typing import NamedTuple

from rich.cells import cell_len

from shmfs.events.amounts import duration, quantity
from shmfs.live import rows
from shmfs.live.model import Limits, Snapshot
from shmfs.live.views import Trends, View
from shmfs.report import columns
from shmfs.report.columns import Cell
from shmfs.report.text import clean, clip, size
from shmfs.system.pagemap import PAGE

Line = list[Cell]
CROWDED = 0.9
"""The part of a limit from which on it is shown as a warning."""


class State(NamedTuple):
    """What the user has asked for."""

    paused: bool
    interval: float
    wanted: str
    """A part of a name."""
    view: View
    depth: int
    """Steps that Escape can go back."""


def head(seen: Snapshot, trends: Trends, state: State, width: int, *, low: bool) -> list[Line]:
    """What is watched, room, rates and trouble; on a low terminal less."""
    lines = [_first(seen, state, width), fit(_room(seen.limits, width), width)]
    if not low or not seen.trouble:
        lines.append(fit(_rates(seen, trends, width), width))
    if seen.trouble:
        lines.append([("! ", "bad"), (clip(f"{clean(seen.trouble)}; still trying", width - 2), "bad")])
    return lines


def _first(seen: Snapshot, state: State, width: int) -> Line:
    right = "paused" if state.paused else f"every {duration(max(state.interval, seen.seconds))}"
    load = f"  own CPU {100 * seen.cost / seen.seconds:.0f} %" if seen.seconds and width > 70 else ""
    clock = time.strftime("%H:%M:%S", time.localtime(seen.time))
    end = f"{right}{load}  {clock}" if width > 60 else right
    left: Line = [("shmfs top  ", "title")] if width > 50 else []
    room = width - len(end) - sum(len(text) for text, _ in left) - 2
    about = f"  {seen.store} {seen.device}" if width > 60 else ""
    left.append((clip(clean(seen.mount), max(8, room - len(about))), "name"))
    left.append((about, "dim"))
    space = max(1, width - len(end) - sum(cell_len(text) for text, _ in left))
    return [*left, (" " * space, ""), (end, "warn" if state.paused else "dim")]


def _room(limits: Limits, width: int) -> Line:
    line: Line = [("room   ", "dim")]
    if limits.size:
        part = limits.used / limits.size
        style = "bad" if part >= CROWDED else "used"
        cells = max(8, min(40, width // 4))
        line += [("[", "dim"), (rows.bar(part, cells).ljust(cells), style), ("] ", "dim")]
        line += [(f"{size(limits.used)} of {size(limits.size)} ", ""), (f"{100 * part:.0f} %", style)]
    else:
        line += [(size(limits.used), ""), (", no limit", "dim")]
    if limits.refused:
        line.append((f"   refused {limits.refused}", "bad"))
    if limits.peak is not None:
        line.append((f"   peak {size(limits.peak)}", ""))
    inodes = f" of {quantity(limits.inodes)}" if limits.inodes else ""
    line.append((f"   inodes {quantity(limits.inodes_used)}{inodes}", "dim"))
    return line


def _rates(seen: Snapshot, trends: Trends, width: int) -> Line:
    line: Line = [("faults ", "dim")]
    cells = max(8, min(40, width // 4))
    line += [("[", "dim"), (rows.trend(trends.total, cells).rjust(cells), "faults"), ("] ", "dim")]
    if seen.faults is None:
        line.append(("-", "dim"))
    else:
        line.append((f"{quantity(seen.faults.all)}/s", "faults"))
        if seen.faults.failed:
            line.append((f"   SIGBUS {quantity(seen.faults.failed)}/s", "bad"))
        line.append((f"   major {quantity(seen.faults.major)}/s", ""))
    if seen.page_ins is not None:
        line.append((f"   page-ins {quantity(seen.page_ins)}/s", ""))
    shared = PAGE * sum(one.shared for one in seen.segments)
    line.append((f"   shared {size(shared)}", "shared" if shared else "dim"))
    return line


def tabs(seen: Snapshot, state: State, title: Line, width: int) -> list[Line]:
    """Where one is."""
    view = state.view
    if view.place == "process":
        return [fit(title, width)]
    if view.place in ("segment", "pages"):
        line = _tab("", "processes", view.place == "segment") + _tab("", "pages", view.place == "pages")
        return [fit(title, width), fit(line, width)]
    line = _tab("1 ", f"segments {len(seen.segments)}", view.place == "segments")
    line += _tab("2 ", f"processes {len(seen.processes)}", view.place == "processes")
    return [fit(line, width)]


def _tab(key: str, name: str, here: bool) -> Line:
    return [(key, "key"), (name, "here" if here else "dim"), ("   ", "")]


def foot(seen: Snapshot, width: int, most: int) -> list[Line]:
    """Sources: in full where `most` lines are enough, else by name; help has them in full."""
    every = rows.footer(seen)
    for parts in (every, every[: len(seen.sources)]):
        lines = _wrapped(parts, width)
        if len(lines) <= most and all(cell_len(line) <= width for line in lines):
            return [[(line, "dim")] for line in lines]
    exact = ", ".join(
        one.source + (f" {one.stale}" if one.stale else "") for one in seen.sources if one.exact
    )
    sampled = ", ".join(one.source.split(",")[0] for one in seen.sources if not one.exact)
    if width > 48:
        return [fit([(f"exact: {exact}", "dim"), (f" · sampled: {sampled}", "dim")], width)]
    return [fit([(f"exact: {exact}", "dim")], width), fit([(f"sampled: {sampled}", "dim")], width)]


def _wrapped(parts: list[str], width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + 3 + cell_len(part) <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def keys(state: State, width: int, rows_there: bool) -> Line:
    """The keys that do something here, as many as fit."""
    found = [("?", "help"), ("q", "quit")]
    if state.depth:
        found.append(("Esc", "back"))
    if rows_there and state.view.place != "pages":
        found.append(("Enter", "open"))
    if state.view.place != "process":
        found.append(("Tab", {"segment": "pages", "pages": "processes"}.get(state.view.place, "other tab")))
    found += [("s", "sort"), ("/", "filter"), ("Space", "go on" if state.paused else "pause")]
    found += [("r", "reverse"), ("+ -", "interval"), ("t", "light/dark")]
    line: Line = []
    if state.wanted:
        line.append((f"filter: {clean(state.wanted)}  ", "warn"))
    for key, meaning in found:
        if sum(cell_len(text) for text, _ in line) + len(key) + len(meaning) + 1 > width:
            break
        line += [(key, "key"), (f" {meaning}  ", "dim")]
    return line


_KEYS = {
    "↑ ↓ PgUp PgDn": "move; Home and End too",
    "Enter": "open a segment, or a process",
    "Esc": "back",
    "Tab, 1, 2": "segments and processes; of a segment: processes and pages",
    "s, S, r": "sort by the next column, the one before; reverse",
    "/": "only names that contain what is typed",
    "Space": "pause, and go on",
    "n": "look now",
    "+, -": "look half, or twice as often",
    "t": "light or dark",
    "q": "quit",
}
_FIGURES = (
    *(columns.RESIDENT, columns.SHARED_SIZE, columns.FAULT_RATE, columns.PAGE_INS_RATE, columns.REFUSED),
    *(columns.PRESENT, columns.PAGES, columns.PSS, columns.USS, columns.TREND),
)


def help_rows(seen: Snapshot | None) -> list[tuple[Cell, Cell]]:
    """Everything, in two columns."""
    found: list[tuple[Cell, Cell]] = [(("Keys", "title"), ("", ""))]
    found += [((f"  {key}", "key"), (text, "")) for key, text in _KEYS.items()]
    found += [(("", ""), ("", "")), (("Figures", "title"), ("", ""))]
    found += [((f"  {one.heading}", "heading"), (one.about, "")) for one in _FIGURES]
    if seen is not None:
        found += [(("", ""), ("", "")), (("Sources", "title"), ("", ""))]
        for part in rows.footer(seen):
            figures, colon, source = part.rpartition(": ")
            found.append(((f"  {source if colon else 'note'}", "heading"), (figures if colon else part, "")))
    return found


def fit(line: Line, width: int) -> Line:
    """As much of a line as there is room for, cut between its parts."""
    kept: Line = []
    room = width
    for text, style in line:
        room -= cell_len(text)
        if room < 0:
            break
        kept.append((text, style))
    return kept
