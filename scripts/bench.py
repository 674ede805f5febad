"""Measure shmfs beside the kernel's tmpfs, in the same run, in interleaved rounds.

Every round measures each thing on tmpfs and on each store of shmfs, one directly after the other and in
alternating order; the ratio is of these two. The table shows the median of the rounds' ratios, the smallest
and the largest. For data the ratio is tmpfs's time divided by shmfs's: 1 is as fast as tmpfs, 0.5 takes twice
as long. For requests it is shmfs's time as a multiple of tmpfs's: 6 takes six times as long. "Pinned" is with
client and daemon on one processor together. As root tmpfs is a mount of its own and the native store is
measured too; else tmpfs is /dev/shm. A missed target does not change the exit status; a measurement that
cannot be made does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench_data import QUICK, BenchError, Sizes, scattered, stream, touch, touch_ahead
from bench_mounts import RESIDENT_EXTRA, ROUND_TRIP, STATS, Daemon, Side, daemon, kernel_tmpfs, pinned, shmfs
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from shmfs.errors import ShmfsError

DASH, TIMES = "–", "×"  # noqa: RUF001
CLIENT = Path(__file__).with_name("bench_requests.py")
SEGMENTS = Path(__file__).with_name("bench_segments.py")


def requests(side: Side, sizes: Sizes) -> dict[str, float]:
    """Make requests from a client and to a daemon that run where the kernel puts them."""
    return client(side, sizes)


def requests_pinned(side: Side, sizes: Sizes) -> dict[str, float]:
    """Make requests with client and daemon on one processor together."""
    core = min(os.sched_getaffinity(0))
    with pinned(side, core):
        return {f"{name}, pinned": value for name, value in client(side, sizes, str(core)).items()}


def client(side: Side, sizes: Sizes, *core: str) -> dict[str, float]:
    """Run the client; in seconds per operation."""
    return run_client("makes requests", "-I", "-S", str(CLIENT), str(side.path), str(sizes.names), *core)


def run_client(what: str, *arguments: str) -> dict[str, float]:
    """Run a client that does `what`, by Python with `arguments`; the figures that it prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    if done.returncode != 0:
        raise BenchError(f"the client that {what} failed: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def segments(side: Side, sizes: Sizes) -> dict[str, float]:
    """Touch System V segments; in seconds per page."""
    return segments_client(side, sizes)


def segments_pinned(side: Side, sizes: Sizes) -> dict[str, float]:
    """Make and remove segments, and do nothing but ask, with client and daemon on one processor together."""
    core = min(os.sched_getaffinity(0))
    with pinned(side, core):
        return {f"{name}, pinned": value for name, value in segments_client(side, sizes, str(core)).items()}


def segments_client(side: Side, sizes: Sizes, *core: str) -> dict[str, float]:
    """Run the client of segments; in seconds per operation or page."""
    counts = [str(sizes.touched), str(sizes.names // 4)]
    return run_client("uses segments", str(SEGMENTS), str(side.path), *counts, *core)


def on_path(group: Callable[[Path, Sizes], dict[str, float]]) -> Callable[[Side, Sizes], dict[str, float]]:
    """Make a measurement of data one of a side."""
    return lambda side, sizes: group(side.path, sizes)


# ---- what is measured


@dataclass(frozen=True)
class Measure:
    """One line of the table. The targets are those of the stores, None for none."""

    name: str
    unit: str  # "MB/s": values are seconds per MB; "µs": seconds per operation
    native: float | None = None
    managed: float | None = None
    multiple: bool = False  # of tmpfs's time, to be at most the target; else a speed, to be at least it


def speed(name: str, unit: str, managed: float | None = None) -> Measure:
    """Describe a measurement of data."""
    return Measure(name, unit, 0.95, managed)


def multiple(name: str, native: float | None = None, managed: float | None = None) -> Measure:
    """Describe a request; one target is for both stores."""
    return Measure(name, "µs", native, native if managed is None else managed, multiple=True)


STREAM = [speed("sequential write, 1 MiB", "MB/s", 0.3), speed("sequential read, 1 MiB", "MB/s", 0.95)]
SCATTERED = [speed("random write, 4 KiB", "µs"), speed("random read, 4 KiB", "µs")]
TOUCH = [
    speed("mmap, first touch", "µs"),
    speed("mmap, second touch", "µs", 0.95),
    speed("mmap, touch by a second process", "µs"),
    speed("fork and touch", "µs"),
]
AHEAD = [Measure("mmap, first touch, readahead=32", "µs", managed=0.45)]
PINNED = [
    multiple("create + close, pinned", 9, 7),
    multiple("open + close, pinned", 8, 6.5),
    multiple("unlink, pinned", 4.5),
    multiple("rename, pinned", 7),
    multiple("mkdir, pinned", 7),
    multiple("rmdir, pinned", 4.5),
    multiple("readdir, per entry, pinned", 1.5),
    multiple("stat, known name, pinned", 1.2),
    multiple("stat, missing name, pinned", 1.2),
    multiple("stat, file with data, pinned"),
]
UNPINNED = [multiple("create + close", 8), multiple("open + close", 7)]

SEGMENT = [
    speed("segment, first touch", "µs"),
    speed("segment, second touch", "µs", 0.95),
    speed("segment, other touch", "µs"),
]
SEGMENT_PINNED = [multiple("shmget + shmat + shmdt + rm, pinned"), multiple("statfs, pinned")]

Group = Callable[[Side, Sizes], dict[str, float]]
# Each group with its measures and, where it has a mount of its own, the options of that.
GROUPS: list[tuple[Group, list[Measure], str]] = [
    (on_path(stream), STREAM, ""),
    (on_path(scattered), SCATTERED, ""),
    (on_path(touch), TOUCH, ""),
    (on_path(touch_ahead), AHEAD, "readahead=32"),
    (requests_pinned, PINNED, ""),
    (requests, UNPINNED, ""),
    *([(segments, SEGMENT, ""), (segments_pinned, SEGMENT_PINNED, "")] if os.geteuid() == 0 else []),
]


@dataclass(frozen=True)
class Task:
    """A group that is measured on one store, and what of it is wanted."""

    group: Group
    store: str
    options: str
    measures: list[Measure]


def tasks(stores: list[str], wanted: re.Pattern[str]) -> list[Task]:
    """List what is to be measured."""
    found = []
    for group, measures, extra in GROUPS:
        for store in stores:
            if extra and store != "managed":
                continue
            chosen = [measure for measure in measures if wanted.search(f"{store}: {measure.name}")]
            if chosen:
                options = f"pages={store},{extra}" if extra else f"pages={store}"
                found.append(Task(group, store, options, chosen))
    return found


# ---- rounds and results


@dataclass(frozen=True)
class Result:
    """One measure over all rounds; times in seconds per unit."""

    store: str
    name: str
    unit: str
    multiple: bool
    tmpfs: float
    shmfs: float
    ratio: float
    least: float
    most: float
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target, if any, is met."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.multiple else self.ratio >= self.target


def result(store: str, measure: Measure, pairs: list[tuple[float, float]]) -> Result:
    """Take the medians."""
    ratios = [shmfs / tmpfs if measure.multiple else tmpfs / shmfs for tmpfs, shmfs in pairs]
    tmpfs, shmfs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Result(
        store,
        measure.name,
        measure.unit,
        measure.multiple,
        tmpfs,
        shmfs,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        getattr(measure, store),
    )


def measure_all(chosen: list[Task], rounds: int, sizes: Sizes, *, warm_up: bool) -> list[Result]:
    """Mount, and measure everything in rounds; every second one begins with shmfs. Round 0 warms up."""
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with ExitStack() as stack:
        tmpfs = stack.enter_context(kernel_tmpfs())
        mounts = {
            options: stack.enter_context(shmfs(options)) for options in {task.options for task in chosen}
        }
        for number in range(0 if warm_up else 1, rounds + 1):
            print(f"bench: round {number} of {rounds}", file=sys.stderr)
            for task in chosen:
                sides = [tmpfs, mounts[task.options]]
                times = {side: task.group(side, sizes) for side in (sides if number % 2 else sides[::-1])}
                for measure in task.measures if number else []:
                    pair = (times[sides[0]][measure.name], times[sides[1]][measure.name])
                    pairs[task.store, measure.name].append(pair)
    return [
        result(task.store, measure, pairs[task.store, measure.name])
        for task in chosen
        for measure in task.measures
    ]


# ---- the output


def mark(met: bool | None) -> str:
    """Show whether a target is met."""
    return "" if met is None else "[green]✓[/]" if met else "[red]✗[/]"


def figure(ratio: float) -> str:
    """Show a ratio with as many digits as mean something."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def row(result: Result) -> list[str]:
    """Show one result."""
    tmpfs = f"{1 / result.tmpfs:,.0f} MB/s" if result.unit == "MB/s" else f"{result.tmpfs * 1e6:.2f} µs"
    sign, times = ("≤", f" {TIMES}") if result.multiple else ("≥", "")
    target = "" if result.target is None else f"{sign} {result.target:g} {mark(result.met)}"
    spread = f"{figure(result.least)}{DASH}{figure(result.most)}"
    return [result.name, tmpfs, figure(result.ratio) + times, spread, target]


def show(results: list[Result], costs: list[Daemon], rounds: int) -> None:
    """Print a table for each store, and what its daemon costs."""
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    console.print(
        f"shmfs beside tmpfs, Linux {platform.release()}, median of rounds: {rounds}.\n"
        "Data: tmpfs's time / shmfs's, more is better.\n"
        f"With {TIMES}: shmfs's time / tmpfs's, less is better."
    )
    for store in ("native", "managed"):
        lines = [result for result in results if result.store == store]
        if lines:
            table = Table(title=f"{store} store", title_justify="left", title_style="bold", box=SIMPLE)
            table.add_column("measure", no_wrap=True)
            for column in ("tmpfs", "ratio", f"min{DASH}max", "target"):
                table.add_column(column, justify="right", no_wrap=True)
            for previous, line in zip([lines[0], *lines], lines, strict=False):
                if line.multiple and not previous.multiple:
                    table.add_section()
                table.add_row(*row(line))
            console.print(table)
        for cost in costs:
            if cost.store == store:
                show_daemon(console, cost)


def show_daemon(console: Console, cost: Daemon) -> None:
    """Print what a daemon costs."""
    console.print(
        f"  daemon, resident: {cost.resident / 1e6:.0f} MB with {cost.stored / 1e6:.0f} MB stored, "
        f"{cost.idle / 1e6:.0f} MB when empty\n"
        f"    target: ≤ stored + {RESIDENT_EXTRA / 1e6:.0f} MB {mark(cost.lean)}\n"
        f"  daemon, CPU time per stat of a known name: {cost.stat_cpu * 1e6:.2f} µs\n"
        f"    target: < {ROUND_TRIP * 1e6:.0f} µs, no round trip {mark(cost.unasked)}\n"
    )


def bench(chosen: list[Task], daemons: list[str], rounds: int, quick: bool, as_json: bool) -> None:
    """Measure, and print."""
    sizes = QUICK if quick else Sizes()
    results = measure_all(chosen, rounds, sizes, warm_up=not quick) if chosen else []
    costs = [daemon(store, sizes) for store in daemons]
    if not as_json:
        show(results, costs, rounds)
        return
    document = {
        "rounds": rounds,
        "sizes": asdict(sizes) | {"stats": STATS},
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "measures": [asdict(result) | {"met": result.met} for result in results],
        "daemons": [
            asdict(cost) | {"lean": cost.lean, "stat_without_round_trip": cost.unasked} for cost in costs
        ],
    }
    print(json.dumps(document, indent=2, ensure_ascii=False))


def main() -> int:
    """Read the arguments and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 9, or 3 with --quick")
    parser.add_argument("--quick", action="store_true", help="smaller files and fewer names: less exact")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        default="",
        help='a regular expression, found in "STORE: MEASURE": native, "managed: .*touch", pinned, daemon',
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, times in seconds per MB or operation"
    )
    arguments = parser.parse_args()
    rounds = arguments.rounds if arguments.rounds is not None else 3 if arguments.quick else 9
    if rounds < 1:
        parser.error(f"--rounds is {rounds}: give 1 or more")
    try:
        wanted = re.compile(arguments.only, re.IGNORECASE)
    except re.error as error:
        parser.error(f"--only is {arguments.only!r}, which is no regular expression: {error}")
    stores = ["managed"] if os.geteuid() else ["native", "managed"]
    if os.geteuid():
        print("bench: the native store needs root: measuring the managed one alone", file=sys.stderr)
    chosen = tasks(stores, wanted)
    daemons = [store for store in stores if wanted.search(f"{store}: daemon")]
    if not chosen and not daemons:
        parser.error(f"--only is {arguments.only!r}, which is found in no measure; without it all are listed")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench(chosen, daemons, rounds, arguments.quick, arguments.json)
    except (BenchError, ShmfsError, OSError, subprocess.TimeoutExpired) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
