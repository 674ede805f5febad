"""The process that runs the cases: `python -m shmfs.conformance.worker CONFIGURATION`.

It reads names of cases and answers each with a line. It lives in a mount namespace of its own, so whatever
happens to it, its mounts go with it, and the daemons that it started end with their lifelines. It forks a
process for each run and never touches a mount except by such children, so it can give up on one that hangs.
"""

import itertools
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from shmfs.conformance import Case, load, mounting
from shmfs.conformance.isolation import Said, in_child
from shmfs.conformance.messages import Configuration, Target
from shmfs.conformance.places import Given, Pair, clear, options_of
from shmfs.errors import ShmfsError
from shmfs.system import namespaces


class Worker:
    """Keeps the mounts, and runs cases on them."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.base = Path(configuration.base)
        self.numbers = itertools.count()
        self.pairs: dict[str, Pair] = {}
        self.given: Given | None = None
        self.silent = ""
        mounting.more_options = configuration.options
        if configuration.against is None:
            namespaces.enter_private()
        if configuration.directory is not None:
            self.given = Given(self.base, configuration.directory, configuration.against)

    def target(self) -> Target:
        """What is looked at."""
        return Target(self.given.store if self.given else self.pair(options_of(Case(print))).store)

    def pair(self, options: str) -> Pair:
        """Mounts with these options."""
        if options not in self.pairs:
            base = self.base / str(next(self.numbers))
            self.pairs[options] = Pair(base, options, self.configuration.options)
        return self.pairs[options]

    def answer(self, case: Case) -> dict[str, Any]:
        """What both file systems say: "expected" and "answered", "complaints", or "why not"."""
        if self.given is None:
            pair = self.pair(options_of(case))
            said = compare(case, pair)
            if "hung" in (said["expected"].kind, said["answered"].kind):
                pair.give_up()
                del self.pairs[options_of(case)]
            return said
        reason = self.silent or self.given.found.why_not(case)
        if reason:
            return {"why not": reason}
        said = compare(case, self.given)
        if said["answered"].kind == "hung":
            self.silent = f"{self.configuration.directory} did not answer in {case.name}"
        return said

    def stop(self) -> None:
        """End all mounts."""
        for pair in self.pairs.values():
            pair.stop()
        if self.given:
            self.given.stop()


def compare(case: Case, places: Pair | Given) -> dict[str, Any]:
    """Run a case on both."""
    said: dict[str, Any] = {"complaints": "", "store": places.store}
    for side, directory in (("expected", places.reference), ("answered", places.subject)):
        said[side] = in_child(partial(run, case, directory))
        if said[side].kind != "hung":
            in_child(partial(clear, directory / "room"))
    if "hung" not in (said["expected"].kind, said["answered"].kind):
        said["complaints"] = places.complaints()
    return said


def run(case: Case, directory: Path) -> Any:
    """Run a case in a fresh directory of a file system."""
    os.umask(0)
    readonly = bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    room = directory if readonly else directory / "room"
    if not readonly:
        room.mkdir()
    os.chdir(room)
    os.umask(0o022)
    try:
        return case.function(Path())
    finally:
        os.umask(0)
        os.chdir("/")
        if not readonly:
            room.chmod(0o777)


def main() -> None:
    """Answer until there are no more questions."""
    configuration = msgspec.json.decode(sys.argv[1], type=Configuration)
    cases = load()
    try:
        worker = Worker(configuration)
        target = worker.target()
    except (ShmfsError, OSError) as failure:
        print(msgspec.json.encode(Target(failure=str(failure))).decode(), flush=True)
        return
    print(msgspec.json.encode(target).decode(), flush=True)
    try:
        for line in sys.stdin:
            try:
                said = worker.answer(cases[line.strip()])
            except Exception:
                said = {"worker": traceback.format_exc()}
            plain = {key: tuple(value) if isinstance(value, Said) else value for key, value in said.items()}
            print(repr(plain), flush=True)
    finally:
        worker.stop()


if __name__ == "__main__":
    main()
