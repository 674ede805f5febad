"""The table of requests, without a kernel: references, handles, what may be cached, what is told."""

import os
import stat
from typing import Any

import pytest

from shmfs.fs.attributes import Changes
from shmfs.fs.directory import Directory
from shmfs.fs.superblock import INODE_SIZE, ROOT_INO, Credentials
from shmfs.fuse.reads import Reader
from tests.fs.support import PAGE, errno_of

ROOT = ROOT_INO
HIDDEN = 2
CRED = Credentials(1000, 1000, 4711)
CALL = Reader(4711, called=True, direct=True)
EXCHANGE, WHITEOUT = 2, 4


@pytest.fixture
def quiet(recorder):
    """Tell the instruments of nothing but names, opens and sizes."""
    recorder.calls.clear()
    return recorder


def make(table, name: bytes = b"f", flags: int = os.O_RDWR) -> tuple[int, int]:
    """A new file: its number and a handle."""
    inode, handle = table.create(ROOT, name, 0o644, flags, CRED)
    return inode.ino, handle


def changed(table) -> list[int]:
    """The inodes that the kernel is told to ask for again."""
    told: list[int] = []
    table.attributes_changed = told.append
    return told


# ---- references


def test_every_entry_counts_a_reference(table):
    ino, handle = make(table)
    inode = table.superblock.inode(ino)
    assert inode.nlookup == 1
    assert table.lookup(ROOT, b"f") is inode
    assert table.link(ino, ROOT, b"g", CRED) is inode
    assert inode.nlookup == 3
    for made in (
        table.mkdir(ROOT, b"d", 0o755, CRED),
        table.mknod(ROOT, b"p", stat.S_IFIFO | 0o600, 0, CRED),
        table.symlink(ROOT, b"s", b"t", CRED),
    ):
        assert made.nlookup == 1
    table.getattr(ino)
    table.setattr(ino, Changes(mode=0o600), CRED)
    table.open(ino, os.O_RDONLY, CRED)
    assert inode.nlookup == 3
    for _ in range(2):
        table.release(handle)


def test_what_fails_counts_none(table):
    ino, _ = make(table)
    inode = table.superblock.inode(ino)
    for call in (
        lambda: table.create(ROOT, b"f", 0o644, os.O_RDWR, CRED),
        lambda: table.link(ino, ROOT, b"f", CRED),
        lambda: table.lookup(ino, b"x"),
        lambda: table.rmdir(ROOT, b"f", CRED),
        lambda: table.rename(ROOT, b"missing", ROOT, b"f", 0, CRED),
        lambda: table.rename(ROOT, b"f", ROOT, b"f", 1, CRED),
    ):
        assert isinstance(errno_of(call), str)
    assert table.lookup(ROOT, b"missing") is None
    assert inode.nlookup == 1
    assert table.superblock.root.nlookup == 0


def test_lookup_of_anything_itself_for_a_handle(table):
    ino, handle = make(table)
    inode = table.superblock.inode(ino)
    assert table.lookup(ino, b".") is inode
    assert inode.nlookup == 2
    table.unlink(ROOT, b"f", CRED)
    assert table.lookup(ino, b".") is None
    table.release(handle)


def test_forget_of_what_lost_its_name_ends_it(table, recorder):
    ino, handle = make(table)
    table.write(handle, 0, b"x" * 5000)
    table.unlink(ROOT, b"f", CRED)
    assert table.read(handle, 0, 10) == b"x" * 10
    table.release(handle)
    assert table.superblock.blocks.used == 2
    recorder.take()
    table.forget([(ino, 1)])
    assert recorder.take() == [("free", ino, 0, 2), ("evict", ino)]
    assert table.superblock.blocks.used == 0
    assert errno_of(table.getattr, ino) == "ESTALE"


def test_references_are_forgotten_in_batches(table):
    first, _ = make(table, b"a")
    second, _ = make(table, b"b")
    table.lookup(ROOT, b"a")
    table.forget([(first, 2), (second, 1), (999, 1), (ROOT, 5)])
    assert [table.superblock.inode(ino).nlookup for ino in (first, second)] == [0, 0]
    assert len(table.superblock.inodes) == 3 + 1  # with the hidden directory


