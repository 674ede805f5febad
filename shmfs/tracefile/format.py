"""The chunks of a trace and what is in them; `stream` describes the whole file."""

import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import shmfs

MAGIC = b"\x89SHMTRC\n"
VERSION = 1
HEADER = struct.Struct("<8sII")
CHUNK = struct.Struct("<4sIII")
COUNT = struct.Struct("<II")

META, EVENTS, FAULTS, DONE = b"META", b"EVNT", b"FLTS", b"DONE"

MAX_RAW = 1 << 28
"""No chunk is larger, whatever a damaged one claims."""

MAX_ID = 1 << 20
"""Processes and segments that a reader lists at most."""

KEPT = frozenset({"process", "exec", "exit", "segment", "lost", "stale", "sigbus", "refusal", "statistics"})
"""Events without which the others and the faults say little: they stay when there is no room for the rest."""

FAULT = np.dtype(
    [
        ("time", "<u8"),
        ("page", "<u8"),
        ("ip", "<u8"),
        ("segment", "<u4"),
        ("process", "<u4"),
        ("tid", "<u4"),
        ("kind", "u1"),
        ("access", "u1"),
        ("source", "u1"),
        ("cpu", "u1"),
    ]
)
KINDS = ("unknown", "minor", "major", "failed")
ACCESSES = (None, "read", "write", "execute")
SOURCES = ("perf", "filemap")

Faults = npt.NDArray[np.void]
Event = dict[str, Any]


class Source(msgspec.Struct):
    """An instrument, and which figures come from it."""

    source: str
    figures: list[str] = []
    exact: bool = True
    note: str = ""


class Meta(msgspec.Struct, kw_only=True):
    """What was recorded, where and when."""

    version: str = ""
    """Of shmfs."""
    host: str = ""
    boot_id: str = ""
    kernel: str = ""
    started: int = 0
    """Nanoseconds since the epoch."""
    clock_offset: int = 0
    """Nanoseconds from CLOCK_MONOTONIC to the epoch."""
    command: list[str] | None = None
    mount: str = ""
    device: str = ""
    """As in mountinfo: decimal "major:minor"."""
    store: str = ""
    """managed or native; the type of the file system where it is none of shmfs."""
    options: str = ""
    size_limit: int = 0
    """Bytes; 0 is unlimited."""
    page_size: int = 4096
    sources: list[Source] = []

    @classmethod
    def here(cls, **fields: Any) -> "Meta":
        """Return the description of a recording that starts now on this machine; `fields` are the rest."""
        started, monotonic = time.time_ns(), time.monotonic_ns()  # side by side
        system = os.uname()
        about: dict[str, Any] = {
            "version": shmfs.__version__,
            "host": system.nodename,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "kernel": system.release,
            "started": started,
            "clock_offset": started - monotonic,
            "page_size": os.sysconf("SC_PAGE_SIZE"),
        }
        return cls(**about | fields)


class Done(msgspec.Struct, kw_only=True):
    """How the recording ended."""

    ended: int = 0
    """Nanoseconds since the epoch."""
    status: int | None = None
    """Of the command, as a shell says it; None where there was none."""
    duration: float = 0.0
    """Seconds."""
    faults: int = 0
    """Rows of faults in the file."""
    lost: int = 0
    """Records that the kernel or a full buffer dropped before they could be recorded."""
    dropped: int = 0
    """Faults that were recorded and are not in the file: it is bounded, or could not be written."""
    dropped_events: int = 0
    """The same of events."""


def checksum(head: bytes, stored: bytes) -> int:
    """Return the crc of a chunk; `head` is what comes before it."""
    return zlib.crc32(stored, zlib.crc32(head))


def encode(faults: Faults) -> bytes:
    """Return the raw bytes of a chunk FLTS."""
    parts = [COUNT.pack(len(faults), 0)]
    for name in FAULT.names or ():
        column = np.ascontiguousarray(faults[name])
        if name == "time":
            column[1:] -= column[:-1].copy()
        width = column.itemsize
        filled = -(-int(column.max(initial=0)).bit_length() // 8)  # planes: the others are 0 throughout
        parts.append(column.view("u1").reshape(-1, width)[:, :filled].T.tobytes())
        parts.append(bytes((width - filled) * len(faults)))
    return b"".join(parts)


def decode(raw: bytes) -> Faults:
    """Return the rows of a chunk FLTS; raises ValueError if it is none."""
    count = COUNT.unpack_from(raw)[0] if len(raw) >= COUNT.size else 0
    if len(raw) != COUNT.size + count * FAULT.itemsize:
        raise ValueError("faults of another length")
    faults = np.zeros(count, FAULT)
    rows = faults.view("u1").reshape(count, FAULT.itemsize)
    for at in range(FAULT.itemsize):
        plane = np.frombuffer(raw, "u1", count, COUNT.size + at * count)
        if plane.any():  # most are 0 throughout, and a test costs less than a strided store
            rows[:, at] = plane
    np.cumsum(faults["time"], out=faults["time"])
    return faults
