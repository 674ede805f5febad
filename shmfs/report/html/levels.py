"""How many pages were charged when, from what the daemon tells of each inode."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


class Levels:
    """Hears events; then gives the most pages that were charged in each of equal parts of the time."""

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}
        self._rows = array("q")  # time, inode, change

    def hear(self, event: dict[str, Any]) -> None:
        """Take over a charge; what is not as it should be is counted elsewhere."""
        kind = event.get("event")
        if kind not in ("allocate", "free", "usage", "evict"):
            return
        try:
            inode, time = event["inode"], event["time"]
            old = self._pages.get(inode, 0)
            pages = 0 if kind == "evict" else event["pages"]
            new = max(0, old + pages if kind == "allocate" else old - pages if kind == "free" else pages)
            if new != old:
                self._rows.extend((time, inode, new - old))
                self._pages[inode] = new
        except (KeyError, TypeError, OverflowError):
            return

    def __bool__(self) -> bool:
        """Say whether anything is known."""
        return len(self._rows) > 0

    def table(self) -> I64:
        """Return rows of time, inode, change in the order of time."""
        table: I64 = np.array(self._rows, np.int64).reshape(-1, 3)
        return table[np.argsort(table[:, 0], kind="stable")]


def most(table: I64, start: int, width: float, bins: int) -> list[int]:
    """Return the most of the running sum of changes in each of `bins` parts of `width` ns."""
    levels = np.cumsum(table[:, 2])
    at = np.clip(((table[:, 0] - start) / width).astype(np.int64), 0, bins - 1)
    last = np.searchsorted(at, np.arange(bins), side="right") - 1
    after = np.where(last >= 0, levels[last] if len(levels) else 0, 0)  # at the end of each part
    highest = np.concatenate([[0], after[:-1]])  # at its beginning
    np.maximum.at(highest, at, levels)
    found: list[int] = highest.tolist()
    return found
