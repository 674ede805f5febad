"""Synchronization through shared mappings: mutexes, conditions, semaphores, barriers, futexes."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, PRIVATE, Channel, Mapping, call, child, libc, new, process, tried

MUTEX, CONDITION, BARRIER, RWLOCK, COUNTER = 0, 64, 128, 192, 256
WAIT, WAKE = 0, 1


def shared_page() -> Mapping:
    fd = new("f")
    os.ftruncate(fd, PAGE)
    return Mapping(fd)


def pointer(m: Mapping, offset: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(m.address + offset)


def mapped_again() -> Mapping:
    """The shared page, mapped by opening the file by its name, as another process does."""
    return Mapping(os.open("f", os.O_RDWR))


def attribute(kind: str, **settings: int) -> Any:
    """A pthread_mutexattr_t and its like, for processes."""
    made = ctypes.create_string_buffer(64)
    libc[f"pthread_{kind}attr_init"](made)
    for setting, value in {"pshared": 1, **settings}.items():
        libc[f"pthread_{kind}attr_set{setting}"](made, value)
    return made


# ---- mutexes


@case()
def a_mutex_of_processes(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(pointer(m, MUTEX), attribute("mutex"))

    def add(channel: Channel) -> None:
        own = mapped_again()
        counter = ctypes.c_long.from_address(own.address + COUNTER)
        for _ in range(300):
            libc.pthread_mutex_lock(pointer(own, MUTEX))
            counter.value += 1
            libc.pthread_mutex_unlock(pointer(own, MUTEX))
        channel.send("done")

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process(add)) for _ in range(4)]
        seen = [worker.receive() for worker in workers]
    return [seen, ctypes.c_long.from_address(m.address + COUNTER).value]


@case()
def a_mutex_that_is_inherited(d: Path) -> Any:
    """Children increment a counter under a mutex that they inherit; no increment is lost."""
    fd = new("f")
    os.ftruncate(fd, PAGE)
    mapping = Mapping(fd)
    size = 40  # sizeof(pthread_mutex_t)
    attribute = ctypes.create_string_buffer(16)
    libc.pthread_mutexattr_init(attribute)
    libc.pthread_mutexattr_setpshared(attribute, 1)
    mutex, counter = ctypes.c_void_p(mapping.address), ctypes.c_long.from_address(mapping.address + 2 * size)
    libc.pthread_mutex_init(mutex, attribute)

    def add(channel: Channel) -> None:
        for _ in range(500):
            libc.pthread_mutex_lock(mutex)
            counter.value += 1
            libc.pthread_mutex_unlock(mutex)
        channel.send("done")

    with process(add) as one, process(add) as two, process(add) as three:
        seen = [one.receive(), two.receive(), three.receive()]
    return [seen, counter.value]


@case()
def a_busy_mutex(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(pointer(m, MUTEX), attribute("mutex"))
    libc.pthread_mutex_lock(pointer(m, MUTEX))
    return child(lambda: libc.pthread_mutex_trylock(pointer(mapped_again(), MUTEX)))


@case()
def a_robust_mutex(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, PAGE)
    mapping = Mapping(fd)
    attribute = ctypes.create_string_buffer(16)
    libc.pthread_mutexattr_init(attribute)
    libc.pthread_mutexattr_setpshared(attribute, 1)
    libc.pthread_mutexattr_setrobust(attribute, 1)
    mutex = ctypes.c_void_p(mapping.address)
    libc.pthread_mutex_init(mutex, attribute)

    def die() -> None:
        libc.pthread_mutex_lock(mutex)
        os.kill(os.getpid(), signal.SIGKILL)

    seen = [child(die), libc.pthread_mutex_lock(mutex), libc.pthread_mutex_consistent(mutex)]
    return [*seen, libc.pthread_mutex_unlock(mutex), libc.pthread_mutex_lock(mutex)]


@case()
def a_robust_mutex_whose_owner_died(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(pointer(m, MUTEX), attribute("mutex", robust=1))

    def die() -> None:
        libc.pthread_mutex_lock(pointer(mapped_again(), MUTEX))
        os.kill(os.getpid(), signal.SIGKILL)

    seen = [child(die), libc.pthread_mutex_lock(pointer(m, MUTEX))]
    return [
        *seen,
        libc.pthread_mutex_consistent(pointer(m, MUTEX)),
        libc.pthread_mutex_unlock(pointer(m, MUTEX)),
    ]


@case()
def a_robust_mutex_that_is_not_recovered(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(pointer(m, MUTEX), attribute("mutex", robust=1))
    child(lambda: libc.pthread_mutex_lock(pointer(mapped_again(), MUTEX)))
    seen = [libc.pthread_mutex_lock(pointer(m, MUTEX)), libc.pthread_mutex_unlock(pointer(m, MUTEX))]
    return [*seen, libc.pthread_mutex_lock(pointer(m, MUTEX))]


@case()
def a_mutex_that_inherits_priority(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(pointer(m, MUTEX), attribute("mutex", protocol=1))
    seen = [
        libc.pthread_mutex_lock(pointer(m, MUTEX)),
        child(lambda: libc.pthread_mutex_trylock(pointer(mapped_again(), MUTEX))),
    ]
    return [*seen, libc.pthread_mutex_unlock(pointer(m, MUTEX))]


# ---- other POSIX objects


@case()
def a_condition_of_processes(d: Path) -> Any:
    m = shared_page()
    libc.pthread_mutex_init(pointer(m, MUTEX), attribute("mutex"))
    libc.pthread_cond_init(pointer(m, CONDITION), attribute("cond"))

    def wait(channel: Channel) -> None:
        own = mapped_again()
        libc.pthread_mutex_lock(pointer(own, MUTEX))
        channel.send("waiting")
        while own.load(COUNTER) == b"\0":
            libc.pthread_cond_wait(pointer(own, CONDITION), pointer(own, MUTEX))
        libc.pthread_mutex_unlock(pointer(own, MUTEX))
        channel.send("woken")

    with process(wait) as one, process(wait) as two:
        seen = [one.receive(), two.receive()]
        libc.pthread_mutex_lock(pointer(m, MUTEX))
        m.store(b"\1", COUNTER)
        libc.pthread_cond_broadcast(pointer(m, CONDITION))
        libc.pthread_mutex_unlock(pointer(m, MUTEX))
        return [*seen, one.receive(), two.receive()]


@case()
def a_barrier_of_processes(d: Path) -> Any:
    m = shared_page()
    libc.pthread_barrier_init(pointer(m, BARRIER), attribute("barrier"), 3)

    def arrive(channel: Channel) -> None:
        channel.send(libc.pthread_barrier_wait(pointer(mapped_again(), BARRIER)))

    with process(arrive) as one, process(arrive) as two:
        here = libc.pthread_barrier_wait(pointer(m, BARRIER))
        return sorted([here, one.receive(), two.receive()])


@case()
def a_read_write_lock(d: Path) -> Any:
    m = shared_page()
    libc.pthread_rwlock_init(pointer(m, RWLOCK), attribute("rwlock"))
    libc.pthread_rwlock_rdlock(pointer(m, RWLOCK))

    def look() -> Any:
        own = pointer(mapped_again(), RWLOCK)
        return [
            libc.pthread_rwlock_tryrdlock(own),
            libc.pthread_rwlock_trywrlock(own),
            libc.pthread_rwlock_unlock(own),
        ]

    return [
        child(look),
        libc.pthread_rwlock_unlock(pointer(m, RWLOCK)),
        libc.pthread_rwlock_trywrlock(pointer(m, RWLOCK)),
    ]


@case()
def two_semaphores(d: Path) -> Any:
    m = shared_page()
    libc.sem_init(pointer(m, 0), 1, 0), libc.sem_init(pointer(m, 64), 1, 0)

    def inside(channel: Channel) -> None:
        own = mapped_again()
        for _ in range(100):
            libc.sem_wait(pointer(own, 0))
            libc.sem_post(pointer(own, 64))
        channel.send("done")

    with process(inside) as other:
        for _ in range(100):
            libc.sem_post(pointer(m, 0))
            libc.sem_wait(pointer(m, 64))
        return [other.receive(), tried(call, "sem_trywait", pointer(m, 64))]


@case()
def two_semaphores_of_one_mapping(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, PAGE)
    mapping = Mapping(fd)
    semaphore, back = ctypes.c_void_p(mapping.address), ctypes.c_void_p(mapping.address + 64)
    libc.sem_init(semaphore, 1, 0), libc.sem_init(back, 1, 0)

    def inside(channel: Channel) -> None:
        own = Mapping(os.open("f", os.O_RDWR))
        for _ in range(50):
            libc.sem_wait(ctypes.c_void_p(own.address))
            libc.sem_post(ctypes.c_void_p(own.address + 64))
        channel.send("done")

    with process(inside) as other:
        for _ in range(50):
            libc.sem_post(semaphore)
            libc.sem_wait(back)
        seen = other.receive()
    return [seen, libc.sem_trywait(semaphore)]


@case()
def a_named_semaphore(d: Path) -> Any:
    """The steps of sem_open(3): a temporary file that is linked to its name."""
    fd = new("sem.tmp")
    os.ftruncate(fd, 32)
    libc.sem_init(pointer(Mapping(fd), 0), 1, 2)
    os.link("sem.tmp", "sem.x"), os.unlink("sem.tmp")

    def take() -> Any:
        own = pointer(Mapping(os.open("sem.x", os.O_RDWR)), 0)
        return tried(call, "sem_trywait", own)

    return [child(take), child(take), child(take), os.listdir(".")]


# ---- futexes


@case()
def a_futex_by_two_names(d: Path) -> Any:
    """The key of a shared futex is the inode, so a mapping by another name wakes the waiter."""
    m = shared_page()
    os.link("f", "g")

    def wait(channel: Channel) -> None:
        own = Mapping(os.open("g", os.O_RDWR))
        channel.send("ready")
        while own.load(0, 4) == bytes(4):
            tried(call, "syscall", "futex", pointer(own, 0), WAIT, 0, 0, 0, 0)
        channel.send("woken")

    with process(wait) as other:
        seen = [other.receive()]
        m.store(b"\1\0\0\0")
        call("syscall", "futex", pointer(m, 0), WAKE, 10, 0, 0, 0)
        return [*seen, other.receive()]


@case()
def a_futex_of_unrelated_processes(d: Path) -> Any:
    os.ftruncate(new("f"), PAGE)

    def waiter(channel: Channel) -> None:
        mapping = Mapping(os.open("f", os.O_RDWR))
        channel.send("ready")
        while mapping.load(0, 4) == bytes(4):
            tried(call, "syscall", "futex", ctypes.c_void_p(mapping.address), 0, 0, 0, 0, 0)
        channel.send(mapping.load(4, 5))

    with process(waiter) as other:
        mapping = Mapping(os.open("f", os.O_RDWR))
        seen = [other.receive()]
        mapping.store(b"woken", 4)
        mapping.store(b"\1\0\0\0")
        call("syscall", "futex", ctypes.c_void_p(mapping.address), 1, 1 << 20, 0, 0, 0)
        seen.append(other.receive())
    return seen


@case()
def a_futex_of_an_unlinked_file(d: Path) -> Any:
    m = shared_page()

    def wait(channel: Channel) -> None:
        channel.send("ready")
        while m.load(0, 4) == bytes(4):
            tried(call, "syscall", "futex", pointer(m, 0), WAIT, 0, 0, 0, 0)
        channel.send("woken")

    with process(wait) as other:
        seen = [other.receive()]
        os.unlink("f")
        m.store(b"\1\0\0\0")
        call("syscall", "futex", pointer(m, 0), WAKE, 10, 0, 0, 0)
        return [*seen, other.receive()]


@case()
def a_futex_with_another_value(d: Path) -> Any:
    m = shared_page()
    return tried(call, "syscall", "futex", pointer(m, 0), WAIT, 5, 0, 0, 0)


@case()
def a_futex_beyond_the_end(d: Path) -> Any:
    m = Mapping(new("f", b"x"), 2 * PAGE)
    return [
        tried(call, "syscall", "futex", pointer(m, PAGE), WAIT, 0, 0, 0, 0),
        tried(call, "syscall", "futex", pointer(m, PAGE), WAKE, 1, 0, 0, 0),
    ]


@case()
def a_futex_in_a_private_mapping(d: Path) -> Any:
    m = shared_page()
    own = Mapping(os.open("f", os.O_RDWR), PAGE, flags=PRIVATE)
    own.store(b"\0")
    return [
        call("syscall", "futex", pointer(own, 0), WAKE, 1, 0, 0, 0),
        call("syscall", "futex", pointer(m, 0), WAKE, 1, 0, 0, 0),
    ]


# ---- stopped processes


@case()
def a_stopped_process(d: Path) -> Any:
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
