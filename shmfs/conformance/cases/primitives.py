"""What processes synchronise with in a shared mapping: mutexes, conditions, semaphores, barriers, futexes."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, PRIVATE, Channel, Mapping, call, child, libc, new, process, tried

WAIT, WAKE, REQUEUE, PRIVATE_FLAG = 0, 1, 3, 128
MUTEX, CONDITION, BARRIER, RWLOCK, COUNTER = 0, 64, 128, 192, 256


def shared_page() -> Mapping:
    fd = new("f")
    os.ftruncate(fd, PAGE)
    return Mapping(fd)


def place(m: Mapping, offset: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(m.address + offset)


def again() -> Mapping:
    """The page as another process maps it, who opens the file by its name."""
    return Mapping(os.open("f", os.O_RDWR))


def attribute(kind: str, **settings: int) -> Any:
    """A pthread_mutexattr_t and its like, for processes."""
    made = ctypes.create_string_buffer(64)
    libc[f"pthread_{kind}attr_init"](made)
    for setting, value in {"pshared": 1, **settings}.items():
        libc[f"pthread_{kind}attr_set{setting}"](made, value)
    return made


@case()
def a_mutex_excludes(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(place(m, MUTEX), attribute("mutex"))

    def add(channel: Channel) -> None:
        own = again()
        counter = ctypes.c_long.from_address(own.address + COUNTER)
        for _ in range(300):
            libc.pthread_mutex_lock(place(own, MUTEX))
            counter.value += 1
            libc.pthread_mutex_unlock(place(own, MUTEX))
        channel.send("done")

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process(add)) for _ in range(4)]
        seen = [worker.receive() for worker in workers]
    return [seen, ctypes.c_long.from_address(m.address + COUNTER).value]


@case()
def a_mutex_is_busy(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(place(m, MUTEX), attribute("mutex"))
    libc.pthread_mutex_lock(place(m, MUTEX))
    return child(lambda: libc.pthread_mutex_trylock(place(again(), MUTEX)))


@case()
def a_robust_mutex_whose_owner_died(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(place(m, MUTEX), attribute("mutex", robust=1))

    def die() -> None:
        libc.pthread_mutex_lock(place(again(), MUTEX))
        os.kill(os.getpid(), signal.SIGKILL)

    seen = [child(die), libc.pthread_mutex_lock(place(m, MUTEX))]
    return [*seen, libc.pthread_mutex_consistent(place(m, MUTEX)), libc.pthread_mutex_unlock(place(m, MUTEX))]


@case()
def a_robust_mutex_that_is_not_recovered(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(place(m, MUTEX), attribute("mutex", robust=1))
    child(lambda: libc.pthread_mutex_lock(place(again(), MUTEX)))
    seen = [libc.pthread_mutex_lock(place(m, MUTEX)), libc.pthread_mutex_unlock(place(m, MUTEX))]
    return [*seen, libc.pthread_mutex_lock(place(m, MUTEX))]


@case()
def a_mutex_that_inherits_priority(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(place(m, MUTEX), attribute("mutex", protocol=1))
    seen = [
        libc.pthread_mutex_lock(place(m, MUTEX)),
        child(lambda: libc.pthread_mutex_trylock(place(again(), MUTEX))),
    ]
    return [*seen, libc.pthread_mutex_unlock(place(m, MUTEX))]


@case()
def a_condition_wakes_another_process(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(place(m, MUTEX), attribute("mutex"))
    libc.pthread_cond_init(place(m, CONDITION), attribute("cond"))

    def wait(channel: Channel) -> None:
        own = again()
        libc.pthread_mutex_lock(place(own, MUTEX))
        channel.send("waiting")
        while own.load(COUNTER) == b"\0":
            libc.pthread_cond_wait(place(own, CONDITION), place(own, MUTEX))
        libc.pthread_mutex_unlock(place(own, MUTEX))
        channel.send("woken")

    with process(wait) as one, process(wait) as two:
        seen = [one.receive(), two.receive()]
        libc.pthread_mutex_lock(place(m, MUTEX))
        m.store(b"\1", COUNTER)
        libc.pthread_cond_broadcast(place(m, CONDITION))
        libc.pthread_mutex_unlock(place(m, MUTEX))
        return [*seen, one.receive(), two.receive()]


@case()
def a_barrier_of_processes(d: Path) -> Any:
    m = shared_page()
    libc.pthread_barrier_init(place(m, BARRIER), attribute("barrier"), 3)

    def arrive(channel: Channel) -> None:
        channel.send(libc.pthread_barrier_wait(place(again(), BARRIER)))

    with process(arrive) as one, process(arrive) as two:
        here = libc.pthread_barrier_wait(place(m, BARRIER))
        return sorted([here, one.receive(), two.receive()])


@case()
def a_lock_for_readers_and_a_writer(d: Path) -> Any:
    m = shared_page()
    libc.pthread_rwlock_init(place(m, RWLOCK), attribute("rwlock"))
    libc.pthread_rwlock_rdlock(place(m, RWLOCK))

    def look() -> Any:
        own = place(again(), RWLOCK)
        return [
            libc.pthread_rwlock_tryrdlock(own),
            libc.pthread_rwlock_trywrlock(own),
            libc.pthread_rwlock_unlock(own),
        ]

    return [
        child(look),
        libc.pthread_rwlock_unlock(place(m, RWLOCK)),
        libc.pthread_rwlock_trywrlock(place(m, RWLOCK)),
    ]


@case()
def a_semaphore_is_passed_to_and_fro(d: Path) -> Any:
    m = shared_page()
    libc.sem_init(place(m, 0), 1, 0), libc.sem_init(place(m, 64), 1, 0)

    def inside(channel: Channel) -> None:
        own = again()
        for _ in range(100):
            libc.sem_wait(place(own, 0))
            libc.sem_post(place(own, 64))
        channel.send("done")

    with process(inside) as other:
        for _ in range(100):
            libc.sem_post(place(m, 0))
            libc.sem_wait(place(m, 64))
        return [other.receive(), tried(call, "sem_trywait", place(m, 64))]


@case()
def a_futex_wakes_across_names_of_the_file(d: Path) -> Any:
    """The key of a shared futex is the inode: another mapping by another name will do."""
    m = shared_page()
    os.link("f", "g")

    def wait(channel: Channel) -> None:
        own = Mapping(os.open("g", os.O_RDWR))
        channel.send("ready")
        while own.load(0, 4) == bytes(4):
            tried(call, "syscall", "futex", place(own, 0), WAIT, 0, 0, 0, 0)
        channel.send("woken")

    with process(wait) as other:
        seen = [other.receive()]
        m.store(b"\1\0\0\0")
        call("syscall", "futex", place(m, 0), WAKE, 10, 0, 0, 0)
        return [*seen, other.receive()]


@case()
def a_futex_after_the_name_is_gone(d: Path) -> Any:
    m = shared_page()

    def wait(channel: Channel) -> None:
        channel.send("ready")
        while m.load(0, 4) == bytes(4):
            tried(call, "syscall", "futex", place(m, 0), WAIT, 0, 0, 0, 0)
        channel.send("woken")

    with process(wait) as other:
        seen = [other.receive()]
        os.unlink("f")
        m.store(b"\1\0\0\0")
        call("syscall", "futex", place(m, 0), WAKE, 10, 0, 0, 0)
        return [*seen, other.receive()]


@case()
def a_futex_with_another_value(d: Path) -> Any:
    m = shared_page()
    return tried(call, "syscall", "futex", place(m, 0), WAIT, 5, 0, 0, 0)


@case()
def a_futex_behind_the_end(d: Path) -> Any:
    m = Mapping(new("f", b"x"), 2 * PAGE)
    return [
        tried(call, "syscall", "futex", place(m, PAGE), WAIT, 0, 0, 0, 0),
        tried(call, "syscall", "futex", place(m, PAGE), WAKE, 1, 0, 0, 0),
    ]


@case()
def a_futex_in_a_private_mapping_is_nobody_elses(d: Path) -> Any:
    m = shared_page()
    own = Mapping(os.open("f", os.O_RDWR), PAGE, flags=PRIVATE)
    own.store(b"\0")
    return [
        call("syscall", "futex", place(own, 0), WAKE, 1, 0, 0, 0),
        call("syscall", "futex", place(m, 0), WAKE, 1, 0, 0, 0),
    ]


@case()
def a_named_semaphore(d: Path) -> Any:
    """What sem_open(3) does, by hand: a temporary file that is linked to its name."""
    fd = new("sem.tmp")
    os.ftruncate(fd, 32)
    libc.sem_init(place(Mapping(fd), 0), 1, 2)
    os.link("sem.tmp", "sem.x"), os.unlink("sem.tmp")

    def take() -> Any:
        own = place(Mapping(os.open("sem.x", os.O_RDWR)), 0)
        return tried(call, "sem_trywait", own)

    return [child(take), child(take), child(take), os.listdir(".")]


@case()
def a_process_that_is_stopped_holds_nobody_up(d: Path) -> Any:
    m = shared_page()

    def spin(channel: Channel) -> None:
        channel.send("ready")
        while True:
            m.store(b"x")

    with process(spin) as other:
        other.receive()
        pid: int = other.pid  # type: ignore[attr-defined]
        while m.load() != b"x":
            time.sleep(0.001)
        os.kill(pid, signal.SIGSTOP)
        seen = [m.load(), os.pread(os.open("f", os.O_RDONLY), 1, 0)]
        os.kill(pid, signal.SIGKILL)
    return seen
