"""System V shared memory: shmat(2) and shmdt(2), addresses, and how attaches are counted."""

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.doors import (
    EXEC,
    FREE,
    PRIVATE_KEY,
    RDONLY,
    REMAP,
    RND,
    Doors,
    areas,
    load,
    segments,
    store,
)
from shmfs.conformance.tools import PAGE, READ, WRITE, Channel, call, child, eventually, process, tried

MAP_PRIVATE_ANON, MAP_FIXED = 0x22, 0x10


def segment(doors: Doors, pages: int = 1, flags: int = 0o1600) -> int:
    return doors.get(PRIVATE_KEY, pages * PAGE, flags)


@case()
def stores_are_shared(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 3)
        first, second = doors.at(one), doors.at(one)
        fresh = load(first, 3 * PAGE) == bytes(3 * PAGE)
        store(first + PAGE, b"both")
        seen = [
            fresh,
            load(second + PAGE, 4),
            child(lambda: (store(second, b"child"), load(first + PAGE, 4))[1]),
        ]
        return [*seen, load(first, 5), doors.dt(first), load(second, 5), doors.dt(second)]


@case()
def another_process_attaches_by_id(d: Path) -> Any:
    def other(channel: Channel, doors: Doors) -> None:
        address = doors.at(channel.receive())
        channel.send(load(address, 5))
        store(address, b"answer")
        channel.send(doors.dt(address))

    with segments() as doors, process(other, doors) as channel:
        one = segment(doors)
        address = doors.at(one)
        store(address, b"asked")
        channel.send(one)
        return [channel.receive(), channel.receive(), load(address, 6)]


@case()
def the_last_page_is_whole(d: Path) -> Any:
    with segments() as doors:
        address = doors.at(doors.get(PRIVATE_KEY, 5000))
        store(address + 2 * PAGE - 1)
        return [load(address + 2 * PAGE - 1), areas(address, address + 1)]


@case()
def addresses(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 4)
        at = FREE
        return {
            "exact": doors.at(one, at) - at,
            "misaligned": [tried(doors.at, one, at + offset) for offset in (1, 8, PAGE - 1)],
            "rounded": doors.at(one, at + 8 * PAGE + 5, RND) - at,
            "rounded and exact": doors.at(one, at + 16 * PAGE, RND) - at,
            "overlapping": [tried(doors.at, one, at + n * PAGE) for n in (-3, 0, 1, 3)],
            "beside": [doors.at(one, at + n * PAGE) - at for n in (-4, 4)],
            "rounded to overlapping": tried(doors.at, one, at + PAGE + 9, RND),
            "beyond": [tried(doors.at, one, address) for address in (-PAGE, (1 << 47) - PAGE, 1 << 62)],
            "remapped nowhere": [tried(doors.at, one, 0, REMAP), tried(doors.at, one, 5, REMAP | RND)],
            "rounded from nowhere": doors.at(one, 0, RND) > 0,
        }


@case()
def remapped(d: Path) -> Any:
    with segments() as doors:
        one, two = segment(doors, 4), segment(doors, 2)
        first = doors.at(one, FREE)
        store(first, b"one")
        second = doors.at(two, FREE + PAGE, REMAP)
        store(second, b"two")
        seen = [second - FREE, load(first, 3), load(second, 3), doors.nattch(one), doors.nattch(two)]
        seen += [doors.dt(FREE), areas(FREE, FREE + 4 * PAGE), doors.nattch(one), doors.nattch(two)]
        rounded = doors.at(one, FREE + PAGE + 1, REMAP | RND)
        return [*seen, rounded - FREE, doors.nattch(two), tried(doors.dt, FREE), doors.dt(FREE + PAGE)]


@case()
def read_only(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors)
        address = doors.at(one, 0, RDONLY)
        refused = tried(call, "mprotect", address, PAGE, READ | WRITE)
        return [load(address), child(store, address), refused, areas(address, address + 1), doors.nattch(one)]


