"""A table of any number of rows: only those that are seen are drawn."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from shmfs.live.rows import GAP, Placed, fitting, padded
from shmfs.report.columns import Cell

MARK = "▌"


class Listing(ScrollView, can_focus=True):
    """Rows below a heading, with a cursor that follows what it stands on."""

    DEFAULT_CSS = """
    Listing { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
              scrollbar-color: $primary; scrollbar-background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown", "page(1)"),
        Binding("home,g", "move(-1000000000)"),
        Binding("end,G", "move(1000000000)"),
    ]

    class Chosen(Message):
        """A row was clicked or entered."""

        def __init__(self, row: Any) -> None:
            self.row = row
            super().__init__()

    def __init__(self, style: Callable[[str], Style], cursor: Callable[[], Style]) -> None:
        super().__init__()
        self._style = style
        self._cursor_style = cursor
        self._columns: Sequence[Placed[Any]] = []
        self._fitting: Sequence[Placed[Any]] = []
        self._sorted = ""
        self._reverse = False
        self._ident: Callable[[Any], Hashable] = id
        self._follow: Hashable | None = None
        self.rows: Sequence[Any] = []
        self.cursor = 0
        self.empty = ""
        """What is said where there are no rows."""

    def show(
        self,
        columns: Sequence[Placed[Any]],
        rows: Sequence[Any],
        ident: Callable[[Any], Hashable],
        order: tuple[str, bool],
        empty: str = "",
    ) -> None:
        """Show these rows, in `order` already: the heading of a column, and whether that is reversed."""
        self._columns, self.rows, self._ident, self.empty = columns, rows, ident, empty
        self._sorted, self._reverse = order
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        if self._follow is not None:
            found = next((at for at, row in enumerate(rows) if ident(row) == self._follow), None)
            self.cursor = self.cursor if found is None else found
        self._fit()

    def restart(self, follow: Hashable | None = None) -> None:
        """Go to the top, or to one row as soon as it is there: something else is shown from now on."""
        self.cursor, self._follow = 0, follow
        self.scroll_to(y=0, animate=False)

    @property
    def columns(self) -> Sequence[Placed[Any]]:
        """Those that there is room for."""
        return self._fitting

    @property
    def flexible(self) -> int:
        """Cells of the column that takes what the others leave."""
        fixed = {column.heading: column.width for column in self._columns}
        return next((one.width for one in self._fitting if not fixed[one.heading]), 1)

    @property
    def current(self) -> Any | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if self.rows else None

    @property
    def followed(self) -> Hashable | None:
        """What the cursor stands on, for `restart`."""
        return self._ident(self.rows[self.cursor]) if self.rows else None

    def on_resize(self) -> None:
        """Let columns go, or take them in again."""
        self._fit()

    def _fit(self) -> None:
        room = self.size.width - 2 * len(MARK)
        self._fitting = fitting(self._columns, room) if self._columns and room > 0 else []
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        self._keep_in_sight()
        self.refresh()

    def _keep_in_sight(self) -> None:
        page = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + page:
            self.scroll_to(y=self.cursor - page + 1, animate=False, immediate=True)

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        if self.rows:
            self.cursor = max(0, min(self.cursor + by, len(self.rows) - 1))
            self._follow = self._ident(self.rows[self.cursor]) if self.cursor else None
            self._keep_in_sight()
            self.refresh()

    def action_page(self, by: int) -> None:
        """Move the cursor by pages."""
        self.action_move(by * max(1, self.size.height - 2))

    def on_click(self, event: Any) -> None:
        """Move the cursor there; a second time is as Enter."""
        at = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and at < len(self.rows):
            again = at == self.cursor
            self.action_move(at - self.cursor)
            if again:
                self.post_message(self.Chosen(self.current))

    def render_line(self, y: int) -> Strip:
        """Draw one line of what is seen."""
        width = self.size.width
        if y == 0:
            return self._line(self._headings(), width, self._style(""))
        at = y - 1 + self.scroll_offset.y
        if at >= len(self.rows):
            text = f" {self.empty}" if y == 2 and not self.rows else ""
            return self._line([Segment(text, self._style("dim"))], width, self._style(""))
        row = self.rows[at]
        if at != self.cursor:
            return self._line([Segment(" ", self._style("")), *self._cells(row)], width, self._style(""))
        ground = self._style("") + self._cursor_style()
        cells = [
            Segment(text, (style or Style()) + self._cursor_style()) for text, style, _ in self._cells(row)
        ]
        return self._line([Segment(MARK, self._style("key") + self._cursor_style()), *cells], width, ground)

    @staticmethod
    def _line(segments: list[Segment], width: int, ground: Style) -> Strip:
        return Strip(segments).adjust_cell_length(width, ground)

    def _headings(self) -> list[Segment]:
        segments = [Segment(" ", self._style(""))]
        for column in self._fitting:
            style, text = self._style("heading"), column.heading
            if column.heading == self._sorted:
                style, text = self._style("sorted"), text + ("▲" if column.rising != self._reverse else "▼")
            segments += [Segment(_headline(text, column), style), Segment(" " * GAP, self._style(""))]
        return segments

    def _cells(self, row: Any) -> list[Segment]:
        segments: list[Segment] = []
        for column in self._fitting:
            if column.drawn:
                parts: Sequence[Cell] = column.drawn(row, column.width)
                segments += [Segment(text, self._style(style)) for text, style in parts]
                rest = column.width - sum(len(text) for text, _ in parts)
                segments.append(Segment(" " * (rest + GAP), self._style("")))
                continue
            text, style = column.cell(row)
            segments.append(Segment(padded(text, column), self._style(style)))
            segments.append(Segment(" " * GAP, self._style("")))
        return segments


def _headline(text: str, column: Placed[Any]) -> str:
    text = text[: column.width]
    return text.ljust(column.width) if column.column.left else text.rjust(column.width)
