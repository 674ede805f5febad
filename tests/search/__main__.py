"""`scripts/search`: random programs under shmfs; exits with 1 where a report differs from what they know."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from shmfs.system import namespaces
from tests.search.compare import compare
from tests.search.execute import Hung, Runner
from tests.search.generate import generate
from tests.search.masks import ALL, MASKS
from tests.search.program import Program, parse
from tests.search.shrink import shrink

BATCH = 8
"""Programs that one recorder sees, one after another."""
SHOWN = 12
"""Differences of a program that are printed."""


class Search:
    """Runs programs for one target, and counts."""

    def __init__(self, base: Path, target: str, ignored: str | None = None) -> None:
        self.ignored = re.compile(ignored or r"(?!)")
        self.runner = Runner(base, target)
        self.target = target
        self.programs = self.steps = self.touches = self.rows = 0
        self.tolerated: Counter[str] = Counter()

    def compare(self, programs: list[Program]) -> list[list[str]]:
        """The differences of each of some programs of one size."""
        try:
            outcomes = self.runner.run(programs)
        except Hung as hung:
            return [[f"hangs: {hung}"], *([] for _ in programs[1:])]
        found = []
        for outcome, comparison in zip(outcomes, compare(outcomes), strict=True):
            self.programs += 1
            self.steps += outcome.program.steps
            self.touches += len(comparison.truth.touches)
            self.rows += comparison.rows
            self.tolerated += comparison.tolerated
            found.append([one for one in comparison.differences if not self.ignored.search(one)])
        return found

    def __str__(self) -> str:
        return f"{self.programs} programs, {self.steps} steps, {self.touches} touches, {self.rows} faults"


def main() -> int:
    """Read the command line; 0 where no difference was found."""
    parser = argparse.ArgumentParser(prog="scripts/search", description=__doc__)
    parser.add_argument("--target", choices=ALL, default=ALL[0])
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--first", type=int, default=0, help="number of the seed's program to begin with")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--programs", type=int, help="how many to run at most")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one program that was printed")
    parser.add_argument("--repeat", type=int, default=1, help="how often to run the program of --replay")
    parser.add_argument(
        "--confirm",
        type=int,
        default=5,
        help="how often to repeat a program that differed; where none differs again, it is counted apart (5)",
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after a difference, and do not shrink"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a directory for logs and traces, which stays"
    )
    parser.add_argument(
        "--ignore", metavar="REGEX", help="differences that are known, while others are looked for"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, to mount file systems and to see every fault")
    namespaces.enter_private()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what was begun is ended
    with tempfile.TemporaryDirectory(prefix="shmfs-search-", ignore_cleanup_errors=True) as base:
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
        search = Search(arguments.keep or Path(base), arguments.target, arguments.ignore)
        if arguments.replay:
            return replay(search, arguments)
        return go(search, arguments)


def replay(search: Search, arguments: argparse.Namespace) -> int:
    """Run a program that was printed."""
    program = parse(arguments.replay.read_text())
    found = 0
    for _ in range(arguments.repeat):
        differences = search.compare([program])[0]
        found += bool(differences)
        print("\n".join(differences[:SHOWN]) or "no difference", flush=True)
    print(f"{found} of {arguments.repeat} differ; {search}; {tolerated(search)}")
    return 1 if found else 0


def go(search: Search, arguments: argparse.Namespace) -> int:
    """Run programs until one differs, or it is enough."""
    begin = reported = time.monotonic()
    label = f"{arguments.target}, seed {arguments.seed}"
    print(f"{label}: from program {arguments.first} on", flush=True)
    number, found, once = arguments.first, 0, 0
    end = sys.maxsize if arguments.programs is None else arguments.first + arguments.programs
    while number < end and time.monotonic() < begin + 60 * arguments.minutes:
        batch = BATCH if arguments.target.startswith("record") else 1
        programs = [
            generate(arguments.seed, each, arguments.target)
            for each in range(number, min(end, number + batch))
        ]
        programs = [program._replace(size=programs[0].size) for program in programs]
        for at, differences in enumerate(search.compare(programs)):
            if not differences:
                continue
            if arguments.keep:
                search.runner.keep(f"{number + at}")
            print(f"{label}: program {number + at} differs, {len(differences)} times:", flush=True)
            print("\n".join(f"  {sentence}" for sentence in differences[:SHOWN]), flush=True)
            if not comes_again(search, programs[at], arguments.confirm):
                once += 1
                print(f"  which did not come again in {arguments.confirm} repeats", flush=True)
                continue
            found += 1
            if not arguments.keep_going:
                show_smallest(search, programs[at])
                return 1
        number += len(programs)
        if time.monotonic() > reported + 10:
            reported = time.monotonic()
            print(f"{label}: {search}, {(reported - begin) / 60:.1f} minutes", flush=True)
    verdict = f"{found} programs differ" if found else "no difference"
    verdict += f" ({once} differed once and not again)" if once else ""
    print(f"{label}: {search}, {(time.monotonic() - begin) / 60:.1f} minutes: {verdict}; {tolerated(search)}")
    return 1 if found else 0


def comes_again(search: Search, program: Program, repeats: int) -> bool:
    """Whether a program that differed does so again; a busy machine may delay what a report rests on."""
    return not repeats or any(search.compare([program])[0] for _ in range(repeats))


def show_smallest(search: Search, program: Program) -> None:
    """Shrink a program that differed, as far as it differs again."""
    print("shrinking …", flush=True)
    smallest, differences = shrink(program, lambda one: search.compare([one])[0])
    if not differences:
        print("it did not differ again; the program:")
    print(smallest)
    print("\n".join(f"  {sentence}" for sentence in differences[:SHOWN]))


def tolerated(search: Search) -> str:
    """What passed by the table of masks."""
    counts = [f"{name}: {count}" for name, count in search.tolerated.items()]
    assert all(name in MASKS for name in search.tolerated)
    return "passed by masks: " + (", ".join(counts) or "nothing")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"search: {failure}")
