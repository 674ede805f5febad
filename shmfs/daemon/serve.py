"""The process that serves one mount: `python -m shmfs.daemon.serve`, started by `launch`.

It reads its configuration as one JSON line from standard input, and answers with one JSON line on standard
output: ready, or why not. Where `lifeline` is set, the end of standard input is the end of the mount.
It imports no more than it needs, for its memory is the file system's.

One thread runs trio's loop, serves every request and answers the control socket: a command of the socket that
takes long holds up requests. Only deferred work and the writer of the log have threads of their own.
"""

import contextlib
import errno
import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
import trio

from shmfs.daemon import control, limits, orphans, runtime, stale
from shmfs.daemon.history import History
from shmfs.daemon.log import JsonLines
from shmfs.daemon.messages import Configuration, Ready
from shmfs.daemon.refusals import Refusals
from shmfs.errors import ShmfsError
from shmfs.events.hooks import HOOKS, Instruments
from shmfs.events.records import Statistics
from shmfs.fs import options as mount_options
from shmfs.fs.options import MountOptions
from shmfs.fs.superblock import INODE_SIZE, Credentials, Superblock
from shmfs.fuse import protocol as p
from shmfs.fuse import session
from shmfs.fuse.adapter import Adapter
from shmfs.fuse.backing import Backings
from shmfs.fuse.lane import Lane, Reply
from shmfs.fuse.notify import Notifier
from shmfs.fuse.operations import Operations
from shmfs.ipc import notes
from shmfs.mm import PAGE_SIZE
from shmfs.mm.native import NativeStore
from shmfs.system import mounts, namespaces, processes

log = logging.getLogger("shmfs")

_PEAK_INTERVAL = 0.05
"""Seconds between two looks at what a native store uses."""
_NO_CALLS = "read and write calls can be traced on native pages only, and those of this mount are managed"
_RECLAIM_SLICE = 2048
"""Frames given back between two looks at the requests: about a millisecond's work."""


