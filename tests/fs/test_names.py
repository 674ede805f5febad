"""Names and directories. Asserted of the model and of the kernel's tmpfs alike, where the kernel shows it."""

import os
import stat
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmfs.fs import namei
from shmfs.fs.check import check
from shmfs.fs.superblock import INODE_SIZE, ROOT_INO, Credentials
from tests.fs.support import Model, errno_of


@pytest.mark.parametrize("make", ["create", "mkdir"])
def test_names_that_are_too_long(either, make):
    fs = either()
    assert errno_of(getattr(fs, make), "n" * 256) == "ENAMETOOLONG"
    getattr(fs, make)("n" * 255)
    assert errno_of(fs.stat, "n" * 256) == "ENAMETOOLONG"
    assert errno_of(fs.rename, "n" * 255, "m" * 256) == "ENAMETOOLONG"
    assert errno_of(fs.unlink, "n" * 256) == "ENAMETOOLONG"
    assert fs.listdir() == ["n" * 255]


def test_names_of_every_byte(either):
    fs = either("size=1m,nr_inodes=0")
    names = [os.fsdecode(bytes([byte])) for byte in range(1, 256) if byte not in b"/."]
    for name in names:
        fs.create(name)
    assert fs.listdir() == names[::-1]


def test_what_is_missing(either):
    fs = either()
    fs.create("f")
    for call in (
        lambda: fs.unlink("x"),
        lambda: fs.rmdir("x"),
        lambda: fs.rename("x", "y"),
        lambda: fs.link("x", "y"),
        lambda: fs.create("x/y"),
        lambda: fs.stat("x"),
    ):
        assert errno_of(call) == "ENOENT"
    for call in (lambda: fs.create("f/x"), lambda: fs.stat("f/x"), lambda: fs.rmdir("f")):
        assert errno_of(call) == "ENOTDIR"
    assert fs.listdir() == ["f"]


def test_what_exists(either):
    fs = either()
    fs.create("f")
    fs.mkdir("d")
    for call in (
        lambda: fs.mkdir("f"),
        lambda: fs.mkdir("d"),
        lambda: fs.create("d"),
        lambda: fs.symlink("f", "t"),
        lambda: fs.link("f", "d"),
        lambda: fs.mknod("f", stat.S_IFIFO),
    ):
        assert errno_of(call) == "EEXIST"


def test_directories_are_not_files(either):
    fs = either()
    fs.mkdir("d")
    fs.create("d/f")
    assert errno_of(fs.unlink, "d") == "EISDIR"
    assert errno_of(fs.rmdir, "d") == "ENOTEMPTY"
    assert errno_of(fs.link, "d", "e") == "EPERM"
    fs.unlink("d/f")
    fs.rmdir("d")
    assert fs.listdir() == []


def test_links_of_directories_count_subdirectories(either):
    fs = either()
    fs.mkdir("a")
    fs.mkdir("a/b")
    fs.create("a/f")
    assert [fs.stat(path)["nlink"] for path in ("", "a", "a/b")] == [3, 3, 2]
    fs.rename("a/b", "b")
    assert [fs.stat(path)["nlink"] for path in ("", "a", "b")] == [4, 2, 2]
    fs.rmdir("b")
    assert fs.stat()["nlink"] == 3


def test_hard_links_are_one_inode(either):
    fs = either()
    fs.create("a")
    fs.link("a", "b")
    fs.write("a", 0, b"both")
    assert fs.read("b", 0, 10) == b"both"
    assert fs.stat("a") == fs.stat("b")
    fs.unlink("a")
    assert fs.read("b", 0, 10) == b"both"
    assert fs.stat("b")["nlink"] == 1


def test_links_to_what_is_not_a_file(either):
    fs = either()
    fs.symlink("s", "nowhere")
    fs.mknod("p", stat.S_IFIFO | 0o600)
    fs.link("s", "s2")
    fs.link("p", "p2")
    assert fs.readlink("s2") == "nowhere"
    assert stat.S_ISFIFO(fs.stat("p2")["mode"])


def test_devices_keep_their_number(either):
    fs = either()
    fs.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert fs.stat("null")["rdev"] == os.makedev(1, 3)
    assert fs.stat("null")["mode"] == stat.S_IFCHR | 0o666


