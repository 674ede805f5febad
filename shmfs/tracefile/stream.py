r"""The trace: one append-only file of what happened, by convention `*.shmtrace`. Version 1.

All integers are little-endian. The file is a header of 16 bytes and chunks, one behind the other:

    header   8 bytes b"\x89SHMTRC\n", u32 version = 1, u32 flags = 0
    chunk    4 bytes kind, u32 stored length, u32 raw length,
             u32 crc32 (zlib's) of these 12 bytes and the stored payload
             payload: one zstd frame of the raw bytes

A recorder that was killed leaves a last chunk that is not whole: a reader stops before the first chunk that
is not whole or whose crc is wrong, and everything before it is good. Chunks of an unknown kind are skipped.
The kinds, with what their raw bytes are:

    META  a JSON object (`Meta`), always the first chunk
    EVNT  JSON lines, an event each, in about the order of their time
    FLTS  page faults, see below, in about the order of their time
    DONE  a JSON object (`Done`), always the last chunk; without it the recorder was killed or still runs
          (then it holds a lock, flock(2), on the file)

Faults are rows of `FAULT`. Segments and processes are named by ids; the events that introduce an id come
before the faults that use it.

    time     u64  nanoseconds since the epoch
    page     u64  index in the file, of pages of Meta.page_size
    ip       u64  instruction pointer in user space; 0 unknown
    segment  u32
    process  u32
    tid      u32
    kind     u8   0 unknown, 1 minor, 2 major, 3 failed (SIGBUS), with proof only. A fault that a signal
                  aborts and that is repeated is one row; `outcomes` says what cannot be distinguished
    access   u8   0 unknown, 1 read, 2 write, 3 execute
    source   u8   0 perf, 1 filemap (fault-around: a page that was mapped without a fault of its own; its
                  thread is that of the fault beside it, its kind and access are 0)
    cpu      u8

The raw bytes of FLTS: u32 count, u32 0, then for each field in this order its `count` values as planes of
bytes: the lowest byte of every value, then the second byte of every value, and so on. `time` is the
difference (i64) from the row before, and the time itself in the first row. Equal bytes lie together so, which
makes zstd fast and a fault about 4 bytes. In numpy:

    rows = np.zeros(count, FAULT)  # 40 bytes a row
    for at in range(40):
        rows.view("u1").reshape(count, 40)[:, at] = np.frombuffer(raw, "u1", count, 8 + at * count)
    rows["time"] = np.cumsum(rows["time"])

Every event has "event", "time" (ns since the epoch) and "source" ("perf", "fuse", "mm", "pagemap", "shmfs"):

    process     process (an id: 0, 1, 2 …), pid, parent (an id or null), command,
                start_time (ns since the epoch or null)
    exec        process, command
    exit        process, status (as a shell says it, 128+N for signal N; null: not known)
    segment     segment (an id: 0, 1, 2 …), device ("0:57"), inode,
                path (from the mount's root, starts with "/")
    map         process, segment, address, length, page (first page of the file), protection ("rw-"),
                shared (bool)
    sample      segment, process, pages (present), pss (bytes), uss (bytes): sampled
    shared      segment, pages (most that two or more processes had at once in this sample): sampled
    lost        of ("perf", "fuse" or "mm"), count (at least). With process: perf did not follow it from then
                until `until` (ns since the epoch, or null: to its end, for `reason`), see `gaps`
    stale       observer, figures (names of events, or of fields of `records`), reason: an observer failed, so
                that these figures are not brought up to date from then on
    sigbus      process or null, pid, tid, command, segment or null, page or null, path, reason (a sentence's
                end), limit (bytes or 0), holders [{path, bytes, pid, command}] (the largest; more_holders
                counts the others), held_after (ns from the fault until holders were looked at; 0: exact),
                enough (a size as "37m", or null). Whether it was fatal is in the status of the event exit
    refusal     path, refusal: an object (`records.Refusal`), the first of its kind; source mm: the daemon
                refused, with inode; source perf: the kernel did. One with the same `time`, `pid`, `errno`,
                `call` and `path` later on, or in the statistics, is the same one, with a newer `count`
    statistics  statistics: what the daemon knows of its mount (`records.Statistics`), at the end
    read, write inode, path, offset, length (bytes that were read or written), pid, tid: a call that did not
                fail, or a part of it, for the kernel asks for 1 MiB at most at a time; only with --trace-io,
                on native pages, of files that were opened meanwhile; not of sendfile(2), splice(2) and
                copy_file_range(2)
    create, open, release, link, unlink, rename, resize, evict, allocate, free, page_in, refuse, usage
                what the daemon sees: inode, path, and the arguments of the hook (`instruments.HOOKS`);
                a pid, not the id of a process. Pages that follow each other within some 20 ms, and nothing
                else on the mount, may be one allocate or page_in with the time of the first

Strings are valid Unicode: bytes of names that are not UTF-8 are written as `\xNN` (`names.printable`).

Where the size of the file is bounded (`Writer`), the oldest or the latest faults may be missing, and of the
events all that are not of `KEPT`; `Done` says how many.
"""

