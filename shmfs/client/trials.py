"""What `doctor` tries: mounts that are gone again, and what only a child may do.

What may not answer is asked in a thread and given up after `PATIENCE`.
"""

import contextlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from shmfs.client import launch
from shmfs.daemon import limits
from shmfs.errors import ShmfsError
from shmfs.system import namespaces

PATIENCE = 10.0
"""Seconds that all trials together may take; they take less than one."""


class Trial(NamedTuple):
    """A mount that was tried and is gone again."""

    store: str
    """What served its pages; "" where it could not be mounted."""
    reason: str
    """Why not."""
    untuned: str = ""
    """Why its backing device may not be tuned."""


T = TypeVar("T")


class Later(Generic[T]):
    """A call in a thread, for it may take long or never return."""

    def __init__(self, call: Callable[[], T], deadline: float) -> None:
        self._call = call
        self._deadline = deadline
        self._done: list[T] = []
        self._raised: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._done.append(self._call())
        except Exception as error:
            self._raised = error

    def wait(self) -> bool:
        """Wait for the end until the deadline; say whether it came."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return not self._thread.is_alive()

    def result(self) -> T:
        """What the call returned; raises what it raised, or ShmfsError when it does not return."""
        if not self.wait():
            raise ShmfsError(f"it did not answer within {PATIENCE:.0f} seconds; see `dmesg`, and try again")
        if self._raised:
            raise self._raised
        return self._done[0]


def mount_plain() -> list[Trial]:
    """Mount with native pages, and where that fails with managed ones."""
    trials = [mount("pages=native")]
    return trials if trials[0].store else [*trials, mount("pages=managed")]


def mount(options: str, *, private: str | None = None) -> Trial:
    """Mount on a directory of our own, use the mount, and unmount it; or on `private`, in a sandbox."""
    sandbox = private is not None
    try:
        directory = private or tempfile.mkdtemp(prefix="shmfs-doctor-")
    except OSError as error:
        return Trial("", f"no directory to try it on could be made: {error.strerror}")
    try:
        with open(os.memfd_create("daemon"), "w+b") as said:
            try:
                server = launch.start(directory, f"size=1m,{options}", sandbox=sandbox, stderr=said)
            except ShmfsError as error:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                reason = str(error).removeprefix(f"cannot mount on {directory}: ")
                return Trial("", f"{reason} ({last})" if last else reason)
        try:
            if not sandbox:
                _use(Path(directory) / "page")
            return Trial(server.statistics().store, "", _tuned(server.device))
        finally:
            server.stop()
    finally:
        if not private:
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _use(path: Path) -> None:
    """Write a page and read it; a mount that does not keep it raises ShmfsError."""
    data = os.urandom(mmap.PAGESIZE)
    try:
        path.write_bytes(data)
        kept = path.read_bytes() == data
    except OSError as error:
        raise ShmfsError(
            f"a page could not be written and read: {error.strerror}; please report it"
        ) from None
    if not kept:
        raise ShmfsError("what was written could not be read back; please report it")


def _tuned(device: str) -> str:
    """Write to the settings of a backing device what they are; returns why that is refused, or ""."""
    directory = Path("/sys/class/bdi") / device
    try:
        for name in ("read_ahead_kb", "max_ratio", "strict_limit"):
            file = directory / name
            if name != "strict_limit" or file.exists():  # since 6.2
                file.write_text(file.read_text())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def probe() -> dict[str, str]:
    """What a child was refused that tried: "oom" and "namespace", each why, or ""."""
    command = [sys.executable, "-P", "-m", "shmfs.client.trials"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode:
        raise ShmfsError(f"the child that should try ended with status {done.returncode}; please report it")
    result: dict[str, str] = json.loads(done.stdout)
    return result


def _tried_here() -> dict[str, str]:
    """The child's side of `probe`."""
    result = {"oom": limits.spare_from_oom_killer(), "namespace": ""}
    try:
        namespaces.enter_private()
    except ShmfsError as error:
        result["namespace"] = str(error)
    return result


if __name__ == "__main__":
    print(json.dumps(_tried_here()))
