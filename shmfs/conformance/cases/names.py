"""Names: create, link, unlink, rename, resolve."""

import os
import random
import stat
import threading
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    child,
    content,
    free,
    mode,
    new,
    opened,
    renameat2,
    tried,
    unprivileged,
)


def tree(top: str = ".") -> list[str]:
    """Every name, with type, permissions, links and size or target."""
    lines = []
    for parent, directories, files in os.walk(top):
        for name in sorted(directories + files):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            lines.append(f"{path} {mode(path)} {status.st_nlink} {status.st_size} {status.st_rdev} {target}")
    return sorted(lines)


@case()
def lengths(d: Path) -> Any:
    seen: dict[Any, Any] = {}
    for length in (1, 254, 255, 256, 1000):
        name = "n" * length
        seen[length] = [
            tried(lambda name=name: os.close(new(name))),
            tried(os.stat, name) if length > 255 else os.stat(name).st_size,
            tried(os.mkdir, "d" * length),
            tried(os.symlink, "x", "s" * length),
            tried(os.rename, name, "r" * length),
            tried(os.link, "r", "l" * length),
            tried(os.unlink, "missing" + name),
        ]
    seen["path"] = tried(os.stat, "./" * 2100)
    return seen


@case()
def every_byte(d: Path) -> Any:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    names += [b"...", b" .", b"\n\n", b"-rf", b"\xff" * 255, "Schöne Grüße".encode(), b"a\\b", b"%s%n"]
    for index, name in enumerate(names):
        os.close(new(name, str(index).encode()))
    listed = sorted(os.listdir(b"."))
    return [
        listed == sorted(names),
        [content(name) for name in names] == [b"%d" % i for i in range(len(names))],
    ]


@case()
def hard_links(d: Path) -> Any:
    fd = new("a", b"content")
    os.mkdir("d")
    os.link("a", "b"), os.link("b", "d/c")
    same = len({os.stat(name).st_ino for name in ("a", "b", "d/c")})
    os.pwrite(fd, b"CON", 0)
    seen = [same, os.stat("a").st_nlink, content("d/c")]
    os.unlink("a")
    seen += [os.stat("b").st_nlink, os.fstat(fd).st_nlink, content("b")]
    os.symlink("b", "s")
    os.link("s", "s2", follow_symlinks=False)
    os.link("s", "s3", follow_symlinks=True) if os.link in os.supports_follow_symlinks else None
    seen += [
        tried(os.link, "b", "d/c"),
        tried(os.link, "d", "e"),
        tried(os.link, "none", "e"),
        tried(os.link, "b", "none/e"),
        tried(os.link, "b", "/proc/x"),
    ]
    os.unlink("b"), os.unlink("d/c")
    return [seen, os.fstat(fd).st_nlink, os.pread(fd, 7, 0), tree()]


@case()
def links_of_directories(d: Path) -> Any:
    seen = [os.stat(".").st_nlink]
    os.mkdir("a"), os.mkdir("a/b"), os.mkdir("a/c"), os.close(new("a/f"))
    seen += [os.stat(name).st_nlink for name in (".", "a", "a/b")]
    seen += [os.stat(name).st_size for name in (".", "a", "a/b")]
    os.rename("a/b", "b")
    seen += [os.stat(name).st_nlink for name in (".", "a", "b")]
    renameat2("a/f", "b", RENAME_EXCHANGE)
    seen += [os.stat(name).st_nlink for name in (".", "a", "a/f")]
    os.rmdir("a/c")
    fd = os.open("a/f", os.O_RDONLY)
    os.rmdir("a/f")
    seen += [os.stat("a").st_nlink, os.stat("a").st_size, os.fstat(fd).st_nlink, os.fstat(fd).st_size]
    seen += [os.stat(".").st_blocks, os.stat(".").st_blksize]
    return seen


