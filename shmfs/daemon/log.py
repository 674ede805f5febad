r"""The log as JSON lines: one record for everything that happens.

    {"time":1700000000000000000,"event":"page_in","inode":5,"path":"/psm_x","page":0,"pages":1}

`time` is in nanoseconds since the epoch; the other fields are the hook's arguments (`instruments.HOOKS`),
and `path` is the inode's name at that time, with bytes that are not UTF-8 as `\xNN`. `pid` is what FUSE
tells: the thread that called. Pages that follow each other, and nothing else but such, within PAUSE are one
record of RUNS with the time of the first. If records are missing, a last line
`{"time":…,"event":"lost","count":n}` says how many. Where an observer of the daemon fails, this one too,
`{"time":…,"event":"stale","observer":…,"figures":[…],"reason":…}` says what is not to be relied on from then.

The thread that serves the file system only appends to a buffer, and never waits for the file: the log may be
a pipe that a client of the mount reads, or does not read. Another thread writes.
"""

import contextlib
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from shmfs.events.hooks import HOOKS, Failure
from shmfs.events.names import Names, printable

log = logging.getLogger(__name__)

ROOM = 1_000_000
"""Records that wait at most, if the log is a regular file: there the writer is merely late."""

ROOM_PIPE = 50_000
"""The same for pipes and terminals, whose reader may have stopped reading."""

RUNS = "page_in", "allocate"
"""Hooks whose pages mostly come one behind the other, each with a call of its own."""

BATCH = 128
"""Records encoded at once. Small, for the serving thread needs the interpreter lock in between."""

PAUSE = 0.02
"""Seconds in which records gather: a writer that wakes for each would contend for the interpreter's lock."""

ATOM = 4096
"""A pipe that is ready takes this much without blocking (PIPE_BUF)."""

Record = tuple[Any, ...]
_TIME = itemgetter(0)

FIELDS = {
    hook: ("time", "event", "inode", "path", *(name for name in names[1:] if name != "path"), "source")
    for hook, names in HOOKS.items()
} | {
    "lost": ("time", "event", "count", "source"),
    "stale": ("time", "event", "observer", "figures", "reason", "source"),
}
"""Every event with its fields in order; a record has no source yet."""

SOURCES = dict.fromkeys(("page_in", "allocate", "free", "refuse", "refusal", "usage"), "mm")
"""Which instrument saw it, where that is not fuse."""

NAMING = {"create": 2, "link": 1, "unlink": 2, "rename": 2, "evict": 0}
"""Hooks that change names, with the number of arguments after the inode that `Names` wants."""


