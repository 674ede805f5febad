"""`shmfs top`: a snapshot after the other on a terminal, by textual."""

import threading
import time
from typing import Any, ClassVar

from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from shmfs.live import palette, summary, views
from shmfs.live.listing import Listing
from shmfs.live.model import Snapshot
from shmfs.live.views import View
from shmfs.live.watch import Watched
from shmfs.report.columns import Cell
from shmfs.system.pagemap import Matrix

COST = 10
"""A look is followed by at least so many times the CPU time that it took."""


class Looked(Message):
    """There is something newer."""

    def __init__(self, snapshot: Snapshot, matrix: Matrix | None) -> None:
        self.snapshot, self.matrix = snapshot, matrix
        super().__init__()


class Looker:
    """Looks again and again, in a thread: it may wait for what is watched, the terminal may not."""

    def __init__(self, watched: Watched, interval: float, tell: Any) -> None:
        self.inode: int | None = None
        """The segment whose pages are wanted too."""
        self.paused = False
        self.interval = interval
        self._watched = watched
        self._tell = tell
        self._now = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="shmfs-top", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def look(self) -> None:
        """Look at once."""
        self._now.set()

    def end(self) -> None:
        """Stop; a look that waits for a daemon is not waited for."""
        self._ended = True
        self._now.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._ended:
            before = time.thread_time()
            snapshot = self._watched.look()
            inode = self.inode
            matrix = None
            if inode is not None:
                try:
                    matrix = self._watched.matrix(inode)
                except OSError as failure:
                    snapshot.trouble = snapshot.trouble or f"its pages cannot be read: {failure.strerror}"
            self._tell(Looked(snapshot, matrix))
            pause = max(self.interval, COST * (time.thread_time() - before))
            self._now.wait(None if self.paused else pause)
            self._now.clear()


