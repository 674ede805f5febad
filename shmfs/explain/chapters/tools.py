"""What the chapters say often."""

from shmfs.explain.actors import Actor
from shmfs.explain.records import Claim, Touch, View

O_RDWR, O_CREAT = 2, 0o100
SHM = "/dev/shm"  # noqa: S108  # the name is the point


def claim(text: str, expected: object, observed: object) -> Claim:
    """Something that should be so."""
    return Claim(text, expected, observed)


def faults(touch: Touch, minor: int, major: int = 0) -> Claim:
    """A touch took that many faults."""
    return Claim(
        f"{touch.process}'s {touch.what}: minor faults +{minor}, major +{major}",
        [minor, major],
        [touch.minor, touch.major],
    )


def present(view: View, index: int = 0, *, expected: bool = True) -> Claim:
    """A page has a PTE, or none."""
    page = view.pages[index]
    said = "" if expected else "no "
    return Claim(f"{view.process} has {said}PTE for page {page.page}", expected, page.present)


def same_frame(one: View, other: View, *, expected: bool = True) -> Claim:
    """Two processes have the same frame for a page; without frame numbers, both have the file's own page."""
    first, second = one.pages[0], other.pages[0]
    where = "the same frame" if expected else "another frame"
    text = f"{other.process} has {where} as {one.process}" if expected else f"{other.process} has {where}"
    if first.frame and second.frame:
        return Claim(text, expected, first.frame == second.frame)
    shared = first.present and second.present and first.of_file and second.of_file
    return Claim(f"{text} (told by the sharing bit: frame numbers need root)", expected, shared)


def create(actor: Actor, name: str, pages: int, page: int) -> int:
    """A file of the mount, extended to `pages`; returns a descriptor of the actor's."""
    fd = actor.call("open", f"{SHM}/{name}", O_RDWR | O_CREAT, 0o600)
    actor.call("ftruncate", fd, pages * page)
    return fd
