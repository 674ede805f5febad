"""What the chapters say often."""

import errno
from collections.abc import Callable

from shmfs.explain import records
from shmfs.explain.actors import SHM, Actor, Failed
from shmfs.explain.records import Claim, Touch, View
from shmfs.explain.stage import Stage

O_RDWR, O_CREAT = 2, 0o100
MS_SYNC = 4


def claim(text: str, expected: object, observed: object) -> Claim:
    """Something that should be so."""
    return Claim(text, expected, observed)


def faults(touch: Touch, minor: int, major: int = 0) -> Claim:
    """A touch took that many faults."""
    text = f"{touch.process}'s {touch.what} takes {records.faults(minor, major)}"
    return Claim(text, {"minor": minor, "major": major}, {"minor": touch.minor, "major": touch.major})


def present(view: View, number: int = 0, *, expected: bool = True, when: str = "") -> Claim:
    """A page has a PTE, or none; `when` begins the sentence."""
    found = next(page.present for page in view.pages if page.page == number)
    said = "a" if expected else "no"
    return Claim(f"{when}{view.process} has {said} PTE for page {number}", expected, found)


def same_frame(one: View, other: View, *, expected: bool = True, when: str = "") -> Claim:
    """Two processes have the same frame for a page; without frame numbers, both have the file's own page."""
    first, second = one.pages[0], other.pages[0]
    where = "the same frame" if expected else "another frame"
    text = f"{when}{other.process} has {where}" + (f" as {one.process}" if expected else "")
    if first.frame and second.frame:
        return Claim(text, expected, first.frame == second.frame)
    shared = all(page.present and page.of_file and not page.alone for page in (first, second))
    return Claim(f"{text} (by bits 61 and 56 of pagemap)", expected, shared)


def create(actor: Actor, name: str, pages: int, page: int) -> int:
    """A file of the mount, extended to `pages`; returns a descriptor of the actor's."""
    fd = actor.call("open", f"{SHM}/{name}", O_RDWR | O_CREAT, 0o600)
    actor.call("ftruncate", fd, pages * page)
    return fd


def named(run: Callable[[], object]) -> str:
    """The name of the errno that the function raises; else "done"."""
    try:
        run()
    except Failed as failure:
        return errno.errorcode.get(failure.errno or 0, str(failure.errno))
    return "done"


def answer(actor: Actor, name: str, *arguments: int | str) -> str:
    """What a call of libc answers: "done", or the name of its errno."""
    return named(lambda: actor.call(name, *arguments))


def on_mount(stage: Stage, view: View) -> bool:
    """Whether a mapping is of a file of the mount."""
    return view.vma is not None and view.vma.device == stage.server.device


def first_fault(stage: Stage, view: View) -> tuple[int, int]:
    """Minor and major faults of a first touch: major where the page must be asked for."""
    return (0, 1) if stage.managed and on_mount(stage, view) else (1, 0)


def served_by(stage: Stage, view: View) -> str:
    """Who has the pages of a mapping."""
    if view.vma is None:
        return "nobody"
    if on_mount(stage, view):
        return f"shmfs (device {view.vma.device})"
    return f"a tmpfs of the kernel's own (device {view.vma.device}), not the mount: shmfs sees nothing of it"