def test_everything_deleted_and_forgotten_leaves_the_root(table):
    directory = table.mkdir(ROOT, b"d", 0o755, CRED)
    inode, handle = table.create(directory.ino, b"f", 0o644, os.O_RDWR, CRED)
    table.write(handle, 0, b"x" * 100_000)
    table.link(inode.ino, ROOT, b"g", CRED)
    symlink = table.symlink(ROOT, b"s", b"t" * 500, CRED)
    for dentry in table.readdir(ROOT, 0):
        table.listed(dentry)
    table.unlink(ROOT, b"g", CRED)
    table.unlink(ROOT, b"s", CRED)
    table.unlink(directory.ino, b"f", CRED)
    table.rmdir(ROOT, b"d", CRED)
    table.release(handle)
    table.forget([(directory.ino, 2), (inode.ino, 3), (symlink.ino, 2)])
    sb = table.superblock
    assert list(sb.inodes) == [ROOT, HIDDEN]
    assert (sb.blocks.used, sb.inode_space.used) == (0, INODE_SIZE)


def test_dot_and_dotdot(table):
    directory = table.mkdir(ROOT, b"d", 0o755, CRED)
    below = table.mkdir(directory.ino, b"e", 0o755, CRED)
    assert table.lookup(below.ino, b".") is below
    assert table.lookup(below.ino, b"..") is directory
    assert table.lookup(directory.ino, b"..") is table.superblock.root
    assert table.lookup(ROOT, b"..") is table.superblock.root
    assert (below.nlookup, directory.nlookup) == (2, 2)


def test_listed_entries_but_the_dots_count(table):
    directory = table.mkdir(ROOT, b"d", 0o755, CRED)
    for dentry in table.readdir(directory.ino, 0):
        table.listed(dentry)
    for dentry in table.readdir(ROOT, 0):
        table.listed(dentry)
    assert (directory.nlookup, table.superblock.root.nlookup) == (2, 0)


def test_a_listing_that_is_cut_short_counts_what_was_sent(table):
    inos = [make(table, b"f%d" % number)[0] for number in range(5)]
    for count, dentry in enumerate(table.readdir(ROOT, 0)):
        if count == 4:
            break
        table.listed(dentry)
    assert [table.superblock.inode(ino).nlookup for ino in inos] == [1, 1, 1, 2, 2]


def test_readdir_of_what_is_no_directory(table):
    ino, _ = make(table)
    assert errno_of(table.readdir, ino, 0) == "ENOTDIR"


def test_readlink(table):
    symlink = table.symlink(ROOT, b"s", b"\xff/t", CRED)
    assert table.readlink(symlink.ino) == b"\xff/t"
    assert errno_of(table.readlink, ROOT) == "EINVAL"


def test_access_times_of_directory_and_symlink(table, clock):
    symlink = table.symlink(ROOT, b"s", b"t", CRED)
    now = clock.tick()
    list(table.readdir(ROOT, 0))
    table.readlink(symlink.ino)
    assert (table.superblock.root.atime, symlink.atime) == (now, now)


# ---- handles


def test_a_handle_is_the_number_and_the_access_mode(table):
    ino, handle = make(table, flags=os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert handle == ino << 2 | os.O_WRONLY
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_APPEND):
        assert table.open(ino, flags, CRED)[0] == ino << 2 | flags & 3


def test_opens_and_writers_are_counted(table):
    ino, handle = make(table)
    inode = table.superblock.inode(ino)
    assert (inode.opens, inode.writers) == (1, 1)
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    writer, _ = table.open(ino, os.O_WRONLY, CRED)
    assert (inode.opens, inode.writers) == (3, 2)
    table.release(reader)
    assert (inode.opens, inode.writers) == (2, 2)
    table.release(writer)
    table.release(handle)
    assert (inode.opens, inode.writers) == (0, 0)


def test_a_file_opened_10_000_times(table):
    ino, handle = make(table)
    handles = [table.open(ino, os.O_RDWR, CRED)[0] for _ in range(10_000)]
    table.unlink(ROOT, b"f", CRED)
    for one in handles:
        table.release(one)
    assert table.superblock.inode(ino).opens == 1
    table.release(handle)
    table.forget([(ino, 1)])
    assert list(table.superblock.inodes) == [ROOT, HIDDEN]


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFIFO])
def test_only_files_are_opened(table, kind):
    inode = table.mknod(ROOT, b"x", kind | 0o600, 0, CRED)
    assert errno_of(table.open, inode.ino, os.O_RDONLY, CRED) == (
        "EISDIR" if kind == stat.S_IFDIR else "EINVAL"
    )


