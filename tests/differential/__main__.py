"""`scripts/differential`: search for differences between tmpfs and a store; exits with 1 if there is one."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from shmfs.errors import ShmfsError
from shmfs.system import namespaces
from tests.differential.generate import generate
from tests.differential.program import parse
from tests.differential.search import Difference, Pair

REPEATS = 5
"""How often a program that differed is run again."""


def main() -> int:
    """Read the command line; 0 where no difference was found."""
    parser = argparse.ArgumentParser(prog="scripts/differential", description=__doc__)
    parser.add_argument("--store", choices=("managed", "native", "tmpfs"), default="managed")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--first", type=int, default=0, help="number of the seed's program to begin with")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=2)
    limit.add_argument("--programs", type=int, help="how many to run, however long it takes")
    limit.add_argument("--replay", type=Path, metavar="FILE", help="run one program that was saved")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where a program that differs is written")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, to mount a tmpfs of the kernel beside shmfs")
    namespaces.enter_private()
    with tempfile.TemporaryDirectory(prefix="shmfs-differential-", ignore_cleanup_errors=True) as base:
        os.chmod(base, 0o755)
        pair = Pair(Path(base), arguments.store)
        try:
            found = replay(pair, arguments.replay) if arguments.replay else search(pair, arguments)
        except ShmfsError as failure:
            parser.error(str(failure))
        finally:
            pair.close()
    if found and arguments.save:
        arguments.save.write_text(found.program.text())
    return 1 if found else 0


def search(pair: Pair, arguments: argparse.Namespace) -> Difference | None:
    """Run programs until one differs, which is then shrunk, or it is enough.

    A difference that does not come again is told, and counted at the end: where memory is reclaimed, tmpfs
    gives up pages of holes that were only read (drop_caches shows it), on either side of the comparison.
    """
    begin = told = time.monotonic()
    steps, number, once = 0, arguments.first, 0
    end = sys.maxsize if arguments.programs is None else arguments.first + arguments.programs
    label = f"{arguments.store}, seed {arguments.seed}"
    print(f"{label}: from program {number} on", flush=True)
    while number < end and (arguments.programs or time.monotonic() < begin + 60 * arguments.minutes):
        program = generate(arguments.seed, number)
        difference = pair.difference(program)
        steps += len(program.steps)
        if difference and not (
            difference.complaints or any(pair.difference(program) for _ in range(REPEATS))
        ):
            print(
                f"{difference}\n{label}: program {number} differed once, not in {REPEATS} repeats", flush=True
            )
            once += 1
        elif difference:
            print(f"{label}: program {number} differs, {len(program.steps)} steps; shrinking …", flush=True)
            smallest = pair.smallest(difference)
            print(f"{smallest}\n\nto be saved and replayed with --replay:\n{smallest.program.text()}")
            return smallest
        number += 1
        if time.monotonic() > told + 10:
            told = time.monotonic()
            print(f"{label}: {tally(number - arguments.first, steps, told - begin)}", flush=True)
    spent = tally(number - arguments.first, steps, time.monotonic() - begin)
    print(f"{label}: {spent}: no difference{f', {once} that did not come again' if once else ''}")
    return None


def tally(programs: int, steps: int, seconds: float) -> str:
    """What was run so far."""
    return f"{programs} programs, {steps} steps, {seconds / 60:.1f} minutes, {steps / seconds:.0f} steps/s"


def replay(pair: Pair, path: Path) -> Difference | None:
    """Run a program that was saved."""
    difference = pair.difference(parse(path.read_text()))
    print(difference or "no difference")
    return difference


if __name__ == "__main__":
    sys.exit(main())
