"""Run programs under `shmfs run` or `shmfs record`: what they logged, and what shmfs reports."""

import contextlib
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shmfs import trace
from tests.search.program import Program, Record, header, read_log

PATIENCE = 60.0
"""Seconds after which a program or a command of shmfs hangs."""
SHMFS = [sys.executable, "-m", "shmfs"]


class Hung(Exception):  # noqa: N818  it is a result
    """Something does not end."""


class Outcome(NamedTuple):
    """What was seen of one program."""

    program: Program
    target: str
    log: list[Record]
    status: int
    """Of the first process, as a shell shows it."""
    trace: Path
    inodes: dict[int, int]
    """Sizes of the inodes that were left, for record only."""
    report: dict[str, Any] | None
    """What `run --json` reports."""
    messages: str
    """Standard error of the command."""
    alone: bool
    """Whether the trace is of this program only."""


def compile_actor(base: Path) -> Path:
    """Build the actor; raises CalledProcessError."""
    (base / "operations.h").write_text(header())
    source, binary = Path(__file__).with_name("actor.c"), base / "actor"
    flags = [
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        "-Wl,-z,now",
        "-include",
        str(base / "operations.h"),
    ]
    subprocess.run(["gcc", *flags, "-o", str(binary), str(source)], check=True)
    return binary


class Runner:
    """Runs programs for one target. In a mount namespace of its own."""

    def __init__(self, base: Path, target: str) -> None:
        """`target` is of `masks.ALL`; `base` must not be on the file system under test."""
        self.base = base
        self.how, self.store = target.split("-")
        self.target = target
        self.actor = compile_actor(base)
        self.mount = base / "mount"
        self.mount.mkdir(exist_ok=True)
        self._count = 0

    def run(self, programs: list[Program]) -> list[Outcome]:
        """Run programs of one size; raises Hung."""
        self._count += 1
        place = self.base / f"{self._count % 4}"  # the latest stay, to be looked at
        subprocess.run(["rm", "-rf", str(place)], check=True)
        place.mkdir()
        if self.how == "run":
            return [self._under_run(program, place / str(number)) for number, program in enumerate(programs)]
        return self._under_record(programs, place)

    def keep(self, name: str) -> None:
        """Copy what the last run left."""
        shutil.copytree(self.base / f"{self._count % 4}", self.base / f"program-{name}", dirs_exist_ok=True)

    def _command(self, program: Program, directory: str, stem: Path) -> list[str]:
        Path(f"{stem}.program").write_text(program.text())
        return [str(self.actor), f"{stem}.program", directory, f"{stem}.log", "0", "start"]

    def _under_run(self, program: Program, stem: Path) -> Outcome:
        command = self._command(program, "/dev/shm", stem)
        options = f"size={program.size},pages={self.store}"
        traced, report = Path(f"{stem}.shmtrace"), Path(f"{stem}.json")
        flags = ["-o", options, "--trace", str(traced), "--json", "--report", str(report)]
        with Path(f"{stem}.stderr").open("wb") as stderr:
            done = self._wait(subprocess.Popen([*SHMFS, "run", *flags, "--", *command], stderr=stderr))
        messages = Path(f"{stem}.stderr").read_text(errors="replace")
        found = json.loads(report.read_text()) if report.exists() else None
        log = read_log(Path(f"{stem}.log"))
        return Outcome(program, self.target, log, done, traced, {}, found, messages, alone=True)

    @staticmethod
    def _wait(process: "subprocess.Popen[bytes]") -> int:
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
            raise Hung(str(process.args)[:300]) from None
        return status if status >= 0 else 128 - status

    def _under_record(self, programs: list[Program], place: Path) -> list[Outcome]:
        traced = place / "shmtrace"
        done: list[tuple[Program, list[Record], int, dict[int, int]]] = []
        with self._mounted(programs[0].size), (place / "stderr").open("wb") as stderr:
            running = self._start_waiting(programs, place)
            recorder = subprocess.Popen(
                [*SHMFS, "record", "--json", "--trace", str(traced), str(self.mount)],
                stdout=stderr, stderr=stderr,
            )  # fmt: skip
            try:
                self._await_recording(traced, recorder)
                for number, program in enumerate(programs):
                    process, ends = running if number == 0 else self._start(program, place / str(number))
                    (place / f"{number}.log.gate").touch()
                    status = self._wait(process)
                    _until_closed(ends)
                    log = read_log(place / f"{number}.log")
                    sizes = {one.stat().st_ino: one.stat().st_size for one in self.mount.iterdir()}
                    done.append((program, log, status, sizes))
                    for one in self.mount.iterdir():
                        one.unlink()
            finally:
                recorder.send_signal(signal.SIGINT)
                self._wait(recorder)
        messages = (place / "stderr").read_text(errors="replace")
        return [
            Outcome(program, self.target, log, status, traced, sizes, None, messages, alone=False)
            for program, log, status, sizes in done
        ]

    def _start(self, program: Program, stem: Path) -> "Started":
        """Start a program; it has the write end of a pipe, which closes with the last of its processes."""
        ends, held = os.pipe()
        process = subprocess.Popen(self._command(program, str(self.mount), stem), pass_fds=[held])
        os.close(held)
        return process, ends

    def _start_waiting(self, programs: list[Program], place: Path) -> "Started":
        """Start the first program, and wait until it stands at its gate (or has ended before)."""
        process, ends = self._start(programs[0], place / "0")
        log = place / "0.log"
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and any(record.name == "gate" for record in read_log(log)):
                break
            time.sleep(0.005)
        return process, ends

    def _await_recording(self, traced: Path, recorder: "subprocess.Popen[bytes]") -> None:
        """Return when a mapping made now is in the trace."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and recorder.poll() is None:
            with (self.mount / "canary").open("w+b") as file:
                file.truncate(4096)
                mmap.mmap(file.fileno(), 4096).close()  # no touch: the mount may be full
            (self.mount / "canary").unlink()
            time.sleep(0.05)
            if traced.exists() and traced.stat().st_size > 100:
                with contextlib.suppress(Exception), trace.open(traced) as opened:
                    if any("canary" in segment.get("path", "") for segment in opened.segments):
                        return
        raise Hung("shmfs record does not begin")

    @contextlib.contextmanager
    def _mounted(self, size: int) -> Iterator[None]:
        where = str(self.mount)
        if self.store == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where], check=True)
        else:
            options = f"size={size},pages={self.store}"
            subprocess.run([*SHMFS, "mount", "-o", options, where], check=True, timeout=PATIENCE)
        try:
            yield
        finally:
            if self.store == "tmpfs":
                subprocess.run(["umount", "-l", where], check=False)
            else:
                subprocess.run([*SHMFS, "umount", where], check=False, timeout=PATIENCE)


Started = tuple["subprocess.Popen[bytes]", int]


def _until_closed(pipe: int) -> None:
    """Wait for processes that nobody waits for; all of them end by themselves."""
    poll = select.poll()
    poll.register(pipe, 0)
    closed = poll.poll(PATIENCE * 1000)
    os.close(pipe)
    if not closed:
        raise Hung("a process of the program does not end")
