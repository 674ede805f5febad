"""System V shared memory: keys, ids, permissions, limits, and what shmctl(2) reports of a segment."""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.doors import (
    CREAT,
    DEST,
    EXCL,
    HUGETLB,
    IPC_INFO,
    LOCK,
    LOCKED,
    NORESERVE,
    PRIVATE_KEY,
    RMID,
    SET,
    SHM_INFO,
    SHM_STAT,
    SHM_STAT_ANY,
    STAT,
    UNLOCK,
    Doors,
    Limits,
    Status,
    Usage,
    gone,
    segments,
)
from shmfs.conformance.tools import NOBODY, PAGE, child, tried, unprivileged

KEY = 0x5EC
INDEXES = 32768


def said(doors: Doors, *arguments: Any) -> Any:
    """Whether shmget(2) gives an id, or the name of its errno."""
    result = tried(doors.get, *arguments)
    return result if isinstance(result, str) else "an id"


@case()
def sizes(d: Path) -> Any:
    with segments() as doors:
        every = [0, 1, PAGE, 5000, 1 << 50, 1 << 62, (1 << 64) - 1]
        seen = {size: said(doors, PRIVATE_KEY, size) for size in every}
        seen["told"] = [doors.stat(one).segsz for one in doors.ids()]  # type: ignore[index]
        seen["pages"] = doors.usage().tot  # type: ignore[index]
    return seen


@case()
def keys(d: Path) -> Any:
    with segments() as doors:
        missing = said(doors, KEY, PAGE, 0o600)
        exclusive_only = said(doors, KEY, PAGE, EXCL | 0o600)
        first = doors.get(KEY, 2 * PAGE, CREAT | EXCL | 0o600)
        again = [
            doors.get(KEY, size, flags) == first
            for size, flags in ((2 * PAGE, CREAT | 0o600), (1, 0), (0, 0), (2 * PAGE, EXCL))
        ]
        refused = [said(doors, KEY, 2 * PAGE + 1, 0), said(doors, KEY, 3 * PAGE, CREAT)]
        refused += [said(doors, KEY, PAGE, CREAT | EXCL), said(doors, KEY, 3 * PAGE, CREAT | EXCL)]
        negative = doors.get(-5, PAGE)
        return {
            "missing": [missing, exclusive_only],
            "again": again,
            "refused": refused,
            "negative": [doors.stat(negative).key, doors.get(-5, 0, 0) == negative],
            "smallest": doors.get(-(1 << 31), PAGE) != doors.get((1 << 31) - 1, PAGE),
        }


@case()
def private_segments_are_new_each_time(d: Path) -> Any:
    with segments() as doors:
        made = [doors.get(PRIVATE_KEY, PAGE, flags) for flags in (0, 0o600, CREAT, CREAT | EXCL)]
        return [len(set(made)), [doors.stat(one).key for one in made if one != made[0]]]


@case()
def mode_is_the_low_nine_bits(d: Path) -> Any:
    with segments() as doors:
        made = [doors.get(PRIVATE_KEY, PAGE, CREAT | bits) for bits in (0, 0o600, 0o777, 0o644)]
        return [oct(doors.stat(one).mode) for one in made]


@case(options="size=15m,nr_inodes=2k")
def ids_are_sequence_and_index(d: Path) -> Any:
    def split(identifier: int) -> tuple[int, int]:
        return identifier // INDEXES, identifier % INDEXES

    with segments() as doors:
        first = [doors.get(PRIVATE_KEY, PAGE) for _ in range(3)]
        doors.remove(first[1])
        second = [doors.get(PRIVATE_KEY, PAGE) for _ in range(4)]
        for one in (first[0], second[0], second[3]):
            doors.remove(one)
        third = [doors.get(PRIVATE_KEY, PAGE) for _ in range(6)]
        for one in doors.ids():
            doors.remove(one)
        alone = []
        for _ in range(70):
            alone.append(doors.get(PRIVATE_KEY, PAGE))
            doors.remove(alone[-1])
        return [list(map(split, some)) for some in (first, second, third, alone)]


