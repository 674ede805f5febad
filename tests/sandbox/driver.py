"""A supervisor in a process of its own, over a kernel tmpfs in place of shmfs: driver.py CONFIGURATION."""

import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from shmfs.errors import ShmfsError
from shmfs.sandbox import run
from shmfs.system import namespaces, syscalls


@dataclass
class FakeServer:
    """A process that mounts a tmpfs in private namespaces, and ends all of them when ours ends."""

    pid: int = 0

    def __post_init__(self) -> None:
        ready, tell_ready = os.pipe()
        lifeline, self.lifeline = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                os.close(self.lifeline)
                namespaces.enter_private()
                syscalls.mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=1m")
                os.write(tell_ready, b"x")
                os.read(lifeline, 1)
                number = os.stat("/dev/shm").st_dev
                namespaces.kill_namespace(f"{os.major(number)}:{os.minor(number)}")
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.close(tell_ready)
        os.close(lifeline)
        if not os.read(ready, 1):
            sys.exit("the fake server did not start")
        os.close(ready)

    def stop(self) -> None:
        os.close(self.lifeline)
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
            os.waitpid(self.pid, 0)


def become(uid: int) -> None:
    """Drop to `uid` for good; a process that changed its ids is not dumpable until it asks."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def main(configuration: dict) -> int:
    if configuration.get("uid"):
        become(configuration["uid"])
    if configuration.get("deaf"):  # a Ctrl-C after the end is not what the test is about
        signal.signal(signal.SIGINT, lambda number, frame: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    server = FakeServer()
    samples: list[list[int]] = []

    def sample(pids: set[int]) -> None:
        samples.append(sorted(pids))
        if configuration["sample"] == "raise":
            raise ValueError("a broken sampler")

    out = Path(configuration["out"])
    Path(f"{out}.pids").write_text(f"{os.getpid()} {server.pid}")
    try:
        outcome = run(
            configuration["command"],
            server,
            sample=sample if configuration.get("sample") else None,
            interval=0.02,
            grace=configuration.get("grace", 2.0),
        )
        result = asdict(outcome)
    except ShmfsError as error:
        result = {"error": str(error), "status": error.status}
    finally:
        server.stop()
    mask_kept = mask == signal.pthread_sigmask(signal.SIG_BLOCK, ())
    out.write_text(
        json.dumps({**result, "samples": samples, "mask_kept": mask_kept}, default=msgspec.to_builtins)
    )
    return int(result["status"])


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