import fcntl
import os
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

import shmfs
from shmfs.errors import ShmfsError
from shmfs.tracefile.format import (
    ACCESSES,
    CHUNK,
    DONE,
    EVENTS,
    FAULT,
    FAULTS,
    HEADER,
    KEPT,
    KINDS,
    MAGIC,
    MAX_ID,
    MAX_RAW,
    META,
    SOURCES,
    VERSION,
    Done,
    Event,
    Faults,
    Meta,
    Source,
    checksum,
    decode,
)
from shmfs.tracefile.writer import Writer

__all__ = [
    "ACCESSES",
    "FAULT",
    "KEPT",
    "KINDS",
    "SOURCES",
    "Done",
    "Event",
    "Faults",
    "Meta",
    "Source",
    "Trace",
    "Writer",
    "open",
]


class _Chunk(NamedTuple):
    kind: bytes
    at: int
    """Of the payload."""
    length: int
    raw: int


class Trace:
    """A trace as it was when it was opened; what is added later takes another `open`."""

    meta: Meta
    done: Done | None
    """None if the recorder was killed, or still runs."""
    damage: str
    """What is wrong with the rest of the file, which is not read; "" if nothing is."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self.close = weakref.finalize(self, os.close, self._fd)
        """Close the file; it closes by itself with the last reference, too."""
        self._zstd = zstandard.ZstdDecompressor()
        self._lines: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
        self.damage = ""
        self._check_header()
        self._chunks = list(self._scan())
        kinds = [chunk.kind for chunk in self._chunks]
        if kinds[:1] != [META]:
            raise ShmfsError(
                f"{self.path} is a shmfs trace without a beginning, so nothing can be read of it"
            )
        self.meta = self._json(self._chunks[0], Meta)
        self.done = self._json(self._chunks[-1], Done) if kinds[-1] == DONE else None

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def complete(self) -> bool:
        """Say whether the recorder came to its end, and all of it is here."""
        return self.done is not None and not self.damage

    @property
    def growing(self) -> bool:
        """Say whether the recorder still runs."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return False

    @property
    def count(self) -> int:
        """The arrays and lists that `chunks` yields."""
        return sum(chunk.kind in (FAULTS, EVENTS) for chunk in self._chunks)

    def chunks(self) -> Iterator[Faults | list[Event]]:
        """Yield faults and events as they come in the file: an array or a list, of a chunk each."""
        for chunk in self._chunks:
            if chunk.kind == FAULTS:
                yield self._faults(chunk)
            elif chunk.kind == EVENTS:
                yield self._events(chunk)

    def faults(self) -> Iterator[Faults]:
        """Yield arrays of FAULT, of a chunk each: some ten thousand rows."""
        for chunk in self._chunks:
            if chunk.kind == FAULTS:
                yield self._faults(chunk)

    def fault_array(self) -> Faults:
        """Return all faults at once, 40 bytes each."""
        return np.concatenate([np.empty(0, FAULT), *self.faults()])

    def events(self) -> Iterator[Event]:
        """Yield the events in the order of the file."""
        for chunk in self._chunks:
            if chunk.kind == EVENTS:
                yield from self._events(chunk)

    @cached_property
    def processes(self) -> list[Event]:
        """The events "process" by id, with the newest "command"; and "exit" (time or None) and "status"."""
        return self._known[0]

    @cached_property
    def segments(self) -> list[Event]:
        """The events "segment" by id."""
        return self._known[1]

    @cached_property
    def _known(self) -> tuple[list[Event], list[Event]]:
        known = Known()
        for event in self.events():
            known.learn(event)
        return known.processes, known.segments

    # The file.

    def _check_header(self) -> None:
        regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        header = os.pread(self._fd, HEADER.size, 0) if regular else b""
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise ShmfsError(f"{self.path} is not a shmfs trace")
        _, version, _ = HEADER.unpack(header)
        if version > VERSION:
            raise ShmfsError(
                f"{self.path} is a trace of version {version}, and this shmfs ({shmfs.__version__}) reads "
                f"version {VERSION} only"
            )

    def _scan(self) -> Iterator[_Chunk]:
        at, size = HEADER.size, os.fstat(self._fd).st_size
        while at < size:
            head = os.pread(self._fd, CHUNK.size, at)
            kind, length, raw, crc = CHUNK.unpack(head) if len(head) == CHUNK.size else (b"", size, 0, 0)
            chunk = _Chunk(kind, at + CHUNK.size, length, raw)
            if chunk.at + length > size:
                self.damage = f"it ends within a chunk: {size - at} bytes at its end are not read"
                return
            if max(raw, length) > MAX_RAW or checksum(head[:12], self._read(chunk)) != crc:
                self.damage = f"it is damaged at byte {at}: {size - at} bytes from there on are not read"
                return
            yield chunk
            at = chunk.at + length

    def _read(self, chunk: _Chunk) -> bytes:
        return os.pread(self._fd, chunk.length, chunk.at)

    def _raw(self, chunk: _Chunk) -> bytes:
        stored = self._read(chunk)
        if zstandard.frame_content_size(stored) != chunk.raw:
            raise ValueError("another length than it says")
        return self._zstd.decompress(stored)

    def _json(self, chunk: _Chunk, kind: type[Any]) -> Any:
        with self._readable(chunk):
            return msgspec.json.decode(self._raw(chunk), type=kind)

    def _faults(self, chunk: _Chunk) -> Faults:
        with self._readable(chunk):
            return decode(self._raw(chunk))

    def _events(self, chunk: _Chunk) -> list[Event]:
        with self._readable(chunk):
            return self._lines.decode_lines(self._raw(chunk))

    @contextmanager
    def _readable(self, chunk: _Chunk) -> Iterator[None]:
        """Say in a sentence what no checksum tells: it changed meanwhile, or something else wrote it."""
        try:
            yield
        except (ValueError, zstandard.ZstdError, msgspec.MsgspecError) as error:
            raise ShmfsError(f"{self.path}: the chunk at byte {chunk.at} cannot be read: {error}") from error


