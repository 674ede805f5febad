"""Amounts as people read them, without what text for terminals takes to import."""

import time

MIB = 1 << 20

FINE = 64
"""MiB up to which options are whole MiB; larger ones are rounded up to a sixteenth of a power of two."""


def option_size(number: int) -> str:
    """Return bytes as the value of `size=`, rounded up to a number that is easy to remember: "37m"."""
    mebibytes = max(1, -(-number // MIB))
    step = 1 if mebibytes <= FINE else 1 << (mebibytes - 1).bit_length() - 5
    mebibytes = -(-mebibytes // step) * step
    return f"{mebibytes // 1024}g" if mebibytes % 1024 == 0 else f"{mebibytes}m"


def size(number: int) -> str:
    """Return bytes as people read them: "0 B", "4 KiB", "1.46 MiB"."""
    value: float = number
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {units[0]}"


def plural(number: int, word: str) -> str:
    """Return "1 page" or "2 pages"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}{'es' if word.endswith('s') else 's'}"


def age(nanoseconds: int) -> str:
    """Return how long ago something was, in the largest unit that fits: "5 s", "3 h", "12 d"."""
    seconds = max(0, nanoseconds) // 1_000_000_000
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def clock(when: int) -> str:
    """Return the local time of day, HH:MM:SS, of nanoseconds since the epoch."""
    return time.strftime("%H:%M:%S", time.localtime(when // 10**9))
