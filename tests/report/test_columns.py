"""Columns: each value is formatted in one way, in a table of any width."""

import pytest
from rich.console import Console
from rich.text import Text

from shmfs.report import columns
from shmfs.report.columns import PAGE_INS, SEGMENT, SHARED, SIZE, Column, figures, listing

DECLARED = [one for one in vars(columns).values() if isinstance(one, Column)]


@pytest.mark.parametrize(
    ("column", "value", "cell"),
    [
        (SIZE, 8192, ("8 KiB", "")),
        (SIZE, 0, ("0 B", "dim")),
        (SIZE, None, ("-", "dim")),
        (PAGE_INS, 11250, ("11,250", "")),
        (SHARED, 3, ("3", "shared")),
        (SHARED, 0, ("0", "dim")),
        (SEGMENT, "/a\x1b", ("/a\\x1b", "name")),
        (SEGMENT, "", ("-", "dim")),
        (SEGMENT, ("/a\x1b", "warn"), ("/a\\x1b", "warn")),
    ],
)
def test_cells(column: Column, value: object, cell: tuple[str, str]) -> None:
    assert column.cell(value) == cell
    assert column.text(value) == Text(cell[0], columns.STYLES[cell[1]])


@pytest.mark.parametrize("column", DECLARED, ids=lambda column: column.heading)
def test_every_column_has_a_known_source_and_style(column: Column) -> None:
    assert column.source in ("", "fuse", "mm", "perf", "filemap", "pagemap")
    assert column.style in columns.STYLES


def test_figures_are_named_by_source() -> None:
    assert figures([SEGMENT, SIZE, columns.CREATED_BY, SHARED], "fuse") == "size, creator"


def lines(width: int, shortest: int | None = None) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        for part in listing([SEGMENT, SIZE, SHARED], [["/" + "x" * 29, 4096, None]], width, shortest):
            console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_table_that_fits() -> None:
    assert lines(60)[1] == "/" + "x" * 29 + "  4 KiB       -"


def test_a_name_is_clipped_where_it_may_be() -> None:
    assert lines(40, 14)[1] == "/xxxxxxxxxxx…xxxxxxxxxxxx  4 KiB       -"


@pytest.mark.parametrize(("width", "shortest"), [(40, None), (28, 14)])
def test_what_is_too_wide_becomes_a_paragraph(width: int, shortest: int | None) -> None:
    assert lines(width, shortest)[-1] == "  size 4 KiB"
