"""Where shmfs answers otherwise than tmpfs: case, observation, what shmfs answers, why FUSE gives no better.

A difference that has gone makes its case fail, so that this table tells the truth.
"""

from typing import Any

KNOWN_DIFFERENCES: dict[str, dict[str, tuple[Any, str]]] = {}
