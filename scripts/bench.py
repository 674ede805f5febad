"""Measure shmfs beside the kernel's tmpfs, in the same run, in interleaved rounds.

Every round measures each thing on both sides, one directly after the other and in alternating order. A
round's ratio is tmpfs's time divided by shmfs's: 1 is as fast as tmpfs, 0.5 takes twice as long. The table
shows the median of the rounds' ratios, the smallest and the largest. As root, tmpfs is a mount of its own,
else /dev/shm. A missed target does not change the exit status; a measurement that cannot be made does.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

MIB = 1 << 20
PAGE = 4096
DATA = memoryview(os.urandom(MIB))
RESIDENT_EXTRA = 60 * 10**6  # bytes that the daemon may hold beside the stored data
ROUND_TRIP = 2e-6  # seconds of the daemon's CPU time that answering a request takes at the very least


class BenchError(Exception):
    """Something could not be measured."""


@dataclass(frozen=True)
class Sizes:
    """How much each measurement does."""

    stream: int = 256 * MIB  # bytes written and read sequentially
    touched: int = 64 * MIB  # bytes mapped and touched, cached already or with read-ahead
    exact: int = 16 * MIB  # bytes mapped and touched for the first time with one READ a page
    names: int = 500  # names made, opened, renamed, removed
    stats: int = 20_000  # calls of stat
    listed: int = 2_000  # names in the directory that is listed
    stored: int = 512 * MIB  # bytes stored to see the daemon's memory


QUICK = Sizes(stream=32 * MIB, touched=16 * MIB, exact=4 * MIB, names=100, stored=64 * MIB)

# What is measured: how it is shown ("MB/s": values are seconds per MB, "µs": seconds per operation), and the
# ratio it should reach.
MEASURES: dict[str, tuple[str, float | None]] = {
    "write, 1 MiB blocks": ("MB/s", 0.25),
    "write, 64 KiB blocks": ("MB/s", None),
    "read, cached": ("MB/s", 0.9),
    "mmap, second touch (mapped again, read)": ("µs", 0.8),
    "mmap, store to a cached page": ("µs", None),
    "mmap, store again in the same mapping": ("µs", None),
    "mmap, first touch, readahead=0": ("µs", None),
    "mmap, first touch, readahead=32": ("µs", 0.3),
    "stat, known name": ("µs", None),
    "stat, file that is open for writing": ("µs", None),
    "create + close": ("µs", None),
    "open + close": ("µs", None),
    "rename": ("µs", None),
    "unlink": ("µs", None),
    "mkdir": ("µs", None),
    "readdir, per entry": ("µs", None),
}


# ---- the measurements: each takes a directory and the sizes, and returns {measure: seconds}


@contextmanager
def fresh(path: Path, size: int = 0, *, written: bool = False) -> Iterator[int]:
    """Make a file of `size` bytes, as a hole or `written`, and remove it afterwards."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if written:
            write(descriptor, size, min(size, MIB))
        else:
            os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink()


