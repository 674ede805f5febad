"""Which times each operation changes. Asserted of the model and of the kernel's tmpfs alike."""

import os
import stat
from collections.abc import Callable

import pytest

from shmfs.fs import attributes
from tests.fs.support import PAGE, SECOND, errno_of

KEEP, PUNCH = 1, 3


def changed(fs, work: Callable[[], object], *paths: str) -> set[str]:
    """Which times of `paths` ("a", or "a>b" for what is named b afterwards) the work changes."""
    before = {path: fs.times(path.partition(">")[0]) for path in paths}
    fs.wait()
    work()
    after = {path: fs.times(path.rpartition(">")[2]) for path in paths}
    return {
        f"{path.partition('>')[0] or '/'} {name}"
        for path in paths
        for name in before[path]
        if before[path][name] != after[path][name]
    }


@pytest.fixture
def fs(either):
    """A tree: a, b, d/x, d/e/, and two names of one file, h and d/h."""
    fs = either("size=1m,nr_inodes=100")
    fs.mkdir("d")
    fs.mkdir("d/e")
    for path in ("a", "b", "d/x", "h"):
        fs.create(path)
    fs.link("h", "d/h")
    fs.write("a", 0, b"x" * 100)
    return fs


DIRECTORY = {"/ mtime", "/ ctime"}


def test_a_new_inode_has_one_time(fs):
    fs.wait()
    fs.create("n")
    times = fs.times("n")
    assert times["atime"] == times["mtime"] == times["ctime"]
    assert fs.times("")["mtime"] == fs.times("")["ctime"] >= times["mtime"]


@pytest.mark.parametrize("make", ["create", "mkdir", "symlink", "mknod"])
def test_making_a_name_changes_the_directory(fs, make):
    more = {"symlink": ("target",), "mknod": (stat.S_IFIFO,)}.get(make, ())
    assert changed(fs, lambda: getattr(fs, make)("n", *more), "", "d", "a") == DIRECTORY


def test_link_changes_directory_and_target(fs):
    assert changed(fs, lambda: fs.link("a", "n"), "", "a", "d") == DIRECTORY | {"a ctime"}
    assert changed(fs, lambda: fs.link("a", "d/n"), "", "a", "d") == {"d mtime", "d ctime", "a ctime"}


def test_unlink_changes_directory_and_target(fs):
    assert changed(fs, lambda: fs.unlink("h"), "", "d/h", "d") == DIRECTORY | {"d/h ctime"}


def test_rmdir_changes_the_directory(fs):
    assert changed(fs, lambda: fs.rmdir("d/e"), "", "d") == {"d mtime", "d ctime"}


def test_rename_changes_both_directories_and_the_inode(fs):
    got = changed(fs, lambda: fs.rename("a", "d/n"), "", "d", "a>d/n", "b")
    assert got == DIRECTORY | {"d mtime", "d ctime", "a ctime"}
    got = changed(fs, lambda: fs.rename("d/e", "e"), "", "d", "d/e>e")
    assert got == DIRECTORY | {"d mtime", "d ctime", "d/e ctime"}


def test_rename_within_a_directory(fs):
    assert changed(fs, lambda: fs.rename("a", "n"), "", "d", "a>n") == DIRECTORY | {"a ctime"}


def test_rename_changes_the_victim(fs):
    got = changed(fs, lambda: fs.rename("a", "h"), "", "d", "a>h", "d/h")
    assert got == DIRECTORY | {"a ctime", "d/h ctime"}


def test_exchange_changes_both(fs):
    got = changed(fs, lambda: fs.rename("a", "d/x", 2), "", "d", "a>d/x", "d/x>a")
    assert got == DIRECTORY | {"d mtime", "d ctime", "a ctime", "d/x ctime"}


def test_whiteout(fs):
    got = changed(fs, lambda: fs.rename("a", "d/n", 4), "", "d", "a>d/n")
    assert got == DIRECTORY | {"d mtime", "d ctime", "a ctime"}


@pytest.mark.parametrize("flags", [0, 2])
def test_rename_onto_its_own_link_changes_nothing(fs, flags):
    assert changed(fs, lambda: fs.rename("h", "d/h", flags), "", "d", "h", "d/h") == set()


@pytest.mark.parametrize(
    "work",
    [
        lambda fs: fs.create("a"),
        lambda fs: fs.unlink("d"),
        lambda fs: fs.rmdir("d"),
        lambda fs: fs.link("a", "b"),
        lambda fs: fs.rename("a", "d"),
        lambda fs: fs.rename("a", "b", 1),
        lambda fs: fs.rename("d", "d/e/n"),
        lambda fs: fs.setxattr("a", "user.x", b"", os.XATTR_REPLACE),
        lambda fs: fs.removexattr("a", "user.x"),
        lambda fs: fs.fallocate("a", 0, 0, 1 << 30),
    ],
)
def test_what_fails_changes_nothing(fs, work):
    assert changed(fs, lambda: errno_of(work, fs), "", "a", "b", "d", "d/e") == set()


