"""What things cost. Asserted of the model and of the kernel's tmpfs alike."""

import errno
import os
import stat

import pytest

from shmfs.fs import file
from shmfs.fs.superblock import INODE_SIZE, Superblock
from tests.fs.support import PAGE, errno_of


def used(fs) -> tuple[int, int]:
    """Pages and inodes in use."""
    blocks, blocks_free, files, files_free = fs.statfs()
    return blocks - blocks_free, files - files_free


def test_an_empty_file_system_has_its_root(either):
    fs = either("size=256k,nr_inodes=32")
    assert fs.statfs() == (64, 64, 32, 31)


def test_size_is_rounded_up_to_pages(either):
    assert either("size=4097,nr_inodes=3").statfs() == (2, 2, 3, 2)


def test_zero_is_unlimited_and_reported_as_zero(either):
    fs = either("size=0,nr_inodes=0")
    fs.create("f")
    fs.write("f", 0, b"x" * 10 * PAGE)
    fs.setxattr("f", "user.x", b"y" * 2000)
    assert fs.statfs() == (0, 0, 0, 0)


def test_defaults_are_half_of_ram(either):
    blocks, _, files, _ = either("").statfs()
    half = os.sysconf("SC_PHYS_PAGES") // 2
    assert abs(blocks - half) <= half // 50
    assert abs(files - half) <= half // 50


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_every_kind_costs_an_inode(either, kind):
    fs = either()
    fs.mknod("x", kind | 0o600, os.makedev(1, 3))
    assert used(fs) == (0, 2)
    fs.unlink("x")
    assert used(fs) == (0, 1)


def test_a_directory_costs_an_inode_and_no_block(either):
    fs = either()
    fs.mkdir("d")
    for name in "abc":
        fs.create(f"d/{name}")
    assert used(fs) == (0, 5)
    assert fs.stat("d")["blocks"] == 0
    assert fs.stat("d")["size"] == 40 + 3 * 20
    assert fs.stat()["size"] == 40 + 20


def test_names_have_one_size_however_long(either):
    fs = either()
    fs.create("n" * 255)
    assert fs.stat()["size"] == 60


def test_an_extra_link_costs_an_inode(either):
    fs = either("nr_inodes=4")
    fs.create("a")
    fs.link("a", "b")
    assert used(fs)[1] == 3
    fs.link("a", "c")
    assert errno_of(fs.link, "a", "d") == "ENOSPC"
    assert (fs.stat("a")["nlink"], fs.stat()["size"]) == (3, 100)
    fs.unlink("a")
    assert used(fs)[1] == 3
    fs.unlink("c")
    fs.unlink("b")
    assert used(fs)[1] == 1


def test_the_first_link_of_a_tmpfile_is_free(either):
    fs = either("nr_inodes=2")
    handle = fs.open_tmpfile()
    assert used(fs)[1] == 2
    fs.link_handle(handle, "a")
    assert used(fs)[1] == 2
    assert fs.stat("a")["nlink"] == 1
    assert errno_of(fs.link_handle, handle, "b") == "ENOSPC"
    fs.close(handle)
    fs.unlink("a")
    assert used(fs)[1] == 1


def test_a_tmpfile_that_is_closed_is_gone(either):
    fs = either("nr_inodes=2")
    handle = fs.open_tmpfile()
    assert errno_of(fs.create, "x") == "ENOSPC"
    fs.close(handle)
    assert used(fs)[1] == 1
    fs.create("x")


def test_an_unlinked_file_cannot_be_linked_again(either):
    fs = either()
    fs.create("a")
    handle = fs.open("a")
    fs.unlink("a")
    assert errno_of(fs.link_handle, handle, "b") == "ENOENT"
    fs.close(handle)
    assert used(fs) == (0, 1)


def test_a_tmpfile_that_was_linked_and_unlinked_cannot_be_linked_again(either):
    fs = either()
    handle = fs.open_tmpfile()
    fs.link_handle(handle, "a")
    fs.unlink("a")
    assert errno_of(fs.link_handle, handle, "b") == "ENOENT"
    fs.close(handle)


@pytest.mark.parametrize(
    ("length", "pages"), [(1, 0), (126, 0), (127, 0), (128, 1), (129, 1), (4094, 1), (4095, 1)]
)
def test_a_symlink_of_up_to_127_bytes_is_free(either, length, pages):
    fs = either()
    fs.symlink("s", "t" * length)
    assert used(fs) == (pages, 2)
    status = fs.stat("s")
    assert (status["size"], status["blocks"]) == (length, pages * 8)
    assert fs.readlink("s") == "t" * length
    fs.unlink("s")
    assert used(fs) == (0, 1)


def test_a_symlink_longer_than_a_page_is_refused(either):
    fs = either()
    assert errno_of(fs.symlink, "s", "t" * 4096) == "ENAMETOOLONG"
    assert used(fs) == (0, 1)


def test_a_long_symlink_needs_room_for_its_page(either):
    fs = either("size=4k,nr_inodes=10")
    fs.create("f")
    fs.write("f", 0, b"x")
    assert errno_of(fs.symlink, "s", "t" * 128) == "ENOSPC"
    assert used(fs) == (1, 2)  # and leaves no inode behind
    fs.symlink("s", "t" * 127)
    assert fs.listdir() == ["s", "f"]


