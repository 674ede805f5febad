"""`shmfs record`: everybody's page faults on a file system."""

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from shmfs.events.records import Statistics
    from shmfs.record.recording import Recording
    from shmfs.system import mounts

DEFAULT = "shmfs.shmtrace"

_EPILOG = f"""\b
The trace goes to {DEFAULT} unless --trace names another file. It
needs root, for it watches every process. DIR may be on a mount of shmfs,
and then what its daemon knows is recorded as well, or on any other file
system: the system's own /dev/shm, say.

\b
Examples:
  shmfs record /dev/shm
  shmfs record --seconds 10 --trace busy.shmtrace /mnt/shm
  shmfs record --trace-io /mnt/shm
  shmfs report shmfs.shmtrace
"""


@click.command(epilog=_EPILOG, short_help="Record every process's page faults on a file system.")
@output.trace_options
@click.option(
    "--trace-io",
    is_flag=True,
    help="Have calls of read and write in the trace, too, of files opened meanwhile; needs native pages.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so long; else with Ctrl-C."
)
@output.json_option("what was recorded")
@click.argument("directory", metavar="DIR", type=output.DIRECTORY)
def record(
    trace: str | None,
    max_size: int,
    trace_io: bool,
    seconds: float | None,
    as_json: bool,
    directory: str,
) -> None:
    """Record who maps and touches what on the file system of DIR, until Ctrl-C.

    Every page fault with its process, file and page, whether it read or wrote, and whether it had to wait;
    mappings, forks, execs and exits; and samples of who has how many pages.
    """
    path = trace or DEFAULT
    stopped: list[int] = []
    before = {number: signal.signal(number, lambda number, _: stopped.append(number)) for number in _ENDS}
    try:
        recording = _begin(directory, path, max_size, io=trace_io)
        try:
            _wait(recording, directory, seconds, stopped)
        finally:
            recording.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _tell(recording, path, as_json=as_json)


def _tell(recording: "Recording", path: str, *, as_json: bool) -> None:
    from shmfs.report.text import plural

    dropped, lost = recording.dropped, recording.recorder.lost
    faults = max(0, recording.recorder.faults - dropped)  # pages around faults are dropped with them
    if as_json:
        output.print_json({"trace": path, "faults": faults, "dropped": dropped, "lost": lost})
        return
    missing = f"; {plural(dropped, 'fault')} for which the file had no room" if dropped else ""
    missing += f"; {plural(lost, 'record')} lost, for the machine was too busy" if lost else ""
    click.echo(f"{plural(faults, 'fault')} in {path}{missing}", err=True)


_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _begin(directory: str, path: str, max_size: int, *, io: bool) -> "Recording":
    from shmfs.client import control
    from shmfs.errors import ShmfsError
    from shmfs.record.recording import Recording, Subject
    from shmfs.system import mounts

    mount = mounts.containing(os.path.realpath(directory))
    if mount is None or not os.path.isdir(directory):
        raise ShmfsError(f"{directory} is no directory")
    if os.geteuid() != 0:
        raise ShmfsError(
            "to watch every process takes root; `shmfs run --trace FILE -- COMMAND` watches one of your own"
        )
    if mount.fstype != mounts.FSTYPE:
        if io:
            raise ShmfsError(f"{directory} is no mount of shmfs, and on others calls cannot be traced")
        room = os.statvfs(mount.mountpoint)
        limit = room.f_blocks * room.f_frsize if mount.fstype == "tmpfs" else 0
        subject = Subject(mount.mountpoint, mount.device, mount.fstype, mount.options, limit)
        recording = Recording(
            *(path, subject), ask=partial(_survey, mount), say=output.complain, max_size=max_size
        )
        return _started(recording, mount.device)
    about = control.statistics(mount.device)
    subject = Subject(
        *(mount.mountpoint, mount.device, about.store, about.options, about.size_limit),
        backing=about.backing,
        io=io,
    )
    events = control.events(mount.device, io=io)
    ask = partial(control.find_statistics, mount.device)
    recording = Recording(path, subject, events=events, ask=ask, say=output.complain, max_size=max_size)
    return _started(recording, mount.device)


def _survey(mount: "mounts.Mount") -> "Statistics | None":
    """What is on a tmpfs of the kernel, for the explanation of a death."""
    from shmfs.client import tmpfs

    if mount.fstype != "tmpfs":
        return None
    try:
        return tmpfs.survey(mount.mountpoint, mount.device)
    except OSError:
        return None


def _started(recording: "Recording", device: str) -> "Recording":
    try:
        recording.start()
        recording.sample(device)
    except BaseException:
        recording.stop()
        raise
    return recording


def _wait(recording: "Recording", directory: str, seconds: float | None, stopped: list[int]) -> None:
    """Until it is enough; on a terminal with a line that tells how it goes."""
    deadline = None if seconds is None else time.monotonic() + seconds
    console = output.console(stderr=True)
    with console.status(f"recording {directory}; Ctrl-C ends") as status:
        while not stopped and not recording.recorder.failure:
            if deadline is not None and time.monotonic() >= deadline:
                return
            time.sleep(0.2 if deadline is None else max(0.0, min(0.2, deadline - time.monotonic())))
            faults, lost = recording.recorder.faults, recording.recorder.lost
            text = f"recording {directory}: {faults} faults" + (f", {lost} lost" if lost else "")
            status.update(f"{text}; Ctrl-C ends")