def test_the_newest_name_is_listed_first(either):
    fs = either()
    for name in ("a", "b", "c"):
        fs.create(name)
    fs.mkdir("d")
    fs.unlink("b")
    fs.create("b")
    assert fs.listdir() == ["b", "d", "c", "a"]
    fs.rename("a", "e")
    assert fs.listdir() == ["e", "b", "d", "c"]


@pytest.mark.parametrize("make", ["create", "mkdir", "symlink", "mknod"])
def test_a_set_group_id_directory_passes_its_group_on(either, make):
    fs = either()
    fs.mkdir("d", 0o755)
    fs.chown("d", 1, 77)
    fs.chmod("d", 0o2755)
    more = {"symlink": ("target",), "mknod": (stat.S_IFIFO | 0o600,)}.get(make, ())
    getattr(fs, make)("d/n", *more)
    assert fs.stat("d/n")["gid"] == 77
    assert bool(fs.stat("d/n")["mode"] & stat.S_ISGID) == (make == "mkdir")


def test_a_tmpfile_in_a_set_group_id_directory(either):
    fs = either()
    fs.mkdir("d")
    fs.chown("d", -1, 77)
    fs.chmod("d", 0o2755)
    handle = fs.open_tmpfile("d")
    fs.link_handle(handle, "f")
    fs.close(handle)
    assert fs.stat("f")["gid"] == 77


@pytest.mark.parametrize("mode", [0o7777, 0o6755, 0o2644, 0o4700])
@pytest.mark.parametrize("kind", ["create", "mkdir"])
def test_chown_clears_set_id_bits_of_files(either, mode, kind):
    fs = either()
    getattr(fs, kind)("n")
    fs.chmod("n", mode)
    fs.chown("n", 7, 8)
    status = fs.stat("n")
    assert (status["uid"], status["gid"]) == (7, 8)
    kept = stat.S_IMODE(status["mode"])
    if kind == "mkdir":
        assert kept == mode
    elif mode & stat.S_IXGRP:
        assert kept == mode & ~0o6000
    else:
        assert kept == mode & ~0o4000


# ---- the model alone


def test_owner_and_group_are_the_caller_s(model_of):
    fs = model_of(cred=Credentials(1000, 2000))
    fs.create("f")
    fs.symlink("s", "t")
    assert [(fs.stat(p)["uid"], fs.stat(p)["gid"]) for p in ("f", "s")] == [(1000, 2000)] * 2


def test_the_umask_is_applied_to_all_but_symlinks(model_of):
    fs = model_of(cred=Credentials(0, 0, 0, 0o027))
    fs.create("f", 0o666)
    fs.mkdir("d", 0o777)
    fs.symlink("s", "t")
    fs.mknod("p", stat.S_IFIFO | 0o666)
    modes = [stat.S_IMODE(fs.stat(path)["mode"]) for path in "fdsp"]
    assert modes == [0o640, 0o750, 0o777, 0o640]
    assert namei.tmpfile(fs.sb, fs.root, 0o666, fs.cred).mode == stat.S_IFREG | 0o640
    fs.sb.drop_if_unused(list(fs.sb.inodes.values())[-1])


def test_nothing_can_be_made_in_a_removed_directory(model_of):
    fs = model_of()
    fs.mkdir("d")
    fs.create("f")
    held = fs.open("d")
    fs.rmdir("d")
    for call in (
        lambda: namei.create(fs.sb, held, b"x", stat.S_IFREG, fs.cred),
        lambda: namei.symlink(fs.sb, held, b"x", b"t", fs.cred),
        lambda: namei.link(fs.sb, fs.inode("f"), held, b"x"),
        lambda: namei.rename(fs.sb, fs.root, b"f", held, b"x"),
        lambda: namei.lookup(held, b"x"),
    ):
        assert errno_of(call) == "ENOENT"
    assert (held.nlink, len(held)) == (0, 0)
    fs.check()
    fs.close(held)
    assert len(fs.sb.inodes) == 2


def test_paths(model_of):
    fs = model_of()
    fs.mkdir("d")
    fs.create("d/f")
    inode = fs.inode("d/f")
    assert (fs.root.path(), inode.path()) == ("/", "/d/f")
    fs.rename("d", "e")
    assert inode.path() == "/e/f"
    fs.link("e/f", os.fsdecode(b"\xff"))
    assert inode.path() == "/\udcff"
    handle = fs.open_tmpfile()
    assert handle.path() == ""
    fs.close(handle)