def test_o_trunc(table, recorder):
    ino, handle = make(table)
    table.write(handle, 0, b"x" * 5000)
    recorder.take()
    table.open(ino, os.O_WRONLY | os.O_TRUNC, CRED)
    assert recorder.take() == [
        ("free", ino, 0, 2),
        ("resize", ino, 5000, 0, CRED.pid),
        ("open", ino, os.O_WRONLY | os.O_TRUNC, CRED.pid),
    ]
    assert table.superblock.inode(ino).size == 0


# ---- which pages the kernel may keep


def test_pages_are_kept_over_opens(table):
    ino, handle = make(table)
    table.write(handle, 0, b"x" * PAGE)
    table.release(handle)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY):
        handle, keep = table.open(ino, flags, CRED)
        table.read(handle, 0, PAGE)
        assert keep
        table.release(handle)


def test_zero_pages_for_holes_are_dropped_at_the_first_open_for_writing(table):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.release(handle)
    reader, keep = table.open(ino, os.O_RDONLY, CRED)
    assert keep
    assert table.read(reader, 0, PAGE) == bytes(PAGE)
    assert table.superblock.blocks.used == 0
    assert table.open(ino, os.O_RDONLY, CRED)[1]  # nobody can store yet
    assert not table.open(ino, os.O_RDWR, CRED)[1]
    assert table.open(ino, os.O_RDWR, CRED)[1]  # they are gone
    table.read(reader, 0, PAGE)  # and the next is charged
    assert table.superblock.blocks.used == 1


def test_a_read_without_holes_leaves_nothing_to_drop(table):
    ino, handle = make(table)
    table.write(handle, 0, b"x" * PAGE)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.release(handle)
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    table.read(reader, 0, PAGE)
    assert table.open(ino, os.O_WRONLY, CRED)[1]


def test_holes_that_are_read_again_after_the_writers_are_dropped_again(table):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.release(handle)
    for _ in range(3):
        reader, _ = table.open(ino, os.O_RDONLY, CRED)
        table.read(reader, 3 * PAGE, PAGE)
        writer, keep = table.open(ino, os.O_WRONLY, CRED)
        assert not keep
        table.release(writer)
        table.release(reader)


# ---- what a read charges


def test_a_read_with_a_writer_about_charges_holes(table, recorder):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    recorder.take()
    assert table.read(handle, PAGE, PAGE) == bytes(PAGE)
    assert recorder.take() == [("allocate", ino, 1, 1), ("page_in", ino, 1, 1)]
    assert table.superblock.blocks.used == 1
    table.read(handle, 0, 3 * PAGE, CALL)
    assert recorder.take() == [("allocate", ino, 0, 1), ("allocate", ino, 2, 1), ("page_in", ino, 0, 3)]


def test_a_read_without_writers_charges_nothing(table, recorder):
    ino, handle = make(table)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.release(handle)
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    recorder.take()
    table.read(reader, 0, 4 * PAGE)
    assert recorder.take() == [("page_in", ino, 0, 4)]
    assert table.superblock.blocks.used == 0


def test_a_reader_s_fault_is_charged_while_another_may_write(table):
    ino, _ = make(table)
    table.setattr(ino, Changes(size=PAGE), CRED)
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    table.read(reader, 0, PAGE)
    assert table.superblock.blocks.used == 1


def test_a_full_file_system_refuses_the_fault(table_of, recorder):
    table = table_of("size=8k")
    ino, handle = make(table)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.write(handle, 0, b"x" * 2 * PAGE)
    recorder.take()
    assert errno_of(table.read, handle, 2 * PAGE, PAGE) == "ENOSPC"
    assert recorder.take() == [("refuse", ino, 2, 1, "size")]
    assert table.read(handle, 0, 10) == b"x" * 10
    table.release(handle)
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    assert table.read(reader, 2 * PAGE, PAGE) == bytes(PAGE)


