"""Where the story plays: a private mount, two processes, and the looks at both after each step."""

import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec

from shmfs.client import control, launch
from shmfs.errors import ShmfsError
from shmfs.explain import actors, kernel
from shmfs.explain.actors import MAP_SHARED, PROT_READ, PROT_WRITE, SHM, Actor, Failed, Process
from shmfs.explain.records import Cache, Claim, Step, Touch, View
from shmfs.system import syscall_table

PAGE = kernel.PAGE
PAGES = 16
"""The size of the mount: few enough to fill it under the reader's eyes."""

_MARK = "/.explain-"
_PATIENCE = 10.0
_MADV_RANDOM = 1


class Skip(Exception):  # noqa: N818  # no error: the machine cannot show it
    """Why a chapter is not told: a sentence's worth, without its beginning."""


class Mapping:
    """One mapping of one process."""

    def __init__(self, actor: Actor, address: int, pages: int) -> None:
        self.actor, self.address, self.pages = actor, address, pages

    def unmap(self) -> None:
        """See munmap(2)."""
        self.actor.call("munmap", self.address, self.pages * PAGE)

    def at(self, page: int) -> int:
        """The address of a page."""
        return self.address + page * PAGE


class Stage:
    """The mount, A and B. What the actors do is noted until `step` makes a Step of it."""

    def __init__(self, server: launch.Server, a: Process, b: Process, events: "Events") -> None:
        self.server, self.a, self.b = server, a, b
        self.store = server.statistics().store
        self._events = events
        self._touches: list[Touch] = []
        self._marks = 0

    @property
    def managed(self) -> bool:
        """Whether shmfs holds the pages itself."""
        return self.store == "managed"

    def map(
        self,
        actor: Actor,
        fd: int,
        pages: int,
        flags: int = MAP_SHARED,
        protection: int = PROT_READ | PROT_WRITE,
    ) -> Mapping:
        """See mmap(2). The kernel is told not to read ahead."""
        address = actor.call("mmap", 0, pages * PAGE, protection, flags, fd, 0)
        with suppress(Failed):
            actor.call("madvise", address, pages * PAGE, _MADV_RANDOM)
        return Mapping(actor, address, pages)

    def load(self, mapping: Mapping, page: int) -> Touch:
        """Load the first byte of a page; the faults are noted."""
        return self._note(mapping.actor.touch(mapping.at(page), page))

    def store_byte(self, mapping: Mapping, page: int, value: str) -> Touch:
        """Store into the first byte of a page; the faults are noted."""
        return self._note(mapping.actor.touch(mapping.at(page), page, value))

    def dies(self, mapping: Mapping, page: int) -> Touch:
        """Have a child of the process store into a page, and see what becomes of it."""
        return self._note(mapping.actor.touch(mapping.at(page), page, "!", child=True))

    def _note(self, touch: Touch) -> Touch:
        self._touches.append(touch)
        return touch

    def view(self, mapping: Mapping, *pages: int) -> View:
        """What the kernel says of these pages of a mapping."""
        pid = mapping.actor.pid
        vma = kernel.vma(pid, mapping.address)
        found = [kernel.page(pid, mapping.at(page), page) for page in pages]
        return View(mapping.actor.name, pid, vma, found)

    def views(self, *mappings: Mapping) -> list[View]:
        """What the kernel says of page 0 of each mapping."""
        return [self.view(one, 0) for one in mappings]

    def cache(self, mapping: Mapping, fd: int | None = None) -> Cache:
        """What of a mapping's pages is in the page cache, whoever has it mapped."""
        raw = mapping.actor.buffer("mincore", mapping.pages, mapping.address, mapping.pages * PAGE, "BUFFER")
        found = Cache([bool(one & 1) for one in raw[: mapping.pages]])
        if fd is not None:
            with suppress(Failed):
                span = _words(mapping.actor, fd)
                found.cached, found.dirty = span
        return found

    def df(self) -> dict[str, int]:
        """The mount by statfs(2), in blocks, which are pages."""
        return self.a.figures("statvfs", SHM)

    def blocks(self, name: str) -> int:
        """Pages of a file of the mount by st_blocks, in 512 bytes."""
        return self.a.figures("stat", f"{SHM}/{name}")["st_blocks"] * 512 // PAGE

    def used(self) -> int:
        """Pages charged on the mount."""
        return self.server.statistics().used // PAGE

    def settled(self, used: int) -> int:
        """`used()`, waiting a moment for that value: the kernel tells of a last close after its return."""
        deadline = time.monotonic() + _PATIENCE
        while (found := self.used()) != used and time.monotonic() < deadline:
            time.sleep(0.005)
        return found

    def step(
        self,
        title: str,
        sentence: str,
        functions: str,
        claims: list[Claim],
        views: list[View] | None = None,
        *,
        cache: Cache | None = None,
        blocks: int | None = None,
        facts: list[tuple[str, str]] | None = None,
    ) -> Step:
        """What has happened since the last step."""
        touches, self._touches = self._touches, []
        used = self.used()
        return Step(
            title, sentence, functions.split(), views or [], touches, cache, used, blocks, self._logged(),
            claims, facts or [],
        )  # fmt: skip

    def forget(self) -> None:
        """What was done to clear up belongs to no step."""
        self._touches.clear()
        self._logged()

    def _logged(self) -> list[dict[str, Any]]:
        """What shmfs has logged since it was last asked: all up to a mark that A leaves in the log."""
        self._marks += 1
        mark = f"{_MARK}{self._marks}"
        self.a.call("mkdir", SHM + mark, 0o700)
        self.a.call("rmdir", SHM + mark)
        return self._events.until(mark)