# ---- lifetimes


def test_everything_deleted_and_forgotten_leaves_the_root_alone(model_of):
    fs = model_of("size=1m,nr_inodes=100")
    for name in ("a", "b", "c"):
        fs.mkdir(name)
        fs.create(f"{name}/f")
        fs.write(f"{name}/f", 0, b"x" * 9000)
        fs.symlink(f"{name}/s", "t" * 1000)
        fs.setxattr(f"{name}/f", "user.x", b"y" * 100)
        fs.link(f"{name}/f", f"{name}/g")
    held = [fs.hold(inode) for inode in list(fs.sb.inodes.values()) if inode is not fs.root]
    for name in ("a", "b", "c"):
        for leaf in "fsg":
            fs.unlink(f"{name}/{leaf}")
        fs.rmdir(name)
    fs.check()
    assert len(fs.sb.inodes) == 1 + len(held)
    assert fs.sb.blocks.used == 3 * (3 + 1)
    for inode in held:
        fs.close(inode)
    assert list(fs.sb.inodes) == [ROOT_INO]
    assert (fs.sb.blocks.used, fs.sb.store.arena.used, fs.sb.inode_space.used) == (0, 0, INODE_SIZE)


def test_an_inode_is_held_by_every_reference(model_of):
    evicted = []

    class Instrument:
        def evict(self, ino):
            evicted.append(ino)

    fs = model_of()
    fs.sb.instruments.install(Instrument())
    fs.create("f")
    inode = fs.inode("f")
    inode.nlookup = 5
    fs.sb.forget(inode.ino, 2)
    fs.unlink("f")
    fs.sb.forget(inode.ino, 2)
    assert fs.sb.inode(inode.ino) is inode
    assert evicted == []
    fs.sb.forget(inode.ino, 1)
    assert evicted == [inode.ino]
    fs.sb.forget(inode.ino, 1)  # of what is gone: nothing
    assert evicted == [inode.ino]


def test_forgetting_keeps_what_has_a_name(model_of):
    fs = model_of()
    fs.create("f")
    fs.write("f", 0, b"kept")
    fs.close(fs.open("f"))
    assert fs.read("f", 0, 4) == b"kept"
    fs.sb.forget(ROOT_INO, 1)
    assert fs.listdir() == ["f"]


# ---- readdir


def listing(fs, cookie: int = 0) -> list[tuple[bytes, int]]:
    return [(dentry.name, dentry.cookie) for dentry in fs.root.read(cookie)]


def test_dot_and_dotdot_come_first(model_of):
    fs = model_of()
    fs.mkdir("d")
    dentries = list(fs.directory("d").read(0))
    assert [(d.name, d.inode.ino) for d in dentries] == [(b".", fs.inode("d").ino), (b"..", ROOT_INO)]
    assert [d.inode.ino for d in fs.root.read(0)][:2] == [ROOT_INO, ROOT_INO]


def test_cookies_are_unique_and_resume(model_of):
    fs = model_of("nr_inodes=0")
    for number in range(200):
        fs.create(f"f{number}")
    everything = listing(fs)
    assert len({cookie for _, cookie in everything}) == 202
    for position in (0, 1, 2, 3, 100, 200, 201):
        assert listing(fs, everything[position][1]) == everything[position + 1 :]


def test_a_cookie_of_a_removed_name_is_a_place_to_resume(model_of):
    fs = model_of("nr_inodes=0")
    for number in range(200):
        fs.create(f"f{number}")
    everything = listing(fs)
    cookie = everything[50][1]
    for name, _ in everything[3:60:2] + everything[100:190]:
        fs.unlink(os.fsdecode(name))
    fs.create("new")
    rest = [name for name, _ in everything[51:] if fs.root.get(name)]
    assert [name for name, _ in listing(fs, cookie)] == rest
    assert listing(fs)[2][0] == b"new"


def test_a_reader_ends_though_the_directory_grows(model_of):
    """Each name read makes a new one, as tar extracting into its own directory would."""
    fs = model_of("nr_inodes=0")
    for number in range(10):
        fs.create(f"f{number}")
    seen = []
    for dentry in fs.root.read(0):
        seen.append(dentry.name)
        fs.create(f"new{len(seen)}")
    assert len(seen) == 14  # with the two that were made before the newest name was read


