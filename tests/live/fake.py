"""Something to watch that is always the same."""

import numpy as np

from shmfs.live import watch
from shmfs.live.model import Limits, ProcessRow, Rates, SegmentRow, Snapshot, SourceRow
from shmfs.live.model import Share as Has
from shmfs.system.pagemap import Matrix, ProcessPages

PAGE = 4096
MIB = 1 << 20
NAMES = {100: "producer", 101: "worker", 102: "worker", 103: "collect[bold]\x1b"}
SOURCES = [
    SourceRow("size, resident, page-ins, refused, peak, creator, limits", "fuse, mm", exact=True),
    SourceRow("mapped, present, shared, PSS, USS", "pagemap, every 2 s", exact=False),
    SourceRow("faults", "perf", exact=True),
]


def pages(pid: int, *runs: range, copies: range = range(0)) -> ProcessPages:
    index = np.array([page for run in runs for page in run], np.int64)
    own = np.array(list(copies), np.int64)
    frames = (index + 0x1000).astype(np.uint64)
    return ProcessPages(pid, NAMES[pid], 225 * PAGE, index, frames, own, own.astype(np.uint64) + np.uint64(9))


MATRIX = Matrix(
    "0:57",
    2,
    "/dev/shm/frames",
    [pages(100, range(225)), pages(101, range(90), copies=range(200, 210)), pages(102, range(120, 225))],
    frames_visible=True,
    hidden=0,
)


def segment(inode: int, path: str, size: int, resident: int, **more) -> SegmentRow:
    fields = {"unlinked": False, "created_by": "producer 100", "refused": 0, "page_ins": 0.0}
    return SegmentRow(inode, path, size, resident, **fields | more)


def segments() -> list[SegmentRow]:
    return [
        segment(
            *(2, "/frames", 225 * PAGE, 225),
            processes=3,
            shared=195,
            faults=Rates(120.0, 3.0),
            page_ins=30.0,
        ),
        segment(3, "/film", 44 * MIB, 8000, processes=1, shared=0, faults=Rates(2400.0), page_ins=2400.0),
        segment(4, "/[red]evil\n\x1b[31m\u202e", 10 * PAGE, 3, faults=Rates(0, 0, 1.0), refused=7),
        segment(5, "/a/very/long/name/that/goes/on/and/on/and/on/to/its/end", 0, 0, faults=Rates()),
        segment(6, "", PAGE, 1, unlinked=True, created_by="", faults=Rates(), processes=1),
    ]


def shares() -> list[Has]:
    return [
        Has(100, 2, 225 * PAGE, 225, 127 * PAGE + 2048, 30 * PAGE, Rates(100.0)),
        Has(101, 2, 225 * PAGE, 90, 45 * PAGE, 0, Rates(20.0, 3.0)),
        Has(102, 2, 225 * PAGE, 105, 52 * PAGE + 2048, 0, Rates()),
        Has(103, 3, 44 * MIB, 8000, 8000 * PAGE, 8000 * PAGE, Rates(2400.0)),
        Has(103, 6, PAGE, 1, PAGE, PAGE, Rates()),
    ]


def processes() -> list[ProcessRow]:
    found: dict[int, ProcessRow] = {}
    for share in shares():
        one = found.setdefault(share.pid, ProcessRow(share.pid, NAMES[share.pid], 0, 0, 0, 0, 0, Rates()))
        one.segments += 1
        one.mapped += share.mapped
        one.pages += share.pages
        one.pss += share.pss
        one.uss += share.uss
        one.faults += share.faults
    return list(found.values())


def snapshot() -> Snapshot:
    return Snapshot(
        time=1_700_000_000.0,
        mount="/mnt/shm",
        device="0:57",
        store="managed",
        seconds=2.0,
        cost=0.04,
        limits=Limits(33 * MIB, 64 * MIB, 40 * MIB, 6, 4000, 7),
        faults=Rates(2520.0, 3.0, 1.0),
        page_ins=2430.0,
        segments=segments(),
        processes=processes(),
        shares=shares(),
        sources=list(SOURCES),
    )


class Fake(watch.Watched):
    """Shows `snapshots`, one a look, and then the last one again and again."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self.snapshots = list(snapshots) or [snapshot()]
        self.looks = 0
        self.closed = False

    def look(self) -> Snapshot:
        found = self.snapshots[min(self.looks, len(self.snapshots) - 1)]
        self.looks += 1
        return found

    def matrix(self, inode: int) -> Matrix:
        if inode == MATRIX.inode:
            return MATRIX
        return Matrix("0:57", inode, "", [], True, 0)

    def close(self) -> None:
        self.closed = True
