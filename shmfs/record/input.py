"""What the daemon tells, as the recorder reads it: whole lines of JSON."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec

_REFUSAL = (b'"event":"refusal"',)
_PROOFS = b'"event":"refuse"', b'"event":"resize"', b'"event":"usage"'


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
    return _among(lines, _REFUSAL)


def proofs(lines: bytes) -> list[dict[str, Any]]:
    """Return the events among `lines` that report a refused charge or the size of a file."""
    return _among(lines, _PROOFS)


def _among(lines: bytes, events: tuple[bytes, ...]) -> list[dict[str, Any]]:
    if not any(event in lines for event in events):
        return []
    return [
        msgspec.json.decode(line) for line in lines.splitlines() if any(event in line for event in events)
    ]