@pytest.mark.parametrize(
    ("work", "times"),
    [
        (lambda fs: fs.write("a", 0, b"y"), {"mtime", "ctime"}),
        (lambda fs: fs.write("a", 500, b"y"), {"mtime", "ctime"}),
        (lambda fs: fs.write("a", 0, b""), set()),
        (lambda fs: fs.truncate("a", 100), {"mtime", "ctime"}),  # as it has pages
        (lambda fs: fs.ftruncate("a", 100), {"mtime", "ctime"}),
        (lambda fs: fs.truncate("a", 50), {"mtime", "ctime"}),
        (lambda fs: fs.truncate("a", 500), {"mtime", "ctime"}),
        (lambda fs: fs.fallocate("a", 0, 0, PAGE), {"mtime", "ctime"}),
        (lambda fs: fs.fallocate("a", KEEP, 0, PAGE), {"mtime", "ctime"}),
        (lambda fs: fs.fallocate("a", PUNCH, 0, PAGE), {"mtime", "ctime"}),
        (lambda fs: fs.chmod("a", 0o600), {"ctime"}),
        (lambda fs: fs.chown("a", 5, -1), {"ctime"}),
        (lambda fs: fs.chown("a", -1, 5), {"ctime"}),
        (lambda fs: fs.setxattr("a", "user.x", b""), {"ctime"}),
        (lambda fs: fs.setxattr("a", "trusted.x", b""), {"ctime"}),
        (lambda fs: fs.utime("a", 5 * SECOND + 3, 7 * SECOND + 9), {"atime", "mtime", "ctime"}),
        (lambda fs: fs.stat("a"), set()),
        (lambda fs: fs.seek("a", 0, os.SEEK_HOLE), set()),
    ],
)
def test_files(fs, work, times):
    assert changed(fs, lambda: work(fs), "", "a") == {f"a {name}" for name in times}


def test_truncate_of_an_empty_file(fs):
    assert changed(fs, lambda: fs.truncate("b", 0), "b") == set()
    assert changed(fs, lambda: fs.ftruncate("b", 0), "b") == {"b mtime", "b ctime"}


def test_removing_an_attribute_changes_ctime(fs):
    fs.setxattr("a", "user.x", b"")
    assert changed(fs, lambda: fs.removexattr("a", "user.x"), "a") == {"a ctime"}


def test_times_are_kept_to_the_nanosecond(fs):
    fs.utime("a", 5 * SECOND + 3, -7 * SECOND + 9)
    assert fs.times("a")["atime"] == 5 * SECOND + 3
    assert fs.times("a")["mtime"] == -7 * SECOND + 9


# ---- the model alone: what the daemon notes of reads


def test_relatime(model_of):
    fs = model_of()
    fs.create("f")
    inode = fs.inode("f")

    def accessed() -> bool:
        fs.clock.tick()
        before = inode.atime
        attributes.accessed(fs.sb, inode)
        return inode.atime != before

    assert accessed()  # as old as mtime
    assert not accessed()
    fs.clock.tick()
    fs.write("f", 0, b"x")
    assert accessed()
    assert not accessed()
    fs.clock.tick()
    fs.chmod("f", 0o600)
    assert accessed()
    assert not accessed()
    fs.clock.tick(86_400 * SECOND - 10)
    assert not accessed()
    fs.clock.tick(10)
    assert accessed()


@pytest.mark.parametrize("text", ["noatime", "ro", "ro,strictatime", "strictatime,noatime"])
def test_no_access_times(model_of, text):
    fs = model_of(text)
    fs.clock.tick()
    before = fs.root.atime
    attributes.accessed(fs.sb, fs.root)
    assert fs.root.atime == before


@pytest.mark.parametrize("text", ["strictatime", "norelatime", "noatime,strictatime"])
def test_every_access(model_of, text):
    fs = model_of(text)
    for _ in range(3):
        now = fs.clock.tick()
        attributes.accessed(fs.sb, fs.root)
        assert fs.root.atime == now


def test_nodiratime_is_for_directories(model_of):
    fs = model_of("nodiratime")
    fs.create("f")
    now = fs.clock.tick()
    attributes.accessed(fs.sb, fs.root)
    attributes.accessed(fs.sb, fs.inode("f"))
    assert (fs.root.atime == now, fs.inode("f").atime == now) == (False, True)


def test_birth_does_not_change(model_of):
    fs = model_of()
    fs.create("f")
    born = fs.inode("f").btime
    fs.clock.tick()
    fs.write("f", 0, b"x")
    fs.chmod("f", 0)
    fs.rename("f", "g")
    assert fs.inode("g").btime == born


def test_a_time_that_the_kernel_gives_is_taken(model_of):
    fs = model_of()
    fs.create("f")
    fs.clock.tick()
    fs.set("f", mtime=5, ctime=6)
    assert fs.times("f")["mtime"] == 5
    assert fs.times("f")["ctime"] == 6
