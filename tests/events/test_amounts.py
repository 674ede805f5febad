"""Amounts: how they are written, and read."""

import pytest

from shmfs.events.amounts import MIB, duration, option_size, option_value, parse_size, quantity


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1m"), (MIB, "1m"), (MIB + 1, "2m"), (64 * MIB, "64m"), (64 * MIB + 1, "68m"),
        (100 * MIB, "100m"), (1000 * MIB, "1g"), (1025 * MIB, "1088m"), (1500 * MIB, "1536m"),
        (5 << 30, "5g"), (2000 << 30, "2048g"),
    ],
)  # fmt: skip
def test_sizes_are_rounded_up(number, text):
    assert option_size(number) == text
    assert number <= parse_size(text) <= max(MIB, number * 17 // 16 + MIB)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.25, "0.2"),
        (7, "7"),
        (1204, "1204"),
        (9999.6, "10.0k"),
        (12_500, "12.5k"),
        (312_000, "312k"),
        (3.1e6, "3.1M"),
    ],
)
def test_quantities(number, shown):
    assert quantity(number) == shown


@pytest.mark.parametrize("number", [1, 4095, 4096, MIB, MIB + 1, 5 << 30, (5 << 30) + 1024])
def test_an_option_value_is_exact(number: int) -> None:
    text = option_value(number)
    unit = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1], 1)
    assert int(text.rstrip("kmg")) * unit == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64 MiB", 64 << 20),
        ("64 MB", 64_000_000),
        ("1.5GiB", 3 << 29),
        ("1g", 1 << 30),
        ("8 kb", 8000),
        ("8k", 8192),
        ("10 B", 10),
        ("2t", 2 << 40),
        ("x", None),
        ("64 mm", None),
        ("-1", None),
        ("", None),
        ("1e3", None),
        (f"{2**53 + 1}", 2**53 + 1),
    ],
)
def test_sizes_are_read(text: str, value: int | None) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(("number", "text"), [(0.5, "0.5 s"), (2.0, "2 s"), (9.96, "10 s")])
def test_durations(number: float, text: str) -> None:
    assert duration(number) == text
