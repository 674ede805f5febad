"""The whole story: the chapters, told on one store after the other."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence

from shmfs.errors import ShmfsError
from shmfs.explain.chapters import anon, full, life, refuse, shm, swap, sysv
from shmfs.explain.records import Chapter, Step, Story, Telling
from shmfs.explain.stage import Skip, Stage, open_stage
from shmfs.system import maps

CHAPTERS: dict[str, tuple[str, Callable[[Stage], Iterator[Step]]]] = {
    "map": ("The life of a shared mapping", life.steps),
    "full": ("The mount is full", full.steps),
    "refuse": ("What mmap refuses, and why", refuse.steps),
    "shm": ("POSIX shared memory: shm_open", shm.steps),
    "sysv": ("System V shared memory: shmget and shmat", sysv.steps),
    "anon": ("Shared anonymous memory and fork", anon.steps),
    "swap": ("The page that was away", swap.steps),
}
"""Name: title and steps."""

TERMS = (
    ("page", "4 KiB of a file or of a process's addresses: memory comes in pages."),
    ("frame", "4 KiB of the machine's memory, with a number: what a page is kept in."),
    ("VMA", "a range of addresses and what is behind it: a line of /proc/PID/maps."),
    ("PTE", "the page table's entry for a page: which frame is behind it, if any."),
    ("fault", "a touched page has no PTE that permits it: the kernel has to make one."),
)
"""What a reader must know; sizes are those of x86."""

NAMES_OF = "6.18"
"""The Linux whose functions the chapters name."""


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
        self.telling = Telling(pages, os.uname().release, maps.frames_visible())

    def steps(self) -> Generator[tuple[Chapter, Step | None], None, None]:
        """Each step, as it is made; None at the end of a chapter. Raises ShmfsError."""
        with open_stage(self.telling.store) as stage:
            for name in self.names:
                title, tell = CHAPTERS[name]
                chapter = Chapter(name, title)
                self.telling.chapters.append(chapter)
                stage.forget()
                try:
                    for step in tell(stage):
                        chapter.steps.append(step)
                        yield chapter, step
                except Skip as skip:
                    chapter.skipped = str(skip)
                yield chapter, None

    def tell(self) -> Telling:
        """All steps at once; a store that is not to be had here is said to be so. Raises ShmfsError."""
        try:
            for _ in self.steps():
                pass
        except ShmfsError as error:
            if self.telling.chapters:
                raise  # it was to be had
            self.telling.impossible = str(error)
        return self.telling


def story(tellings: list[Telling]) -> Story:
    """What was told, with its sums."""
    claims = [claim for telling in tellings for claim in telling.claims()]
    return Story(tellings, len(claims), sum(not claim.holds for claim in claims))
