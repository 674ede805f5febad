"""What all commands share: how failures are told, how text is printed, which options look the same."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from shmfs.errors import ShmfsError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from shmfs.report.columns import Column

INTERRUPTED = 130

MOUNT_OPTIONS = """\b
Mount options (-o, comma-separated or repeated; as of tmpfs unless said):
  size=64m             limit: bytes, or with k m g t p e, or % of RAM;
                       0 is unlimited, the default half of RAM
  nr_blocks= nr_inodes=  limits in pages and in inodes
  shmmax= shmall= shmmni=  limits of System V shared memory, as in
                       /proc/sys/kernel: bytes, pages, segments
  mode=1777 uid= gid=  of the root directory
  inode32, inode64     width of inode numbers
  ro noexec nosuid nodev noatime relatime …  as for every mount
  reserve=lazy         charge a page when it is first touched
  reserve=strict       charge when a file grows: ENOSPC, never SIGBUS
  reserve=prefault     the same, and allocate at once
  pages=managed        shmfs owns the pages: each page-in is seen and counted
  pages=native         the kernel does: its speed, fewer figures (root);
                       the default is auto, native where nothing forbids it
  huge= noswap mpol=   as of tmpfs, with native pages
  readahead=32         pages read ahead: faster, charged before touched
  poll=200             microseconds the daemon looks for more before it sleeps
  allow_other          let other users in (root: always)
"""

Command = TypeVar("Command", bound=Callable[..., Any])


class PathName(click.types.StringParamType):
    """A path that is not looked at here: a mount may not answer, and the sentences of the rest are better."""

    name = "path"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty name, which is a variable of the shell that was not set."""
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete it: `kind` is "dir" or "file"."""
        return [CompletionItem(incomplete, type=self.kind)]


DIRECTORY = PathName("dir")
FILE = PathName("file")


class OwnUsageStatus(click.Command):
    """A command whose exit status for wrong usage is not click's."""

    usage_status: int

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give wrong usage the command's own status."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # for the line of usage
            error.show()
            raise click.exceptions.Exit(self.usage_status) from None


def mount_options(function: Command) -> Command:
    """Add -o, which may be repeated."""
    option = click.option(
        "-o", "options", metavar="OPTIONS", multiple=True, help="Mount options, see below. May be repeated."
    )
    return option(function)


def json_option(what: str) -> Callable[[Command], Command]:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def trace_options(function: Command) -> Command:
    """Add --trace and --max-size."""
    trace = click.option(
        "--trace",
        "trace",
        metavar="FILE",
        type=FILE,
        help="Record every page fault, mapping, allocation, open … to FILE; see `shmfs report`.",
    )
    limit = click.option(
        "--max-size",
        metavar="SIZE",
        callback=_amount,
        help="Let the trace take no more than SIZE (as in 100m): the oldest faults make room.",
    )
    return trace(limit(function))


def _doors(ctx: click.Context, param: click.Parameter, text: str) -> tuple[str, ...]:
    """Turn "sysv,anon" into words; raises a usage error."""
    from shmfs.ipc.library import DOORS

    words = tuple(filter(None, text.split(",")))
    for word in words:
        if word not in DOORS:
            raise click.BadParameter(f"there is no {word!r}: name some of {', '.join(DOORS)}", ctx, param)
    return words


def preload_option(function: Command) -> Command:
    """Add --preload, a tuple of words as `doors`."""
    option = click.option(
        "--preload",
        "doors",
        metavar="WORDS",
        default="sysv,anon",
        show_default=True,
        callback=_doors,
        help="Serve System V shared memory (sysv), shared anonymous mappings (anon), by a preloaded library.",
    )
    return option(function)


def _amount(ctx: click.Context, param: click.Parameter, text: str | None) -> int:
    """Bytes of "100m", 0 for none; raises a usage error."""
    from shmfs.events.amounts import parse_size

    number = 0 if text is None else parse_size(text)
    if number is None:
        raise click.BadParameter(f"{text!r} is no size: give one as in 100m", ctx, param)
    return number


@contextmanager
def expected(status: int | None = None, keep: Sequence[int] = ()) -> Iterator[None]:
    """End with a sentence and an exit status on what is meant for the user.

    `status` replaces the exit statuses that are not in `keep`.
    """

    def fail(message: str, own: int) -> NoReturn:
        complain(message)
        raise click.exceptions.Exit(own if status is None or own in keep else status) from None

    try:
        import errno

        from shmfs.fs.options import OptionError

        yield
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except ShmfsError as error:
        fail(str(error), error.status)
    except OptionError as error:
        fail(str(error), 2)
    except BrokenPipeError:
        raise  # whoever reads our output has had enough, which click ends quietly
    except OSError as error:
        dead = "; a dead mount is cleared away by `shmfs umount`" if error.errno == errno.ENOTCONN else ""
        fail(f"{sentence(error)}{dead}", 1)


def sentence(error: OSError) -> str:
    """Say what failed, and with which file, as perror(3) does."""
    return f"{error.filename}: {error.strerror or error}" if error.filename else error.strerror or str(error)


class _StandardOutput(io.FileIO):
    """Standard output whose error has its name, as those of files that cannot be opened have theirs.

    It fails once: what is in buffers above is tried again when the interpreter ends, which nobody is to hear.
    """

    _failed = False

    def write(self, data: Any, /) -> int:
        length = memoryview(data).nbytes
        if self._failed:
            return length
        try:
            return super().write(data)
        except OSError as error:
            self._failed = length > 0  # click writes nothing, to find out what a stream takes
            error.filename = "standard output"
            raise


def name_standard_output() -> None:
    """Have a failed write(2) to standard output tell where it was to go, whoever does it."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and isinstance(out.buffer, (io.BufferedWriter, io.FileIO)):
        raw = _StandardOutput(out.fileno(), "wb", closefd=False)
        unbuffered = isinstance(out.buffer, io.FileIO)  # python -u
        buffer = raw if unbuffered else io.BufferedWriter(raw)
        sys.stdout = io.TextIOWrapper(
            buffer,
            out.encoding,
            out.errors,
            line_buffering=out.line_buffering,
            write_through=unbuffered,
        )


def complain(message: str) -> None:
    """Print a sentence on standard error."""
    from shmfs.report.text import clean

    click.echo(f"shmfs: {clean(message)}", err=True)


def tell_hidden(count: int) -> None:
    """Say that processes could not be looked at, if any; what is shown may not be all then."""
    import os

    from shmfs.report.text import plural

    if count:
        hint = "" if os.geteuid() == 0 else "; run it as root to see all that map"
        complain(f"note: {plural(count, 'process')} may not be looked at{hint}")


def print_json(data: Any) -> None:
    """Print one line of JSON on standard output."""
    import msgspec

    click.echo(msgspec.json.encode(data))


def console(*, stderr: bool = False) -> "Console":
    """Where tables go: as wide as the terminal or $COLUMNS; wide enough for everything where neither is."""
    import os

    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False)
    columns = os.environ.get("COLUMNS", "").lstrip("0")  # of which 0 is none
    if not console.is_terminal and not columns.isdecimal():
        console.width = 120 if stderr else 500
    console.width = console.width or 80
    return console


def emit(console: "Console", *what: "RenderableType") -> None:
    """Print, in ASCII where the terminal knows no more."""
    from shmfs.report.text import show

    show(console, *what)


def listing(console: "Console", columns: "Sequence[Column]", rows: Iterable[Sequence[Any]]) -> None:
    """Print one line a row; a paragraph a row if the console is too narrow. The first column is the name."""
    from shmfs.report.columns import listing

    emit(console, *listing(columns, rows, console.width))
