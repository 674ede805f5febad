"""Every answer of the registry is the kernel's own, ids included."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ipc.support import ALICE, BOB, READ_ONLY, ROOT, Kernel, Model, Shm

CREAT, EXCL, HUGETLB, NORESERVE = 0o1000, 0o2000, 0o4000, 0o10000
RMID, SET, STAT, INFO, LOCK, UNLOCK, SHM_STAT, SHM_INFO, STAT_ANY = 0, 1, 2, 3, 11, 12, 13, 14, 15
KEY = 0x1234
MAX = 1 << 64


class Cases:
    """A case makes an answer that must be the same on both."""

    @staticmethod
    def make_find_and_exclude(shm: Shm) -> Any:
        return [
            shm.get(KEY, 100, 0o600),
            shm.get(KEY, 100, CREAT | 0o600),
            shm.get(KEY, 0, 0),
            shm.get(KEY, 100, 0o777),
            shm.get(KEY, 101, 0),
            shm.get(KEY, 4096, CREAT),
            shm.get(KEY, 100, CREAT | EXCL),
            shm.get(KEY, 5000, CREAT | EXCL),
            shm.get(KEY, 100, EXCL),
            shm.stat(0),
        ]

    @staticmethod
    def private_ones_are_never_found(shm: Shm) -> Any:
        return [shm.get(0, 1, CREAT | EXCL | 0o600), shm.get(0, 1, 0), shm.get(0, 1, 0o640), shm.stat(2)]

    @staticmethod
    def sizes(shm: Shm) -> Any:
        sizes = [0, 1, 4095, 4096, 4097, MAX - (1 << 24), MAX - (1 << 24) - 1, MAX - 1, 1 << 46]
        return [shm.get(0, size, 0o600) for size in sizes] + [shm.get(KEY, 0, CREAT), shm.get(KEY, 0, 0)]

    @staticmethod
    def negative_keys(shm: Shm) -> Any:
        return [
            shm.get(-1, 10, CREAT | 0o600),
            shm.get(-(1 << 31), 10, CREAT | 0o600),
            shm.stat(0),
            shm.stat(1),
        ]

    @staticmethod
    def mode_bits(shm: Shm) -> Any:
        modes = [0, 0o777, 0o3000, 0o1777, 0o666 | NORESERVE, 0o400]
        ids = [shm.get(0, 1, mode) for mode in modes]
        return [shm.stat(one) for one in ids]

    @staticmethod
    def ids_that_are_none(shm: Shm) -> Any:
        first = shm.get(KEY, 10, CREAT | 0o600)
        wrong = [-1, first + 1, first + 32768, first + 3 * 32768, 0x7FFFFFFF, 32767]
        return [
            [shm.stat(one, cmd) for one in wrong for cmd in (STAT, SHM_STAT, STAT_ANY)],
            [shm.ctl(one, cmd) for one in wrong for cmd in (RMID, LOCK, UNLOCK)],
            [shm.set(one, 0, 0, 0) for one in wrong],
            [shm.at(one) for one in wrong],
        ]

    @staticmethod
    def commands_that_are_none(shm: Shm) -> Any:
        shm.get(KEY, 10, CREAT | 0o600)
        return [shm.ctl(0, cmd) for cmd in (-1, 4, 10, 16, 17, 255, 0x7FFFFFFF)] + [shm.ctl(-1, 3)]

    @staticmethod
    def an_index_comes_back_late_and_with_another_sequence(shm: Shm) -> Any:
        said = []
        for _ in range(200):
            one = shm.get(KEY, 10, CREAT | EXCL | 0o600)
            said += [one, shm.stat(one), shm.ctl(one, RMID), shm.stat(one)]
        return said

    @staticmethod
    def more_ids_than_the_first_round(shm: Shm) -> Any:
        ids = [shm.get(0, 1, 0o600) for _ in range(150)]
        gone = [shm.ctl(one, RMID) for one in ids[::3]]
        return [ids, gone, [shm.get(0, 1, 0o600) for _ in range(120)], shm.ctl(0, INFO)[0]]

    @staticmethod
    def removed_while_attached(shm: Shm) -> Any:
        one = shm.get(KEY, 10, CREAT | NORESERVE | 0o600)
        attaches = [shm.at(one), shm.at(one)]
        said = [shm.stat(one), shm.ctl(one, RMID), shm.stat(one), shm.get(KEY, 10, 0o600)]
        another = shm.get(KEY, 10, CREAT | NORESERVE | 0o600)
        said += [another, shm.at(one), shm.ctl(one, RMID), shm.ctl(0, SHM_INFO)]
        for attach in (*attaches, said[-3]):
            shm.dt(attach)
            said.append(shm.stat(one))
        return [*said, shm.ctl(one, RMID), shm.at(one), shm.stat(another), shm.ctl(0, SHM_INFO)]

    @staticmethod
    def an_attach_is_counted_and_dated(shm: Shm) -> Any:
        one = shm.get(KEY, 10, CREAT | 0o600)
        said = [shm.stat(one)]
        attach = shm.at(one)
        said.append(shm.stat(one))
        shm.dt(attach)
        return [*said, shm.stat(one), shm.stat(0, SHM_STAT)]

    @staticmethod
    def set_changes_owner_and_mode(shm: Shm) -> Any:
        one = shm.get(KEY, 10, CREAT | 0o600, ALICE)
        return [
            shm.set(one, BOB, BOB, 0o7640, ALICE),
            shm.stat(one),
            shm.stat(one, STAT, ALICE),
            shm.set(one, ROOT, ROOT, 0o600, BOB),
            shm.stat(one),
            shm.set(one, ROOT, ROOT, 0o600, BOB),
            shm.set(one, -1, 0, 0o600, ALICE),
            shm.set(one, 0, -1, 0o600, ALICE),
            shm.ctl(one, RMID, ALICE),
        ]

    @staticmethod
    def permissions_by_owner_creator_group_and_others(shm: Shm) -> Any:
        said = []
        for mode in (0o600, 0o060, 0o006, 0o400, 0o040, 0o004, 0o200, 0o644, 0o777, 0):
            one = shm.get(KEY, 10, CREAT | mode, ALICE)
            for owner, group in ((ALICE, ALICE), (BOB, BOB), (ALICE, 3000), (BOB, 4000), (ROOT, 5000)):
                said.append(shm.set(one, owner, group, mode))
                for who in (ROOT, ALICE, BOB):
                    said += [shm.stat(one, cmd, who) for cmd in (STAT, SHM_STAT, STAT_ANY)]
                    said += [shm.get(KEY, 1, wanted, who) for wanted in (0, 0o400, 0o200, 0o600, 0o006)]
                    for flags in (0, READ_ONLY):
                        said.append(shm.at(one, flags, who))
                        if isinstance(said[-1], int):
                            shm.dt(said[-1])
                            said[-1] = "attached"
            said += [shm.ctl(one, RMID, BOB), shm.ctl(one, RMID)]
        return said

    @staticmethod
    def locking(shm: Shm) -> Any:
        one = shm.get(KEY, 10, CREAT | 0o600, ALICE)
        return [
            *(shm.ctl(one, LOCK, ALICE), shm.stat(one), shm.ctl(one, LOCK, ALICE), shm.ctl(one, UNLOCK, BOB)),
            *(shm.ctl(one, UNLOCK, ALICE), shm.stat(one), shm.ctl(one, LOCK), shm.ctl(one, RMID)),
        ]

    @staticmethod
    def information(shm: Shm) -> Any:
        said = [shm.ctl(0, INFO), shm.ctl(0, SHM_INFO)]
        ids = [shm.get(0, size, 0o600 | NORESERVE) for size in (1, 4096, 4097, 1 << 20)]
        said += [shm.ctl(0, INFO), shm.ctl(0, SHM_INFO), shm.ctl(ids[3], RMID), shm.ctl(ids[0], RMID)]
        return [*said, shm.ctl(0, SHM_INFO)]


CASES = [name for name, one in inspect.getmembers(Cases, inspect.isfunction)]


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str, kernel: Kernel, model_of: Callable[..., Model]) -> None:
    case = getattr(Cases, name)
    assert case(model_of()) == case(kernel)


LIMITS = [
    ("shmmni", 3, [(0, 1), (0, 1), (0, 1), (0, 1)]),
    ("shmmax", 8192, [(0, 8193), (0, 8192)]),
    ("shmall", 4, [(0, 4096 * 5), (0, 4096 * 3), (0, 4097), (0, 1), (0, 1)]),
]


@pytest.mark.parametrize(("name", "value", "sizes"), LIMITS)
def test_a_limit(name: str, value: int, sizes: Any, kernel: Kernel, model_of: Callable[..., Model]) -> None:
    def case(shm: Shm) -> Any:
        ids = [shm.get(key, size, 0o600) for key, size in sizes]
        again = [shm.ctl(0, RMID), shm.get(0, 1, 0o600)]
        return [ids, again, shm.ctl(0, INFO)]

    kernel.limit(name, value)
    assert case(model_of(f"size=64m,pages=managed,{name}={value}")) == case(kernel)


def test_thousands_of_ids_one_after_another(kernel: Kernel, model_of: Callable[..., Model]) -> None:
    def case(shm: Shm) -> Any:
        said = []
        for _ in range(2000):
            said.append(shm.get(0, 1, 0o600))
            shm.ctl(said[-1], RMID)
        return said

    assert case(model_of()) == case(kernel)


KEYS = st.sampled_from([0, 1, 2, 3])
USERS = st.sampled_from([ROOT, ALICE, BOB])
MODES = st.sampled_from([0o600, 0o660, 0o666, 0o640, 0o400, 0])
STEPS = st.one_of(
    st.tuples(st.just("get"), KEYS, st.integers(0, 9000), MODES.map(lambda m: m | CREAT), USERS),
    st.tuples(st.just("get"), KEYS, st.integers(0, 9000), MODES, USERS),
    st.tuples(st.just("get"), KEYS, st.integers(1, 9000), MODES.map(lambda m: m | CREAT | EXCL), USERS),
    st.tuples(st.just("at"), st.integers(0, 5), st.sampled_from([0, READ_ONLY]), USERS),
    st.tuples(st.just("dt"), st.integers(0, 9)),
    st.tuples(st.just("stat"), st.integers(0, 5), st.sampled_from([STAT, SHM_STAT, STAT_ANY]), USERS),
    st.tuples(st.just("set"), st.integers(0, 5), USERS, USERS, MODES, USERS),
    st.tuples(st.just("ctl"), st.integers(0, 5), st.sampled_from([RMID, RMID, LOCK, UNLOCK]), USERS),
)


def play(shm: Shm, steps: list[tuple[Any, ...]]) -> list[Any]:
    """Steps name segments and attaches by their place among those there were."""
    ids: list[int] = []
    attaches: list[int] = []
    said: list[Any] = []
    for name, *arguments in steps:
        if name == "dt":
            if attaches:
                shm.dt(attaches.pop(arguments[0] % len(attaches)))
            continue
        if name != "get":
            if not ids:
                continue
            arguments[0] = ids[arguments[0] % len(ids)]
        said.append(getattr(shm, name)(*arguments))
        if name == "get" and isinstance(said[-1], int) and said[-1] not in ids:
            ids.append(said[-1])
        if name == "at" and isinstance(said[-1], int):
            attaches.append(said[-1])
            said[-1] = "attached"
    said += [shm.stat(one) for one in ids]
    for attach in attaches:
        shm.dt(attach)
    said += [shm.stat(one) for one in ids]
    for one in ids:
        shm.ctl(one, RMID)
    return said


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=5, max_size=40))
def test_whatever_is_done(steps: list[tuple[Any, ...]]) -> None:
    kernel, model = _kernel(), Model()
    try:
        assert play(model, steps) == play(kernel, steps)
    finally:
        kernel.close()
        model.close()


def _kernel() -> Kernel:
    try:
        return Kernel()
    except PermissionError as failure:
        pytest.skip(f"needs the right to make an IPC namespace: {failure}")