class JsonLines:
    """An instrument that writes every record to a descriptor, which stays the caller's to close.

    `paths` names inodes that were there before; `room` bounds the records that wait to be written; `hooks`
    are the events that are written. It never blocks its caller; what could not be written is counted in
    `lost`. It raises only after its writer has failed, so that it is removed.
    """

    figures = ("events",)

    def __init__(
        self,
        fd: int,
        paths: Mapping[int, str] | None = None,
        room: int | None = None,
        *,
        hooks: Collection[str] = tuple(HOOKS),
        name: str = "log",
    ) -> None:
        self.name = name
        self.failed_at = 0
        """When the writer failed; 0 while it has not."""
        self.failure = ""
        """Why it failed."""
        for hook in HOOKS.keys() - hooks:
            setattr(self, hook, None)
        self._fd = fd
        self._regular = _is_regular(fd)
        self._room = room or (ROOM if self._regular else ROOM_PIPE)
        self._names = Names()
        for inode, path in (paths or {}).items():
            self._names.open(inode, path)
        self._buffer: deque[Record] = deque()
        # By hook and inode the run that may go on. Whoever works on one has popped it, so nobody else does.
        self._runs: dict[str, dict[int, list[Any]]] = {hook: {} for hook in RUNS}
        self._dropped = 0  # changed by the serving thread only
        self._failed = 0  # changed by the writer only
        self._taken = 0  # records that the writer has and has not written yet
        self._written = 0
        self._torn = False
        self._complained = False
        self._encoder = msgspec.json.Encoder()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._give_up = False
        self._writer = threading.Thread(target=self._run, name="shmfs-log", daemon=True)
        self._writer.start()

    @property
    def lost(self) -> int:
        """Records that were dropped because the buffer was full, or could not be written."""
        return self._dropped + self._failed + (len(self._buffer) if self.failed_at else 0)

    def stale(self, failure: Failure) -> None:
        """Write that an observer failed."""
        if self.failed_at:
            return  # the writer has written that itself
        self._append((failure.since, "stale", failure.observer, failure.figures, failure.reason))

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits, and the number of lost records if there are any.

        Gives up when nothing could be written for `timeout` seconds; the rest is lost, too.
        """
        self._closing = True
        self._hurry.set()
        self._wake.set()
        written, since = -1, time.monotonic()
        while self._writer.is_alive():
            self._writer.join(0.05)
            if self._written != written:
                written, since = self._written, time.monotonic()
            elif time.monotonic() - since > timeout:
                self._give_up = True
                self._writer.join(1.0)  # more only if write(2) itself hangs
                return

    def _ended(self) -> list[Record]:
        """The runs, which end here."""
        ended: list[Record] = []
        for runs in self._runs.values():
            while runs:
                with contextlib.suppress(KeyError):  # the other thread was faster
                    ended.append(tuple(runs.popitem()[1]))
        return ended

    def _end_runs(self) -> None:
        """What happens next comes after them."""
        for run in sorted(self._ended(), key=_TIME):
            self._append(run)

    def _append(self, record: Record) -> None:
        if len(self._buffer) >= self._room or self._closing:
            self._drop()
            return
        self._buffer.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def _drop(self) -> None:
        self._dropped += 1
        if self.failed_at:
            raise RuntimeError(f"its writer failed: {self.failure}")

    # The writer's side.

    def _run(self) -> None:
        try:
            self._write_all()
        except Exception as error:
            self.failed_at, self.failure = time.time_ns(), f"{type(error).__name__}: {error}"
            self._closing = True
            self._failed += self._taken
            log.exception("writing the log failed and was given up")
            failed = Failure(self.name, self.figures, self.failed_at, f"its writer failed: {self.failure}")
            with contextlib.suppress(Exception):
                self._write(
                    [(failed.since, "stale", failed.observer, failed.figures, failed.reason)], count=0
                )

    def _write_all(self) -> None:
        while True:
            self._wake.wait()
            self._hurry.wait(PAUSE)
            self._wake.clear()
            closing = self._closing  # before the buffer is seen empty: nothing is appended afterwards
            records = self._take()
            for first in range(0, len(records), BATCH):
                self._taken = len(records) - first
                self._write(records[first : first + BATCH])
            self._taken = 0
            if closing:
                if self.lost:
                    self._write([(time.time_ns(), "lost", self.lost)], count=0)
                return

    def _take(self) -> list[Record]:
        """All that waits, in order of time: what comes behind a run that was taken may come meanwhile."""
        ended = self._ended()
        records = [self._buffer.popleft() for _ in range(len(self._buffer))]
        return sorted(records + ended, key=_TIME) if ended else records

    def _write(self, records: list[Record], count: int | None = None) -> None:
        """Write some records. What fails is counted; an unfinished line is ended before the next one."""
        prefix = b"\n" if self._torn else b""
        data = prefix + self._encode(records)
        done = 0
        try:
            while done < len(data):
                done += self._write_some(data[done : done + ATOM] if not self._regular else data[done:])
                self._written += 1
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("the log cannot be written: %s; records are lost", error.strerror)
        if done:
            self._torn = not data.endswith(b"\n", 0, done)
        if done < len(data):
            self._failed += data.count(b"\n", max(done, len(prefix))) if count is None else count

    def _write_some(self, data: bytes) -> int:
        if not self._regular:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            while not poll.poll(0 if self._give_up else 50):
                if self._give_up:
                    raise OSError(0, "its reader does not read")
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # somebody else filled the pipe meanwhile
            return 0

    def _encode(self, records: list[Record]) -> bytes:
        lines = [
            dict(zip(FIELDS[record[1]], (*record, SOURCES.get(record[1], "fuse")), strict=True))
            for record in records
        ]
        try:
            return self._encoder.encode_lines(lines)
        except UnicodeEncodeError:
            for line in lines:
                for key in ("path", "old_path"):
                    if key in line:
                        line[key] = printable(line[key])
            return self._encoder.encode_lines(lines)


def _is_regular(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False  # the first write will tell


def _recorder(hook: str) -> Callable[..., None]:
    """Return the method for `hook`: it keeps the names up to date and appends a record."""
    now = time.time_ns
    arguments = HOOKS[hook]
    wanted = NAMING.get(hook, 0)
    keep: Callable[..., None] | None = getattr(Names, hook) if hook in NAMING else None

    if "path" not in arguments:

        def record(self: JsonLines, inode: int, *rest: object) -> None:
            self._end_runs()
            self._append((now(), hook, inode, self._names.get(inode), *rest))
            if keep:
                keep(self._names, inode, *rest[:wanted])

    else:
        where = arguments.index("path") - 1

        def record(self: JsonLines, inode: int, *rest: object) -> None:
            self._end_runs()
            self._append((now(), hook, inode, rest[where], *rest[:where], *rest[where + 1 :]))
            if keep:
                keep(self._names, inode, *rest[:wanted])

    record.__name__ = hook
    return record


def _run_recorder(hook: str) -> Callable[..., None]:
    """Return the method for `hook` of RUNS: it makes a run longer, or begins one."""
    now = time.time_ns

    def record(self: JsonLines, inode: int, page: int, pages: int) -> None:
        runs = self._runs[hook]
        run = runs.pop(inode, None)
        if run is not None and run[-2] + run[-1] == page:
            run[-1] += pages
        else:
            if run is not None:
                self._append(tuple(run))
            if self._closing:
                self._drop()
                return
            run = [now(), hook, inode, self._names.get(inode), page, pages]
        runs[inode] = run
        if not self._wake.is_set():
            self._wake.set()

    record.__name__ = hook
    return record


for _hook in HOOKS:
    setattr(JsonLines, _hook, (_run_recorder if _hook in RUNS else _recorder)(_hook))
