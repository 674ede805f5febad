"""The picture of a step: VMA → page table → frame, of one process on the left and of another on the right."""

from typing import NamedTuple

from rich.text import Text

from shmfs.explain.records import Page, Step, View

WIDE = 76
"""Columns that the picture with boxes takes."""

PTE = "bold"
SHARED = "bold green"
ALONE = "cyan"
COPY = "magenta"
"""As `shmfs map` has them."""


class Cell(NamedTuple):
    """A page as a process has it."""

    view: View
    page: Page


class Row(NamedTuple):
    """A frame, or its absence, between those that have it."""

    left: Cell | None
    frame: str
    right: Cell | None

    @property
    def style(self) -> str:
        """Of the frame."""
        having = [cell.page for cell in (self.left, self.right) if cell and cell.page.present]
        if len(having) == 2:
            return SHARED
        return COPY if having and not having[0].of_file else ALONE


def rows(step: Step) -> list[Row]:
    """The rows of the picture: for each page one where both have the same frame or one has none, else two."""
    if not step.views:
        return []
    count = min(len(view.pages) for view in step.views[:2])
    return [row for at in range(count) for row in _rows([Cell(v, v.pages[at]) for v in step.views[:2]], step)]


def _rows(cells: list[Cell], step: Step) -> list[Row]:
    """Those of one page."""
    left, right = (*cells, None)[:2]
    if left is None or right is None:
        only = left or right
        return [Row(left, _frame(only, step), right)] if only else []
    if left.page.present and right.page.present and not _same(left.page, right.page):
        return [Row(left, _frame(left, step), None), Row(None, _frame(right, step), right)]
    return [Row(left, _frame(left if left.page.present else right, step), right)]


def _same(one: Page, other: Page) -> bool:
    if one.frame and other.frame:
        return one.frame == other.frame
    return one.of_file and other.of_file


def _frame(cell: Cell | None, step: Step) -> str:
    if cell is None:
        return ""
    page = cell.page
    if page.frame:
        return f"{page.frame:#x}"
    if page.present:
        return "page cache" if page.of_file else "own copy"
    cached = step.cache is not None and step.cache.resident[page.page : page.page + 1] == [True]
    return step.cache.place if step.cache and cached else ""


def picture(step: Step, width: int) -> list[Text]:
    """Lines; with boxes where the terminal is wide enough."""
    found = rows(step)
    draw = _boxes if width >= WIDE else _lines
    return [line for row in found for line in draw(row)]


def _lines(row: Row) -> list[Text]:
    lines = []
    for cell in (row.left, row.right):
        if cell is None:
            continue
        line = Text().append(f"{cell.view.process} ", "bold")
        if cell.view.vma is None:
            lines.append(line.append("no VMA", "dim"))
            continue
        line.append(f"{cell.view.vma.permissions} page {cell.page.page} ─▶ ")
        if cell.page.present:
            line.append("PTE", PTE).append(" ─▶ ").append(row.frame, row.style)
        else:
            line.append("no PTE", "dim")
        lines.append(line)
    return lines


def _boxes(row: Row) -> list[Text]:
    left, middle, right = _vma(row.left), _middle(row), _vma(row.right, mirrored=True)
    lines = []
    for at in range(3):
        line = Text("  ")
        line.append(left[at]).append(_arrow(row.left, at, "───▶"))
        line.append(middle[at]).append(_arrow(row.right, at, "◀───")).append(right[at])
        lines.append(line)
    return lines


def _arrow(cell: Cell | None, at: int, arrow: str) -> str:
    return f" {arrow} " if at == 1 and cell and cell.page.present else " " * 6


def _vma(cell: Cell | None, *, mirrored: bool = False) -> list[Text]:
    """Three lines of 24 cells: the VMA with the page, and its PTE."""
    if cell is None or cell.view.vma is None:
        said = f"{cell.view.process}: no VMA" if cell else ""
        return [Text(" " * 24), Text(f"{said:^24}", "dim"), Text(" " * 24)]
    number = f"page {cell.page.page}"
    vma = [
        f"┌─{cell.view.process}'s VMA─────┐",
        f"│ {number:<8}{cell.view.vma.permissions}│",
        f"└{'─' * 13}┘",
    ]
    pte = ["┌─PTE───┐", "│", "└───────┘"]
    state = ("present", PTE) if cell.page.present else (" none  ", "dim")
    lines = []
    for at in range(3):
        table, box = Text(pte[at]), Text(vma[at])
        if at == 1:
            table.append(*state).append("│")
        lines.append(table + box if mirrored else box + table)
    return lines


def _middle(row: Row) -> list[Text]:
    """Three lines of 14 cells: the frame."""
    if not row.frame:
        return [Text(" " * 14), Text(f"{'no frame':^14}", "dim"), Text(" " * 14)]
    edge = Text("┌─frame──────┐", row.style), Text("└────────────┘", row.style)
    return [edge[0], Text(f"│{row.frame:^12}│", row.style), edge[1]]