def test_reads_end_with_the_file(table, recorder):
    ino, handle = make(table)
    table.write(handle, 0, b"x" * 5000)
    recorder.take()
    assert table.read(handle, 4096, PAGE) == b"x" * (5000 - 4096)
    assert table.read(handle, 5000, PAGE) == b""
    assert table.read(handle, 8192, PAGE) == b""
    assert recorder.take() == [("page_in", ino, 1, 1)]


# ---- attributes in the kernel's cache


def test_what_only_requests_change_is_cached_for_good(table):
    ino, handle = make(table)
    inode = table.superblock.inode(ino)
    assert table.superblock.root.can_cache_attributes()
    assert table.symlink(ROOT, b"s", b"t", CRED).can_cache_attributes()
    assert inode.can_cache_attributes()
    table.write(handle, 0, b"x")
    assert inode.can_cache_attributes(), "also while it is open for writing: write-back is seen"


def test_the_kernel_is_told_once_that_cached_attributes_changed(table):
    told = changed(table)
    ino, handle = make(table)
    inode = table.superblock.inode(ino)
    inode.can_cache_attributes()
    table.write(handle, 0, b"x")  # to an empty file: the kernel knows that it wrote
    assert told == []
    table.release(handle)
    inode.can_cache_attributes()  # now it keeps them
    handle, _ = table.open(ino, os.O_RDWR, CRED)
    table.write(handle, 0, b"x")
    assert told == [ino]
    table.write(handle, 1, b"x")
    assert told == [ino]
    inode.can_cache_attributes()  # asked again
    table.write(handle, 1, b"x", writeback=False)
    assert told == [ino], "the kernel knows that it wrote"
    inode.mode |= stat.S_ISUID
    inode.can_cache_attributes()
    table.write(handle, 1, b"x", Credentials(1000, 1000), writeback=False)
    assert told == [ino, ino], "but not that it took the set-id bit away"


def test_a_late_write_of_a_closed_file_is_told(table):
    told = changed(table)
    ino, handle = make(table)
    table.write(handle, 0, b"x")
    table.release(handle)
    table.superblock.inode(ino).can_cache_attributes()
    table.write(handle, 0, b"x")  # writeback, after the last close
    assert told == [ino]


def test_a_read_that_charges_is_told(table):
    told = changed(table)
    ino, handle = make(table)
    inode = table.superblock.inode(ino)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.release(handle)
    inode.can_cache_attributes()
    handle, _ = table.open(ino, os.O_RDWR, CRED)
    table.read(handle, 0, PAGE)
    assert told == [ino]
    inode.can_cache_attributes()
    table.read(handle, 0, PAGE)
    assert told == [ino], "nothing new was charged"
    table.read(handle, PAGE, PAGE)
    assert told == [ino, ino]


def test_a_read_that_charges_nothing_is_not_told(table):
    told = changed(table)
    ino, handle = make(table)
    table.setattr(ino, Changes(size=4 * PAGE), CRED)
    table.write(handle, 0, b"x")
    table.release(handle)
    table.superblock.inode(ino).can_cache_attributes()
    reader, _ = table.open(ino, os.O_RDONLY, CRED)
    table.read(reader, 0, 4 * PAGE)
    assert told == []


def test_answers_that_carry_attributes_need_no_telling(table):
    told = changed(table)
    ino, handle = make(table)
    table.release(handle)
    table.superblock.inode(ino).can_cache_attributes()
    table.setattr(ino, Changes(mode=0o600, size=100), CRED)
    table.link(ino, ROOT, b"g", CRED)
    assert told == []


# ---- what the instruments are told


def test_create_is_told_before_open(table, recorder):
    ino, _ = make(table, flags=os.O_RDWR | os.O_CREAT)
    assert recorder.take() == [
        ("create", ino, "/f", stat.S_IFREG | 0o644, 4711),
        ("open", ino, os.O_RDWR | os.O_CREAT, 4711),
    ]


def test_every_kind_of_new_name_is_told(table, recorder):
    directory = table.mkdir(ROOT, b"d", 0o750, CRED)
    fifo = table.mknod(directory.ino, b"p", stat.S_IFIFO | 0o600, 0, CRED)
    symlink = table.symlink(directory.ino, b"\xff", b"t", CRED)
    assert recorder.take() == [
        ("create", directory.ino, "/d", stat.S_IFDIR | 0o750, 4711),
        ("create", fifo.ino, "/d/p", stat.S_IFIFO | 0o600, 4711),
        ("create", symlink.ino, "/d/\udcff", stat.S_IFLNK | 0o777, 4711),
    ]