@case()
def unlink_refused(d: Path) -> Any:
    os.mkdir("d"), os.close(new("d/f")), os.symlink("d", "s")
    return {
        "unlink directory": tried(os.unlink, "d"),
        "rmdir full": tried(os.rmdir, "d"),
        "rmdir file": tried(os.rmdir, "d/f"),
        "rmdir link": tried(os.rmdir, "s"),
        "rmdir dot": tried(os.rmdir, "d/."),
        "rmdir dotdot": tried(os.rmdir, "d/.."),
        "unlink missing": tried(os.unlink, "x"),
        "unlink slash": tried(os.unlink, "d/f/"),
        "unlink below a file": tried(os.unlink, "d/f/x"),
        "unlink link": tried(os.unlink, "s"),
        "mkdir existing": tried(os.mkdir, "d"),
        "mkdir over file": tried(os.mkdir, "d/f"),
        "mkdir below nothing": tried(os.mkdir, "x/y"),
        "mkdir dot": tried(os.mkdir, "."),
        "tree": tree(),
    }


@case()
def a_removed_directory(d: Path) -> Any:
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.chdir("d")
    os.rmdir("../d")
    seen = {
        "create": tried(os.open, "f", os.O_CREAT | os.O_RDWR),
        "mkdir": tried(os.mkdir, "x"),
        "symlink": tried(os.symlink, "a", "x"),
        "mkfifo": tried(os.mkfifo, "x"),
        "stat": os.stat(".").st_nlink,
        "listdir": tried(os.listdir, "."),
        "listdir fd": tried(os.listdir, fd),
        "lookup": tried(os.stat, "f"),
        "parent": tried(os.stat, "..") and "there",
        "getcwd": tried(os.getcwd),
        "rename": tried(os.rename, "../other", "x"),
        "chmod": tried(os.chmod, ".", 0o700),
        "setxattr": tried(os.setxattr, ".", "user.x", b"1"),
    }
    os.chdir("/")
    return seen


@case()
def rename_every_kind(d: Path) -> Any:
    def make(kind: str, name: str) -> None:
        if kind == "file":
            os.close(new(name, b"x"))
        elif kind == "empty":
            os.mkdir(name)
        elif kind == "full":
            os.mkdir(name), os.close(new(f"{name}/inside"))
        elif kind == "link":
            os.symlink("nowhere", name)
        elif kind == "fifo":
            os.mkfifo(name)

    kinds = ("file", "empty", "full", "link", "fifo", "none")
    seen = {}
    for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT):
        for source in kinds:
            for target in kinds:
                where = f"{flags} {source} {target}"
                os.mkdir(where)
                os.mkdir(f"{where}/a"), os.mkdir(f"{where}/b")
                make(source, f"{where}/a/s"), make(target, f"{where}/b/t")
                answer = tried(renameat2, f"{where}/a/s", f"{where}/b/t", flags)
                seen[where] = [answer, tree(where)]
    return seen


@case()
def rename_refused(d: Path) -> Any:
    os.makedirs("a/b/c"), os.close(new("f")), os.mkdir("e"), os.link("f", "g")
    return {
        "into itself": tried(os.rename, "a", "a/b/x"),
        "over its parent": tried(os.rename, "a/b", "a"),
        "exchange with its parent": tried(renameat2, "a/b", "a", RENAME_EXCHANGE),
        "exchange with a child": tried(renameat2, "a", "a/b/c", RENAME_EXCHANGE),
        "dot": tried(os.rename, "a/.", "x"),
        "to dot": tried(os.rename, "e", "a/."),
        "itself": tried(os.rename, "f", "f"),
        "same inode": tried(os.rename, "f", "g"),
        "file with slash": tried(os.rename, "f", "x/"),
        "directory with slash": tried(os.rename, "e/", "x/"),
        "missing": tried(os.rename, "none", "y"),
        "to a missing directory": tried(os.rename, "f", "none/y"),
        "across": tried(os.rename, "f", "/proc/x"),
        "out of the mount": tried(os.rename, "f", "/etc/shmfs-never-made"),
        "flags exclude": tried(renameat2, "f", "x", RENAME_NOREPLACE | RENAME_EXCHANGE),
        "whiteout and exchange": tried(renameat2, "f", "g", RENAME_WHITEOUT | RENAME_EXCHANGE),
        "whiteout and noreplace": tried(renameat2, "f", "w", RENAME_WHITEOUT | RENAME_NOREPLACE),
        "unknown flag": tried(renameat2, "g", "y", 8),
        "whiteout by nobody": unprivileged(renameat2, "g", "y", RENAME_WHITEOUT),
        "tree": tree(),
    }


