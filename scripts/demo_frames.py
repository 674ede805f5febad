"""Filter an image sequence in several processes that share memory, and check the result against a serial run.

A producer draws each frame into a slot of a ring; workers blur it and take the magnitude of its edges; a
collector adds the glow of the frames before and appends the result to a film. Frames, edges and film are
segments of multiprocessing.shared_memory, and everybody waits on semaphores of posix_ipc, so all of it lives
in /dev/shm, whatever is mounted there. Every step is done in integers: the two runs must agree in every byte.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import posix_ipc
from numpy.typing import NDArray

Image = NDArray[np.uint8]

SLOTS = 4
SINE = np.round(np.sin(np.arange(256) * (2 * np.pi / 256)) * 127).astype(np.int16)


@dataclass(frozen=True)
class Job:
    """What to make, and the name that its segments and semaphores begin with."""

    name: str
    frames: int
    width: int
    height: int
    workers: int


# ---- the pictures


def draw(job: Job, number: int) -> Image:
    """Draw frame `number` of a moving plasma with a disc that crosses it."""
    x = np.arange(job.width)[None, :]
    y = np.arange(job.height)[:, None]
    plasma = SINE[(x + 3 * number) & 255] + SINE[(2 * y - number) & 255] + SINE[(x + y + 2 * number) & 255]
    picture: Image = (plasma // 4 + 128).astype(np.uint8)
    center_x, center_y = (
        7 * number % job.width,
        job.height // 2 + int(SINE[4 * number & 255]) * job.height // 400,
    )
    picture[(x - center_x) ** 2 + (y - center_y) ** 2 < (job.height // 6) ** 2] ^= 0x60
    return picture


def edges(picture: Image) -> Image:
    """Blur with the separable kernel 1 4 6 4 1, then take Sobel's edge magnitude."""
    image = np.pad(picture, 3, mode="edge").astype(np.int32)
    for _ in range(2):
        image = image[:-4] + 4 * image[1:-3] + 6 * image[2:-2] + 4 * image[3:-1] + image[4:] >> 4
        image = image.T
    smooth, slope = image[:, :-2] + 2 * image[:, 1:-1] + image[:, 2:], image[:, 2:] - image[:, :-2]
    across = slope[:-2] + 2 * slope[1:-1] + slope[2:]
    down = smooth[2:] - smooth[:-2]
    magnitude: Image = np.minimum(abs(across) + abs(down), 255).astype(np.uint8)
    return magnitude