def test_everything_can_be_removed_while_it_is_read(model_of):
    fs = model_of("nr_inodes=0")
    for number in range(500):
        fs.create(f"f{number}")
    for dentry in fs.root.read(2):
        fs.unlink(os.fsdecode(dentry.name))
    assert len(fs.root) == 0


def test_a_name_that_is_replaced_keeps_its_place(model_of):
    """A reader sees it once, before or after."""
    fs = model_of()
    for name in "abc":
        fs.create(name)
    cookie = dict(listing(fs))[b"b"]
    fs.create("new")
    fs.rename("new", "b")
    assert dict(listing(fs))[b"b"] == cookie


class Reader:
    """readdir in pieces, against the names that were there all the while."""

    def __init__(self, fs: Model) -> None:
        self.fs = fs
        self.cookie = 0
        self.seen: list[bytes] = []

    def advance(self, count: int) -> bool:
        for dentry in self.fs.root.read(self.cookie):
            if not count:
                return True
            count -= 1
            self.cookie = dentry.cookie
            self.seen.append(dentry.name)
        return False


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["create", "unlink", "replace", "exchange"]), st.integers(0, 19), st.integers(0, 19)
    )
)


@given(st.lists(st.tuples(st.integers(1, 8), CHANGES), max_size=15))
def test_a_reader_sees_every_name_that_stays_exactly_once(rounds):
    fs = Model("nr_inodes=0")
    for number in range(0, 20, 2):
        fs.create(f"f{number}")
    stays = set(fs.listdir())
    reader = Reader(fs)
    for count, changes in rounds:
        if not reader.advance(count):
            break
        for what, one, other in changes:
            a, b = f"f{one}", f"f{other}"
            if what == "create":
                errno_of(fs.create, a)
            elif what == "unlink":
                errno_of(fs.unlink, a)
            elif a != b:
                errno_of(fs.rename, a, b, 2 if what == "exchange" else 0)
            stays &= set(fs.listdir())
    while reader.advance(5):
        pass
    assert len(reader.seen) == len(set(reader.seen)) or set(reader.seen) - stays
    for name in stays:
        assert reader.seen.count(os.fsencode(name)) == 1
    fs.check()
    fs.close_arena()


def test_compaction_forgets_the_cookies_of_removed_names(model_of):
    fs = model_of("nr_inodes=0")
    for number in range(5000):
        fs.create(f"f{number}")
        if number >= 10:
            fs.unlink(f"f{number - 10}")
    assert len(fs.root._cookies) <= 64
    assert len(fs.root._by_cookie) == len(fs.root._entries) == 10


def seconds(count: int) -> float:
    """Time to make, list in pieces of fifty, and remove names in one directory."""
    fs = Model("nr_inodes=0,size=0")
    begun = time.process_time()
    names = [b"name-%07d" % number for number in range(count)]
    for name in names:
        namei.create(fs.sb, fs.root, name, stat.S_IFREG, fs.cred)
    cookie, listed = 0, 0
    while True:
        piece = []
        for dentry in fs.root.read(cookie):
            piece.append(dentry)
            if len(piece) == 50:
                break
        if not piece:
            break
        cookie = piece[-1].cookie
        listed += len(piece)
    assert listed == count + 2
    for name in names[::2]:
        namei.unlink(fs.sb, fs.root, name)
    for name in names[1::2]:
        namei.rename(fs.sb, fs.root, name, fs.root, name + b"x")
    taken = time.process_time() - begun
    assert check(fs.sb) == []
    fs.close_arena()
    return taken


def test_many_names_take_linear_time():
    """Eight times the names would take 64 times as long if a list were searched; linear is far from that."""
    few = min(seconds(3000) for _ in range(3))
    many = min(seconds(24_000) for _ in range(2))
    assert many / few < 32


def test_100_000_names(model_of):
    fs = model_of("nr_inodes=0")
    for number in range(100_000):
        namei.create(fs.sb, fs.root, b"%d" % number, stat.S_IFREG, fs.cred)
    assert fs.root.size == 40 + 20 * 100_000
    names = [dentry.name for dentry in fs.root.read(0)]
    assert names[2:] == [b"%d" % number for number in range(99_999, -1, -1)]
    for number in range(100_000):
        namei.unlink(fs.sb, fs.root, b"%d" % number)
    assert list(fs.sb.inodes) == [ROOT_INO]
