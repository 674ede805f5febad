"""Measure what recording costs: `scripts/bench trace [--rounds N] [--quick]`.

Rounds in turn: a program that does nothing but fault (two processes touch 1 GiB each), on the kernel's tmpfs
bare and under `perf record -e page-faults -c 1 -d`, and under `shmfs run` with native pages, without and with
--trace; and the program of the demo likewise, pgbench where PostgreSQL is installed and a DataLoader where
PyTorch is. Wall and CPU time are those of the whole command with everything that it starts; the ratio is to
the same program not recorded, the median of the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench_data import BenchError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from shmfs.tracefile import stream

TOUCH = """
import mmap, numpy, os, sys
directory, size = sys.argv[1], int(sys.argv[2])
children = []
for number in range(2):
    pid = os.fork()
    if pid == 0:
        fd = os.open(f"{directory}/bench-{os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(f"{directory}/bench-{os.getpid()}")
        os.ftruncate(fd, size)
        numpy.frombuffer(mmap.mmap(fd, size), numpy.uint8)[::4096] = 1
        os._exit(0)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""
DATABASE = """
set -e
pg_ctl -D "$0" -s -w -l "$0/log" -o "-k $0 -c listen_addresses= -c fsync=off -c shared_buffers=64MB" start
trap 'pg_ctl -D "$0" -s -w -m fast stop' EXIT
pgbench -h "$0" "$@" postgres
"""
LOADER = """
import sys, torch.utils.data
class Pictures(torch.utils.data.Dataset):
    def __len__(self): return int(sys.argv[1])
    def __getitem__(self, number): return torch.full((3, 224, 224), float(number))
batches = torch.utils.data.DataLoader(Pictures(), 16, num_workers=2)
sys.exit(sum(len(batch) for batch in batches) != int(sys.argv[1]))
"""
DEMO = [sys.executable, str(Path(__file__).with_name("demo_frames.py"))]
TIMES = "×"  # noqa: RUF001
SHMFS = [sys.executable, "-P", "-m", "shmfs"]
NOBODY = 65534  # PostgreSQL refuses root
WAYS = ("shmfs run", "shmfs run --trace")
PERF = ["record", "-q", "-e", "page-faults", "-c", "1", "-d", "-o"]


def timed(command: list[str]) -> tuple[float, float]:
    """Run; in seconds of wall and of CPU time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(command)}` ended with exit status {done.returncode}: {done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ordinary(directory: Path, share: int) -> dict[str, list[str]]:
    """Programs that do what programs do, by name; each takes `share` of its time, a divisor."""
    found = {"the demo": DEMO}
    initdb = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=shutil.which("initdb"))
    if initdb:
        data = directory / "data"
        data.mkdir()
        shutil.chown(data, NOBODY, NOBODY)
        path = f"PATH={Path(initdb).parent}:/usr/bin:/bin"
        nobody = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "env",
            "-C",
            "/",
            path,
        ]
        timed([*nobody, "initdb", "-A", "trust", "-U", "nobody", "-N", "-D", str(data)])
        database = [*nobody, "PGUSER=nobody", "bash", "-c", DATABASE, str(data)]
        timed([*database, "-i", "-q", "-s", "4"])
        found["pgbench"] = [*database, "-n", "-c", "2", "-j", "2", "-t", str(20000 // share)]
    if importlib.util.find_spec("torch"):
        found["a DataLoader"] = [sys.executable, "-c", LOADER, str(8000 // share)]
    return found


def commands(size: int, directory: Path, share: int) -> dict[str, dict[str, list[str]]]:
    """By program and way, the bare one of each pair first."""
    touch = [sys.executable, "-c", TOUCH, "/dev/shm", str(size)]
    run = [*SHMFS, "run", "-q", "-o", f"size={4 * size},pages=native"]
    recorded = [*run, "--trace", str(directory / "trace")]
    perf = shutil.which("perf")
    faults = {"tmpfs": touch}
    if perf:
        faults["tmpfs, perf record"] = [perf, *PERF, str(directory / "perf.data"), "--", *touch]
    programs = {"nothing but faults": touch} | ordinary(directory, share)
    both = {
        name: dict(zip(WAYS, ([*run, "--", *one], [*recorded, "--", *one]), strict=True))
        for name, one in programs.items()
    }
    both["nothing but faults"] = faults | both["nothing but faults"]
    return both


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="touch 64 MiB each, once: less exact")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it takes root, for native pages")
    size, rounds = (64 << 20, 1) if arguments.quick else (1 << 30, arguments.rounds)
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="shmfs-bench-") as directory:
        os.chmod(directory, 0o711)  # the database's owner has a directory in it
        pairs = commands(size, Path(directory), 10 if arguments.quick else 1)
        for number in range(rounds):
            print(f"bench: round {number + 1} of {rounds}", file=sys.stderr)
            for program, ways in pairs.items():
                for way, command in ways.items():
                    found[program, way].append(timed(command))
                    if way.endswith("--trace") and program == "nothing but faults":
                        trace = stream.Trace(Path(directory) / "trace")
                        counted, lost = len(trace.fault_array()), trace.done.lost if trace.done else 0
    Console().print(table_of(found))
    print(f"{counted} of {2 * size // 4096} faults recorded, {lost} lost")
    return 0


def table_of(found: dict[tuple[str, str], list[tuple[float, float]]]) -> Table:
    """Seconds and ratios by program and way."""
    table = Table("program", "way", box=SIMPLE, pad_edge=False)
    for heading in ("wall", TIMES, "CPU", TIMES):
        table.add_column(heading, justify="right")
    for (program, way), times in found.items():
        base = found[program, "tmpfs" if way.startswith("tmpfs") else "shmfs run"]
        cells = []
        for which in (0, 1):
            ratio = statistics.median(
                one[which] / other[which] for one, other in zip(times, base, strict=True)
            )
            cells += [f"{statistics.median(one[which] for one in times):.2f} s", f"{ratio:.2f}"]
        table.add_row(program, way, *cells)
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"bench: {error}")
