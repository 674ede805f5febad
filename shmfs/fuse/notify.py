"""Notifications to the kernel that wait for locks which a client of the mount may hold: sent by threads.

The thread that serves requests calls `drop_name` and `drop_pages`, which only queue. Threads of deferred work
call `store_pages` and `wait`, a thread at the end of the mount `close`: these block, and the serving thread
must not call them.
"""

import logging
import os
import queue
import struct
import threading
import time

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IiQ")
_INVAL_INODE = 2
_INVAL_INODE_OUT = struct.Struct("<Qqq")
_INVAL_ENTRY = 3
_INVAL_ENTRY_OUT = struct.Struct("<QII")
_STORE = 4
_STORE_OUT = struct.Struct("<QQII")
_PATIENCE = 1.0
"""Seconds that an answer waits for a store."""


class Notifier:
    """Has the kernel drop names and pages from its cache; what it does not have is nothing to drop."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._queue: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._asked = self._done = 0
        self._progress = threading.Condition()
        """Guards `_done`."""
        self._thread: threading.Thread | None = None
        self._stores: set[threading.Thread] = set()
        self._closed = False

    def drop_name(self, parent: int, name: bytes) -> None:
        """FUSE_NOTIFY_INVAL_ENTRY, soon. It waits for the lookups that are under way in the directory."""
        self._send(_INVAL_ENTRY, _INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0")

    def drop_pages(self, ino: int, offset: int, length: int) -> None:
        """FUSE_NOTIFY_INVAL_INODE, soon. It waits for the reads of these pages that are under way."""
        self._send(_INVAL_INODE, _INVAL_INODE_OUT.pack(ino, offset, length))

    def store_pages(self, ino: int, pages: list[tuple[int, bytes]]) -> None:
        """FUSE_NOTIFY_STORE, at once; not for the thread that serves requests: it waits for pages.

        Returns before it is done if somebody keeps the lock of one: perhaps he who waits for the daemon, as
        the writer of a large folio that he filled in part. Nobody can have mapped that, and who wants to is
        behind the store.
        """

        def store() -> None:
            for offset, data in pages:
                self._write(_STORE, _STORE_OUT.pack(ino, offset, len(data), 0) + data)
            self._stores.remove(threading.current_thread())

        if self._closed:
            return
        storing = threading.Thread(target=store, name="shmfs-store", daemon=True)
        self._stores.add(storing)
        storing.start()
        storing.join(_PATIENCE)

    def close(self, patience: float = 1.0) -> None:
        """Send no more, and wait for what is being sent, but not for ever; while requests are served.

        It waits for a lock of who waits for an answer: one that is never given then, and the connection does
        not end, which would tell him, as long as a thread writes to its descriptor.
        """
        self._closed = True
        deadline = time.monotonic() + patience
        while (self.pending or self._stores) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _send(self, code: int, body: bytes) -> None:
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shmfs-notify", daemon=True)
            self._thread.start()
        self._asked += 1
        self._queue.put((code, body))

    @property
    def pending(self) -> bool:
        """Whether something is still to be sent."""
        return self._done != self._asked

    def wait(self) -> None:
        """Return when what was asked so far is done; not for the thread that serves requests."""
        asked = self._asked
        with self._progress:
            self._progress.wait_for(lambda: self._done >= asked)

    def _run(self) -> None:
        while True:
            self._write(*self._queue.get())
            with self._progress:
                self._done += 1
                self._progress.notify_all()

    def _write(self, code: int, body: bytes) -> None:
        try:
            os.write(self._device, _HEADER.pack(_HEADER.size + len(body), code, 0) + body)
        except (FileNotFoundError, NotADirectoryError):
            pass  # it does not have the name or the file, or no longer the directory
        except OSError as failure:
            log.debug("a notification failed: %s", failure)