@case()
def whiteouts(d: Path) -> Any:
    os.close(new("f", b"x"))
    seen = [renameat2("f", "g", RENAME_WHITEOUT), mode("f"), os.lstat("f").st_rdev, opened("f")]
    seen += [tried(os.rename, "g", "f"), content("f"), tree()]
    return seen


@case(options="size=64k,nr_inodes=8")
def a_whiteout_without_inodes(d: Path) -> Any:
    os.close(new("f", b"x"))
    while tried(new, f"filler{free()[1]}") != "ENOSPC":
        pass
    seen = [tried(renameat2, "f", "g", RENAME_WHITEOUT), os.path.exists("f"), os.path.exists("g")]
    return [seen, tried(renameat2, "f", "g", 0), free()]


@case()
def symlinks(d: Path) -> Any:
    seen: dict[str, Any] = {}
    for length in (1, 126, 127, 128, 4094, 4095, 4096):
        name = f"s{length}"
        seen[name] = tried(os.symlink, "t" * length, name)
        if seen[name] is None:
            status = os.lstat(name)
            seen[name] = [len(os.readlink(name)), status.st_size, status.st_blocks, mode(name)]
    os.symlink("loop2", "loop1"), os.symlink("loop1", "loop2"), os.symlink("self", "self")
    seen["loop"] = [tried(os.stat, "loop1"), opened("self"), opened("loop1", os.O_CREAT | os.O_RDWR)]
    os.mkdir("chain")
    os.close(new("chain/0"))
    for step in range(1, 43):
        os.symlink(str(step - 1), f"chain/{step}")
    seen["chain"] = [opened(f"chain/{step}") for step in (39, 40, 41, 42)]
    seen["empty"] = tried(os.symlink, "", "x")
    seen["readlink"] = [tried(os.readlink, name) for name in ("chain", "chain/0", "none")]
    seen["chmod"] = tried(os.chmod, "self", 0o600)
    os.lchown("self", 7, 8)
    seen["lchown"] = [os.lstat("self").st_uid, mode("self")]
    seen["bytes"] = [tried(os.symlink, b"\xff\xfe\n", b"odd"), os.readlink(b"odd")]
    return seen


@case()
def paths(d: Path) -> Any:
    os.makedirs("a/b"), os.close(new("a/f"))
    here = os.stat(".").st_ino
    return {
        "dots": os.stat("a/b/../../.").st_ino == here,
        "slashes": os.stat("a////b//").st_nlink,
        "file slash": tried(os.stat, "a/f/"),
        "file dot": tried(os.stat, "a/f/."),
        "below a file": tried(os.stat, "a/f/x"),
        "below nothing": tried(os.stat, "none/x"),
        "inodes differ": len({os.stat(name).st_ino for name in (".", "a", "a/b", "a/f")}),
        "getcwd": child(lambda: (os.chdir("a/b"), os.getcwd().endswith("/room/a/b"))[1]),
        "open relative": os.fstat(os.open("f", os.O_RDONLY, dir_fd=os.open("a", os.O_RDONLY))).st_nlink,
        "relative to a file": tried(os.stat, "x", dir_fd=os.open("a/f", os.O_RDONLY)),
    }