class Help(ModalScreen[None]):
    """What keys and figures mean."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter,space", "dismiss")]

    def __init__(self, text: Table) -> None:
        self._text = text
        super().__init__()

    def compose(self) -> ComposeResult:
        """One text, which may be longer than the screen."""
        with VerticalScroll():
            yield Static(self._text)


class Top(App[None]):
    """The application."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: $background; color: $foreground; }
    #head, #tabs, #foot, #keys { height: auto; padding: 0 1; }
    #filter { height: 1; border: none; padding: 0 1; background: $panel; display: none; }
    #filter.asked { display: block; }
    #filter:focus { border: none; }
    Help { align: center middle; }
    Help VerticalScroll { width: 90%; max-width: 78; height: 90%; max-height: 34; padding: 1 2;
                          border: round $primary; background: $background;
                          scrollbar-size-vertical: 1; scrollbar-color: $primary;
                          scrollbar-background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", priority=False),
        Binding("tab", "other", priority=True),
        Binding("1", "place('segments')"),
        Binding("2", "place('processes')"),
        Binding("enter", "open"),
        Binding("escape,backspace", "leave"),
        Binding("s", "sort(1)"),
        Binding("S", "sort(-1)"),
        Binding("r", "reverse"),
        Binding("slash", "filter"),
        Binding("space", "pause"),
        Binding("n", "look"),
        Binding("plus,equals_sign", "slower(2)"),
        Binding("minus", "slower(0.5)"),
        Binding("t", "ground"),
        Binding("question_mark,h", "help"),
    ]

    def __init__(self, watched: Watched, interval: float) -> None:
        super().__init__()
        self.snapshot: Snapshot | None = None
        self.matrix: Matrix | None = None
        self.looks = 0
        """How many looks were shown."""
        self._looker = Looker(watched, interval, self.post_message)
        self._trends = views.Trends()
        self._stack: list[tuple[View, Any]] = []
        """Where Escape leads, and what the cursor stood on there."""
        self.view = View("segments")
        self._order: dict[str, tuple[str, bool]] = {}
        """By place: the heading that is sorted by, and whether that is reversed."""
        self._wanted = ""
        self._ground = palette.ground()
        self._styles = palette.styles(self._ground)

    # ---- what is there

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Static(id="head")
        yield Static(id="tabs")
        yield Listing(self._style, lambda: palette.cursor(self._ground))
        yield Static(id="foot")
        yield Input(placeholder="name contains … (Enter keeps, Esc clears)", id="filter", compact=True)
        yield Static(id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        for name in ("dark", "light"):
            self.register_theme(palette.theme(name))
        self.theme = f"shmfs-{self._ground}"
        self.query_one(Listing).focus()
        self._looker.start()
        self._draw()

    def on_unmount(self) -> None:
        """End the thread."""
        self._looker.end()

    def on_resize(self) -> None:
        """Fill the new size."""
        self._draw()

    def on_looked(self, message: Looked) -> None:
        """Show what is newer."""
        self.snapshot, self.matrix = message.snapshot, message.matrix
        self._trends.add(message.snapshot)
        self.looks += 1
        self._draw()

    def _style(self, name: str) -> Style:
        return self._styles[name]

    def _text(self, cells: list[Cell]) -> Text:
        return Text.assemble(*((text, self._styles[style]) for text, style in cells), no_wrap=True, end="")

    # ---- drawing

    def _draw(self) -> None:
        if not self.is_running or not self.screen_stack:
            return
        width = self.size.width - 2
        seen = self.snapshot
        head = self.query_one("#head", Static)
        if seen is None:
            head.update(self._text([("shmfs top", "title"), ("  looking …", "dim")]))
            return
        state = summary.State(
            self._looker.paused, self._looker.interval, self._wanted, self.view, len(self._stack)
        )
        low = self.size.height < 16
        lines = summary.head(seen, self._trends, state, width, low=low)
        lines += [[]] if self.size.height >= 24 else []
        head.update(Text("\n").join(self._text(line) for line in lines))
        table = self._list(seen)
        lines = summary.tabs(seen, state, table.title, width)
        self.query_one("#tabs", Static).update(Text("\n").join(self._text(line) for line in lines))
        foot = self.query_one("#foot", Static)
        lines = summary.foot(seen, width, 1 if self.size.height < 24 else 3)
        if self.view.place == "segment":
            length = next((one.size for one in seen.segments if one.inode == self.view.subject), 0)
            cells = self.query_one(Listing).flexible
            lines.insert(0, summary.fit(views.legend(self.matrix, length, cells), width))
        foot.update(Text("\n").join(self._text(line) for line in lines))
        self.query_one("#keys", Static).update(self._text(summary.keys(state, width, bool(table.rows))))

    def _list(self, seen: Snapshot) -> views.Table:
        table = views.table(self.view, seen, self.matrix, self._trends)
        heading, reverse = self._order.get(self.view.place, (table.order, False))
        column = next((one for one in table.columns if one.heading == heading), table.columns[0])
        rows = [row for row in table.rows if self._wanted in table.name(row).lower()]
        rows.sort(key=table.name)
        rows.sort(key=column.key, reverse=reverse)
        empty = f"nothing here has a name with {self._wanted!r}" if table.rows else table.empty
        listing = self.query_one(Listing)
        listing.show(table.columns, rows, table.ident, (column.heading, reverse), empty)
        self._table = table
        return table

    # ---- keys

    def _go(self, view: View, follow: Any = None) -> None:
        self.view = view
        self._wanted = ""
        self.query_one(Input).value = ""
        self._looker.inode = view.subject if view.place in ("segment", "pages") else None
        if self._looker.inode is not None and (self.matrix is None or self.matrix.inode != view.subject):
            self._looker.look()
        self.query_one(Listing).restart(follow)
        self._draw()

    def action_other(self) -> None:
        """Show the other tab."""
        self._go(self.view.sibling)

    def action_place(self, place: views.Place) -> None:
        """Show all segments, or all processes."""
        self._stack.clear()
        self._go(View(place))

    def action_open(self) -> None:
        """Look into what the cursor stands on."""
        listing = self.query_one(Listing)
        if self.snapshot is None or listing.current is None:
            return
        target = self._table.open(listing.current)
        if target is not None:
            self._stack.append((self.view, listing.followed))
            self._go(target)

    def on_listing_chosen(self) -> None:
        """Clicked twice."""
        self.action_open()

    def action_leave(self) -> None:
        """Leave the filter, or go back to where one came from."""
        if self._wanted:
            self.query_one(Input).value = ""
        elif self._stack:
            self._go(*self._stack.pop())

    def action_sort(self, by: int) -> None:
        """Sort by another column."""
        if self.snapshot is None:
            return
        columns = [column.heading for column in self.query_one(Listing).columns]
        if not columns:  # none fits in
            return
        heading, _ = self._order.get(self.view.place, (self._table.order, False))
        at = columns.index(heading) + by if heading in columns else 0
        self._order[self.view.place] = columns[at % len(columns)], False
        self._draw()

    def action_reverse(self) -> None:
        """Turn the order around."""
        if self.snapshot is not None:
            heading, reverse = self._order.get(self.view.place, (self._table.order, False))
            self._order[self.view.place] = heading, not reverse
            self._draw()

    def action_filter(self) -> None:
        """Ask for a part of a name."""
        box = self.query_one(Input)
        box.add_class("asked")
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self._wanted = event.value.lower()
        self._draw()

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._leave_filter()

    def on_key(self, event: Any) -> None:
        """Escape in the filter clears it."""
        if event.key == "escape" and self.query_one(Input).has_focus:
            self.query_one(Input).value = ""
            self._leave_filter()
            event.stop()
            event.prevent_default()

    def _leave_filter(self) -> None:
        self.query_one(Input).remove_class("asked")
        self.query_one(Listing).focus()

    def action_pause(self) -> None:
        """Keep what is shown, or go on."""
        self._looker.paused = not self._looker.paused
        self._looker.look()
        self._draw()

    def action_look(self) -> None:
        """Look now, paused or not."""
        self._looker.look()

    def action_slower(self, by: float) -> None:
        """Look less often, or more."""
        self._looker.interval = max(0.1, min(60.0, self._looker.interval * by))
        self._looker.look()
        self._draw()

    def action_ground(self) -> None:
        """Change between dark and light."""
        self._ground = "light" if self._ground == "dark" else "dark"
        self._styles = palette.styles(self._ground)
        self.theme = f"shmfs-{self._ground}"
        self._draw()

    def action_help(self) -> None:
        """Explain keys and figures."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(max_width=18)
        grid.add_column()
        for left, right in summary.help_rows(self.snapshot):
            grid.add_row(Text(left[0], self._styles[left[1]]), Text(right[0], self._styles[right[1]]))
        self.push_screen(Help(grid))
