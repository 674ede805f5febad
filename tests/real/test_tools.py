"""git, gcc and tar, unmodified, on the mount."""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.support import needs

pytestmark = pytest.mark.mount


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What the command printed; it must succeed within a while."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_TERMINAL_PROMPT": "0",
}


def test_git(shmfs: Any, tmp_path: Path) -> None:
    needs("git")

    def git(*words: str | Path, cwd: Path) -> str:
        return run("git", *words, cwd=cwd, **GIT)

    origin = tmp_path / "origin"
    origin.mkdir()
    git("init", "-q", "-b", "main", cwd=origin)
    for number in range(60):
        (origin / f"file{number}").write_text(f"{number}\n" * number * 10)
    (origin / "script").write_text("#!/bin/sh\n")
    (origin / "script").chmod(0o755)
    (origin / "link").symlink_to("file1")
    git("add", "-A", cwd=origin)
    git("commit", "-qm", "first", cwd=origin)

    for source in (origin, f"file://{origin}"):
        git("clone", "-q", str(source), "clone", cwd=shmfs.path)
        clone = shmfs.path / "clone"
        assert git("status", "--porcelain", cwd=clone) == ""
        assert (clone / "link").is_symlink()
        assert (clone / "script").stat().st_mode & 0o111
        (clone / "file7").write_text("changed\n")
        (clone / "new").write_text("new\n")
        (clone / "file8").unlink()
        assert sorted(git("status", "--porcelain", cwd=clone).split()) == sorted(
            ["M", "file7", "D", "file8", "??", "new"]
        )
        git("checkout", "-q", "-b", "topic", cwd=clone)
        git("add", "-A", cwd=clone)
        git("commit", "-qm", "second", cwd=clone)
        git("checkout", "-q", "main", cwd=clone)
        assert (clone / "file8").exists()
        git("merge", "-q", "--no-ff", "-m", "merge", "topic", cwd=clone)
        git("gc", "-q", "--aggressive", "--prune=now", cwd=clone)
        git("fsck", "--full", "--strict", cwd=clone)
        git("push", "-q", "origin", "main:pushed", cwd=clone)
        assert git("rev-parse", "pushed", cwd=origin) == git("rev-parse", "HEAD", cwd=clone)
        git("branch", "-q", "-D", "pushed", cwd=origin)
        git("worktree", "add", "-q", "../tree", "topic", cwd=clone)
        assert (shmfs.path / "tree" / "new").read_text() == "new\n"
        shutil.rmtree(clone)
        shutil.rmtree(shmfs.path / "tree")
    assert not any(shmfs.path.iterdir())


def test_git_with_this_repository(shmfs: Any) -> None:
    needs("git")
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        pytest.skip("these tests are not in a git repository")

    def git(*words: str | Path, cwd: Path) -> str:
        return run("git", *words, cwd=cwd, **GIT)

    git("clone", "-q", "--no-local", here, "clone", cwd=shmfs.path)
    clone = shmfs.path / "clone"
    expected = [git("rev-parse", name, cwd=here) for name in ("HEAD", "HEAD^{tree}")]
    history = git("log", "--format=%H %T", "HEAD", cwd=here)
    for collect in ((), ("gc", "-q", "--aggressive", "--prune=now")):
        if collect:
            git(*collect, cwd=clone)
        git("fsck", "--full", "--strict", cwd=clone)
        assert [git("rev-parse", name, cwd=clone) for name in ("HEAD", "HEAD^{tree}")] == expected
        assert git("log", "--format=%H %T", cwd=clone) == history
        git("read-tree", "HEAD", cwd=clone)
        assert git("status", "--porcelain", cwd=clone) == ""
    shutil.rmtree(clone)


LIBRARY = """
#include <stdio.h>
int answer(int x) { char text[20]; snprintf(text, sizeof text, "%d", x); puts(text); return x; }
"""
MAIN = """
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int answer(int x);
int main(void) {
    int fd = open("memory", O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, 8192)) return 1;
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 2;
    strcpy(map + 5000, "stored");
    char back[7] = "";
    if (pread(fd, back, 6, 5000) != 6 || strcmp(back, "stored")) return 3;
    return answer(42) != 42;
}
"""


