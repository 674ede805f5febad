"""The tracks of a Perfetto trace: processes with their threads, segments, the mount, the recording."""

from shmfs.export.perfetto.packets import MAX_PID, Message, Packets
from shmfs.report.text import clean
from shmfs.tracefile.format import Meta
from shmfs.tracefile.stream import Known

SEGMENTS = 10_000
"""Segments that get a track; what happens to further ones is on a track that they share."""

_BY_NAME, _AS_GIVEN = 1, 3
"""TrackDescriptor.ChildTracksOrdering."""


class Tracks:
    """Makes them when they are first asked for."""

    def __init__(self, packets: Packets, meta: Meta, known: Known) -> None:
        """`known` says who has which id, in the end."""
        self.known = known
        self.packets = packets
        self.shared_by = 0
        """Segments that have no track of their own."""
        self._device = meta.device
        self.recording = packets.track("shmfs", child_ordering=_AS_GIVEN)
        self.mount = packets.track(f"mount {meta.mount or '(unknown)'}", self.recording, sibling_order_rank=1)
        self._group = packets.track("segments", self.recording, sibling_order_rank=2, child_ordering=_BY_NAME)
        self.rest = 0
        """The track that further segments share; 0 until there are such."""
        self._processes: dict[int, int] = {}
        self._threads: dict[tuple[int, int], int] = {}
        self._segments: dict[int, int] = {}
        self._inodes: dict[int, int] = {}
        self._created: set[int] = set()
        """Inodes whose creation was seen: when that is seen again, it is another file."""
        self._made = 0

    def of_process(self, number: int) -> int:
        """Return the track of the process with an id."""
        if number not in self._processes:
            about = self.known.process(number)
            pid, command = about.get("pid"), about.get("command") or "?"
            if isinstance(pid, int) and 0 < pid <= MAX_PID:
                # A second one with the same pid is taken for what it is: another process.
                track = self.packets.track(process={"pid": pid, "process_name": clean(command)})
            else:
                track = self.packets.track(f"{command} (process {number}, pid unknown)")
            self._processes[number] = track
        return self._processes[number]

    def of_thread(self, process: int, tid: int) -> int:
        """Return the track of a thread of the process with an id."""
        key = process, tid
        if key not in self._threads:
            parent = self.of_process(process)
            about = self.known.process(process)
            pid = about.get("pid")
            if isinstance(pid, int) and 0 < pid <= MAX_PID and 0 < tid <= MAX_PID:
                thread: Message = {"pid": pid, "tid": tid}
                if tid == pid:
                    thread["thread_name"] = clean(about.get("command") or "?")
                self._threads[key] = self.packets.track(parent=parent, thread=thread)
            else:
                self._threads[key] = self.packets.track(f"thread {tid}", parent)
        return self._threads[key]

    def of_segment(self, number: int) -> int:
        """Return the track of the segment with an id."""
        if number not in self._segments:
            about = self.known.segment(number)
            inode, path = about.get("inode"), about.get("path") or ""
            if isinstance(inode, int) and self._device in ("", about.get("device")):
                track = self.of_inode(inode, path)
            else:  # it is no inode of the daemon's
                track = self._new(path or f"segment {number}")
            self._segments[number] = track
        return self._segments[number]

    def of_inode(self, inode: int, path: str, *, created: bool = False) -> int:
        """Return the track of what the daemon knows by an inode; `created` says that it was made just now."""
        if inode not in self._inodes or (created and inode in self._created):
            self._inodes[inode] = self._new(path or f"inode {inode}")
        if created:
            self._created.add(inode)
        return self._inodes[inode]

    def _new(self, path: str) -> int:
        if self._made >= SEGMENTS:
            self.shared_by += 1
            self.rest = self.rest or self.packets.track("further segments", self._group)
            return self.rest
        self._made += 1
        return self.packets.track(path, self._group)