def test_link_and_unlink_are_told(table, recorder):
    ino, handle = make(table)
    recorder.take()
    table.link(ino, ROOT, b"g", CRED)
    table.unlink(ROOT, b"f", CRED)
    table.unlink(ROOT, b"g", CRED)
    table.release(handle)
    table.forget([(ino, 2)])
    assert recorder.take() == [
        ("link", ino, "/g", 4711),
        ("unlink", ino, "/f", 1, 4711),
        ("unlink", ino, "/g", 0, 4711),
        ("release", ino, os.O_RDWR),
        ("evict", ino),
    ]


def test_unlink_is_told_before_evict(table, recorder):
    ino, handle = make(table)
    table.release(handle)
    table.forget([(ino, 1)])
    directory = table.mkdir(ROOT, b"d", 0o755, CRED).ino
    table.forget([(directory, 1)])
    recorder.take()
    table.unlink(ROOT, b"f", CRED)
    table.rmdir(ROOT, b"d", CRED)
    assert recorder.take() == [
        ("unlink", ino, "/f", 0, 4711),
        ("evict", ino),
        ("unlink", directory, "/d", 0, 4711),
        ("evict", directory),
    ]


def test_rename_is_told(table, recorder):
    ino, _ = make(table)
    directory = table.mkdir(ROOT, b"d", 0o755, CRED).ino
    recorder.take()
    table.rename(ROOT, b"f", directory, b"g", 0, CRED)
    table.rename(ROOT, b"d", ROOT, b"e", 0, CRED)
    assert recorder.take() == [
        ("rename", ino, "/f", "/d/g", 4711),
        ("rename", directory, "/d", "/e", 4711),
    ]


def test_the_victim_of_a_rename_is_unlinked_first(table, recorder):
    moved, _ = make(table, b"a")
    victim, handle = make(table, b"b")
    table.release(handle)
    table.forget([(victim, 1)])
    recorder.take()
    table.rename(ROOT, b"a", ROOT, b"b", 0, CRED)
    assert recorder.take() == [
        ("unlink", victim, "/b", 0, 4711),
        ("rename", moved, "/a", "/b", 4711),
        ("evict", victim),
    ]


def test_an_exchange_is_two_renames(table, recorder):
    first, _ = make(table, b"a")
    directory = table.mkdir(ROOT, b"d", 0o755, CRED).ino
    second = table.mknod(directory, b"b", stat.S_IFREG | 0o600, 0, CRED).ino
    recorder.take()
    table.rename(ROOT, b"a", directory, b"b", EXCHANGE, CRED)
    assert sorted(recorder.take()) == [
        ("rename", first, "/a", "/d/b", 4711),
        ("rename", second, "/d/b", "/a", 4711),
    ]


def test_a_whiteout_is_created(table, recorder):
    ino, _ = make(table)
    recorder.take()
    table.rename(ROOT, b"f", ROOT, b"g", WHITEOUT, CRED)
    whiteout = table.lookup(ROOT, b"f")
    assert recorder.take() == [
        ("rename", ino, "/f", "/g", 4711),
        ("create", whiteout.ino, "/f", stat.S_IFCHR, 4711),
    ]
    assert whiteout.nlookup == 1  # by the lookup; the rename told the kernel of none


def test_a_rename_onto_its_own_link_is_not_told(table, recorder):
    ino, _ = make(table)
    table.link(ino, ROOT, b"g", CRED)
    recorder.take()
    for flags in (0, EXCHANGE, WHITEOUT):
        table.rename(ROOT, b"f", ROOT, b"g", flags, CRED)
    assert recorder.take() == []


def test_what_fails_is_not_told(table, recorder):
    ino, _ = make(table)
    table.mkdir(ROOT, b"d", 0o755, CRED)
    recorder.take()
    for call in (
        lambda: table.mkdir(ROOT, b"d", 0o755, CRED),
        lambda: table.unlink(ROOT, b"d", CRED),
        lambda: table.unlink(ROOT, b"x", CRED),
        lambda: table.rename(ROOT, b"f", ROOT, b"d", 0, CRED),
        lambda: table.link(ino, ROOT, b"d", CRED),
        lambda: table.open(ROOT, os.O_RDONLY, CRED),
        lambda: table.setattr(ino, Changes(size=1 << 63), CRED),
    ):
        assert isinstance(errno_of(call), str)
    assert recorder.take() == []