@case()
def wrong_ids(d: Path) -> Any:
    with segments() as doors:
        one, two = doors.get(PRIVATE_KEY, PAGE), doors.get(PRIVATE_KEY, PAGE)
        doors.remove(one)
        seen = {}
        wrong = {"negative": -1, "none": two % INDEXES + 20, "sequence": two + 7 * INDEXES, "removed": one}
        for name, identifier in wrong.items():
            seen[name] = [
                tried(doors.at, identifier),
                tried(doors.ctl, identifier, RMID),
                tried(doors.ctl, identifier, STAT, Status()),
                tried(doors.ctl, identifier, SET, Status()),
                tried(doors.ctl, identifier, LOCK),
            ]
        seen["index"] = [tried(doors.ctl, index, SHM_STAT, Status()) for index in (-1, 40000, 1 << 30)]
        return seen


@case()
def wrong_commands(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(PRIVATE_KEY, PAGE)
        return [tried(doors.ctl, one, command, Status()) for command in (-1, 4, 10, 16, 99, 1 << 20)]


@case()
def wrong_buffers(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(PRIVATE_KEY, PAGE)
        seen = []
        for command in (STAT, SET, IPC_INFO, SHM_INFO, SHM_STAT, SHM_STAT_ANY):
            index = one % INDEXES if command in (SHM_STAT, SHM_STAT_ANY) else one
            for address in (0, 8, -PAGE):
                arguments = ctypes.c_long(index), ctypes.c_long(command), ctypes.c_void_p(address)
                seen.append((doors.functions.shmctl(*arguments), ctypes.get_errno()))
        return seen


def rights(doors: Doors, one: int) -> list[Any]:
    """What a caller may do with the segment KEY."""
    wanted = [0, 0o400, 0o600, 0o444, 0o666, 0o111]
    found = [said(doors, KEY, 0, bits) for bits in wanted]
    for flags in (0, 0o10000, 0o110000):
        address = tried(doors.at, one, 0, flags)
        found.append(address if isinstance(address, str) else doors.dt(address))
    index = one % INDEXES
    found += [tried(doors.ctl, one, STAT, Status()), tried(doors.ctl, index, SHM_STAT, Status()) != "EACCES"]
    found += [tried(doors.ctl, index, SHM_STAT_ANY, Status()) == one]
    found += [tried(doors.ctl, one, SET, Status()), tried(doors.ctl, one, RMID), tried(doors.ctl, one, LOCK)]
    return found


@case()
def rights_of_others(d: Path) -> Any:
    with segments() as doors:
        seen = {}
        for bits in (0, 0o600, 0o604, 0o644, 0o666, 0o606, 0o660, 0o060, 0o007, 0o070):
            one = doors.get(KEY, PAGE, CREAT | bits)
            seen[oct(bits)] = [
                unprivileged(rights, doors, one),
                child(rights, doors, one, uid=NOBODY, gid=NOBODY, groups=(0,)),
            ]
            doors.remove(one)
        return seen


def made_by_nobody(doors: Doors, bits: int) -> int:
    return doors.get(KEY, PAGE, CREAT | bits)


@case()
def rights_of_owner_and_creator(d: Path) -> Any:
    with segments() as doors:
        seen = {}
        for bits in (0o600, 0o400, 0o060, 0o640):
            one = unprivileged(made_by_nobody, doors, bits)
            doors.set(one, uid=1234, gid=1235)
            status = doors.stat(one)
            seen[oct(bits)] = [
                [status.uid, status.gid, status.cuid, status.cgid],
                unprivileged(look, doors, one),
                child(look, doors, one, uid=1234, gid=1235),
                child(look, doors, one, uid=77, gid=1235),
                child(look, doors, one, uid=77, gid=NOBODY),
                child(look, doors, one, uid=77, gid=78),
            ]
            doors.remove(one)
        one = unprivileged(made_by_nobody, doors, 0o600)
        doors.set(one, uid=1234, gid=1235)
        seen["removed by its creator"] = [
            child(doors.remove, one, uid=1235, gid=1235),
            unprivileged(doors.remove, one),
        ]
        return seen


def look(doors: Doors, one: int) -> list[Any]:
    """Reading, writing, changing."""
    found = []
    for flags in (0, 0o10000):
        address = tried(doors.at, one, 0, flags)
        found.append(address if isinstance(address, str) else doors.dt(address))
    return [*found, tried(doors.ctl, one, STAT, Status()), tried(doors.ctl, one, LOCK)]


@case()
def set_by_others(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(KEY, PAGE, CREAT | 0o666)
        before = doors.stat(one).ctime
        time.sleep(1.1)
        refused = unprivileged(lambda: doors.set(one, mode=0o600))
        unchanged = doors.stat(one).ctime == before
        done = doors.set(one, mode=0o7642, uid=5, gid=6)
        status = doors.stat(one)
        bad = [
            tried(doors.ctl, one, SET, Status(uid=2**32 - 1)),
            tried(doors.ctl, one, SET, Status(gid=2**32 - 1)),
        ]
        return {
            "refused": [refused, unchanged],
            "done": [done, status.ctime > before, oct(status.mode)],
            "ids": [status.uid, status.gid, status.cuid, status.cgid],
            "bad": bad,
        }


@case()
def ipc_stat(d: Path) -> Any:
    with segments() as doors:
        now = int(time.time())
        one = doors.get(KEY, 5000, CREAT | 0o640)
        fresh = doors.stat(one)
        address = doors.at(one)
        attached = doors.stat(one)
        doors.dt(address)
        detached = doors.stat(one)
        same = [name for name in ("ctime", "cpid") if getattr(fresh, name) == getattr(detached, name)]
        return {
            "fresh": [fresh.key, fresh.segsz, oct(fresh.mode), fresh.uid, fresh.gid, fresh.cuid, fresh.cgid],
            "times": [fresh.atime, fresh.dtime, now <= fresh.ctime <= now + 5],
            "pids": [fresh.cpid == os.getpid(), fresh.lpid],
            "sequence": fresh.seq == one // INDEXES,
            "attached": [
                attached.nattch,
                now <= attached.atime <= now + 5,
                attached.dtime,
                attached.lpid == os.getpid(),
            ],
            "detached": [detached.nattch, now <= detached.dtime <= now + 5, same],
        }


@case()
def by_index(d: Path) -> Any:
    with segments() as doors:
        made = [doors.get(PRIVATE_KEY, PAGE * (n + 1)) for n in range(4)]
        highest = max(one % INDEXES for one in made)
        told = [
            doors.ctl(0, command, buffer) == highest
            for command, buffer in ((SHM_INFO, Usage()), (IPC_INFO, Limits()))
        ]
        seen = []
        for one in made:
            status = Status()
            found = [doors.ctl(one % INDEXES, command, status) == one for command in (SHM_STAT, SHM_STAT_ANY)]
            seen.append((found, status.segsz))
        doors.remove(made[3])
        shrunk = doors.ctl(0, SHM_INFO, Usage()) == max(one % INDEXES for one in made[:3])
        return [told, seen, shrunk, tried(doors.ctl, made[3] % INDEXES, SHM_STAT, Status())]


@case()
def info(d: Path) -> Any:
    with segments() as doors:
        doors.ctl(0, IPC_INFO, limits := Limits())
        empty = doors.usage()
        one = doors.get(PRIVATE_KEY, 10 * PAGE)
        doors.get(PRIVATE_KEY, 100)
        address = doors.at(one)
        ctypes.memset(address, 1, 10 * PAGE)
        used = doors.usage()
        doors.dt(address)
        return {
            "limits": [limits.max, limits.min, limits.mni, limits.seg, limits.all],
            "empty": [empty.used_ids, empty.tot, empty.rss, empty.swp],
            "used": [used.used_ids, used.tot, used.swp],
            "resident": used.rss,
        }


@case()
def limits(d: Path) -> Any:
    with segments(shmmax=8 * PAGE, shmall=10, shmmni=3) as doors:
        doors.ctl(0, IPC_INFO, told := Limits())
        too_large = [said(doors, PRIVATE_KEY, 8 * PAGE), said(doors, PRIVATE_KEY, 8 * PAGE + 1)]
        too_many_pages = [said(doors, PRIVATE_KEY, 3 * PAGE), said(doors, PRIVATE_KEY, PAGE + 1)]
        too_many = [said(doors, PRIVATE_KEY, 1), said(doors, PRIVATE_KEY, 0), said(doors, PRIVATE_KEY, 1)]
        for one in doors.ids():
            doors.remove(one)
        small = [said(doors, PRIVATE_KEY, 1) for _ in range(5)]
        return [[told.max, told.mni, told.all], too_large, too_many_pages, too_many, small]


@case()
def locked(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(PRIVATE_KEY, PAGE, 0o666)
        seen = [
            (doors.ctl(one, command), bool(doors.stat(one).mode & LOCKED))
            for command in (LOCK, LOCK, UNLOCK, UNLOCK)
        ]
        return [seen, unprivileged(doors.ctl, one, LOCK), unprivileged(doors.ctl, one, UNLOCK)]


@case()
def without_reservation(d: Path) -> Any:
    with segments() as doors:
        huge = said(doors, PRIVATE_KEY, 1 << 40, CREAT | NORESERVE | 0o600)
        one = doors.ids()[0]
        address = doors.at(one)
        ctypes.memset(address + (1 << 39), 7, 3)
        seen = [huge, doors.stat(one).segsz, ctypes.string_at(address + (1 << 39), 4)]
        return [*seen, doors.dt(address)]


@case()
def huge_pages(d: Path) -> Any:
    with segments() as doors:
        return [said(doors, PRIVATE_KEY, 1 << 21, CREAT | HUGETLB | size << 26 | 0o600) for size in (0, 13)]


@case()
def removed_while_attached(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(KEY, 3 * PAGE)
        address = doors.at(one)
        ctypes.memset(address, 5, 3 * PAGE)
        removed = doors.remove(one)
        status = doors.stat(one)
        again = doors.at(one)
        seen = {
            "removed": [removed, status.key, oct(status.mode), bool(status.mode & DEST), status.nattch],
            "key": [said(doors, KEY, 0, 0), said(doors, KEY, 5 * PAGE), doors.stat(doors.get(KEY, 0)).segsz],
            "attached again": [ctypes.string_at(again + PAGE, 2), doors.nattch(one)],
            "twice": [tried(doors.remove, one), doors.set(one, mode=0o640), oct(doors.stat(one).mode)],
            "pages": doors.usage().tot,
        }
        doors.dt(address)
        seen["still"] = doors.nattch(one)
        doors.dt(again)
        seen["gone"] = [gone(doors, one), doors.usage().tot, tried(doors.at, one)]
        return seen


@case()
def removed_with_its_last_process(d: Path) -> Any:
    with segments() as doors:
        one = doors.get(KEY, PAGE)

        def attach_remove_and_die() -> None:
            doors.at(one)
            doors.remove(one)
            os.kill(os.getpid(), 9)

        return [child(attach_remove_and_die), gone(doors, one), said(doors, KEY, 0, 0)]


@case()
def a_segment_outlives_its_process(d: Path) -> Any:
    with segments() as doors:

        def leave() -> int:
            one = doors.get(KEY, 2 * PAGE)
            ctypes.memmove(doors.at(one), b"left behind", 11)
            return one

        one = child(leave)
        address = doors.at(doors.get(KEY, 0))
        seen = [doors.get(KEY, 0) == one, doors.nattch(one), ctypes.string_at(address, 12)]
        return [*seen, doors.dt(address), doors.nattch(one)]
