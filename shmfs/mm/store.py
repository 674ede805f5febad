"""The managed store: shmfs owns the frames, so that every page is charged, counted and logged exactly."""

from collections.abc import Callable, Iterable

from shmfs.events.hooks import Instruments
from shmfs.mm.arena import Arena
from shmfs.mm.reservation import Reservation
from shmfs.mm.runs import Frames, Run


class ManagedStore:
    """Frames and the limit they are charged against, shared by the address spaces of one superblock."""

    def __init__(self, blocks: Reservation, instruments: Instruments) -> None:
        self.arena = Arena()
        self.blocks = blocks
        """Pages charged, against the `size=` of the mount."""
        self.instruments = instruments

    def charge(self, ino: int, index: int, count: int) -> None:
        """Charge `count` pages from page `index` of inode `ino` on; raises ENOSPC and tells `refuse`."""
        try:
            self.blocks.charge(count)
        except OSError:
            self.refused(ino, index, count)
            raise

    def refused(self, ino: int, index: int, count: int) -> None:
        """Tell the instruments that the limit did not allow `count` pages."""
        if "refuse" in self.instruments:
            self.instruments.call("refuse", ino, index, count, "size")

    def populate(self, runs: Iterable[Run]) -> Callable[[], None]:
        """Work that backs allocated pages with memory now (reserve=prefault).

        The work touches no state of the model, so it may run in a thread; it raises ENOSPC or ENOMEM.
        """
        frames = [(run.frame, run.length) for run in runs]

        def work() -> None:
            for frame, count in frames:
                self.arena.populate(frame, count)

        return work

    def free(self, frames: Frames) -> None:
        """Uncharge frames and give them back."""
        for firsts, counts in frames.chunks:
            self.arena.free(firsts, counts)
        self.blocks.uncharge(frames.pages)