@case()
def executable(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 1, 0o1700)
        seen = []
        for flags in (EXEC, EXEC | RDONLY):
            address = doors.at(one, 0, flags)
            seen += areas(address, address + 1)
        two = segment(doors, 1, 0o1600)
        for bits in (0o1666, 0o1777):
            three = segment(doors, 1, bits)
            other = child(doors.at, three, 0, EXEC, uid=77, gid=77)
            seen.append(other if isinstance(other, str) else "attached")
        return [*seen, doors.dt(doors.at(two, 0, EXEC))]


@case()
def detached_from_wrong_addresses(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 4)
        address = doors.at(one, FREE)
        other = call("mmap", FREE + 8 * PAGE, PAGE, READ, MAP_PRIVATE_ANON, -1, 0)
        wrong = [1, PAGE, 2 * PAGE, -PAGE, 100 * PAGE, 4 * PAGE]
        seen = [tried(doors.dt, address + offset) for offset in wrong]
        seen += [tried(doors.dt, 0), tried(doors.dt, other), tried(doors.dt, 1 << 60), doors.nattch(one)]
        return [*seen, doors.dt(address), tried(doors.dt, address), doors.nattch(one)]


@case()
def all_pieces_are_detached(d: Path) -> Any:
    with segments() as doors:
        seen = []
        for cut in ([0], [1], [3], [0, 3], [1, 2], [0, 1, 2], [0, 2]):
            one = segment(doors, 4)
            address = doors.at(one, FREE)
            for page in cut:
                call("munmap", FREE + page * PAGE, PAGE)
            seen.append(
                (doors.nattch(one), doors.dt(address), doors.nattch(one), areas(FREE, FREE + 4 * PAGE))
            )
            seen.append(tried(doors.dt, address))
        return seen


@case()
def pieces_of_other_rights(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 5)
        address = doors.at(one, FREE)
        call("mprotect", FREE + PAGE, PAGE, READ)
        call("mprotect", FREE + 3 * PAGE, PAGE, 0)
        seen = [doors.nattch(one), areas(FREE, FREE + 5 * PAGE)]
        return [*seen, doors.dt(address), doors.nattch(one), areas(FREE, FREE + 5 * PAGE)]


@case()
def pieces_that_merge_again(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 5)
        doors.at(one, FREE)
        call("mprotect", FREE + PAGE, PAGE, READ)
        call("mprotect", FREE + PAGE, PAGE, READ | WRITE)
        return {"whole again": doors.nattch(one), "detached": doors.dt(FREE), "left": doors.nattch(one)}


@case()
def mappings_between_pieces_stay(d: Path) -> Any:
    with segments() as doors:
        one, two = segment(doors, 6), segment(doors, 2)
        doors.at(one, FREE)
        call("mmap", FREE + PAGE, PAGE, READ, MAP_PRIVATE_ANON | MAP_FIXED, -1, 0)
        doors.at(two, FREE + 3 * PAGE, REMAP)
        doors.at(one, FREE + 6 * PAGE)
        before = areas(FREE, FREE + 12 * PAGE)
        detached = doors.dt(FREE)
        return [before, detached, areas(FREE, FREE + 12 * PAGE), doors.nattch(one), doors.nattch(two)]


@case()
def moved_and_grown(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 4)
        doors.at(one, FREE)
        store(FREE + 2 * PAGE, b"moved")
        moved = call("mremap", FREE + 2 * PAGE, 2 * PAGE, 2 * PAGE, 3, FREE + 64 * PAGE)
        seen = [load(moved, 5), doors.nattch(one), tried(doors.dt, moved), tried(doors.dt, moved - 2 * PAGE)]
        seen += [areas(FREE, FREE + 70 * PAGE), doors.dt(FREE), doors.nattch(one)]
        two = segment(doors, 1)
        address = doors.at(two, FREE)
        call("mremap", address, PAGE, 3 * PAGE, 0, 0)
        return [*seen, child(store, address + PAGE), doors.nattch(two), doors.dt(address), doors.nattch(two)]


