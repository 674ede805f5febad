"""O_TMPFILE: files without a name, and linkat(2) that gives them one."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    AT_EMPTY_PATH,
    AT_SYMLINK_FOLLOW,
    Mapping,
    call,
    content,
    free,
    opened,
    tried,
    unprivileged,
)


@case()
def o_tmpfile(d: Path) -> Any:
    return {"O_TMPFILE": opened(".", os.O_RDWR | os.O_TMPFILE)}


@case()
def files_without_names(d: Path) -> Any:
    before = free()
    os.mkdir("d", 0o2777)
    os.chown("d", 5, 6)
    flags = os.O_TMPFILE | os.O_RDWR
    fd = os.open("d", flags, 0o640)
    os.write(fd, b"content")
    status = os.fstat(fd)
    seen: dict[str, Any] = {
        "status": (status.st_nlink, status.st_size, status.st_uid, status.st_gid, oct(status.st_mode)),
        "names": os.listdir("d"),
        "charged": [a - b for a, b in zip(before, free(), strict=True)],
        "linked": tried(call, "linkat", -100, f"/proc/self/fd/{fd}", -100, "d/named", AT_SYMLINK_FOLLOW),
        "linked charged": [a - b for a, b in zip(before, free(), strict=True)],
        "another": tried(call, "linkat", fd, "", -100, "another", AT_EMPTY_PATH),
        "exists": tried(call, "linkat", fd, "", -100, "another", AT_EMPTY_PATH),
    }
    seen["content"] = content("another"), os.fstat(fd).st_nlink, os.listdir("d")
    os.unlink("another"), os.unlink("d/named")
    seen["gone"] = os.fstat(fd).st_nlink, tried(call, "linkat", fd, "", -100, "another", AT_EMPTY_PATH)
    for extra in (os.O_EXCL, os.O_TRUNC, os.O_APPEND):
        other = os.open("d", flags | extra)
        seen[f"{extra:#o}"] = tried(call, "linkat", other, "", -100, f"e{extra}", AT_EMPTY_PATH)
    seen["write only"] = opened("d", os.O_TMPFILE | os.O_WRONLY)
    seen["read only"] = tried(os.open, "d", os.O_TMPFILE | os.O_RDONLY)
    seen["in a file"] = tried(os.open, f"e{os.O_TRUNC}", flags)
    seen["in nothing"] = tried(os.open, "missing", flags)
    os.chmod("d", 0o755)
    seen["not permitted"] = unprivileged(os.open, "d", flags)
    os.rmdir("d")
    m = Mapping(fd)
    m.store(b"C")
    return seen | {"mapped": os.pread(fd, 7, 0)}


@case(options="size=64k,nr_inodes=7")
def files_without_names_take_inodes(d: Path) -> Any:
    fds = []
    while isinstance(fd := tried(os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o600), int):
        fds.append(fd)
    count = len(fds)
    answers = [fd, free()[1], tried(call, "linkat", fds[0], "", -100, "a", AT_EMPTY_PATH), free()[1]]
    answers += [tried(os.link, "a", "b"), os.close(fds.pop())]
    return [count, answers, os.pwrite(fds[0], b"x" * 200000, 0), tried(os.pwrite, fds[1], b"x", 0)]
