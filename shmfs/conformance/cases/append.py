"""O_APPEND and RWF_APPEND: where data is written, and what several writers leave."""

import fcntl
import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import content, new, preadv_with_flags, pwritev_with_flags, tried

APPEND, NOAPPEND = 0x10, 0x20


@case()
def writes_through_o_append(d: Path) -> Any:
    fd = new("f", b"start")
    end = os.open("f", os.O_RDWR | os.O_APPEND)
    seen: list[Any] = [os.write(end, b"1"), os.pwrite(end, b"2", 0), os.lseek(end, 0, os.SEEK_CUR)]
    os.pwrite(fd, b"#", 10)
    seen += [os.write(end, b"3"), os.lseek(end, 0, os.SEEK_CUR), content("f")]
    fcntl.fcntl(end, fcntl.F_SETFL, 0)
    return [seen, os.pwrite(end, b"4", 0), content("f")]


@case()
def o_append_by_fcntl(d: Path) -> Any:
    fd = new("f", b"content")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return [os.pwrite(fd, b"!", 0), content("f")]


@case()
def o_append_of_several(d: Path) -> Any:
    fds = [os.open("f", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(3)]
    for index in range(30):
        os.write(fds[index % 3], b"%02d" % index)
    return content("f")


@case()
def concurrent_appends(d: Path) -> Any:
    os.close(new("f"))

    def writer(letter: bytes) -> int:
        fd = os.open("f", os.O_WRONLY | os.O_APPEND)
        return sum(os.write(fd, letter * 10) for _ in range(200))

    pids = []
    for letter in (b"a", b"b", b"c", b"d"):
        pid = os.fork()
        if pid == 0:
            writer(letter)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    data = content("f")
    whole = all(len(set(data[i : i + 10])) == 1 for i in range(0, len(data), 10))
    return [len(data), whole, sorted(data.count(letter) for letter in (b"a", b"b", b"c", b"d"))]


@case()
def rwf_append(d: Path) -> Any:
    return [pwritev_with_flags(APPEND), os.unlink("f"), preadv_with_flags(APPEND)]


@case()
def rwf_append_moves_no_position(d: Path) -> Any:
    fd = new("f", b"content")
    os.lseek(fd, 3, os.SEEK_SET)
    return [os.pwritev(fd, [b"!"], -1, APPEND), os.lseek(fd, 0, os.SEEK_CUR), content("f")]


@case()
def rwf_noappend(d: Path) -> Any:
    os.close(new("f", b"content"))
    fd = os.open("f", os.O_RDWR | os.O_APPEND)
    return [tried(os.pwritev, fd, [b"NEW"], 0, NOAPPEND), content("f")]
