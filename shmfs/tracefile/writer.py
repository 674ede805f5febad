"""Write a trace. One thread uses a Writer, never the one that serves a mount: it waits for the disk."""

import fcntl
import logging
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import zstandard

from shmfs.errors import ShmfsError
from shmfs.events.names import printable
from shmfs.tracefile.format import (
    CHUNK,
    DONE,
    EVENTS,
    FAULT,
    FAULTS,
    HEADER,
    KEPT,
    MAGIC,
    META,
    VERSION,
    Done,
    Faults,
    Meta,
    checksum,
    encode,
)

log = logging.getLogger(__name__)

ROWS = 1 << 16
"""Faults in a chunk at most."""
BYTES = 1 << 18
"""Bytes of event lines that are collected for a chunk; the last ones added may make it larger."""
AGE = 1.0
"""Seconds that faults and events wait at most, if the writer is called."""
RETRY = 5.0
"""Seconds until a file that could not be written is tried again."""
KEEP = 1 << 24
"""Bytes of KEPT events that wait at most for a file that cannot be written."""
MIN_SIZE = 1 << 20
"""The least `max_size`."""
RESERVE = 1 << 16
"""Bytes of a bounded file that only KEPT events may use."""
END = 1 << 12
"""Bytes of these that are for DONE."""