def test_gcc(shmfs: Any) -> None:
    needs("gcc")
    path = shmfs.path
    (path / "library.c").write_text(LIBRARY)
    (path / "main.c").write_text(MAIN)
    temporary = path / "tmp"
    temporary.mkdir()
    run("gcc", "-O2", "-g", "main.c", "library.c", "-o", "program", cwd=path, TMPDIR=str(temporary))
    assert run("./program", cwd=path) == "42\n"
    run("gcc", "-shared", "-fPIC", "library.c", "-o", "libanswer.so", cwd=path, TMPDIR=str(temporary))
    run(
        "gcc",
        "main.c",
        "-L.",
        "-lanswer",
        "-Wl,-rpath,$ORIGIN",
        "-o",
        "linked",
        cwd=path,
        TMPDIR=str(temporary),
    )
    assert run("./linked", cwd=path) == "42\n"
    run("gcc", "-c", "library.c", "-o", "library.o", cwd=path)
    run("ar", "rcs", "libanswer.a", "library.o", cwd=path)
    run("gcc", "-static-libgcc", "main.c", "libanswer.a", "-o", "archived", cwd=path)
    assert run("./archived", cwd=path) == "42\n"
    assert not any(temporary.iterdir())


def described(top: Path) -> dict[str, Any]:
    """Everything that tar keeps of a tree."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(top))
        kept: list[Any] = [stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_nlink]
        if not stat.S_ISDIR(status.st_mode):
            kept += [status.st_size, status.st_mtime_ns, inodes.setdefault(status.st_ino, name)]
        if path.is_symlink():
            kept.append(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            kept.append(path.read_bytes())
        names = [name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux"]
        kept.append({name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)})
        found[name] = kept
    return found


def plant(top: Path) -> None:
    """Make a tree of everything that tar can carry."""
    (top / "a/b").mkdir(parents=True)
    (top / "a/file").write_bytes(os.urandom(10000))
    (top / "a/empty").touch()
    (top / "a/b/hard").hardlink_to(top / "a/file")
    (top / "a/soft").symlink_to("b/hard")
    (top / "a/long").symlink_to("target/" * 80)
    (top / ("n" * 255)).write_text("a long name")
    (top / "a/Grüße \n").write_text("an odd name")
    (top / "a/script").write_text("#!/bin/sh\n")
    (top / "a/script").chmod(0o4755)
    (top / "a/b").chmod(0o2770)
    os.mkfifo(top / "a/fifo", 0o640)
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 20)
        sparse.seek(300_000)
        sparse.write(b"an island")
    os.setxattr(top / "a/file", "user.colour", b"blue")
    os.setxattr(top / "a/b", "user.binary", bytes(range(256)))
    if os.geteuid() == 0:
        os.setxattr(top / "a/script", "trusted.secret", b"1")
        os.setxattr(top / "a/soft", "trusted.onlink", b"2", follow_symlinks=False)
        os.mknod(top / "a/null", 0o20666, os.makedev(1, 3))
        os.chown(top / "a/empty", 1234, 5678)
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18, 10**18 + number * 1_000_000_007), follow_symlinks=False)


def test_tar(shmfs: Any) -> None:
    needs("tar")
    path = shmfs.path
    for name in ("one", "two", "three"):
        (path / name).mkdir()
    plant(path / "one")
    before = described(path / "one")
    options = ["--xattrs", "--xattrs-include=*", "--format=posix", "--sparse", "--numeric-owner"]
    run("tar", *options, "-cf", "archive.tar", "-C", "one", ".", cwd=path)
    run("tar", *options, "-xpf", "../archive.tar", cwd=path / "two")
    assert described(path / "two") == before
    run("sh", "-c", "tar {0} -cf - -C two . | tar {0} -xpf - -C three".format(" ".join(options)), cwd=path)
    assert described(path / "three") == before
    run("tar", *options, "-df", "archive.tar", "-C", "three", cwd=path)