@case()
def counted_over_fork(d: Path) -> Any:
    def stay(channel: Channel, doors: Doors, address: int) -> None:
        channel.send("here")
        while channel.receive() == "detach":
            channel.send(doors.dt(address))

    with segments() as doors:
        one = segment(doors)
        address = doors.at(one)
        seen = [doors.nattch(one)]
        with process(stay, doors, address) as first, process(stay, doors, address) as second:
            first.receive(), second.receive()
            seen.append(doors.nattch(one))
            first.send("detach")
            seen += [first.receive(), doors.nattch(one)]
            os.kill(second.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            os.waitpid(second.pid, 0)  # type: ignore[attr-defined]
            seen.append(doors.nattch(one))
            first.send("end")
        return [*seen, doors.nattch(one), doors.dt(address), doors.nattch(one)]


@case()
def counted_over_exit_and_exec(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors)
        reader, writer = os.pipe()
        os.set_inheritable(reader, True)
        doors.at(one)
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            doors.at(one)
            os.execv("/bin/sh", ["sh", "-c", f"read line <&{reader}"])
        command = Path(f"/proc/{pid}/comm")
        eventually(lambda: command.read_text(), "sh\n")
        seen = [doors.nattch(one)]
        os.close(writer)
        os.waitpid(pid, 0)
        return [*seen, child(lambda: (doors.at(one), doors.nattch(one))[1]), doors.nattch(one)]


@case()
def counted_by_mappings(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 8)
        address = doors.at(one)
        doors.at(one, 0, RDONLY)
        seen = [doors.nattch(one)]
        for page in (3, 5, 0, 7):
            call("munmap", address + page * PAGE, PAGE)
            seen.append(doors.nattch(one))
        call("munmap", address, 8 * PAGE)
        return [*seen, doors.nattch(one), child(doors.nattch, one), tried(doors.dt, address)]


@case()
def a_child_without_the_attach(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors)
        address = doors.at(one)
        call("madvise", address, PAGE, 10)  # MADV_DONTFORK
        return [child(doors.nattch, one), child(tried, doors.dt, address), doors.nattch(one)]


@case()
def last_to_attach_and_detach(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors)
        address = doors.at(one)
        mine = os.getpid()
        before = doors.stat(one)
        other = child(lambda: (doors.at(one), os.getpid())[1])
        after = doors.stat(one)
        detacher = child(lambda: (doors.dt(address), os.getpid())[1])
        last = doors.stat(one)
        pids = [before.lpid == mine, after.lpid == other, last.lpid == detacher, last.cpid == mine]
        return {"pids": pids, "detached by exit": after.dtime > 0, "detached": last.dtime > 0}


@case()
def threads(d: Path) -> Any:
    with segments() as doors:
        one = segment(doors, 2)
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for _ in range(50):
                    address = doors.at(one)
                    store(address + number, b"t")
                    two = segment(doors)
                    doors.dt(address)
                    doors.remove(two)
            except BaseException as failure:
                failures.append(failure)

        team = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        address = doors.at(one)
        return [failures, load(address, 7), doors.nattch(one), doors.usage().used_ids]


@case()
def pids_of_a_thread(d: Path) -> Any:
    with segments() as doors:
        seen = []

        def work() -> None:
            one = segment(doors)
            doors.at(one)
            status = doors.stat(one)
            seen.append([status.cpid == os.getpid(), status.lpid == os.getpid()])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return seen


@case()
def proc_maps(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(0x12AB, PAGE)
        address = doors.at(one)
        lines = Path("/proc/self/maps").read_text().splitlines()
        line = next(line for line in lines if line.startswith(f"{address:x}-"))
        fields = line.split(None, 5)
        return {"rights": fields[1], "offset": fields[2], "name": re.findall(r"SYSV[0-9a-f]{8}", fields[5])}
