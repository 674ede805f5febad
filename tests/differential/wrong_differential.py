"""The harness with a file system that is wrong in one call; prints the program that it finds and shrinks.

It mounts in a namespace of its own.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from shmfs.system import namespaces
from tests.differential import actor
from tests.differential.execute import Side, Transcript
from tests.differential.generate import generate
from tests.differential.search import Pair


def truncated(actor: Any, slot: int, size: int) -> None:
    """One byte too much, where it is more than a page."""
    os.ftruncate(actor.fd(slot), size + (size > 4096))


class Wrong(Side):
    """Its processes, which are forked when it runs first, have the wrong call."""

    def run(self, *arguments: Any) -> Transcript:
        right = actor.OPERATIONS["ftruncate"]
        actor.OPERATIONS["ftruncate"] = truncated
        try:
            return super().run(*arguments)
        finally:
            actor.OPERATIONS["ftruncate"] = right


def main() -> None:
    namespaces.enter_private()
    with tempfile.TemporaryDirectory(prefix="shmfs-differential-") as base:
        os.chmod(base, 0o755)
        pair = Pair(Path(base), "tmpfs")
        pair.other = Wrong(Path(base) / "wrong", "tmpfs", "tmpfs")
        try:
            for number in range(200):
                if difference := pair.difference(generate(1, number)):
                    print(pair.smallest(difference).program.text())
                    return
        finally:
            pair.close()


if __name__ == "__main__":
    main()
