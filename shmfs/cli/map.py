"""`shmfs map`."""

from typing import TYPE_CHECKING

import click

from shmfs.cli import output
from shmfs.errors import ShmfsError

if TYPE_CHECKING:
    from rich.console import Console

    from shmfs.system.pagemap import Matrix

FEW = 16
"""Pages that are listed one by one, with their frames, without being asked."""
RANGES = 24
"""Lines of ranges that are shown."""
CELLS = 100
"""Cells of a strip at most."""

_EPILOG = """\b
Examples:
  shmfs map /mnt/shm/frames
  shmfs map --pages /dev/shm/psm_1234
  shmfs map --json /proc/4711/root/dev/shm/frames   (of a sandbox)
  shmfs map --id 65538 /mnt/shm          (System V)
  shmfs map --inode 7 /mnt/shm           (anonymous; `shmfs ps` tells it)
"""


@click.command("map", epilog=_EPILOG, short_help="Show which process has which page of a file.")
@click.option("-p", "--pages", "every", is_flag=True, help="List every page with its frame.")
@click.option("-m", "--id", "shmid", metavar="ID", type=int, help="The System V segment with this id.")
@click.option("--inode", metavar="INODE", type=int, help="The segment with this inode number.")
@output.json_option("the whole matrix")
@click.argument("file", metavar="FILE", type=output.FILE)
def map_(every: bool, shmid: int | None, inode: int | None, as_json: bool, file: str) -> None:
    """Show which process has which page of FILE present now.

    FILE is on a shmfs or on a tmpfs of the kernel; with --id or --inode it is anything on the mount of the
    segment. As root the frames are told: two processes that show the same frame for a page share that memory.
    """
    import os
    import stat

    from shmfs.system import pagemap

    if shmid is not None or inode is not None:
        from shmfs.client import inventory

        device, segment = inventory.segment(file, shmid=shmid, inode=inode)
        ino, size, name = segment.inode, segment.size, segment.path
    else:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ShmfsError(f"{file} is not a regular file, so nobody maps pages of it")
        device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        ino, size, name = status.st_ino, status.st_size, file
    matrix = pagemap.matrix(device, ino)
    if as_json:
        output.print_json(matrix.sharing(name if name != file else os.path.abspath(file), size))
    else:
        _print(matrix, name, size, every=every)


def _print(matrix: "Matrix", file: str, size: int, *, every: bool) -> None:
    from rich.text import Text

    from shmfs.report import text
    from shmfs.system import pagemap

    console = output.console()
    shared = len(matrix.shared())
    pages = -(-size // pagemap.PAGE)
    head = Text(text.clean(file), "bold")
    mappers = text.plural(len(matrix.processes), "process")
    head.append(f"  {text.size(size)}, {text.plural(pages, 'page')}, mapped by {mappers}, ", "")
    head.append(f"{shared} shared", "bold green" if shared else "")
    output.emit(console, head)
    present = sum(len(one.pages) + len(one.copies) for one in matrix.processes)
    if matrix.processes:
        _print_strips(console, matrix, size)
    if present:
        console.print()
        if every or present <= FEW:
            _print_pages(console, matrix)
        else:
            _print_ranges(console, matrix)
        if not matrix.frames_visible:
            output.complain("note: the kernel shows frame numbers to root only")
    output.tell_hidden(matrix.hidden)


def _print_strips(console: "Console", matrix: "Matrix", size: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from shmfs.report.columns import STYLES
    from shmfs.report.picture import GLYPHS, Kind, draw

    def cell(kind: Kind) -> tuple[str, str]:
        glyph, style = GLYPHS[kind]
        return ".c+#"[kind] if console.options.ascii_only else glyph, STYLES[style]

    names = list(_names(matrix).values())
    room = console.width - max(len(name) for name in names) - 2 - len(" 1048576")
    picture = draw(matrix, size, max(8, min(CELLS, room)))
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for name, one, strip in zip(names, matrix.processes, picture.strips, strict=True):
        cells = Text.assemble(*(cell(Kind(kind)) for kind in strip.tolist()))
        grid.add_row(Text(name), cells, Text(str(len(one.pages) + len(one.copies)), "dim"))
    output.emit(console, grid)
    legend = Text()
    for kind, meaning in picture.meanings():
        legend.append(*cell(kind)).append(f" {meaning}  ", "dim")
    if picture.per_cell == 1:
        legend.append("a cell is one page", "dim")
    output.emit(console, legend)
    if picture.per_cell > 1:
        text = f"a cell is {picture.per_cell} pages, and shows the most shared of them"
        output.emit(console, Text(text, "dim"))


def _names(matrix: "Matrix") -> dict[int, str]:
    from shmfs.events.names import process_name
    from shmfs.report.text import clean

    return {one.pid: clean(process_name(one)) for one in matrix.processes}


def _print_ranges(console: "Console", matrix: "Matrix") -> None:
    from rich.text import Text

    from shmfs.report import columns
    from shmfs.report.picture import ranges

    names, found = _names(matrix), ranges(matrix)
    shown = [[one.pages, one.last - one.first + 1, one.present_in(names)] for one in found[:RANGES]]
    output.listing(console, [columns.PAGE_RANGE, columns.PAGE_COUNT, columns.PRESENT_IN], shown)
    if len(found) > RANGES:
        more = f"… and {len(found) - RANGES} more ranges; --pages lists every page, --json too"
        output.emit(console, Text(more, "dim"))


def _print_pages(console: "Console", matrix: "Matrix") -> None:
    from shmfs.report import columns

    names = _names(matrix)
    rows: list[list[object]] = []
    for page in matrix.sharing().pages:
        frames: dict[tuple[int | None, bool], list[str]] = {}
        for holder in page.processes:
            frames.setdefault((holder.frame, holder.private), []).append(names[holder.pid])
        for (frame, private), holders in frames.items():
            text = ", ".join(holders) + (" (own copy)" if private else "")
            rows.append([page.page, frame, (text, "" if len(holders) < 2 else "good")])
    output.listing(console, [columns.PAGE, columns.FRAME, columns.PRESENT_IN], rows)
