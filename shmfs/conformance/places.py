"""The two file systems that a case is run on, and whether it can be run there."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from shmfs.client import control, launch
from shmfs.conformance import DEFAULT_OPTIONS, Case, mounting
from shmfs.conformance.isolation import in_child
from shmfs.errors import ShmfsError
from shmfs.events.records import Statistics
from shmfs.fs.options import OptionError, parse
from shmfs.system import mounts

ROOM = 16 << 20
"""Bytes that must be free for cases that do not fill the file system."""
INODES = 2000


def store_of(statistics: Statistics) -> str:
    """The name of what serves the pages, as the table of known differences has it."""
    missing = any("C extension is missing" in note for note in statistics.notes)
    return "no extension" if missing else statistics.store


class Pair:
    """A tmpfs and a shmfs with the same options, both made for the purpose."""

    def __init__(self, base: Path, options: str, more: str) -> None:
        self.reference, self.subject = base / "tmpfs", base / "shmfs"
        for directory in (self.reference, self.subject):
            directory.mkdir(parents=True)
        mounting.tmpfs(str(self.reference), options)
        self.errors = (base / "stderr").open("w+b")
        self._heard = 0
        together = ",".join(filter(None, (options, more)))
        self.server = launch.start(str(self.subject), together, stderr=self.errors)
        figures = self.server.statistics()
        self.used = figures.used, figures.inodes_used
        self.store = store_of(figures)

    def complaints(self) -> str:
        """What is wrong with shmfs beside its answers: what its daemon said, and what it still holds."""
        # Not by the place in the file, which is the daemon's, too.
        fresh = os.pread(self.errors.fileno(), 1 << 20, self._heard)
        self._heard += len(fresh)
        said = fresh.decode(errors="replace")
        deadline = time.monotonic() + 10
        while True:
            figures = self.server.statistics()
            if (figures.used, figures.inodes_used) == self.used:
                return said
            if time.monotonic() > deadline:
                return said + f"left behind: {figures.used} bytes, {figures.inodes_used - 1} inodes"
            time.sleep(0.005)

    def give_up(self) -> None:
        """End a mount that hangs."""
        self.server.process.kill()

    def stop(self) -> None:
        """Unmount."""
        self.server.stop()


class Given:
    """A directory of somebody's, and a tmpfs with the same options or another directory beside it."""

    def __init__(self, base: Path, directory: str, against: str | None) -> None:
        self.found = Facts(directory)
        self.store = self.found.store
        if against is None:
            against = str(base / "tmpfs")
            os.mkdir(against)
            mounting.tmpfs(against, self.found.options)
        self.subject, self.reference = Path(directory), Path(against)
        if not self.found.is_whole:
            self.subject = fresh(directory)
            try:
                self.reference = fresh(against)
            except ShmfsError:
                discard(self.subject)
                raise

    def complaints(self) -> str:
        """Nothing: others may use it too."""
        return ""

    def stop(self) -> None:
        """Remove what was made."""
        discard(self.subject)
        discard(self.reference)


class Facts:
    """What is known of a directory that was given; raises ShmfsError."""

    def __init__(self, directory: str) -> None:
        mount = mounts.containing(os.path.realpath(directory))
        if mount is None:
            raise ShmfsError(f"{directory} is on no mount that can be seen")
        figures = asked(lambda: _figures(directory), directory)
        self.size, self.inodes, self.free, self.free_inodes, names, is_root = figures
        self.is_whole = is_root and not names
        """Whether nothing else is on the file system, so that its figures can be compared."""
        self.read_only = "ro" in mount.options.split(",")
        self.flags = [word for word in mount.options.split(",") if word in mounting.FLAGS]
        self.store = ""
        self.given = mount.options
        if mount.fstype == mounts.FSTYPE:
            with suppress(ShmfsError):
                statistics = control.statistics(mount.device)
                self.store = store_of(statistics)
                self.given = statistics.options
        self.options = ",".join([f"size={self.size}", f"nr_inodes={self.inodes}", *self.flags])

    def why_not(self, case: Case) -> str:
        """Why a case cannot be run here; empty if it can."""
        if case.mounts:
            return "makes mounts of its own"
        if case.options is None:
            if self.read_only:
                return "needs a mount that may be written to"
            if self.size and self.free < ROOM:
                return f"needs {ROOM >> 20} MiB that are free"
            if self.inodes and self.free_inodes < INODES:
                return f"needs {INODES} inodes that are free"
            return ""
        try:
            same = meaning(case.options) == meaning(self.given)
        except OptionError:
            same = False
        return "" if same and self.is_whole else "needs an empty mount with the options of the case"


def meaning(options: str) -> tuple[Any, ...]:
    """What options come to, whichever way they are written; raises OptionError."""
    said = parse(options)
    flags = said.vfs - {"rw", "async", "relatime", "atime", "diratime"}
    return said.blocks, said.inodes, said.mode, said.uid or 0, said.gid or 0, said.inode64, flags


def _figures(directory: str) -> tuple[int, int, int, int, int, bool]:
    """Size and inodes, what is free of them, the number of names, and whether it is where it is mounted."""
    status = os.statvfs(directory)
    return (
        status.f_blocks * status.f_frsize,
        status.f_files,
        status.f_bavail * status.f_frsize,
        status.f_favail,
        len(os.listdir(directory)),
        os.path.ismount(directory),
    )


def asked(look: Callable[[], Any], directory: str) -> Any:
    """What a process of its own sees, for a mount may not answer; raises ShmfsError."""
    kind, value = in_child(lambda: _told(look), 10)
    if kind != "value":
        raise ShmfsError(f"{directory} does not answer")
    done, result = value
    if not done:
        raise ShmfsError(f"{directory} cannot be used: {result}")
    return result


def _told(look: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, look()
    except OSError as failure:
        return False, failure.strerror


def fresh(directory: str) -> Path:
    """A new directory in it."""

    def make() -> str:
        made = tempfile.mkdtemp(prefix="shmfs-conform-", dir=directory)
        os.chmod(made, 0o755)
        return made

    return Path(asked(make, directory))


def discard(directory: Path) -> None:
    """Remove what `fresh` has made."""
    if directory.name.startswith("shmfs-conform-"):
        in_child(lambda: clear(directory), 30)


def clear(directory: Path) -> None:
    """Remove a tree, also one deeper than a path can be long, or whose rights a case has taken away."""
    with suppress(OSError):
        for _, names, _, parent in os.fwalk(directory):
            for name in names:
                os.chmod(name, 0o700, dir_fd=parent)
    shutil.rmtree(directory, ignore_errors=True)


def options_of(case: Case) -> str:
    """The options of the mounts that are made for a case."""
    return DEFAULT_OPTIONS if case.options is None else case.options
