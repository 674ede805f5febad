"""The processors of this machine."""

from pathlib import Path


def online() -> list[int]:
    """The processors that are online, by number ("0-3,6")."""
    parts = Path("/sys/devices/system/cpu/online").read_text().strip().split(",")
    ranges = [part.split("-") for part in parts]
    return [cpu for one in ranges for cpu in range(int(one[0]), int(one[-1]) + 1)]