@pytest.mark.parametrize("what", ["create", "mkdir", "symlink", "open_tmpfile"])
def test_nothing_is_made_when_inodes_are_exhausted(either, what):
    fs = either("nr_inodes=2")
    fs.create("last")
    arguments = {"symlink": ("x", "y"), "open_tmpfile": ()}.get(what, ("x",))
    assert errno_of(getattr(fs, what), *arguments) == "ENOSPC"
    assert fs.listdir() == ["last"]
    assert (fs.stat()["size"], fs.stat()["nlink"]) == (60, 2)


def test_st_blocks_comes_from_allocation_not_from_size(either):
    fs = either()
    fs.create("f")
    fs.truncate("f", 20 * PAGE)
    assert (fs.stat("f")["size"], fs.stat("f")["blocks"]) == (20 * PAGE, 0)
    fs.write("f", 10 * PAGE, b"x")
    assert fs.stat("f")["blocks"] == 8
    fs.read("f", 0, 20 * PAGE)
    assert fs.stat("f")["blocks"] == 8  # reading a hole allocates nothing
    fs.write("f", 11 * PAGE - 1, b"xy")
    assert fs.stat("f")["blocks"] == 16
    fs.truncate("f", 10 * PAGE + 1)
    assert fs.stat("f")["blocks"] == 8
    assert used(fs)[0] == 1


def test_an_open_file_keeps_its_pages_after_unlink(either):
    fs = either()
    fs.create("f")
    fs.write("f", 0, b"x" * 5 * PAGE)
    handle = fs.open("f")
    fs.unlink("f")
    assert used(fs) == (5, 2)
    fs.close(handle)
    assert used(fs) == (0, 1)


def test_a_victim_of_rename_gives_its_pages_back(either):
    fs = either()
    for name in "ab":
        fs.create(name)
        fs.write(name, 0, b"x" * 5 * PAGE)
    fs.rename("a", "b")
    assert used(fs) == (5, 2)


# ---- the model alone


def test_the_limit_can_be_filled_to_the_last_page_and_inode(model_of):
    fs = model_of("size=8k,nr_inodes=3")
    fs.create("a")
    fs.create("b")
    fs.write("a", 0, b"x" * 2 * PAGE)
    assert fs.statfs() == (2, 0, 3, 0)
    assert errno_of(fs.write, "b", 0, b"x") == "ENOSPC"


def test_half_an_inode_left_is_none(model_of):
    fs = model_of("nr_inodes=3")
    fs.create("a")
    fs.setxattr("a", "user.x", b"")  # 46 bytes
    assert fs.sb.inode_space.used == 2 * INODE_SIZE + 46
    assert fs.statfs()[3] == 0
    assert errno_of(fs.create, "b") == "ENOSPC"


def test_charges_are_told_when_refused(model_of):
    told = []

    class Instrument:
        def refuse(self, *arguments):
            told.append(arguments)

    fs = model_of("size=4k,nr_inodes=2")
    fs.sb.instruments.install(Instrument())
    fs.create("a")
    ino = fs.inode("a").ino
    errno_of(fs.create, "b")
    errno_of(fs.link, "a", "c")
    fs.write("a", 0, b"x" * 3 * PAGE)
    errno_of(fs.setxattr, "a", "user.x", b"y")
    assert told == [
        (1, 0, 0, "nr_inodes"),
        (ino, 0, 0, "nr_inodes"),
        (ino, 1, 2, "size"),
        (ino, 0, 0, "nr_inodes"),
    ]


def test_inode_numbers_are_never_used_again(model_of):
    fs = model_of()
    seen = {1}
    for _ in range(50):
        fs.create("f")
        assert fs.inode("f").ino not in seen
        seen.add(fs.inode("f").ino)
        fs.unlink("f")


def test_inode32_wraps_around_what_is_in_use(model_of):
    fs = model_of("inode32")
    fs.create("a")
    assert fs.inode("a").ino == 2
    fs.sb._last_ino = 0xFFFF_FFFE
    numbers = []
    for name in "bcd":
        fs.create(name)
        numbers.append(fs.inode(name).ino)
    assert numbers == [0xFFFF_FFFF, 3, 4]


def test_inode64_does_not_wrap(model_of):
    fs = model_of("inode64")
    fs.sb._last_ino = 0xFFFF_FFFF
    fs.create("a")
    assert fs.inode("a").ino == 1 << 32


def test_a_number_that_is_gone_is_stale(model_of):
    fs = model_of()
    fs.create("f")
    ino = fs.inode("f").ino
    fs.unlink("f")
    assert errno_of(fs.sb.inode, ino) == "ESTALE"


def test_content_belongs_to_regular_files(model_of):
    fs = model_of()
    fs.mkdir("d")
    fs.mknod("p", stat.S_IFIFO)
    assert errno_of(file.regular, fs.inode("d")) == "EISDIR"
    assert errno_of(file.regular, fs.inode("p")) == "EINVAL"
    assert errno_of(fs.truncate, "d", 0) == "EISDIR"


def test_root_belongs_to_the_owner_or_to_whom_the_options_say():
    from shmfs.fs import options
    from shmfs.fs.superblock import Credentials

    owner = Credentials(1000, 2000)
    root = Superblock(owner=owner).root
    assert (root.uid, root.gid, root.mode) == (1000, 2000, stat.S_IFDIR | 0o1777)
    root = Superblock(options.parse("uid=5,gid=6,mode=700"), owner=owner).root
    assert (root.uid, root.gid, root.mode) == (5, 6, stat.S_IFDIR | 0o700)


def test_errors_carry_the_text_of_the_system(model_of):
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        model_of().unlink("nothing")