class Writer:
    """Makes the file `path`, for its owner only: a trace tells what others did.

    What is given is collected, and written as a chunk when it is much or when it has waited for a second and
    the writer is called again. `max_size` bounds the file, in bytes: when it is full, "stop" drops what comes
    later, and "ring" the oldest faults (and the oldest events that are not KEPT, where events fill the file):
    the younger half is copied to a new file, which takes the place of the old one. KEPT events stay.
    A file that cannot be written is complained about once, and tried again now and then; what is dropped is
    counted.

    Raises ShmfsError or OSError if the file cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        meta: Meta | Mapping[str, Any],
        *,
        max_size: int = 0,
        when_full: Literal["ring", "stop"] = "ring",
    ) -> None:
        if 0 < max_size < MIN_SIZE:
            raise ShmfsError(f"a trace of {max_size} bytes is too small; the least is {MIN_SIZE}", 2)
        self.dropped = self.dropped_events = 0
        self._max_size = max_size
        self._ring = when_full == "ring"
        self._full = False
        self._retry = 0.0
        self._complained = False
        rows = min(ROWS, max_size // (16 * FAULT.itemsize)) if max_size else ROWS
        self._rows = np.zeros(rows, FAULT)
        self._waiting = 0
        """Of the rows, those that are filled."""
        self._lines = bytearray()
        self._new = 0
        """Of the lines, bytes that came since the last flush."""
        self._json = msgspec.json.Encoder()
        self._started = self._flushed = time.monotonic()
        path = os.path.realpath(path)
        new = not os.path.exists(path)
        try:
            self._file = _File(path)
            try:
                self._file.append(META, 1, _pack(META, self._json.encode(msgspec.convert(meta, Meta))))
            except BaseException:
                self._file.close()
                raise
        except OSError:
            if new:
                with suppress(FileNotFoundError):
                    os.unlink(path)
            raise

    def faults(self, faults: Faults) -> None:
        """Add rows of FAULT; they are copied."""
        at = 0
        while at < len(faults):
            some = faults[at : at + len(self._rows) - self._waiting]
            self._rows[self._waiting : self._waiting + len(some)] = some
            self._waiting += len(some)
            at += len(some)
            if self._waiting == len(self._rows):
                self.flush()
        self.flush(AGE)

    def event(self, event: str, source: str, **fields: Any) -> None:
        """Add one event; without `time` it happened now."""
        record = {"event": event, "time": time.time_ns(), "source": source} | fields
        try:
            line = self._json.encode(record)
        except UnicodeEncodeError:
            line = self._json.encode(_valid(record))
        self.events(line)

    def events(self, lines: bytes) -> None:
        """Add whole events as lines of JSON."""
        self._lines += lines
        if not lines.endswith(b"\n"):
            self._lines += b"\n"
        self._new += len(lines)
        self.flush(0 if self._new >= BYTES else AGE)

    def flush(self, age: float = 0.0) -> None:
        """Write what waits, if the last time was `age` seconds ago."""
        now = time.monotonic()
        if now - self._flushed < age:
            return
        self._flushed = now
        self._flush_events()  # first, so that ids are known before the faults that use them
        if self._waiting:
            if not self._put(FAULTS, encode(self._rows[: self._waiting]), self._waiting, RESERVE):
                self.dropped += self._waiting
            self._waiting = 0

    def close(self, done: Mapping[str, Any] | None = None) -> None:
        """Write the rest and the totals; `done` has those that the writer does not know: `status`, `lost`."""
        if self._file.closed:
            return
        self._retry = 0.0
        self.flush()
        about = {"ended": time.time_ns(), "duration": round(time.monotonic() - self._started, 6)}
        totals = {
            "faults": sum(chunk.items for chunk in self._file.chunks if chunk.kind == FAULTS),
            "dropped": self.dropped,
            "dropped_events": self.dropped_events + self._lines.count(b"\n"),
        }
        self._put(DONE, self._json.encode(msgspec.convert(about | dict(done or {}) | totals, Done)), 1, 0)
        self._file.close()

    def _flush_events(self) -> None:
        self._new = 0
        count = self._lines.count(b"\n")
        if not count or self._put(EVENTS, self._lines, count, RESERVE):
            self._lines.clear()
            return
        kept = _kept(bytes(self._lines))
        if len(kept) > KEEP:
            kept = b""
        stay = kept.count(b"\n")
        self.dropped_events += count - stay
        if stay and self._put(EVENTS, kept, stay, END):
            kept = b""
        self._lines = bytearray(kept)

    def _put(self, kind: bytes, raw: bytes | bytearray, count: int, reserve: int) -> bool:
        """Append a chunk; False if that would not leave `reserve`, or the file cannot be written."""
        if (self._full and reserve == RESERVE) or time.monotonic() < self._retry:
            return False
        packed = _pack(kind, raw)
        try:
            if not self._room(len(packed) + reserve):
                self._full = self._full or reserve == RESERVE
                return False
            self._file.append(kind, count, packed)
        except OSError as error:
            self._retry = time.monotonic() + RETRY
            if not self._complained:
                self._complained = True
                log.warning("%s cannot be written: %s; the trace is cut", self._file.path, error.strerror)
            return False
        return True

    def _room(self, size: int) -> bool:
        """Say whether `size` more bytes are allowed; a ring makes room first."""
        if not self._max_size or self._file.size + size <= self._max_size:
            return True
        if not self._ring or self._full:
            return False
        self._halve()
        return self._file.size + size <= self._max_size

    def _halve(self) -> None:
        """Go on in a new file of half the size, and put it in the place of the old one."""
        old, room = self._file, self._max_size // 2
        events = [chunk for chunk in old.chunks if chunk.kind == EVENTS]
        newer = _newest(events, room // 2)
        older = events[: len(events) - len(newer)]
        lines = b"".join(_kept(old.lines(chunk)) for chunk in older)
        room -= sum(chunk.size for chunk in newer)
        newer += _newest([chunk for chunk in old.chunks if chunk.kind == FAULTS], room)
        with suppress(FileNotFoundError):
            os.unlink(f"{old.path}.new")  # of a recorder that was killed
        new = _File(f"{old.path}.new", old)
        try:
            new.copy(old, old.chunks[0])
            if lines:
                new.append(EVENTS, lines.count(b"\n"), _pack(EVENTS, lines))
            for chunk in sorted(newer):
                new.copy(old, chunk)
            os.rename(new.path, old.path)
        except BaseException:
            new.close()
            os.unlink(new.path)
            raise
        new.path = old.path
        self._file = new
        self.dropped += old.count(FAULTS) - new.count(FAULTS)
        self.dropped_events += old.count(EVENTS) - new.count(EVENTS)
        self._full = new.size > self._max_size * 3 // 4  # so many KEPT events that it would be for nothing
        old.close()


class _Chunk(NamedTuple):
    at: int
    size: int
    """With its head."""
    kind: bytes
    items: int
    """Faults or events."""


class _File:
    """The chunks that are whole. The lock keeps other recorders off, and tells readers that it grows."""

    def __init__(self, path: str, like: "_File | None" = None) -> None:
        """Make it empty: what was there before is gone, or it is a new one with the permissions of `like`."""
        self.path = path
        self.chunks: list[_Chunk] = []
        self.size = HEADER.size
        self.closed = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if like else 0), 0o600)
        try:
            if like:
                os.fchmod(self._fd, os.fstat(like._fd).st_mode & 0o777)
            elif not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise ShmfsError(f"{path} is not a regular file, which a trace must be")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            self._write(HEADER.pack(MAGIC, VERSION, 0), 0)
        except BlockingIOError:
            os.close(self._fd)
            raise ShmfsError(f"{path} is being written by another recorder") from None
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, kind: bytes, count: int, packed: bytes) -> None:
        """Add a chunk; raises OSError, and the file is as it was."""
        try:
            self._write(packed, self.size)
        except OSError:
            os.ftruncate(self._fd, self.size)  # so that it ends with a whole chunk
            raise
        self.chunks.append(_Chunk(self.size, len(packed), kind, count))
        self.size += len(packed)

    def copy(self, other: "_File", chunk: _Chunk) -> None:
        """Add a chunk of another file."""
        self.append(chunk.kind, chunk.items, other._read(chunk))

    def lines(self, chunk: _Chunk) -> bytes:
        """Return what is in a chunk of events."""
        return zstandard.decompress(self._read(chunk)[CHUNK.size :])

    def count(self, kind: bytes) -> int:
        """Return the faults or events in it."""
        return sum(chunk.items for chunk in self.chunks if chunk.kind == kind)

    def close(self) -> None:
        """Close it."""
        self.closed = True
        os.close(self._fd)

    def _read(self, chunk: _Chunk) -> bytes:
        return os.pread(self._fd, chunk.size, chunk.at)

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._fd, view, at)
            except OSError as error:
                error.filename = self.path
                raise
            view, at = view[written:], at + written


class _Named(msgspec.Struct):
    event: str = ""


_names = msgspec.json.Decoder(_Named)


def _kept(lines: bytes) -> bytes:
    """Return those of the lines that are events of KEPT."""
    return b"".join(line for line in lines.splitlines(keepends=True) if _names.decode(line).event in KEPT)


def _newest(chunks: list[_Chunk], room: int) -> list[_Chunk]:
    """Return the last of the chunks, as many as fit."""
    first = len(chunks)
    while first > 0 and chunks[first - 1].size <= room:
        first -= 1
        room -= chunks[first].size
    return chunks[first:]


def _pack(kind: bytes, raw: bytes | bytearray) -> bytes:
    stored = zstandard.compress(raw, level=1)
    head = CHUNK.pack(kind, len(stored), len(raw), 0)[:12]
    return head + checksum(head, stored).to_bytes(4, "little") + stored


def _valid(value: Any) -> Any:
    """Return `value` with strings that are valid Unicode; names that are not UTF-8 come with surrogates."""
    match value:
        case str():
            return printable(value)
        case dict():
            return {key: _valid(item) for key, item in value.items()}
        case list() | tuple():
            return [_valid(item) for item in value]
    return value
