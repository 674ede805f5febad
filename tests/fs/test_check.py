"""`check` finds what is wrong: a model is damaged on purpose, one figure at a time."""

import pytest

from shmfs.fs.check import check
from shmfs.fs.superblock import INODE_SIZE
from shmfs.mm.runs import Run
from tests.fs.support import PAGE, Model


@pytest.fixture
def fs():
    """Sound, with one of everything; not checked at the end, for it is damaged."""
    fs = Model("size=1m,nr_inodes=100")
    fs.mkdir("d")
    fs.mkdir("d/e")
    fs.create("f")
    fs.write("f", 0, b"x" * (3 * PAGE - 100))
    fs.create("d/g")
    fs.write("d/g", PAGE, b"y" * PAGE)
    fs.link("f", "d/h")
    fs.symlink("s", "t" * 1000)
    fs.setxattr("f", "user.a", b"value")
    fs.fallocate("f", 1, 10 * PAGE, 5 * PAGE)
    handle = fs.open_tmpfile()
    assert check(fs.sb) == []
    yield fs
    assert handle.nlink == 0
    fs.close_arena()


def more_pages_charged(fs):
    fs.sb.blocks.charge(1)


def fewer_pages_charged(fs):
    fs.sb.blocks.uncharge(1)


def a_page_lost_by_the_map(fs):
    fs.file("f").pages._map.remove(1, 2)


def a_page_miscounted(fs):
    fs.file("f").pages._map.pages += 1
    fs.sb.blocks.charge(1)


def a_frame_lost_by_the_arena(fs):
    fs.sb.store.arena.used -= 1


def a_frame_leaked(fs):
    fs.sb.store.arena.allocate(1)


def a_frame_with_two_owners(fs):
    frame = fs.file("f").pages._map.find(0).frame
    fs.file("d/g").pages._map.insert(Run(50, frame, 1))
    fs.sb.blocks.charge(1)
    fs.sb.store.arena.used += 1


def runs_that_overlap(fs):
    fs.file("f").pages._map._leaves[0].indexes[1] = 2


def bytes_behind_the_end(fs):
    fs.file("f").pages.write(3 * PAGE - 50, b"secret")


def a_link_too_many(fs):
    fs.inode("f").nlink += 1
    fs.sb.inode_space.charge(INODE_SIZE)


def a_link_too_few(fs):
    fs.inode("f").nlink -= 1
    fs.sb.inode_space.uncharge(INODE_SIZE)


def a_subdirectory_too_many(fs):
    fs.inode("d").nlink += 1


def a_wrong_parent(fs):
    fs.inode("d/e").parent = fs.root


def a_name_of_a_freed_inode(fs):
    del fs.sb.inodes[fs.inode("d/g").ino]


def a_name_lost_by_readdir(fs):
    fs.directory("d")._cookies.pop()


def a_name_listed_twice(fs):
    fs.directory("d")._cookies.append(fs.directory("d")._cookies[-1])


def a_directory_with_two_names(fs):
    fs.root._entries[b"again"] = fs.root._entries[b"d"]


def an_inode_that_nobody_knows(fs):
    for inode in fs.sb.inodes.values():
        inode.nlookup = 0


def a_dead_directory_with_a_name(fs):
    fs.inode("d/e").nlink = 0


def inode_space_lost(fs):
    fs.sb.inode_space.uncharge(1)


def an_attribute_not_charged(fs):
    fs.inode("f").xattrs[b"user.b"] = b""


DAMAGES = [
    more_pages_charged,
    fewer_pages_charged,
    a_page_lost_by_the_map,
    a_page_miscounted,
    a_frame_lost_by_the_arena,
    a_frame_leaked,
    a_frame_with_two_owners,
    runs_that_overlap,
    bytes_behind_the_end,
    a_link_too_many,
    a_link_too_few,
    a_subdirectory_too_many,
    a_wrong_parent,
    a_name_of_a_freed_inode,
    a_name_lost_by_readdir,
    a_name_listed_twice,
    a_directory_with_two_names,
    an_inode_that_nobody_knows,
    a_dead_directory_with_a_name,
    inode_space_lost,
    an_attribute_not_charged,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found(fs, damage):
    damage(fs)
    wrong = check(fs.sb)
    assert wrong
    assert all(isinstance(sentence, str) and sentence for sentence in wrong)


def test_checking_changes_nothing(fs):
    before = fs.sb.blocks.used, fs.sb.inode_space.used, fs.sb.store.arena.used
    check(fs.sb)
    assert (fs.sb.blocks.used, fs.sb.inode_space.used, fs.sb.store.arena.used) == before