def write(descriptor: int, size: int, block: int) -> None:
    """Write `size` bytes in blocks."""
    for _ in range(size // block):
        if os.write(descriptor, DATA[:block]) != block:
            raise BenchError(f"a write of {block} bytes was cut short: is there memory enough?")


def pages(descriptor: int) -> NDArray[np.uint8]:
    """Map the file, and give one byte of each page; the mapping ends with the last reference."""
    return np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)[::PAGE]


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stream(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Write fresh files, and read the last one again."""
    buffer = bytearray(MIB)

    def read(descriptor: int) -> None:
        for offset in range(0, sizes.stream, MIB):
            os.preadv(descriptor, [buffer], offset)

    with fresh(directory / "stream") as descriptor:
        small = seconds(lambda: write(descriptor, sizes.stream, 64 << 10))
    with fresh(directory / "stream") as descriptor:
        large = seconds(lambda: write(descriptor, sizes.stream, MIB))
        read(descriptor)
        again = statistics.mean(seconds(lambda: read(descriptor)) for _ in range(3))
    times = {"write, 64 KiB blocks": small, "write, 1 MiB blocks": large, "read, cached": again}
    return {name: time / (sizes.stream / 1e6) for name, time in times.items()}


def touch(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Touch pages that the kernel has cached already."""
    count = sizes.touched // PAGE

    def increment(touched: NDArray[np.uint8]) -> None:
        touched += 1

    with fresh(directory / "touch", sizes.touched, written=True) as descriptor:
        pages(descriptor).sum()
        again = [seconds(lambda: pages(descriptor).sum()) for _ in range(4)]
        touched = pages(descriptor)
        store = seconds(lambda: increment(touched))
        stored = [seconds(lambda: increment(touched)) for _ in range(4)]
    return {
        "mmap, second touch (mapped again, read)": statistics.mean(again) / count,
        "mmap, store to a cached page": store / count,
        "mmap, store again in the same mapping": statistics.mean(stored) / count,
    }


def first_touch(directory: Path, size: int) -> float:
    """Store one byte in each page of a hole; in seconds per page."""
    with fresh(directory / "first", size) as descriptor:
        touched = pages(descriptor)
        return seconds(lambda: touched.fill(1)) / len(touched)


def first_touch_exact(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Touch holes, each page by a READ of its own."""
    return {"mmap, first touch, readahead=0": first_touch(directory, sizes.exact)}


def first_touch_ahead(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Touch holes of which the kernel reads 32 pages ahead."""
    return {"mmap, first touch, readahead=32": first_touch(directory, sizes.touched)}


def names(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Make, look up, open, rename and remove names in a directory of their own."""
    place = directory / "names"
    place.mkdir()
    old = [f"{place}/{number}" for number in range(sizes.names)]
    new = [f"{name}-renamed" for name in old]

    def each(work: Callable[[int], object]) -> float:
        return seconds(lambda: [work(number) for number in range(sizes.names)]) / sizes.names

    results = {
        "create + close": each(
            lambda i: os.close(os.open(old[i], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        ),
        "open + close": each(lambda i: os.close(os.open(old[i], os.O_RDWR))),
        "rename": each(lambda i: os.rename(old[i], new[i])),
        "unlink": each(lambda i: os.unlink(new[i])),
        "mkdir": each(lambda i: os.mkdir(old[i])),
    }
    shutil.rmtree(place)
    return results


def attributes(directory: Path, sizes: Sizes) -> dict[str, float]:
    """Ask for the attributes of a file with data, closed and open for writing."""
    path = str(directory / "data")

    def stat() -> float:
        return seconds(lambda: [os.stat(path) for _ in range(sizes.stats)]) / sizes.stats

    with fresh(directory / "data", PAGE, written=True):
        opened = stat()
    Path(path).write_bytes(DATA[:PAGE])
    closed = stat()
    os.unlink(path)
    return {"stat, known name": closed, "stat, file that is open for writing": opened}


def listing(directory: Path, sizes: Sizes) -> dict[str, float]:
    """List a directory that is made in the first round."""
    place = directory / "listed"
    if not place.exists():
        place.mkdir()
        for number in range(sizes.listed):
            (place / f"name-{number}").touch()
    times = [seconds(lambda: os.listdir(place)) for _ in range(5)]
    return {"readdir, per entry": statistics.mean(times) / sizes.listed}


# ---- the mounts


def run(*command: str) -> str:
    """Run a command, and return what it prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    except subprocess.TimeoutExpired:
        raise BenchError(f"`{' '.join(command)}` did not end, or left its output open, for 60 s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise BenchError(f"`{' '.join(command)}` ended with exit status {done.returncode}: {said}")
    return done.stdout


def shmfs(*arguments: str) -> str:
    """Run a command of shmfs."""
    return run(sys.executable, "-m", "shmfs", *arguments)


@contextmanager
def mounted(mount: Callable[[str], object], unmount: Callable[[str], object]) -> Iterator[Path]:
    """Mount on a temporary directory; unmounted and removed whatever happens, also on an interrupt."""
    directory = tempfile.mkdtemp(prefix="shmfs-bench-")
    try:
        mount(directory)
        yield Path(directory)
    finally:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            if os.path.ismount(directory):
                unmount(directory)
            os.rmdir(directory)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def kernel_tmpfs(stack: ExitStack) -> Path:
    """Give a directory of the kernel's tmpfs."""
    if os.geteuid() != 0:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shmfs-bench-", dir="/dev/shm")))
    made = mounted(
        lambda directory: run("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", directory),
        lambda directory: run("umount", "--lazy", directory),
    )
    return stack.enter_context(made)


def shmfs_mount(stack: ExitStack, options: str) -> Path:
    """Mount a fresh shmfs."""

    def unmount(directory: str) -> None:
        try:
            shmfs("umount", directory)
        except (
            BenchError
        ) as error:  # an interrupted measurement may still map a file: it ends with this process
            print(f"bench: {error}; detached instead", file=sys.stderr)
            run("fusermount3", "-u", "-z", directory)

    return stack.enter_context(mounted(lambda directory: shmfs("mount", "-o", options, directory), unmount))


# ---- the daemon


def daemon_pid(mount: Path) -> int:
    """Find the process that serves a mount."""
    return int(json.loads(shmfs("ps", "--json", str(mount)))["pid"])


def resident(pid: int) -> int:
    """Read a process's resident memory, in bytes (VmRSS in proc(5))."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def cpu_time(pid: int) -> float:
    """Read a process's CPU time, in seconds (utime and stime in proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Daemon:
    """What the daemon of one mount costs."""

    idle: int  # bytes resident when nothing is stored
    stored: int  # bytes stored
    resident: int  # bytes resident then
    stat_cpu: float  # seconds of its CPU time for a stat of a known name

    @property
    def lean(self) -> bool:
        """Whether its memory keeps to the target."""
        return self.resident <= self.stored + RESIDENT_EXTRA

    @property
    def unasked(self) -> bool:
        """Whether those stats made no round trips."""
        return self.stat_cpu < ROUND_TRIP


def daemon(mount: Path, sizes: Sizes) -> Daemon:
    """Measure the daemon of a fresh mount."""
    pid = daemon_pid(mount)
    idle = resident(pid)
    known = mount / "known"
    known.write_bytes(DATA[:PAGE])
    os.stat(known)
    before = cpu_time(pid)
    for _ in range(20_000):
        os.stat(known)
    stat_cpu = (cpu_time(pid) - before) / 20_000
    with fresh(mount / "stored", sizes.stored, written=True):
        return Daemon(idle, sizes.stored, resident(pid), stat_cpu)


# ---- rounds and results


@dataclass
class Result:
    """One measure over all rounds; times in seconds per unit."""

    name: str
    unit: str
    tmpfs: float
    shmfs: float
    ratio: float
    least: float
    most: float
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target, if any, is met."""
        return None if self.target is None else self.ratio >= self.target


Pairs = dict[str, list[tuple[float, float]]]


def one_round(number: int, tmpfs: Path, exact: Path, ahead: Path, sizes: Sizes, pairs: Pairs) -> None:
    """Measure everything once on both sides; every second round begins with shmfs."""
    for group in (stream, touch, first_touch_exact, first_touch_ahead, attributes, names, listing):
        sides = [tmpfs, ahead if group is first_touch_ahead else exact]
        measured = {side: group(side, sizes) for side in (sides if number % 2 else sides[::-1])}
        for name, value in measured[tmpfs].items():
            pairs[name].append((value, measured[sides[1]][name]))


def summarize(pairs: Pairs) -> list[Result]:
    """Take the medians."""
    results = []
    for name, (unit, target) in MEASURES.items():
        ratios = [tmpfs / shmfs for tmpfs, shmfs in pairs[name]]
        tmpfs, shmfs = (statistics.median(side) for side in zip(*pairs[name], strict=True))
        middle = statistics.median(ratios)
        results.append(Result(name, unit, tmpfs, shmfs, middle, min(ratios), max(ratios), target))
    return results


def mark(met: bool | None) -> str:
    """Show whether a target is met."""
    return "" if met is None else "[green]✓[/]" if met else "[red]✗[/]"


def show(results: list[Result], cost: Daemon, title: str) -> None:
    """Print the tables."""
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for column in ("tmpfs", "shmfs", "ratio", "min-max", "target"):
        table.add_column(column, justify="right")
    for result in results:
        tmpfs, shmfs = (
            f"{1 / side:,.0f} MB/s" if result.unit == "MB/s" else f"{side * 1e6:.2f} µs"
            for side in (result.tmpfs, result.shmfs)
        )
        target = "" if result.target is None else f"≥ {result.target} {mark(result.met)}"
        spread = f"{result.least:.2g}-{result.most:.2g}"
        table.add_row(result.name, tmpfs, shmfs, f"{result.ratio:.2g}", spread, target)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(
        f"Daemon, resident: {cost.resident / 1e6:.0f} MB with {cost.stored / 1e6:.0f} MB stored "
        f"({cost.idle / 1e6:.0f} MB when empty); target ≤ stored + {RESIDENT_EXTRA / 1e6:.0f} MB "
        f"{mark(cost.lean)}"
    )
    console.print(
        f"Daemon, CPU time per stat of a known name: {cost.stat_cpu * 1e6:.2f} µs; target: no round trip, "
        f"which is less than {ROUND_TRIP * 1e6:.0f} µs {mark(cost.unasked)}"
    )


def bench(rounds: int, sizes: Sizes, *, as_json: bool) -> None:
    """Mount, measure, print."""
    pairs: Pairs = {name: [] for name in MEASURES}
    with ExitStack() as stack:
        tmpfs = kernel_tmpfs(stack)
        exact = shmfs_mount(stack, "size=2g")
        ahead = shmfs_mount(stack, "size=2g,readahead=32")
        for number in range(1, rounds + 1):
            print(f"bench: round {number} of {rounds}", file=sys.stderr)
            one_round(number, tmpfs, exact, ahead, sizes, pairs)
        cost = daemon(shmfs_mount(stack, "size=2g"), sizes)
    results = summarize(pairs)
    if as_json:
        document = {
            "rounds": rounds,
            "sizes": asdict(sizes),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0)),
            "measures": [asdict(result) | {"met": result.met} for result in results],
            "daemon": asdict(cost) | {"lean": cost.lean, "stat_without_round_trip": cost.unasked},
        }
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(
            results,
            cost,
            f"shmfs beside tmpfs, Linux {platform.release()}, median of rounds: {rounds}; ratio 1 = as fast",
        )


def main() -> int:
    """Read the arguments and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 7, or 3 with --quick")
    parser.add_argument("--quick", action="store_true", help="smaller files and fewer names: less exact")
    parser.add_argument(
        "--json", action="store_true", help="print JSON, times in seconds per MB or operation"
    )
    arguments = parser.parse_args()
    rounds = arguments.rounds if arguments.rounds is not None else 3 if arguments.quick else 7
    if rounds < 1:
        parser.error(f"--rounds is {rounds}: give 1 or more")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench(rounds, QUICK if arguments.quick else Sizes(), as_json=arguments.json)
    except (BenchError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
