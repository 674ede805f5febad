"""The survey of a tmpfs of the kernel."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmfs.client import tmpfs
from shmfs.events.records import Statistics
from shmfs.system import mounts, syscalls

PAGE = 4096


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a tmpfs of the kernel")
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", 0, "size=1m,nr_inodes=100")
    yield tmp_path
    syscalls.umount(str(tmp_path))


def survey(root: Path) -> Statistics:
    mount = mounts.find(str(root))
    assert mount is not None
    return tmpfs.survey(str(root), mount.device)


def test_files_and_limits(root: Path) -> None:
    (root / "a").write_bytes(b"x" * 5 * PAGE)
    (root / "d").mkdir()
    with (root / "d" / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    found = survey(root)
    assert (found.size_limit, found.used, found.store) == (1 << 20, 5 * PAGE, "tmpfs")
    assert (found.inode_limit, found.inodes_used) == (100, 4)
    assert {(one.path, one.size, one.resident, one.inode) for one in found.segments} == {
        ("/a", 5 * PAGE, 5, (root / "a").stat().st_ino),
        ("/d/sparse", 1 << 30, 0, (root / "d" / "sparse").stat().st_ino),
    }


def test_a_deleted_file_that_is_still_open(root: Path) -> None:
    (root / "a").write_bytes(b"x" * PAGE)
    with (root / "gone").open("wb") as gone:
        gone.write(b"x" * 9 * PAGE)
        gone.flush()
        (root / "gone").unlink()
        found = survey(root)
    assert [(one.path, one.resident, one.nlink) for one in found.segments] == [
        ("/a", 1, 1),
        (tmpfs.DELETED, 9, 0),
    ]
    assert [one.path for one in survey(root).segments] == ["/a"]


def test_a_file_with_two_names_counts_once(root: Path) -> None:
    (root / "a").write_bytes(b"x" * 3 * PAGE)
    (root / "b").hardlink_to(root / "a")
    found = survey(root)
    assert sum(one.resident for one in found.segments) == 3
    assert len(found.segments) == 1


def test_what_is_mounted_there_and_is_no_file_is_left_out(root: Path) -> None:
    (root / "other").mkdir()
    (root / "link").symlink_to("a")
    os.mkfifo(root / "fifo")
    syscalls.mount("tmpfs", str(root / "other"), "tmpfs", 0, "size=1m")
    try:
        (root / "other" / "x").write_bytes(b"x" * PAGE)
        assert survey(root).segments == []
    finally:
        syscalls.umount(str(root / "other"))


def test_a_name_that_is_not_unicode(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b"x")
    assert [one.path for one in survey(root).segments] == ["/\\xff"]


def test_what_is_gone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        tmpfs.survey(str(tmp_path / "nothing"), "0:1")