class Known:
    """Processes and segments by id, as far as the events tell that it has learned."""

    def __init__(self) -> None:
        self.processes: list[Event] = []
        self.segments: list[Event] = []

    def learn(self, event: Event) -> None:
        """Take over what `event` says of a process or a segment; others, and malformed ones, say nothing."""
        match event:
            case {"event": "process", "process": int(number)}:
                _put(self.processes, number, {"exit": None, "status": None} | event)
            case {"event": "exec", "process": int(number), "command": str(command)}:
                _update(self.processes, number, command=command)
            case {"event": "exit", "process": int(number), "time": int(time)}:
                _update(self.processes, number, exit=time, status=event.get("status"))
            case {"event": "segment", "segment": int(number)}:
                _put(self.segments, number, event)

    def process(self, number: int | None) -> Event:
        """Return what is known of the process with an id; {} is nothing. Raises TypeError if it is no id."""
        return _row(self.processes, number)

    def segment(self, number: int | None) -> Event:
        """Return what is known of the segment with an id, likewise."""
        return _row(self.segments, number)


def split(parts: Iterable[Faults | list[Event]], receive: Callable[[Event], None]) -> Iterator[Faults]:
    """Yield the faults of `parts`, as `Trace.chunks` yields them; `receive` gets the events between them."""
    for part in parts:
        if isinstance(part, list):
            for event in part:
                receive(event)
        else:
            yield part


def _row(known: list[Event], number: int | None) -> Event:
    return known[number] if number is not None and 0 <= number < len(known) else {}


def _put(known: list[Event], number: int, event: Event) -> None:
    if len(known) <= number < MAX_ID:
        known.extend({} for _ in range(number + 1 - len(known)))
    if 0 <= number < len(known):
        known[number] = event


def _update(known: list[Event], number: int, **fields: Any) -> None:
    if 0 <= number < len(known):
        known[number].update(fields)


def open(path: str | os.PathLike[str]) -> Trace:  # noqa: A001  # it is trace.open, as there is gzip.open
    """Open the trace at `path`; raises ShmfsError with a sentence if it is none that can be read."""
    try:
        return Trace(path)
    except OSError as error:
        raise ShmfsError(f"{os.fspath(path)}: {error.strerror}") from error
