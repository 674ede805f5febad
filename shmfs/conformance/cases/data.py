"""Content of files after random writes, truncations and stores by several readers and writers."""

import os
import random
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, Mapping, content, digest, new


@case()
def random_writes_and_truncations(d: Path) -> Any:
    choose = random.Random(1)
    fd = new("f")
    mapping = Mapping(fd, 64 * PAGE)
    seen: list[Any] = []
    for _ in range(400):
        offset, size = choose.randrange(60 * PAGE), choose.randrange(1, 3 * PAGE)
        action = choose.randrange(5)
        if action == 0:
            os.ftruncate(fd, offset)
        elif action == 1 and offset < os.fstat(fd).st_size:
            mapping.store(choose.randbytes(1), offset)
        elif action == 2:
            seen.append(digest(os.pread(fd, size, offset)))
        elif action == 3 and offset < os.fstat(fd).st_size:
            seen.append(mapping.load(offset, min(64, os.fstat(fd).st_size - offset)))
        else:
            os.pwrite(fd, choose.randbytes(size), offset)
        seen.append(os.fstat(fd).st_size)
    mapping.sync(4)
    return [seen, digest(content("f"))]


@case()
def random_readers_and_writers(d: Path) -> Any:
    """Random descriptors and mappings of one file with holes, opened and closed between reads and writes."""
    choose = random.Random(4)
    os.close(new("f"))
    fds: list[tuple[int, int]] = []
    mappings: list[tuple[int, Mapping]] = []
    seen: list[Any] = []
    pages = 12
    for step in range(1500):
        action, offset = choose.randrange(12), choose.randrange(pages * PAGE)
        data = choose.randbytes(choose.randrange(1, 2 * PAGE))
        size = os.stat("f").st_size
        writers = [fd for fd, flags in fds if flags != os.O_RDONLY]
        if action == 0 and len(fds) < 5:
            flags = choose.choice((os.O_RDONLY, os.O_RDONLY, os.O_RDWR))
            fds.append((os.open("f", flags), flags))
        elif action == 1 and fds:
            os.close(fds.pop(choose.randrange(len(fds)))[0])
        elif action == 2 and fds and len(mappings) < 5:
            fd, flags = choose.choice(fds)
            protection = 1 if flags == os.O_RDONLY else 3
            mappings.append((protection, Mapping(fd, pages * PAGE, protection, choose.choice((1, 1, 2)))))
        elif action == 3 and mappings:
            mappings.pop(choose.randrange(len(mappings)))[1].unmap()
        elif action == 4:
            os.truncate("f", offset)
        elif action == 5 and writers:
            seen.append(os.pwrite(choose.choice(writers), data, offset))
        elif action == 6 and writers:
            os.ftruncate(choose.choice(writers), offset)
        elif action in (7, 8) and fds and fds != [fd for fd in fds if fd[1] == os.O_WRONLY]:
            seen.append(digest(os.pread(choose.choice(fds)[0], len(data), offset)))
        elif action in (9, 10) and mappings and offset < size:
            seen.append(choose.choice(mappings)[1].load(offset, min(8, size - offset)))
        elif action == 11 and mappings and offset < size:
            protection, mapping = choose.choice(mappings)
            if protection == 3:
                mapping.store(data[: min(8, size - offset)], offset)
        if step % 100 == 99:
            seen.append(digest(content("f")))
    return [seen, digest(content("f")), os.stat("f").st_size]


@case()
def one_reads_what_another_has_written(d: Path) -> Any:
    first, second = new("f", b"a" * 10000), os.open("f", os.O_RDWR)
    seen: list[Any] = [os.pread(second, 3, 9999)]
    os.pwrite(first, b"bb", 4095)
    seen.append(os.pread(second, 4, 4094))
    os.ftruncate(second, 4096)
    seen += [os.pread(first, 10, 4090), os.fstat(first).st_size]
    return seen
