"""Amounts as people read and write them; the daemon imports this module, which needs no other."""

import re
import time

MIB = 1 << 20
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": MIB, "g": 1 << 30, "t": 1 << 40}
_UNITS |= {f"{unit}ib": size for unit, size in _UNITS.items() if size > 1}
_UNITS |= {f"{unit}b": 1000**power for power, unit in enumerate("kmgt", 1)}
_SIZE = re.compile(r"(\d+)(\.\d+)? *([a-z]*)", re.IGNORECASE)

FINE = 64
"""MiB up to which options are whole MiB; larger ones are rounded up to a sixteenth of a power of two."""


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": MIB, "g": 1 << 30, "t": 1 << 40}
_UNITS |= {f"{unit}ib": factor for unit, factor in _UNITS.items() if factor > 1}
_UNITS |= {f"{unit}b": 1000**power for power, unit in enumerate("kmgt", 1)}
_SIZE = re.compile(r"(\d+)(\.\d+)? *([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Return the bytes of "64m", "64 MiB" (both 2**20) or "64 MB" (10**6); None if `text` is no size."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        return None
    return int(float(match[1] + match[2]) * unit) if match[2] else int(match[1]) * unit


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


def option_value(number: int) -> str:
    """Return bytes as the value of an option, exactly: "8m", "12k", "4097"."""
    for unit, factor in (("g", 1 << 30), ("m", MIB), ("k", 1 << 10)):
        if number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def quantity(number: float) -> str:
    """Return a number in at most five characters: "0.2", "7", "1204", "12.5k", "3.1M"."""
    if number < 10 and number != int(number):
        return f"{number:.1f}"
    if round(number) < 10_000:
        return f"{number:.0f}"
    units = iter("kMGT")
    while round(number) >= 1000:
        number, unit = number / 1000, next(units)
    return f"{number:.0f}{unit}" if number >= 99.95 else f"{number:.1f}{unit}"


def duration(number: float) -> str:
    """Return seconds with their unit: "0.5 s", "12 s"."""
    return f"{number:.0f} s" if number >= 9.95 else f"{number:.1f} s".replace(".0 ", " ")


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
