"""Extended attributes and access lists. Asserted of the model and of the kernel's tmpfs alike."""

import os
import stat
import struct

import pytest

from shmfs.fs import acl, namei, xattr
from shmfs.fs.superblock import INODE_SIZE, Credentials
from tests.fs.support import errno_of

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFF_FFFF


def pack(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def minimal(user: int, group: int, other: int) -> bytes:
    return pack((USER_OBJ, user, NOBODY), (GROUP_OBJ, group, NOBODY), (OTHER, other, NOBODY))


def extended(user: int, named: int, group: int, mask: int, other: int) -> bytes:
    """With an entry for user 1000, and hence a mask."""
    return pack(
        (USER_OBJ, user, NOBODY),
        (USER, named, 1000),
        (GROUP_OBJ, group, NOBODY),
        (MASK, mask, NOBODY),
        (OTHER, other, NOBODY),
    )


@pytest.fixture
def fs(either):
    fs = either("nr_inodes=8,size=1m")
    fs.create("f", 0o644)
    fs.mkdir("d", 0o755)
    return fs


def mode(fs, path: str) -> int:
    return stat.S_IMODE(fs.stat(path)["mode"])


# ---- attributes


@pytest.mark.parametrize("name", ["user.a", "trusted.a", "security.a", "user.a.b", "user." + "n" * 250])
def test_namespaces_that_tmpfs_has(fs, name):
    assert errno_of(fs.getxattr, "f", name) == "ENODATA"
    fs.setxattr("f", name, b"value\0")
    assert fs.getxattr("f", name) == b"value\0"
    assert name in fs.listxattr("f")
    fs.removexattr("f", name)
    assert errno_of(fs.getxattr, "f", name) == "ENODATA"
    assert errno_of(fs.removexattr, "f", name) == "ENODATA"


@pytest.mark.parametrize("name", ["foo.a", "system.a", "users.a", "a", "USER.a", "os2.a"])
def test_namespaces_that_it_has_not(fs, name):
    for answer in (
        errno_of(fs.setxattr, "f", name, b""),
        errno_of(fs.getxattr, "f", name),
        errno_of(fs.removexattr, "f", name),
    ):
        assert answer == "ENOTSUP"


@pytest.mark.parametrize("name", ["user.", "trusted.", "security."])
def test_a_namespace_alone_is_no_name(fs, name):
    assert errno_of(fs.setxattr, "f", name, b"") == "EINVAL"
    assert errno_of(fs.getxattr, "f", name) == "EINVAL"


def test_an_empty_value(fs):
    fs.setxattr("f", "user.a", b"")
    assert fs.getxattr("f", "user.a") == b""
    assert fs.listxattr("f") == ["user.a"]


def test_create_and_replace(fs):
    assert errno_of(fs.setxattr, "f", "user.a", b"1", REPLACE) == "ENODATA"
    fs.setxattr("f", "user.a", b"1", CREATE)
    assert errno_of(fs.setxattr, "f", "user.a", b"2", CREATE) == "EEXIST"
    assert fs.getxattr("f", "user.a") == b"1"
    fs.setxattr("f", "user.a", b"2", REPLACE)
    assert fs.getxattr("f", "user.a") == b"2"


def test_attributes_belong_to_the_inode(fs):
    fs.link("f", "g")
    fs.setxattr("f", "user.a", b"1")
    assert fs.getxattr("g", "user.a") == b"1"
    fs.rename("g", "h")
    fs.unlink("f")
    assert fs.getxattr("h", "user.a") == b"1"


def test_trusted_attributes_of_symlinks(fs):
    fs.symlink("s", "t")
    fs.setxattr("s", "trusted.a", b"1")
    assert fs.getxattr("s", "trusted.a") == b"1"


# ---- what they cost


def free(fs) -> int:
    return fs.statfs()[3]


def test_attributes_are_charged_as_inodes(fs):
    """Forty bytes, the name and the value, of 1024 to an inode."""
    assert free(fs) == 5
    fs.setxattr("f", "user.a", b"x" * (INODE_SIZE - 46))
    assert free(fs) == 4
    fs.setxattr("f", "user.b", b"")
    assert free(fs) == 3
    fs.removexattr("f", "user.b")
    assert free(fs) == 4
    fs.removexattr("f", "user.a")
    assert free(fs) == 5


def test_replacing_charges_the_new_before_the_old_is_given_back(fs):
    fs.setxattr("f", "user.a", b"x" * 2500)
    assert errno_of(fs.setxattr, "f", "user.a", b"y" * 2700) == "ENOSPC"
    assert fs.getxattr("f", "user.a") == b"x" * 2500
    fs.setxattr("f", "user.a", b"y" * 10)
    assert free(fs) == 4


def test_the_limit_of_inodes_is_theirs_too(fs):
    assert errno_of(fs.setxattr, "f", "user.a", b"x" * (5 * INODE_SIZE - 45)) == "ENOSPC"
    fs.setxattr("f", "user.a", b"x" * (5 * INODE_SIZE - 46))
    assert free(fs) == 0
    assert errno_of(fs.create, "g") == "ENOSPC"
    assert errno_of(fs.setxattr, "d", "user.b", b"") == "ENOSPC"
    assert fs.listxattr("d") == []
    fs.unlink("f")
    assert free(fs) == 6


def test_access_lists_are_free(fs):
    fs.setxattr("f", ACCESS, extended(6, 4, 4, 4, 0))
    fs.setxattr("d", DEFAULT, extended(7, 7, 5, 7, 0))
    assert free(fs) == 5
    fs.create("d/n")
    fs.mkdir("d/e")
    assert free(fs) == 3
    fs.removexattr("f", ACCESS)
    fs.unlink("f")
    assert free(fs) == 4


# ---- access lists


def test_a_minimal_list_is_the_mode(fs):
    fs.setxattr("f", ACCESS, minimal(7, 5, 1))
    assert mode(fs, "f") == 0o751
    assert errno_of(fs.getxattr, "f", ACCESS) == "ENODATA"
    assert fs.listxattr("f") == []


def test_an_extended_list_sets_the_mode(fs):
    fs.setxattr("f", ACCESS, extended(6, 7, 4, 5, 1))
    assert mode(fs, "f") == 0o651  # the group's bits are the mask's
    assert fs.getxattr("f", ACCESS) == extended(6, 7, 4, 5, 1)
    assert fs.listxattr("f") == [ACCESS]


def test_chmod_keeps_the_list_in_step(fs):
    fs.setxattr("f", ACCESS, extended(6, 7, 4, 5, 1))
    fs.chmod("f", 0o723)
    assert fs.getxattr("f", ACCESS) == extended(7, 7, 4, 2, 3)
    assert mode(fs, "f") == 0o723


def test_removing_a_list_leaves_the_mode(fs):
    fs.setxattr("f", ACCESS, extended(6, 7, 4, 5, 1))
    fs.removexattr("f", ACCESS)
    assert mode(fs, "f") == 0o651
    assert errno_of(fs.getxattr, "f", ACCESS) == "ENODATA"
    fs.removexattr("f", ACCESS)  # no error: a file without a list has the mode's


def test_a_minimal_list_removes_an_extended_one(fs):
    fs.setxattr("f", ACCESS, extended(6, 7, 4, 5, 1))
    fs.setxattr("f", ACCESS, minimal(6, 4, 0))
    assert fs.listxattr("f") == []


def test_an_empty_list_removes_a_list(fs):
    fs.setxattr("f", ACCESS, extended(6, 7, 4, 5, 1))
    fs.setxattr("f", ACCESS, pack())
    assert fs.listxattr("f") == []
    fs.setxattr("d", DEFAULT, extended(7, 7, 5, 7, 0))
    fs.setxattr("d", DEFAULT, pack())
    assert fs.listxattr("d") == []


def test_special_bits_stay(fs):
    fs.chmod("d", 0o3755)
    fs.setxattr("d", ACCESS, extended(7, 7, 5, 7, 0))
    assert mode(fs, "d") == 0o3770


def test_a_default_list_is_for_directories(fs):
    assert errno_of(fs.setxattr, "f", DEFAULT, extended(7, 7, 5, 7, 0)) == "EACCES"
    assert errno_of(fs.getxattr, "f", DEFAULT) == "ENODATA"
    fs.removexattr("f", DEFAULT)
    fs.setxattr("f", DEFAULT, pack())
    fs.setxattr("d", DEFAULT, minimal(7, 5, 0))
    assert fs.getxattr("d", DEFAULT) == minimal(7, 5, 0)
    assert mode(fs, "d") == 0o755


def test_symlinks_have_no_lists(fs):
    fs.symlink("s", "t")
    assert errno_of(fs.setxattr, "s", ACCESS, minimal(7, 5, 1)) == "ENOTSUP"
    assert errno_of(fs.getxattr, "s", ACCESS) == "ENOTSUP"


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (b"\2\0\0", "EINVAL"),
        (struct.pack("<I", 1) + minimal(7, 5, 1)[4:], "ENOTSUP"),
        (minimal(7, 5, 1)[:-1], "EINVAL"),
        (minimal(7, 5, 1) + b"\0", "EINVAL"),
    ],
)
def test_malformed_lists(fs, value, answer):
    assert errno_of(fs.setxattr, "f", ACCESS, value) == answer
    assert mode(fs, "f") == 0o644