def _words(actor: Actor, fd: int) -> tuple[int, int]:
    """cachestat(2) of a whole file: cached and dirty pages. Raises Failed."""
    # struct cachestat_range and struct cachestat in one buffer: two and five 64-bit words.
    raw = actor.buffer("syscall", 56, syscall_table.number("cachestat"), fd, "BUFFER", "BUFFER+16", 0)
    words = [int.from_bytes(raw[at : at + 8], "little") for at in range(16, 56, 8)]
    return words[0], words[1]


class Events:
    """The daemon's log, followed."""

    def __init__(self, device: str) -> None:
        self._fd = control.events(device)
        self._rest = b""
        self._waiting: list[dict[str, Any]] = []

    def until(self, mark: str) -> list[dict[str, Any]]:
        """The records before the one that removes the directory `mark`; marks are left out."""
        deadline = time.monotonic() + _PATIENCE
        found: list[dict[str, Any]] = []
        while True:
            while self._waiting:
                record = self._waiting.pop(0)
                if record["event"] == "unlink" and record["path"] == mark:
                    return found
                if not record.get("path", "").startswith(_MARK):
                    found.append(record)
            if not select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ShmfsError(f"the daemon told nothing of {mark} within {_PATIENCE:.0f} seconds")
            data = os.read(self._fd, 1 << 16)
            if not data:
                raise ShmfsError("the daemon has ended; was it killed?")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._waiting += [msgspec.json.decode(line) for line in lines if line]

    def close(self) -> None:
        """Follow no more."""
        os.close(self._fd)


@contextmanager
def open_stage(pages: str) -> Iterator[Stage]:
    """A mount with `pages` managed or native, in a sandbox of its own, with A and B in it; then nothing.

    Raises ShmfsError with the reason where the machine does not permit it.
    """
    options = f"size={PAGES * PAGE // 1024}k,noexec,pages={pages}"
    with ExitStack() as stack:
        server = launch.start(os.path.realpath(SHM), options, sandbox=True)
        events = Events(server.device)
        stack.callback(events.close)
        stack.callback(server.stop)  # before the log's other end is closed
        a, b = stack.enter_context(actors.two(server.pid))
        yield Stage(server, a, b, events)