@case()
def negative_dentries(d: Path) -> Any:
    """Every operation that creates a name invalidates the kernel's negative dentry."""
    seen = []
    os.close(new("f")), os.mkdir("d")
    for name, make in (
        ("create", lambda: os.close(new("create"))),
        ("mkdir", lambda: os.mkdir("mkdir")),
        ("symlink", lambda: os.symlink("f", "symlink")),
        ("link", lambda: os.link("f", "link")),
        ("rename", lambda: os.rename("f", "rename")),
        ("mkfifo", lambda: os.mkfifo("mkfifo")),
        ("exchange", lambda: (new("exchange"), renameat2("exchange", "d", RENAME_EXCHANGE))),
    ):
        seen += [tried(os.lstat, name), child(lambda name=name: tried(os.lstat, name))]
        make()
        seen += [mode(name), os.path.lexists(name)]
        os.rename(name, "away")
        seen += [os.path.lexists(name), mode("away")]
        (os.rmdir if mode("away").startswith("d") else os.unlink)("away")
        seen += [os.path.lexists("away")]
        if not os.path.exists("f"):
            os.close(new("f"))
    return seen


@case()
def a_name_that_changes_its_kind(d: Path) -> Any:
    seen: list[Any] = []
    for _ in range(3):
        os.mkdir("x"), os.close(new("x/y", b"1"))
        seen.append(content("x/y"))
        os.unlink("x/y"), os.rmdir("x")
        seen.append(tried(os.stat, "x/y"))
        os.close(new("x", b"2"))
        seen += [content("x"), tried(os.stat, "x/y")]
        os.unlink("x")
        os.symlink("z", "x")
        seen += [tried(os.stat, "x"), os.readlink("x")]
        os.unlink("x")
    return seen


@case()
def random_operations(d: Path) -> Any:
    """A thousand random operations on few names: their answers, and the tree that they leave."""
    choose = random.Random(2)
    seen = []
    places = ["", "a/", "b/", "a/b/", "b/a/", "a/b/c/"]

    def path() -> str:
        return choose.choice(places) + choose.choice("abcd")

    operations = [
        lambda: os.mkdir(path()),
        lambda: os.mkdir(path()),
        lambda: os.close(new(path(), b"x" * choose.randrange(9000))),
        lambda: os.unlink(path()),
        lambda: os.rmdir(path()),
        lambda: os.rename(path(), path()),
        lambda: renameat2(path(), path(), choose.choice((0, 1, 2, 4, 5, 3))),
        lambda: os.link(path(), path(), follow_symlinks=False),
        lambda: os.symlink(path(), path()),
        lambda: os.truncate(path(), choose.randrange(20000)),
        lambda: os.chmod(path(), choose.randrange(0o1000)),
        lambda: os.setxattr(path(), "user.x", b"y" * choose.randrange(50)),
        lambda: sorted(os.listdir(path())),
        lambda: len(content(path())),
        lambda: os.mkfifo(path()),
        lambda: os.lstat(path()).st_nlink,
        lambda: os.stat(path()).st_size,
    ]
    for _ in range(1000):
        operation = choose.choice(operations)
        seen.append(tried(operation) if operations.index(operation) != 13 else None)
    return [seen, tree(), free()]


@case()
def a_thousand_links(d: Path) -> Any:
    os.close(new("f", b"x"))
    for index in range(1000):
        os.link("f", f"l{index}")
    seen = [os.stat("f").st_nlink]
    for index in range(1000):
        os.unlink(f"l{index}")
    return [*seen, os.stat("f").st_nlink, os.listdir(".")]


@case()
def threads_that_create_and_remove(d: Path) -> Any:
    failures: list[str] = []

    def work(number: int) -> None:
        for index in range(50):
            name = f"{number}-{index}"
            try:
                os.close(new(name, b"x" * 100))
                os.rename(name, name + "r")
                os.link(name + "r", name)
                os.unlink(name), os.unlink(name + "r")
            except OSError as failure:
                failures.append(str(failure))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [failures, os.listdir("."), os.stat(".").st_size]
