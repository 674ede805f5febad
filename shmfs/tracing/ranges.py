"""Ranges of pages that are packed into words: a column of samples holds one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFF_FFFF)


def packed(first: NDArray[Any], last: NDArray[Any]) -> NDArray[np.uint64]:
    """Pack ranges from a first to a last page; one that ends beyond 16 TiB becomes empty."""
    return np.where(last <= _LOW, last << _HALF | first, _LOW)


def unpacked(ranges: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first and the last page of each range; an empty one has a smaller last page."""
    return ranges & _LOW, ranges >> _HALF