# ---- inheritance


@pytest.mark.parametrize("make_mode", [0o777, 0o666, 0o640, 0o000, 0o707])
@pytest.mark.parametrize(
    "default", [minimal(7, 5, 4), minimal(6, 0, 0), extended(7, 6, 5, 7, 1), extended(6, 7, 7, 4, 0)]
)
def test_new_files_inherit(fs, default, make_mode):
    fs.setxattr("d", DEFAULT, default)
    fs.create("d/f", make_mode)
    fs.mkdir("d/e", make_mode)
    fs.mknod("d/p", stat.S_IFIFO | make_mode)
    fs.symlink("d/s", "t")
    parsed = acl.parse(default)
    assert mode(fs, "d/f") == make_mode & acl.mode_of(parsed)
    assert mode(fs, "d/s") == 0o777
    for path in ("d/f", "d/e", "d/p"):
        assert mode(fs, path) == mode(fs, "d/f")
        if acl.is_minimal(parsed):
            assert errno_of(fs.getxattr, path, ACCESS) == "ENODATA"
        else:
            assert acl.mode_of(acl.parse(fs.getxattr(path, ACCESS))) == mode(fs, path)
            assert fs.getxattr(path, ACCESS) == acl.pack(acl.with_mode(parsed, mode(fs, path)))
    assert fs.getxattr("d/e", DEFAULT) == default
    assert fs.listxattr("d/f") == ([] if acl.is_minimal(parsed) else [ACCESS])


