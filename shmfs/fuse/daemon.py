"""The process that serves one mount: `python -m shmfs.fuse.daemon`, started by `launch`.

It reads its configuration as one JSON line from standard input, and answers with one JSON line on standard
output: ready, or why not. Where `lifeline` is set, the end of standard input is the end of the mount.
It imports no more than it needs, for its memory is the file system's.
"""

import faulthandler
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import trio

from shmfs.errors import ShmfsError
from shmfs.fs import options as mount_options
from shmfs.fs.superblock import INODE_SIZE, Credentials, Superblock
from shmfs.fuse import control, mounts, namespaces, session
from shmfs.fuse.adapter import Adapter
from shmfs.fuse.messages import Configuration, Ready
from shmfs.fuse.operations import Operations
from shmfs.mm import PAGE_SIZE
from shmfs.trace.history import History
from shmfs.trace.instruments import Instruments
from shmfs.trace.log import JsonLines
from shmfs.trace.records import Statistics

log = logging.getLogger("shmfs")

_RECLAIM_SLICE = 2048
"""Frames given back between two looks at the requests: about a millisecond's work."""


class Daemon:
    """A superblock, its connection to the kernel, and its control socket."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.options = mount_options.parse(configuration.options)
        self.started = time.time_ns()
        self.notes: list[str] = []
        self.device = ""
        instruments = Instruments()
        self.history = History()
        instruments.install(self.history)
        self.log = JsonLines(configuration.log_fd) if configuration.log_fd is not None else None
        if self.log:
            instruments.install(self.log)
        owner = Credentials(os.geteuid(), os.getegid())
        self.superblock = Superblock(self.options, owner=owner, instruments=instruments)

    def run(self) -> None:
        """Mount, serve until the mount is gone or the end is asked for, and clean up; raises ShmfsError."""
        _spare_from_oom_killer()
        if self.configuration.sandbox:
            namespaces.enter_private()
        os.umask(0)
        os.chdir("/")
        self.adapter = Adapter(Operations(self.superblock))
        session.mount(
            self.adapter, self.configuration.mountpoint, self.options, sandbox=self.configuration.sandbox
        )
        try:
            mount = mounts.find(self.configuration.mountpoint)
            self.device = mount.device if mount else ""
            trio.run(self._serve, strict_exception_groups=True)
        finally:
            session.close(unmount=True)
            if self.device:
                control.remove_traces(self.device)
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
        self.adapter.negotiated()
        self.notes += session.tune(self.device, self.options)
        _tell(Ready(device=self.device, notes=self.notes))

    async def _until_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for _ in signals:
                self.nursery.cancel_scope.cancel()

    async def _until_lifeline_ends(self) -> None:
        """End with the process that started us; what runs in its sandbox is killed, for nobody else will."""
        await trio.lowlevel.wait_readable(0)
        if self.configuration.sandbox:
            await trio.to_thread.run_sync(namespaces.kill_namespace, self.device)
        self.nursery.cancel_scope.cancel()

    async def _reclaim(self) -> None:
        """Give freed memory back in slices, so that a freed gigabyte delays no request."""
        arena = self.superblock.store.arena
        while True:
            await self.adapter.freed.wait()
            self.adapter.freed = trio.Event()
            while arena.reclaim(_RECLAIM_SLICE):
                await trio.sleep(0)

    # ---- control

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        with listener:
            while True:
                connection, _ = await listener.accept()
                self.nursery.start_soon(self._answer, connection)

    async def _answer(self, connection: trio.socket.SocketType) -> None:
        handlers: dict[str, control.Handler] = {
            "statistics": self.statistics,
            "remount": self.remount,
            "shutdown": self.shutdown,
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

    def statistics(self, request: dict[str, Any]) -> Statistics:
        """Everything that is known of the mount."""
        sb = self.superblock
        return Statistics(
            mount=self.configuration.mountpoint,
            device=self.device,
            options=self.configuration.options,
            size_limit=sb.blocks.limit * PAGE_SIZE,
            used=sb.blocks.used * PAGE_SIZE,
            peak=sb.blocks.peak * PAGE_SIZE,
            inode_limit=sb.inode_space.limit // INODE_SIZE,
            inodes_used=-(-sb.inode_space.used // INODE_SIZE),
            inodes_peak=-(-sb.inode_space.peak // INODE_SIZE),
            readahead=self.options.readahead,
            store="managed",
            pid=os.getpid(),
            started=self.started,
            lost_records=self.log.lost if self.log else 0,
            notes=self.notes,
            segments=self.history.segments(),
            segments_dropped=self.history.segments_dropped,
        )

    def remount(self, request: dict[str, Any]) -> None:
        """Take new limits: `options` as after -o."""
        options = mount_options.parse(str(request["options"]))
        changed = options.seen - {"size", "nr_blocks", "nr_inodes"}
        fixed = {"reserve", "readahead", "mode", "uid", "gid", "inode32", "inode64"} & changed
        given = mount_options.parse(self.configuration.options)
        for name in sorted(fixed):
            attribute = "inode64" if name.startswith("inode") else name
            if getattr(options, attribute) != getattr(given, attribute):
                raise ShmfsError(f"option {name!r} cannot be changed by a remount; unmount and mount again")
        self.superblock.remount(options)

    def shutdown(self, request: dict[str, Any]) -> None:
        """End, after this was answered."""
        trio.lowlevel.spawn_system_task(self._shutdown_soon)

    async def _shutdown_soon(self) -> None:
        await trio.sleep(0.01)
        self.nursery.cancel_scope.cancel()


def _spare_from_oom_killer() -> None:
    """The daemon holds everybody's data; needs CAP_SYS_RESOURCE, and goes without."""
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000")
    except OSError:
        return


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
