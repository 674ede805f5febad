"""The client of scripts/bench that makes requests: tight loops, timed, in a process of its own.

`bench_requests.py DIR COUNT [CORE]` works on COUNT names in a new directory under DIR, which it removes, and
prints {measure: seconds per operation} as JSON. With CORE it runs on that processor alone.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable

PASSES = 5  # over what is only looked at
Names = list[str]


def create(names: Names) -> None:
    """Create and close each."""
    open_, close, flags = os.open, os.close, os.O_RDWR | os.O_CREAT | os.O_EXCL
    for name in names:
        close(open_(name, flags, 0o600))


def reopen(names: Names) -> None:
    """Open and close each."""
    open_, close, flags = os.open, os.close, os.O_RDWR
    for name in names:
        close(open_(name, flags))


def each(call: Callable[[str], object], names: Names) -> None:
    """Call with each."""
    for name in names:
        call(name)


def rename(names: Names, new: Names) -> None:
    """Rename each."""
    rename_ = os.rename
    for before, after in zip(names, new, strict=True):
        rename_(before, after)


def stat_known(names: Names) -> None:
    """Stat each, several times over."""
    stat = os.stat
    for _ in range(PASSES):
        for name in names:
            stat(name)


def stat_missing(names: Names) -> None:
    """Stat each, which is not there, several times over."""
    stat = os.stat
    for _ in range(PASSES):
        for name in names:
            try:  # noqa: SIM105
                stat(name)
            except FileNotFoundError:
                pass


def measure(place: str, count: int) -> dict[str, float]:
    """Do everything once, in a directory that is made and removed; in seconds per operation."""

    def seconds(work: Callable[..., object], *arguments: object, times: int = 1) -> float:
        start = time.perf_counter()
        work(*arguments)
        return (time.perf_counter() - start) / (count * times)

    names, missing, new, directories, data = (
        [f"{place}/{kind}{number}" for number in range(count)]
        for kind in ("name-", "missing-", "new-", "directory-", "data-")
    )
    results = {}
    os.mkdir(place)
    results["create + close"] = seconds(create, names)
    results["open + close"] = seconds(reopen, names)
    each(os.stat, names)
    results["stat, known name"] = seconds(stat_known, names, times=PASSES)
    stat_missing(missing)
    results["stat, missing name"] = seconds(stat_missing, missing, times=PASSES)
    # The directory holds just the names now, and is not read before.
    results["readdir, per entry"] = seconds(each, os.listdir, [place] * PASSES, times=PASSES)
    results["rename"] = seconds(rename, names, new)
    results["unlink"] = seconds(each, os.unlink, new)
    results["mkdir"] = seconds(each, os.mkdir, directories)
    results["rmdir"] = seconds(each, os.rmdir, directories)
    for name in data:
        with open(name, "wb") as file:
            file.write(b"data")
    each(os.stat, data)
    results["stat, file with data"] = seconds(stat_known, data, times=PASSES)
    each(os.unlink, data)
    os.rmdir(place)
    return results


def main() -> None:
    """Measure and print."""
    directory, count, *core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    gc.disable()
    print(json.dumps(measure(f"{directory}/requests-{os.getpid()}", int(count))))


if __name__ == "__main__":
    main()
