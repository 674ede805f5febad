"""What the daemon tells, as the recorder reads it: whole lines of JSON."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec

_REFUSAL = b'"event":"refusal"'
"""What `Deaths` wants to know."""


class Input:
    """A descriptor from which lines come; it stays the caller's to close."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.open = True
        """Whether more may come."""
        self._partial = b""
        os.set_blocking(fd, False)

    def read(self) -> Iterator[bytes]:
        """Yield the whole lines that are there, many at once."""
        while self.open:
            try:
                data = os.read(self.fd, 1 << 20)
            except BlockingIOError:
                return
            self.open = bool(data)
            whole, newline, rest = data.rpartition(b"\n")
            lines = self._partial + whole + newline
            self._partial = rest if newline else self._partial + data
            if newline:
                yield lines


def refusals(lines: bytes) -> list[dict[str, Any]]:
    """Return the events among `lines` that report the first refusal of a kind."""
    if _REFUSAL not in lines:
        return []
    return [msgspec.json.decode(line) for line in lines.splitlines() if _REFUSAL in line]
