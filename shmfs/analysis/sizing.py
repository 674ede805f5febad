"""The size that a run needed, from what was charged; and how it is written for those who mount a /dev/shm."""

from shmfs.analysis.findings import Sizing, TracedDeath
from shmfs.events.amounts import option_size, parse_size
from shmfs.events.records import Refusal


class Usage:
    """What all inodes take, and the most they took at once."""

    def __init__(self, page_size: int) -> None:
        self._peak = self._declared = 0
        self.known = False
        """Whether anything was told of it."""
        self._page = page_size
        self._inodes: dict[int, tuple[int, int]] = {}  # pages, size in pages
        self._pages = self._sizes = 0

    def charge(self, inode: int, pages: int) -> None:
        """Take over pages that were allocated, or freed if negative."""
        old, size = self._inodes.get(inode, (0, 0))
        self._set(inode, old + pages, size)

    def resize(self, inode: int, size: int) -> None:
        """Take over a size."""
        self._set(inode, self._inodes.get(inode, (0, 0))[0], -(-size // self._page))

    def look(self, inode: int, size: int, pages: int) -> None:
        """Take over what was seen of an inode."""
        self._set(inode, pages, -(-size // self._page))

    def evict(self, inode: int) -> None:
        """Forget an inode."""
        self._set(inode, 0, 0)
        del self._inodes[inode]

    def _set(self, inode: int, pages: int, size: int) -> None:
        pages = max(0, pages)  # its allocation may lie before the trace
        old_pages, old_size = self._inodes.get(inode, (0, 0))
        self._inodes[inode] = pages, size
        self._pages += pages - old_pages
        self._sizes += max(pages, size) - max(old_pages, old_size)
        self.known = True
        self._peak = max(self._peak, self._pages)
        self._declared = max(self._declared, self._sizes)

    @property
    def peak(self) -> int:
        """Most bytes that were charged at once."""
        return self._peak * self._page

    @property
    def declared(self) -> int:
        """Most bytes that the sizes of all files came to at once."""
        return self._declared * self._page


def sizing(
    peak: int | None,
    declared: int | None,
    touched: int,
    limit: int,
    refused: int,
    deaths: list[TracedDeath],
    refusals: list[Refusal],
    *,
    looked: bool,
    partial: bool,
    inodes_refused: int = 0,
) -> Sizing:
    """Say what was needed."""
    short = [death for death in deaths if death.limit] + [one for one in refusals if one.limit_name == "size"]
    if refused or short:
        basis = "least"
        limits = [one.limit for one in short] + [limit]
        asked = [parse_size(one.enough) or 0 for one in short if one.enough]
        needed = max(peak or 0, declared or 0, touched, max(limits) + 1, *asked)
    elif peak is not None and looked and 0 < limit <= peak:
        basis, needed = "full", max(peak, declared or 0)
    elif peak is not None:
        basis, needed = "partial" if partial else "looked" if looked else "exact", peak
    else:
        basis, needed = "estimate", touched
    enough = option_size(needed) if needed else None
    unit = enough[-1].upper() if enough else ""
    return Sizing(
        peak=peak,
        declared=declared,
        touched=touched,
        refused=refused,
        basis=basis,
        needed=needed,
        size=enough,
        quantity=f"{enough[:-1]}{unit}i" if enough else None,
        inodes_refused=inodes_refused,
    )