class Daemon:
    """A superblock, its connection to the kernel, and its control socket."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.options = mount_options.parse(configuration.options)
        self._options_text = configuration.options
        self.started = time.time_ns()
        self.notes: list[str] = []
        self.device = ""
        self.dirty = trio.Event()
        """Set when memory waits to be given back."""
        self.settled = False
        self.failure = ""
        self.notifier: Notifier | None = None
        self.backings: Backings | None = None
        self.wants_native = _wants_native(self.options)
        instruments = Instruments()
        self.history = History()
        instruments.install(self.history, keep=True)
        self.log: JsonLines | None = None
        owner = Credentials(os.geteuid(), os.getegid())
        self.superblock = Superblock(self.options, owner=owner, instruments=instruments)
        self.refusals = Refusals(self.superblock, self.history)
        instruments.install(self.refusals, keep=True)
        self.superblock.groups_of = processes.groups

    def run(self) -> None:
        """Mount, serve until the mount is gone or the end is asked for, and clean up; raises ShmfsError."""
        limits.spare_from_oom_killer()
        limits.lift()
        if self.configuration.sandbox:
            namespaces.enter_private()
        if self.configuration.log_fd is not None:  # it starts a thread, which no namespace permits before
            hooks = self.configuration.log_hooks or _hooks(io=self.configuration.trace_io)
            self.log = JsonLines(self.configuration.log_fd, hooks=hooks)
            self.superblock.instruments.install(self.log)
        os.umask(0)
        os.chdir("/")
        self.adapter = Adapter(Operations(self.superblock), self._freed)
        session.mount(
            self.adapter,
            self.configuration.mountpoint,
            self.options,
            sandbox=self.configuration.sandbox,
            native=self.wants_native,
        )
        if session.extension():
            session.serve_lane(self._first_request, self.options)
        try:
            mount = mounts.find(self.configuration.mountpoint)
            self.device = mount.device if mount else ""
            trio.run(self._serve, strict_exception_groups=True)
        finally:
            mounts.unmount_moved(self.device, self.configuration.mountpoint)
            session.close(unmount=True)
            if self.device:
                runtime.remove_traces(self.device)
            if self.log:
                self.log.close()

    async def _serve(self) -> None:
        listener = trio.socket.from_stdlib_socket(control.listen(self.device))
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            nursery.start_soon(self._until_signal)
            nursery.start_soon(self._accept, listener)
            nursery.start_soon(self._reclaim)
            nursery.start_soon(self._announce)
            if self.configuration.lifeline:
                nursery.start_soon(self._until_lifeline_ends)
            await session.serve()
            nursery.cancel_scope.cancel()

    async def _announce(self) -> None:
        """Tell `launch` once the kernel's INIT was answered: from then on the mount can be used."""
        await self.adapter.initialised.wait()
        await trio.lowlevel.checkpoint()
        self._settle()
        if self.failure:
            _tell(Ready(error=self.failure))
            self.nursery.cancel_scope.cancel()
            return
        if self.superblock.native:
            self.nursery.start_soon(self._sample_peak)
        self.notes += session.tune(self.device, self.options)
        _tell(Ready(device=self.device, notes=self.notes))

    def _settle(self) -> None:
        """Once INIT was answered, and before the first request is: choose the store and start the lane."""
        if self.settled:
            return
        self.settled = True
        self.adapter.negotiated()
        self.adapter.operations.reads.populate_end = session.populate_end(
            self.superblock, self.configuration.mountpoint
        )
        if not session.extension():
            self.notes.append(session.EXTENSION_MISSING)
            if self.wants_native:
                self.failure = f"native pages need the C extension, which is missing; {self._instead()}"
            return
        operations = self.adapter.operations
        operations.ipc.device = self.device
        operations.ipc.process_of = self.history.process_of
        operations.trace_io = int(self.configuration.trace_io)
        self.notifier = notifier = Notifier(session.device())
        operations.ipc.drop_name = notifier.drop_name
        operations.pages_cached = notifier.drop_pages
        operations.cache_again = notifier.store_pages
        operations.ipc.names_dropped = lambda: notifier.wait if notifier.pending else None
        self.lane = Lane(operations, self._answer_later, self._freed, self._native_store())
        session.serve_lane(self.lane, self.options)

    def _native_store(self) -> Backings | None:
        """Use the native store where that is wanted and the kernel permits it."""
        if not self.wants_native:
            return None
        try:
            if not session.takes(p.PASSTHROUGH):
                raise OSError(errno.EOPNOTSUPP, "the kernel has no FUSE passthrough")
            store = NativeStore(self.options.blocks, self.options.native, atime=self.options.atime)
            backings = Backings(session.device())
            try:
                backings.backing_close(backings.backing_open(store.descriptor(0, create=True)))
                tried = store.forget(0)
                if tried is not None:
                    os.close(tried)
            except OSError:
                store.close()
                raise
        except OSError as failure:
            if self.options.pages == "native":
                self.failure = f"native pages cannot be had: {failure.strerror}; {self._instead()}"
            return None
        self.superblock.use_native(store)
        self.superblock.evicted = backings.evict
        self.backings = backings
        return backings

    def _instead(self) -> str:
        trace_io = self.configuration.trace_io
        return "leave --trace-io out, which needs them" if trace_io else "mount with pages=managed"

    def _first_request(
        self, opcode: int, unique: int, node: int, uid: int, gid: int, pid: int, body: bytes | memoryview
    ) -> Reply:
        self._settle()
        return self.lane(opcode, unique, node, uid, gid, pid, body)

    def _answer_later(self, unique: int, reply: Coroutine[Any, Any, Reply]) -> None:
        """Answer a request of the lane when its reply is made."""

        async def answer() -> None:
            session.reply(unique, await reply)

        self.nursery.start_soon(answer)

    async def _until_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for _ in signals:
                await self._end()

    async def _until_lifeline_ends(self) -> None:
        """End with the process that started us; what runs in its sandbox is killed, for nobody else will."""
        await trio.lowlevel.wait_readable(0)
        if self.configuration.sandbox:
            await trio.to_thread.run_sync(namespaces.kill_namespace, self.device)
        await self._end()

    async def _end(self, delay: float = 0) -> None:
        await trio.sleep(delay)
        if self.notifier:  # whose thread may wait for who waits for an answer: it is still given
            await trio.to_thread.run_sync(self.notifier.close)
        if self.settled and (populates := self.adapter.operations.reads.populate_end):
            await trio.to_thread.run_sync(populates.close)
        self.nursery.cancel_scope.cancel()

    async def _sample_peak(self) -> None:
        """The kernel charges the native store by itself, so its peak is looked for."""
        while True:
            self.superblock.blocks.sample_peak()
            await trio.sleep(_PEAK_INTERVAL)

    def _freed(self) -> None:
        self.dirty.set()

    async def _reclaim(self) -> None:
        """Give freed memory back in slices, so that a freed gigabyte delays no request."""
        arena = self.superblock.store.arena
        while True:
            await self.dirty.wait()
            self.dirty = trio.Event()
            while arena.reclaim(_RECLAIM_SLICE):
                await trio.sleep(0)

    # ---- control

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        with listener:
            while True:
                try:
                    connection, _ = await listener.accept()
                except OSError as failure:
                    if failure.errno not in (errno.EMFILE, errno.ENFILE):
                        raise
                    if self.superblock.native is None or not self.superblock.native.spare():
                        await trio.sleep(0.1)
                    continue
                self.nursery.start_soon(self._answer, connection)

    async def _answer(self, connection: trio.socket.SocketType) -> None:
        follow: list[bool] = []

        def events(request: dict[str, Any]) -> None:
            io = bool(request.get("io"))
            if io and self.superblock.native is None:
                raise ShmfsError(_NO_CALLS)
            follow.append(io)

        handlers: dict[str, control.Handler] = {
            "statistics": self.statistics,
            "remount": self.remount,
            "shutdown": self.shutdown,
            "events": events,
            **orphans.handlers(self.adapter.operations, self.history),
        }
        stream = trio.SocketStream(connection)
        line = bytearray()
        async with stream:
            if not control.peer_allowed(connection):  # type: ignore[arg-type]  # trio's has getsockopt
                return
            with trio.move_on_after(control.TIMEOUT):
                try:
                    async for data in stream:
                        line += data
                        if line.endswith(b"\n") or len(line) > 1 << 16:
                            break
                    await stream.send_all(control.answer(bytes(line), handlers))
                except trio.BrokenResourceError:
                    return
            if follow:
                await self._stream_events(stream, io=follow[0])

    async def _stream_events(self, stream: trio.SocketStream, *, io: bool) -> None:
        """Send what happens from now on as JSON lines, until the other end has had enough, or is dead.

        With `io` that long read(2) and write(2) of files that are opened meanwhile, too.
        """
        instruments, operations = self.superblock.instruments, self.adapter.operations
        paths = {ino: inode.path() for ino, inode in self.superblock.inodes.items()}
        hooks = _hooks(io=io)
        events = JsonLines(stream.socket.fileno(), paths, hooks=hooks, name=stale.FOLLOWER)
        instruments.install(events)
        operations.trace_io += io
        try:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.receive_some()
        finally:
            operations.trace_io -= io
            instruments.remove(events)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(events.close)

    def statistics(self, request: dict[str, Any]) -> Statistics:
        """Everything that is known of the mount."""
        sb = self.superblock
        sb.emit_usage()
        failed = stale.failed(sb.instruments.failures, self.log)
        known = map(notes.sentence, sorted(self.adapter.operations.ipc.notes))
        pinned = self.backings.notes() if self.backings else []
        segments = self.history.segments()
        if sb.native:
            for segment in segments:
                segment.page_ins = None
        return Statistics(
            mount=self.configuration.mountpoint,
            device=self.device,
            options=self._options_text,
            size_limit=sb.blocks.limit * PAGE_SIZE,
            used=sb.blocks.used * PAGE_SIZE,
            peak=sb.blocks.peak * PAGE_SIZE,
            inode_limit=sb.inode_space.limit // INODE_SIZE,
            inodes_used=-(-sb.inode_space.used // INODE_SIZE),
            inodes_peak=-(-sb.inode_space.peak // INODE_SIZE),
            readahead=self.options.readahead,
            store="native" if sb.native else "managed",
            backing=sb.native.device if sb.native else "",
            pid=os.getpid(),
            started=self.started,
            lost_records=self.log.lost if self.log else 0,
            notes=[*self.notes, *known, *(one.sentence for one in failed), *pinned],
            stale=stale.of_statistics(failed),
            segments=segments,
            segments_dropped=self.history.segments_dropped,
            refused=self.history.refused - self.refusals.repeated,
            refusals=self.refusals.records(),
            page_ins=None if sb.native else self.history.page_ins(),
        )

    def remount(self, request: dict[str, Any]) -> None:
        """Take new limits: `options` as after -o."""
        options = mount_options.parse(str(request["options"]))
        changed = options.seen - {"size", "nr_blocks", "nr_inodes", *mount_options.SYSV_LIMITS}
        fixed = {"reserve", "readahead", "pages", "mode", "uid", "gid", "inode32", "inode64"} & changed
        given = mount_options.parse(self.configuration.options)
        for name in sorted(fixed | set(options.native)):
            attribute = (
                "inode64" if name.startswith("inode") else "native" if name in options.native else name
            )
            if getattr(options, attribute) != getattr(given, attribute):
                raise ShmfsError(f"option {name!r} cannot be changed by a remount; unmount and mount again")
        self.superblock.remount(options)
        self._options_text = mount_options.merged(self._options_text, str(request["options"]))

    def shutdown(self, request: dict[str, Any]) -> None:
        """End, after this was answered."""
        trio.lowlevel.spawn_system_task(self._end, 0.01)


def _hooks(*, io: bool) -> set[str]:
    """The events that a log has: read(2) and write(2) only where they were asked for."""
    return HOOKS.keys() - (set() if io else {"read", "write"})


def _wants_native(options: MountOptions) -> bool:
    """What asks for exact pages asks for the managed store; native pages need the rights of root."""
    if options.pages == "auto":
        return session.extension() and os.geteuid() == 0 and not options.readahead
    return options.pages == "native"


def _tell(ready: Ready) -> None:
    """Answer `launch`, and let go of the pipe to it."""
    try:
        os.write(1, msgspec.json.encode(ready) + b"\n")
    except OSError:
        return  # nobody is there to read it any more
    finally:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.close(null)


def main() -> int:
    """Serve one mount; the exit status is 0 when it was unmounted, 1 when that failed."""
    faulthandler.enable()
    logging.basicConfig(format="shmfs: %(message)s")
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    line = bytearray()
    while not line.endswith(b"\n"):
        data = os.read(0, 1 << 16)
        if not data:
            return 1
        line += data
    # What lives in the model lives long and has few cycles: looking for them often costs a third of a create.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    configuration = msgspec.json.decode(bytes(line), type=Configuration)
    try:
        Daemon(configuration).run()
    except (ShmfsError, mount_options.OptionError) as failure:
        _tell(Ready(error=str(failure)))
        return 1
    except BaseException:
        point = configuration.mountpoint
        log.exception(
            "the daemon of %s failed and its files are lost; `shmfs umount %s` cleans up", point, point
        )
        _tell(Ready(error=f"the daemon of {point} failed; its log is on standard error"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
