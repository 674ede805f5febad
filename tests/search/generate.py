"""Programs from a seed: several processes and threads that share, shrink, fill and lose small files."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from tests.search.masks import masked
from tests.search.program import PAGE, Program, Step

SIZES = (64, 256, 1024, 16384)
"""Limits of the mount in pages."""
FILES, MAPS, NAMES = 5, 5, 8
PROCESSES, THREADS, ROLES = 7, 4, 24
DONTNEED, REMOVE = 4, 9
KEEP_SIZE, PUNCH = 1, 3

MAIN = {
    "open": 10,
    "tmpfile": 1,
    "close": 1,
    "ftruncate": 6,
    "fallocate": 4,
    "write": 4,
    "read": 2,
    "unlink": 3,
    "rename": 2,
    "mmap": 14,
    "attach": 2,
    "remove": 1,
    "anonymous": 2,
    "munmap": 2,
    "mremap": 3,
    "madvise": 4,
    "mlock": 2,
    "munlock": 1,
    "mprotect": 1,
    "touch": 30,
    "kernel_touch": 4,
    "timer": 3,
    "fork": 6,
    "daemon": 1,
    "thread": 4,
    "join": 2,
    "wait": 3,
    "exec": 1,
    "kill": 2,
    "bus": 2,
    "sleep": 2,
    "fsize": 1,
    "census": 1,
    "exit": 1,
}
THREAD = {
    "touch": 30,
    "kernel_touch": 4,
    "madvise": 4,
    "ftruncate": 2,
    "fallocate": 1,
    "write": 2,
    "read": 1,
    "sleep": 2,
    "exit": 1,
}
"""Weights of the steps; what a thread may do leaves the mappings of the others where they are."""


@dataclass
class State:
    """What a process has, as far as it can be known beforehand."""

    files: dict[int, int] = field(default_factory=dict)
    """Pages of each open file, a guess: others may change them."""
    maps: dict[int, int] = field(default_factory=dict)
    """Pages of each mapping."""
    threads: int = 0
    children: int = 0
    depth: int = 0

    def copy(self) -> "State":
        return replace(self, files=dict(self.files), maps=dict(self.maps), threads=0, children=0)


class Generator:
    """Makes one program."""

    def __init__(self, rng: Random, target: str) -> None:
        self.rng = rng
        self.target = target
        self.size = rng.choice(SIZES)
        self.roles: list[list[Step]] = []
        self.processes = 1
        self.largest = rng.choice((8, 40, 40, min(300, self.size + 16)))
        """Pages of the files."""
        share = {name: rng.choice((0.3, 1, 1, 3)) for name in MAIN}
        if not target.startswith("run"):
            share |= dict.fromkeys(("attach", "remove", "anonymous"), 0)  # these are the kernel's
        self.main = {name: weight * share[name] for name, weight in MAIN.items()}

    def program(self) -> Program:
        state = State()
        first: list[Step] = []
        self.roles.append(first)
        if self.target.startswith("record") and self.rng.random() < 0.5:
            self._begin(first, state)
            self._steps(first, state, self.rng.randrange(1, 8), self.main)
            first.append(Step("gate"))
        elif self.target.startswith("record"):
            first.append(Step("gate"))
        self._begin(first, state)
        self._steps(first, state, self.rng.randrange(5, 40), self.main)
        if self.rng.random() < 0.9:
            first += [Step("join"), Step("timer", (0, -1)), Step("wait"), Step("census")]
            first.append(self._end())
        return Program(self.size * PAGE, tuple(map(tuple, self.roles)))

    def _begin(self, steps: list[Step], state: State) -> None:
        if self.rng.random() < 0.7:
            steps.append(Step("bus", (1,)))
        for _ in range(self.rng.randrange(1, 4)):
            self._add(steps, state, "open")
            self._add(steps, state, "ftruncate")
            self._add(steps, state, "mmap")

    def _end(self) -> Step:
        return Step("exit", (self.rng.choice((0, 0, 0, 1, 3, 77)),))

    def _steps(self, steps: list[Step], state: State, count: int, weights: Mapping[str, float]) -> None:
        names, shares = list(weights), list(weights.values())
        for _ in range(count):
            name = self.rng.choices(names, shares)[0]
            if name == "exit" and self.rng.random() < 0.6:
                continue
            self._add(steps, state, name)
            if name == "exec" and steps and steps[-1].name == "exec":
                return

    def _role(self, state: State, weights: Mapping[str, float], *, fresh: bool = False) -> int | None:
        if len(self.roles) >= ROLES:
            return None
        steps: list[Step] = []
        self.roles.append(steps)
        number = len(self.roles) - 1
        if fresh:
            self._begin(steps, state)
        self._steps(steps, state, self.rng.randrange(2, 16), weights)
        if weights is self.main and self.rng.random() < 0.4:
            steps += [Step("join"), Step("wait"), self._end()]
        return number

    def _add(self, steps: list[Step], state: State, name: str) -> None:
        made = getattr(self, f"_make_{name}", lambda state: ())(state)
        if made is not None:
            steps += [Step("join")] if state.threads and name in _ALONE else []
            if name in _ALONE:
                state.threads = 0
            steps.append(Step(name, tuple(made)))

    def _file(self, state: State) -> int | None:
        return self.rng.choice(list(state.files)) if state.files else None

    def _map(self, state: State) -> int | None:
        return self.rng.choice(list(state.maps)) if state.maps else None

    # ---- a method for the arguments of each step; None where it cannot be made now

    def _make_open(self, state: State) -> tuple[int, ...]:
        slot, how = self.rng.randrange(FILES), self.rng.choice((1, 1, 1, 1, 3, 5, 0))
        state.files.setdefault(slot, 0)
        return slot, self.rng.randrange(NAMES - 2), how

    def _make_tmpfile(self, state: State) -> tuple[int, ...]:
        slot = self.rng.randrange(FILES)
        state.files[slot] = 0
        return (slot,)

    def _make_close(self, state: State) -> tuple[int, ...] | None:
        slot = self._file(state)
        if slot is None:
            return None
        del state.files[slot]
        return (slot,)

    def _make_ftruncate(self, state: State) -> tuple[int, ...] | None:
        slot = self._file(state)
        if slot is None:
            return None
        pages = self.rng.choice((0, 1, self.rng.randrange(self.largest + 1), self.largest, self.largest))
        state.files[slot] = pages
        return slot, max(0, pages * PAGE - self.rng.choice((0, 0, 0, 100)))

    def _make_fallocate(self, state: State) -> tuple[int, ...] | None:
        slot = self._file(state)
        if slot is None:
            return None
        first = self.rng.randrange(self.largest)
        count = self.rng.choice((1, self.rng.randrange(1, self.largest + 1), self.size + 1))
        mode = self.rng.choice((0, 0, KEEP_SIZE, PUNCH))
        return slot, mode, first * PAGE, count * PAGE

    def _make_write(self, state: State) -> tuple[int, ...] | None:
        slot = self._file(state)
        if slot is None:
            return None
        return slot, self.rng.randrange(self.largest * PAGE), self.rng.choice((1, 100, PAGE, 10 * PAGE))

    _make_read = _make_write

    def _make_unlink(self, state: State) -> tuple[int, ...]:
        return (self.rng.randrange(NAMES - 2),)

    def _make_rename(self, state: State) -> tuple[int, ...]:
        return tuple(self.rng.sample(range(NAMES - 2), 2))

    def _make_mmap(self, state: State) -> tuple[int, ...] | None:
        slot = next((slot for slot in range(MAPS) if slot not in state.maps), None)
        file = self._file(state)
        if slot is None or file is None:
            return None
        first = self.rng.choice((0, 0, 0, self.rng.randrange(self.largest)))
        pages = self.rng.choice((1, self.rng.randrange(1, self.largest + 4), max(1, state.files[file])))
        private, read_only = self.rng.random() < 0.15, self.rng.random() < 0.15
        populate = self.rng.random() < 0.1 and self._may_populate()
        state.maps[slot] = pages
        return slot, file, first, pages, private | populate << 1 | read_only << 2

    def _may_populate(self) -> bool:
        return not masked("populate a full mount", self.target) or self.size == SIZES[-1]

    def _make_attach(self, state: State) -> tuple[int, ...] | None:
        slot = next((slot for slot in range(MAPS) if slot not in state.maps), None)
        if slot is None:
            return None
        state.maps[slot] = self.rng.randrange(1, min(self.largest, self.size // 4) + 1)
        return slot, self.rng.choice((0, 1, 2)), state.maps[slot]

    def _make_anonymous(self, state: State) -> tuple[int, ...] | None:
        made = self._make_attach(state)
        return made and (made[0], made[2])

    def _make_remove(self, state: State) -> tuple[int, ...]:
        return (self.rng.choice((1, 2)),)

    def _make_munmap(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        if slot is None:
            return None
        del state.maps[slot]
        return (slot,)

    def _make_mremap(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        if slot is None:
            return None
        state.maps[slot] = self.rng.randrange(1, self.largest + 20)
        return slot, state.maps[slot]

    def _make_madvise(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        if slot is None:
            return None
        first = self.rng.randrange(state.maps[slot])
        advice = self.rng.choice((DONTNEED, DONTNEED, DONTNEED, REMOVE))
        return slot, first, self.rng.randrange(1, state.maps[slot] - first + 1), advice

    def _make_mlock(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        if slot is None or not self._may_populate():
            return None
        first = self.rng.randrange(state.maps[slot])
        return slot, first, self.rng.randrange(1, state.maps[slot] - first + 1)

    def _make_munlock(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        return None if slot is None else (slot,)

    def _make_mprotect(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        return None if slot is None else (slot, self.rng.choice((0, 1, 1)))

    def _make_touch(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        if slot is None:
            return None
        count = self.rng.choice((1, 3, state.maps[slot], min(state.maps[slot], 64)))
        return (
            slot, self.rng.randrange(state.maps[slot]), count, self.rng.choice((1, 1, 3, 7, 16)),
            self.rng.choice((0, 1, 1)),
        )  # fmt: skip

    def _make_kernel_touch(self, state: State) -> tuple[int, ...] | None:
        slot = self._map(state)
        return None if slot is None else (slot, self.rng.randrange(state.maps[slot]), self.rng.randrange(2))

    def _make_timer(self, state: State) -> tuple[int, ...]:
        slot = self._map(state) if self.rng.random() < 0.3 else None
        return self.rng.choice((0, 400, 1000, 5000)), -1 if slot is None else slot

    def _make_fork(self, state: State) -> tuple[int, ...] | None:
        if self.processes >= PROCESSES or state.depth > 2:
            return None
        self.processes += 1
        child = state.copy()
        child.depth += 1
        role = self._role(child, self.main)
        if role is None:
            return None
        state.children += 1
        return (role,)

    _make_daemon = _make_fork

    def _make_thread(self, state: State) -> tuple[int, ...] | None:
        if state.threads >= THREADS or not state.maps:
            return None
        role = self._role(state.copy(), THREAD)
        if role is None:
            return None
        state.threads += 1
        return (role,)

    def _make_join(self, state: State) -> tuple[int, ...]:
        state.threads = 0
        return ()

    def _make_wait(self, state: State) -> tuple[int, ...]:
        state.children = 0
        return ()

    def _make_exec(self, state: State) -> tuple[int, ...] | None:
        if state.depth == 0 and self.rng.random() < 0.7:
            return None
        role = self._role(State(depth=state.depth + 1), self.main, fresh=True)
        return None if role is None else (role, 1)

    def _make_kill(self, state: State) -> tuple[int, ...]:
        target = self.rng.choice((1, 1, *range(2, 2 + state.children), *range(2, 2 + state.children)))
        mild = signal.SIGUSR1
        number = self.rng.choice((mild, mild, mild, signal.SIGTERM, signal.SIGKILL)) if target > 1 else mild
        if self.rng.random() < 0.05:
            target, number = (
                0,
                self.rng.choice((signal.SIGTERM, signal.SIGKILL, signal.SIGBUS, signal.SIGABRT)),
            )
        return target, int(number)

    def _make_bus(self, state: State) -> tuple[int, ...]:
        return (self.rng.choice((0, 1, 1)),)

    def _make_exit(self, state: State) -> tuple[int, ...]:
        return (self.rng.choice((0, 1, 2, 42)),)

    def _make_sleep(self, state: State) -> tuple[int, ...]:
        return (self.rng.choice((10, 500, 3000)),)

    def _make_fsize(self, state: State) -> tuple[int, ...]:
        return (64 << 20,)


_ALONE = {
    "munmap",
    "mremap",
    "attach",
    "anonymous",
    "exec",
    "fork",
    "daemon",
    "close",
    "open",
    "tmpfile",
    "mmap",
    "mprotect",
    "wait",
}
"""Not while threads of the process run: they use what it changes, and a fork would copy their memory."""


def generate(seed: int, number: int, target: str) -> Program:
    """Program `number` of a seed; always the same for a target."""
    return Generator(Random(f"{seed}:{number}:{target}"), target).program()