def glow(before: Image, now: Image) -> Image:
    """Let the frame before fade into this one: the one step that depends on the order."""
    both: Image = np.maximum(now, before - before // 8)
    return both


def film_in_one_process(job: Job) -> Iterator[Image]:
    """Make the film as one process would."""
    shown: Image = np.zeros((job.height, job.width), np.uint8)
    for number in range(job.frames):
        shown = glow(shown, edges(draw(job, number)))
        yield shown


# ---- the processes


class Pictures:
    """A shared segment of pictures. What [] gives points into it: use it at once, do not keep it."""

    def __init__(self, job: Job, segment: str, count: int, *, create: bool = False) -> None:
        self.shape = (job.height, job.width)
        self.create = create
        self.memory = SharedMemory(f"{job.name}-{segment}", create, count * job.height * job.width)

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self.memory.close()
        if self.create:
            self.memory.unlink()

    def __getitem__(self, index: int) -> Image:
        return np.ndarray(self.shape, np.uint8, self.memory.buf, index * self.shape[0] * self.shape[1])


def semaphore(job: Job, purpose: str) -> posix_ipc.Semaphore:
    """Open one of the semaphores that `semaphores` made."""
    return posix_ipc.Semaphore(f"/{job.name}-{purpose}")


@contextmanager
def semaphores(job: Job) -> Iterator[None]:
    """Make the semaphores, and remove them at the end.

    free: slots that the producer may fill. drawn: frames that a worker may take. turn: held while one
    takes the next number. ready0, ready1, ...: the edges in that slot are there.
    """
    values = {"free": SLOTS, "drawn": 0, "turn": 1} | {f"ready{slot}": 0 for slot in range(SLOTS)}
    with ExitStack() as stack:
        for purpose, value in values.items():
            made = posix_ipc.Semaphore(f"/{job.name}-{purpose}", posix_ipc.O_CREX, 0o600, value)
            stack.callback(made.close)
            stack.callback(made.unlink)
        yield


def produce(job: Job) -> None:
    """Draw every frame, then tell each worker that there are no more."""
    free, drawn = semaphore(job, "free"), semaphore(job, "drawn")
    with Pictures(job, "frames", SLOTS) as frames:
        for number in range(job.frames):
            free.acquire()
            frames[number % SLOTS][:] = draw(job, number)
            drawn.release()
    for _ in range(job.workers):
        drawn.release()


def work(job: Job) -> None:
    """Take the next frame, whoever is free, and find its edges."""
    drawn, turn = semaphore(job, "drawn"), semaphore(job, "turn")
    ready = [semaphore(job, f"ready{slot}") for slot in range(SLOTS)]
    counter = SharedMemory(f"{job.name}-next")
    assert counter.buf is not None
    with Pictures(job, "frames", SLOTS) as frames, Pictures(job, "edges", SLOTS) as found:
        while True:
            drawn.acquire()
            with turn:
                number = int.from_bytes(counter.buf[:4], sys.byteorder)
                counter.buf[:4] = (number + 1).to_bytes(4, sys.byteorder)
            if number >= job.frames:
                return
            found[number % SLOTS][:] = edges(frames[number % SLOTS])
            ready[number % SLOTS].release()


def collect(job: Job) -> None:
    """Take the edges in order, add the glow and append to the film."""
    free = semaphore(job, "free")
    ready = [semaphore(job, f"ready{slot}") for slot in range(SLOTS)]
    shown: Image = np.zeros((job.height, job.width), np.uint8)
    with Pictures(job, "edges", SLOTS) as found, Pictures(job, "film", job.frames) as film:
        for number in range(job.frames):
            ready[number % SLOTS].acquire()
            shown = glow(shown, found[number % SLOTS])
            film[number][:] = shown
            free.release()


def play(role: Callable[[Job], None], job: Job) -> None:
    """Run one role; an interrupt is left to the parent, which ends all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    role(job)


def run(job: Job) -> None:
    """Start everybody and wait until all are done; end all of them when one fails."""
    context = multiprocessing.get_context("spawn")  # nothing is inherited: all is opened by name
    roles = [
        ("producer", produce),
        *((f"worker {n + 1}", work) for n in range(job.workers)),
        ("collector", collect),
    ]
    processes = [
        context.Process(target=play, args=(role, job), name=name, daemon=True) for name, role in roles
    ]
    for process in processes:
        process.start()
    try:
        running: dict[object, BaseProcess] = {process.sentinel: process for process in processes}
        while running:
            for sentinel in wait([process.sentinel for process in running.values()]):
                ended = running.pop(sentinel)
                ended.join()
                if ended.exitcode:
                    sys.exit(f"demo_frames: the {ended.name} ended with exit status {ended.exitcode}.")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def main() -> None:
    """Make the film twice and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--size", default="640x360", metavar="WIDTHxHEIGHT")
    parser.add_argument("--workers", type=int, default=max(2, min(8, len(os.sched_getaffinity(0)))))
    arguments = parser.parse_args()
    try:
        width, height = map(int, arguments.size.split("x"))
    except ValueError:
        parser.error(f"--size is {arguments.size!r}: give it as WIDTHxHEIGHT, for example 640x360")
    if min(width, height, arguments.frames, arguments.workers) < 1:
        parser.error("--frames, --workers, WIDTH and HEIGHT are 1 or more")
    job = Job(f"demo-{os.getpid()}", arguments.frames, width, height, arguments.workers)
    early: list[int] = []  # signals that came before all was made that is to be removed
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda number, _: early.append(number))

    with (
        semaphores(job),
        Pictures(job, "frames", SLOTS, create=True),
        Pictures(job, "edges", SLOTS, create=True),
        Pictures(job, "film", job.frames, create=True) as film,
    ):
        counter = SharedMemory(f"{job.name}-next", create=True, size=4)
        try:
            for ending in (signal.SIGINT, signal.SIGTERM):
                signal.signal(ending, lambda number, _: sys.exit(128 + number))
            if early:
                sys.exit(128 + early[0])
            start = time.perf_counter()
            run(job)
            parallel = time.perf_counter() - start
        finally:
            counter.close()
            counter.unlink()
        start = time.perf_counter()
        for number, expected in enumerate(film_in_one_process(job)):
            if not np.array_equal(film[number], expected):
                sys.exit(f"demo_frames: frame {number} differs from the serial run.")
        serial = time.perf_counter() - start
    print(
        f"Checked: all {job.frames} frames of {width}x{height} made by {job.workers + 2} processes in "
        f"{parallel:.1f} s are equal, byte for byte, to those of a serial run in {serial:.1f} s."
    )


if __name__ == "__main__":
    main()