def test_a_tmpfile_inherits(fs):
    fs.setxattr("d", DEFAULT, extended(6, 7, 5, 6, 0))
    handle = fs.open_tmpfile("d")
    fs.link_handle(handle, "n")
    fs.close(handle)
    assert mode(fs, "n") == 0o600
    assert fs.getxattr("n", ACCESS) == extended(6, 7, 5, 0, 0)


# ---- the model alone


def test_a_default_list_takes_the_place_of_the_umask(model_of):
    fs = model_of(cred=Credentials(0, 0, 0, 0o077))
    fs.create("a", 0o666)
    fs.setxattr("", DEFAULT, minimal(7, 7, 7))
    fs.create("b", 0o666)
    assert (mode(fs, "a"), mode(fs, "b")) == (0o600, 0o666)


def test_capabilities_go_with_chown(model_of):
    fs = model_of("nr_inodes=10")
    fs.create("f")
    fs.setxattr("f", "security.capability", b"\1" * 20)
    fs.setxattr("f", "security.other", b"")
    fs.chown("f", 5, -1)
    assert fs.listxattr("f") == ["security.other"]
    fs.mkdir("d")
    fs.setxattr("d", "security.capability", b"\1" * 20)
    fs.chown("d", 5, -1)
    assert fs.listxattr("d") == ["security.capability"]


def test_lists_come_first_and_trusted_names_are_for_root(model_of):
    fs = model_of()
    fs.create("f")
    for name in ("user.b", "trusted.a", "user.a"):
        fs.setxattr("f", name, b"")
    fs.setxattr("f", ACCESS, extended(6, 7, 4, 5, 1))
    inode = fs.inode("f")
    assert xattr.names(inode) == [ACCESS.encode(), b"user.b", b"user.a", b"trusted.a"]
    assert xattr.names(inode, trusted=False) == [ACCESS.encode(), b"user.b", b"user.a"]


def test_a_refused_list_changes_nothing(model_of):
    fs = model_of()
    fs.create("f", 0o600)
    now = fs.clock.now
    fs.clock.tick()
    assert errno_of(fs.setxattr, "f", DEFAULT, minimal(7, 7, 7)) == "EACCES"
    assert errno_of(fs.setxattr, "f", ACCESS, b"x") == "EINVAL"
    assert (mode(fs, "f"), fs.inode("f").ctime, fs.listxattr("f")) == (0o600, now, [])


def test_an_inode_without_attributes_holds_no_table(model_of):
    fs = model_of()
    fs.create("f")
    fs.setxattr("f", "user.a", b"")
    fs.removexattr("f", "user.a")
    assert fs.inode("f").xattrs is None
    assert namei.lookup(fs.root, b"f").xattrs is None
