"""Pages shared by several processes: stores, private copies, fork, passed descriptors."""

import mmap
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    PAGE,
    PRIVATE,
    READ,
    WRITE,
    Channel,
    Mapping,
    ask,
    blocks,
    child,
    content,
    new,
    process,
)


def obey(channel: Channel, flags: int, pages: int = 4) -> None:
    """The main loop of a process that maps the file itself, and loads and stores on request."""
    mapping = Mapping(os.open("f", os.O_RDWR), pages * PAGE, flags=flags)
    channel.send("ready")
    while (order := channel.receive()) != "gone":
        offset, data = order
        if isinstance(data, bytes):
            mapping.store(data, offset)
            channel.send("stored")
        else:
            channel.send(mapping.load(offset, data))


@case()
def a_store_is_seen_at_once(d: Path) -> Any:
    os.ftruncate(new("f"), 4 * PAGE)
    seen = []
    with process(obey, 1) as one, process(obey, 1) as two:
        one.receive(), two.receive()
        for offset in (0, 100, PAGE - 2, 3 * PAGE):
            data = f"<{offset}>".encode()
            ask(one, offset, data)
            seen.append(ask(two, offset, len(data)))
            ask(two, offset, data[::-1])
            seen.append(ask(one, offset, len(data)))
    return [seen, content("f")[:8]]


@case()
def private_copies(d: Path) -> Any:
    fd = new("f", b"a" * 4 * PAGE)
    with process(obey, PRIVATE) as private, process(obey, 1) as shared:
        private.receive(), shared.receive()
        seen = [ask(private, 0, 2), ask(private, 0, b"mine"), ask(shared, 0, 4)]
        ask(shared, 0, b"ours"), ask(shared, PAGE, b"ours")
        seen += [ask(private, 0, 4), ask(private, PAGE, 4), os.pread(fd, 4, 0)]
        os.pwrite(fd, b"write", 2 * PAGE)
        seen += [ask(private, 2 * PAGE, 5), ask(shared, 2 * PAGE, 5)]
    return seen


@case()
def a_write_is_seen_in_mappings(d: Path) -> Any:
    fd = new("f", b"a" * 4 * PAGE)
    with process(obey, 1) as other:
        other.receive()
        seen = [ask(other, PAGE, 4)]
        os.pwrite(fd, b"read me", PAGE - 3)
        seen += [ask(other, PAGE - 3, 7), ask(other, 10, b"stored")]
        seen += [os.pread(fd, 6, 10)]
        os.ftruncate(fd, PAGE)
        os.ftruncate(fd, 4 * PAGE)
        seen += [ask(other, PAGE, 4), ask(other, 2 * PAGE, b"anew"), os.pread(fd, 4, 2 * PAGE)]
    return seen


@case()
def over_fork(d: Path) -> Any:
    fd = new("f", b"a" * 2 * PAGE)
    shared, private = Mapping(fd, 2 * PAGE), Mapping(fd, 2 * PAGE, flags=PRIVATE)
    private.store(b"before", PAGE)

    def inside() -> Any:
        seen = [shared.load(), private.load(PAGE, 6)]
        shared.store(b"child")
        private.store(b"child", 100)
        return seen

    seen = child(inside)
    return [seen, shared.load(0, 6), private.load(100, 5), private.load(PAGE, 6), private.load(0, 5)]


@case()
def mappings_of_an_unlinked_file(d: Path) -> Any:
    os.ftruncate(new("f"), 4 * PAGE)
    with process(obey, 1) as one, process(obey, 1) as two:
        one.receive(), two.receive()
        os.unlink("f")
        os.close(new("f", b"another file"))
        ask(one, PAGE, b"still there")
        return [ask(two, PAGE, 11), content("f")]


@case()
def descriptors_are_passed(d: Path) -> Any:
    import array

    left, right = socket.socketpair()

    def receiver(channel: Channel) -> None:
        _, parts, _, _ = right.recvmsg(1, 100)
        passed = array.array("i", parts[0][2])[0]
        mapping = Mapping(passed, PAGE)
        mapping.store(b"passed")
        channel.send(mapping.load(10, 4))

    with process(receiver) as other:
        fd = new("f", b"0123456789abcdef")
        os.ftruncate(fd, PAGE)
        os.unlink("f")
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        seen = other.receive()
    return [seen, os.pread(fd, 8, 0)]


@case()
def through_proc(d: Path) -> Any:
    fd = new("f", b"by proc")
    os.unlink("f")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    Mapping(again).store(b"BY")
    link = os.readlink(f"/proc/self/fd/{fd}")
    return [os.pread(fd, 7, 0), link.endswith("/room/f (deleted)"), os.stat(f"/proc/self/fd/{fd}").st_nlink]


@case()
def threads(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 64 * PAGE)
    mapping = Mapping(fd, 64 * PAGE)

    def work(number: int) -> None:
        for page in range(64):
            mapping.store(bytes([number]), page * PAGE + number)
            os.pwrite(fd, bytes([number]), page * PAGE + 100 + number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    data = content("f")
    return [{data[p * PAGE : p * PAGE + 110] for p in range(64)}, blocks("f")]


@case()
def many_processes_on_one_page(d: Path) -> Any:
    os.ftruncate(new("f"), PAGE)

    def one(channel: Channel, number: int) -> None:
        mapping = Mapping(os.open("f", os.O_RDWR))
        for step in range(200):
            mapping.store(struct.pack("I", step + 1), number * 4)
        channel.send("done")

    import contextlib

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process(one, number)) for number in range(16)]
        seen = [worker.receive() for worker in workers]
    return [set(seen), struct.unpack("16I", content("f")[:64])]


@case()
def read_through_another_process(d: Path) -> Any:
    """/proc/PID/mem and process_vm_readv reach pages that the target has not touched."""
    fd = new("f", b"target" + bytes(PAGE) + b"second")
    mapping = Mapping(fd, 2 * PAGE)

    def look(address: int, pid: int) -> Any:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            seen = [memory.read(6)]
            memory.seek(address + PAGE + 6)
            seen += [memory.read(6)]
            memory.seek(address)
            memory.write(b"POKED!")
        return seen

    return [child(look, mapping.address, os.getpid()), mapping.load(0, 6), os.pread(fd, 6, 0)]


@case()
def mprotect_and_fork(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mapping = Mapping(fd)
    mapping.protect(READ)
    seen = [child(mapping.store, b"y"), mapping.protect(READ | WRITE), child(mapping.store, b"y")]
    return [seen, mapping.load(), len(mmap.mmap(fd, 0))]
