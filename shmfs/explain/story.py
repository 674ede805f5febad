"""The whole story: the chapters, told on one store after the other."""

import os
from collections.abc import Callable, Iterator, Sequence

from shmfs.errors import ShmfsError
from shmfs.explain.chapters import life
from shmfs.explain.records import Chapter, Step, Telling
from shmfs.explain.stage import Stage, open_stage

CHAPTERS: dict[str, tuple[str, Callable[[Stage], Iterator[Step]]]] = {
    "map": ("The life of a shared mapping", life.steps),
}
"""Name: title and steps."""

TERMS = (
    ("page", "4 KiB of a file or of a process's addresses: the unit in which memory is given out."),
    ("frame", "4 KiB of the machine's memory, with a number; it holds a page."),
    ("VMA", "a range of a process's addresses and what it stands for: a line of /proc/PID/maps."),
    ("PTE", "the entry of a process's page table that says which frame is behind a page, if any."),
    ("fault", "what the CPU raises when a touched page has no (fitting) PTE; the kernel then makes one."),
)
"""What a reader must know; sizes are those of x86."""


def check(names: Sequence[str]) -> list[str]:
    """The chapters that are wanted, all if none is named; raises ShmfsError."""
    for name in names:
        if name not in CHAPTERS:
            raise ShmfsError(f"there is no chapter {name!r}; it is one of {', '.join(CHAPTERS)}", 2)
    return [name for name in CHAPTERS if name in names or not names]


class Teller:
    """Tells the chapters on one store. Who iterates sees the processes between the steps as they are then."""

    def __init__(self, pages: str, names: Sequence[str]) -> None:
        self.names = check(names)
        self.pages = pages
        self.telling = Telling(pages, os.uname().release, False)

    def steps(self) -> Iterator[tuple[Chapter, Step | None]]:
        """Each step, as it is made; None at the end of a chapter. Raises ShmfsError."""
        with open_stage(self.pages) as stage:
            self.telling.store = stage.store
            self.telling.notes = stage.server.notes
            for name in self.names:
                title, tell = CHAPTERS[name]
                chapter = Chapter(name, title)
                self.telling.chapters.append(chapter)
                for step in tell(stage):
                    chapter.steps.append(step)
                    yield chapter, step
                yield chapter, None


def failed(tellings: Sequence[Telling]) -> int:
    """How many claims did not hold."""
    return sum(
        not claim.holds
        for telling in tellings
        for chapter in telling.chapters
        for step in chapter.steps
        for claim in step.claims
    )
