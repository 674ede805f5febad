"""The process that runs the cases: `python zygote.py DIRECTORY`, requests and answers in lines.

It lives in a mount namespace of its own, so whatever happens to it, its mounts go with it, and the daemons
that it started end with their lifelines. It forks a process for each run and never touches a mount itself
except by such children, so it can always give up on one that hangs.
"""

import ast
import itertools
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tmpfs_cases

from shmfs.fuse import launch, namespaces

PATIENCE = 60.0
FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048}
FLAGS |= {"relatime": 1 << 21, "strictatime": 1 << 24}


class Pair:
    """A tmpfs and a shmfs with the same options, its pages in the store named."""

    def __init__(self, base: Path, options: str, store: str) -> None:
        self.directories = {"tmpfs": base / "tmpfs", "shmfs": base / "shmfs"}
        for directory in self.directories.values():
            directory.mkdir(parents=True)
        flags = sum(FLAGS[word] for word in options.split(",") if word in FLAGS)
        rest = ",".join(word for word in options.split(",") if word not in FLAGS)
        namespaces.mount("tmpfs", str(self.directories["tmpfs"]), "tmpfs", flags, rest)
        self.errors = (base / "stderr").open("w+b")
        os.environ["SHMFS_EXTENSION"] = "0" if store == "no extension" else "1"
        pages = "native" if store == "native" else "managed"
        self.server = launch.start(
            str(self.directories["shmfs"]), f"{options},pages={pages}", stderr=self.errors
        )
        self.used = self.server.statistics().used, self.server.statistics().inodes_used

    def complaints(self) -> str:
        """What the daemon has said on standard error since the last look."""
        return self.errors.read().decode(errors="replace")

    def left(self) -> str:
        """What the daemon still holds when everything was deleted: nothing, or it leaks."""
        deadline = time.monotonic() + 10
        while True:
            figures = self.server.statistics()
            if (figures.used, figures.inodes_used) == self.used:
                return ""
            if time.monotonic() > deadline:
                return f"left behind: {figures.used} bytes, {figures.inodes_used - 1} inodes"
            time.sleep(0.005)


def in_child(function: Callable[[], Any], patience: float = PATIENCE) -> tuple[str, Any]:
    """Run in a process group of its own: ("value" | "error" | "hung", ...)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(reader)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0), os.dup2(2, 1)
        try:
            said = "value", ast.literal_eval(repr(function()))
        except BaseException:
            said = "error", traceback.format_exc()
        with os.fdopen(writer, "w") as pipe:
            pipe.write(repr(said))
        os._exit(0)
    os.close(writer)
    parts = []
    deadline = time.monotonic() + patience
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        parts.append(part)
    os.close(reader)
    hung = time.monotonic() >= deadline
    stack = Path(f"/proc/{pid}/stack").read_text() if hung else ""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _, status = os.waitpid(pid, 0)
    if hung:
        return "hung", f"no end after {patience:.0f} seconds, in\n{stack}"
    if not parts:
        return "error", f"ended with status {os.waitstatus_to_exitcode(status)}"
    kind, value = ast.literal_eval(b"".join(parts).decode())
    return kind, value


def run(case: tmpfs_cases.Case, directory: Path) -> Any:
    """Run a case in a fresh directory of a file system."""
    os.umask(0)
    readonly = "ro" in case.options.split(",")
    room = directory if readonly else directory / "room"
    if not readonly:
        room.mkdir()
    os.chdir(room)
    os.umask(0o022)
    try:
        return case.function(Path("."))
    finally:
        os.umask(0)
        os.chdir("/")
        os.chmod(room, 0o777) if not readonly else None


def answer(case: tmpfs_cases.Case, pair: Pair) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for kind, directory in pair.directories.items():
        said[kind] = in_child(lambda directory=directory: run(case, directory))
        if said[kind][0] == "hung":
            pair.server.process.kill()
            return said
        cleaned = in_child(lambda directory=directory: shutil.rmtree(directory / "room", ignore_errors=True))
        said[f"{kind} cleaned"] = cleaned
    said["complaints"] = pair.complaints()
    said["left"] = pair.left()
    return said


def main() -> None:
    base = Path(sys.argv[1])
    namespaces.enter_private()
    cases = tmpfs_cases.load()
    pairs: dict[str, Pair] = {}
    numbers = itertools.count()
    for line in sys.stdin:
        case = cases[line.strip()]
        try:
            if case.options not in pairs:
                pairs[case.options] = Pair(base / str(next(numbers)), case.options, sys.argv[2])
            said = answer(case, pairs[case.options])
            if "hung" in (said[kind][0] for kind in said if isinstance(said[kind], tuple)):
                del pairs[case.options]
        except Exception:
            said = {"zygote": traceback.format_exc()}
        print(repr(said), flush=True)
    for pair in pairs.values():
        pair.server.stop()


if __name__ == "__main__":
    main()
