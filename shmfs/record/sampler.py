"""Who maps what, looked at again and again while a command runs.

It reads maps and pagemap, which wait for the processes' mmap_lock: it runs in the process that supervises
the command, never in the daemon. What happens between two samples is not seen; the report says so.

With `start` its samples are taken in the thread `shmfs-sampler`; else the supervisor calls `attempt` between
two looks at the command. `observations` may be called from any thread.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from shmfs.events.names import printable
from shmfs.events.records import Mapped, Observation, Observations, Process, Stale
from shmfs.system import maps, pagemap
from shmfs.system.maps import Vma
from shmfs.system.processes import Processes

log = logging.getLogger(__name__)

FIGURES = ["mapped_by", "shared", "sample"]
"""What is seen by sampling, in reports and in a trace."""
SHORTEST = 0.02
LONGEST = 1.0
"""Seconds between samples."""

COST = 10
"""A sample is followed by at least so many times the time that it took."""


class _Seen:
    """What was seen of one inode so far."""

    def __init__(self) -> None:
        self.path = ""
        self.mapped_by: dict[tuple[int, int], Mapped] = {}
        self.shared = 0
        self.samples = 0
        self.attaches = 0


class Sampler:
    """Samples the processes `pids()` for what they map of the mount `device` ("0:57"), in a thread."""

    def __init__(
        self, device: str, pids: Callable[[], Iterable[int]], tell: Callable[..., None] | None = None
    ) -> None:
        """`tell` is called with the fields of an event for each process and segment of a sample."""
        self._tell = tell
        self._device = device
        self._pids = pids
        self._processes = Processes()
        self._seen: dict[int, _Seen] = {}
        self._hidden: set[int] = set()
        self._samples = 0
        self._first = self._last = 0.0
        self._stale: Stale | None = None
        self._lock = threading.Lock()
        """Guards what was seen: a sample changes it, and `observations` copies it."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shmfs-sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample soon, and go on until `stop`."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> Observations:
        """End the thread, for which it waits at most `timeout` seconds, and return what was seen."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return self.observations()

    def observations(self) -> Observations:
        """Return what was seen until now."""
        with self._lock:
            return Observations(
                device=self._device,
                samples=self._samples,
                interval=(self._last - self._first) / (self._samples - 1) if self._samples > 1 else 0.0,
                hidden=len(self._hidden),
                segments=[
                    Observation(
                        inode,
                        seen.path,
                        list(seen.mapped_by.values()),
                        seen.shared,
                        seen.samples,
                        seen.attaches,
                    )
                    for inode, seen in self._seen.items()
                ],
                stale=self._stale,
            )

    def attempt(self) -> bool:
        """Look once, and return whether to go on; a failure is logged, and shown in what was seen and told.

        Called by the thread of this class, or by the supervisor of a command; not again after a failure.
        """
        if self._stale is not None:
            return False
        try:
            self.sample()
        except Exception as error:
            log.exception("sampling who maps %s failed and was given up", self._device)
            failed = Stale("sampler", FIGURES, time.time_ns(), f"{type(error).__name__}: {error}")
            self._stale = failed
            if self._tell:
                self._tell(source="pagemap", **failed.event())
        return self._stale is None

    def sample(self) -> None:
        """Look once."""
        pages: dict[int, list[pagemap.Pages]] = {}
        paths: dict[int, str] = {}
        attaches: Counter[int] = Counter()
        mapped: list[tuple[int, Process, int, int]] = []
        hidden = set()
        for pid in self._pids():
            try:
                vmas = self._mappings(pid)
                process = self._processes.get(pid)
                if not vmas or process is None:
                    continue
                present = pagemap.present_pages(pid, vmas)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except PermissionError:
                hidden.add(pid)
                continue
            for inode, several in vmas.items():
                pages.setdefault(inode, []).append(present[inode])
                paths[inode] = several[-1].path
                attaches[inode] += sum(vma.is_shared for vma in several)
                size = sum(vma.end - vma.start for vma in several)
                mapped.append((inode, process, len(present[inode]), size))
        shared = {inode: len(pagemap.shared_pages(several)) for inode, several in pages.items()}
        if self._tell:
            self._tell_all(pages, mapped)
        with self._lock:
            self._hidden |= hidden
            self._note(paths, shared, mapped)
            for inode, number in attaches.items():
                self._seen[inode].attaches = max(self._seen[inode].attaches, number)

    def _tell_all(
        self, pages: dict[int, list[pagemap.Pages]], mapped: list[tuple[int, Process, int, int]]
    ) -> None:
        """Tell what each process has of each segment: pages present, and in bytes its share and its own."""
        assert self._tell  # noqa: S101
        for inode, several in pages.items():
            distinct, holders = np.unique(np.concatenate(several), return_counts=True)
            who = [process for number, process, _, _ in mapped if number == inode]
            for process, present in zip(who, several, strict=True):
                counts = holders[np.searchsorted(distinct, present)]
                self._tell(
                    event="sample",
                    source="pagemap",
                    inode=inode,
                    pid=process.pid,
                    pages=len(present),
                    pss=int((pagemap.PAGE / counts).sum()) if len(present) else 0,
                    uss=pagemap.PAGE * int((counts == 1).sum()),
                )
            self._tell(event="shared", source="pagemap", inode=inode, pages=int((holders > 1).sum()))

    def _mappings(self, pid: int) -> dict[int, list[Vma]]:
        by_inode: dict[int, list[Vma]] = {}
        for vma in maps.mappings(pid, self._device):
            by_inode.setdefault(vma.inode, []).append(vma)
        return by_inode

    def _note(
        self, paths: dict[int, str], shared: dict[int, int], mapped: list[tuple[int, Process, int, int]]
    ) -> None:
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._samples += 1
        for inode, path in paths.items():
            seen = self._seen.setdefault(inode, _Seen())
            seen.path = printable(path)
            seen.samples += 1
            seen.shared = max(seen.shared, shared[inode])
        for inode, process, pages, size in mapped:
            key = (process.pid, process.start_time)
            one = self._seen[inode].mapped_by.setdefault(key, Mapped(process, 0, 0))
            one.process = process  # it may have executed something else since
            one.pages = max(one.pages, pages)
            one.mapped = max(one.mapped, size)

    def _run(self) -> None:
        interval = 0.0
        while not self._stop.wait(interval):
            before = time.monotonic()
            if not self.attempt():
                return
            interval = min(LONGEST, max(SHORTEST, COST * (time.monotonic() - before)))


def observe(device: str) -> Observations:
    """Look once at all processes for what they map of the mount `device`."""
    found = maps.processes_mapping(device)
    sampler = Sampler(device, lambda: found.mappings)
    sampler.sample()
    seen = sampler.observations()
    seen.hidden += found.hidden
    return seen