def test_sizes_are_told(table, recorder):
    ino, handle = make(table)
    recorder.take()
    table.write(handle, 0, b"x" * 100)
    table.write(handle, 0, b"x" * 100)
    table.setattr(ino, Changes(size=10), CRED)
    table.setattr(ino, Changes(size=10), CRED)
    table.setattr(ino, Changes(mode=0o600), CRED)
    told = [call for call in recorder.take() if call[0] == "resize"]
    assert told == [("resize", ino, 0, 100, 0), ("resize", ino, 100, 10, 4711)]


def test_a_partial_write_tells_its_size(table_of, recorder):
    table = table_of("size=8k")
    ino, handle = make(table)
    recorder.take()
    assert table.write(handle, 0, b"x" * 5 * PAGE) == 2 * PAGE
    assert recorder.take() == [
        ("refuse", ino, 2, 3, "size"),
        ("allocate", ino, 0, 2),
        ("resize", ino, 0, 2 * PAGE, 0),
    ]


def test_an_instrument_that_raises_harms_nobody(table, caplog):
    class Broken:
        def create(self, *arguments: Any) -> None:
            raise ValueError("broken")

    table.superblock.instruments.install(Broken())
    make(table, b"a")
    make(table, b"b")
    assert caplog.text.count("Traceback") == 1
    assert [dentry.name for dentry in table.readdir(ROOT, 2)] == [b"b", b"a"]


# ---- set-id bits


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("ours", [False, True])
def test_set_id_bits_at_truncate(table, ours, uid):
    ino, _ = make(table)
    table.setattr(ino, Changes(mode=0o6755), CRED)
    table.handle_killpriv = ours
    table.setattr(ino, Changes(size=10), Credentials(uid))
    cleared = ours and uid != 0
    assert stat.S_IMODE(table.getattr(ino).mode) == (0o755 if cleared else 0o6755)


@pytest.mark.parametrize("ours", [False, True])
def test_set_id_bits_at_write(table, ours):
    ino, handle = make(table)
    table.setattr(ino, Changes(mode=0o6755), CRED)
    table.setxattr(ino, b"security.capability", b"x" * 20, 0)
    table.handle_killpriv = ours
    table.write(handle, 0, b"x")
    assert stat.S_IMODE(table.getattr(ino).mode) == (0o755 if ours else 0o6755)
    assert table.listxattr(ino, CRED) == ([] if ours else [b"security.capability"])


# ---- the rest


def test_extended_attributes(table):
    ino, _ = make(table)
    table.setxattr(ino, b"user.a", b"1", 0)
    table.setxattr(ino, b"trusted.a", b"2", 0)
    assert table.getxattr(ino, b"user.a") == b"1"
    assert table.listxattr(ino, CRED) == [b"user.a"]
    assert table.listxattr(ino, Credentials()) == [b"user.a", b"trusted.a"]
    table.removexattr(ino, b"user.a", CRED)
    assert errno_of(table.getxattr, ino, b"user.a") == "ENODATA"


def test_statfs(table):
    assert tuple(table.statfs()) == (256, 256, 100, 99)


def test_stale_numbers(table):
    for call in (
        lambda: table.getattr(99),
        lambda: table.lookup(99, b"x"),
        lambda: table.open(99, 0, CRED),
        lambda: table.read(99 << 2, 0, 1),
        lambda: table.write(99 << 2, 0, b"x"),
        lambda: table.release(99 << 2),
        lambda: table.mkdir(99, b"x", 0, CRED),
        lambda: table.rename(ROOT, b"x", 99, b"y", 0, CRED),
    ):
        assert errno_of(call) == "ESTALE"


def test_a_directory_that_was_removed_is_empty(table):
    directory = table.mkdir(ROOT, b"d", 0o755, CRED)
    table.rmdir(ROOT, b"d", CRED)
    assert isinstance(directory, Directory)
    assert [dentry.name for dentry in table.readdir(directory.ino, 2)] == []
    assert errno_of(table.mkdir, directory.ino, b"x", 0o755, CRED) == "ENOENT"
