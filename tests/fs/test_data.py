"""Content of files. Asserted of the model and of the kernel's tmpfs alike, where the kernel shows it."""

import os

import pytest

from tests.fs.support import PAGE, errno_of

KEEP, PUNCH = 1, 3
MAX = (1 << 63) - 1


@pytest.fixture
def fs(either):
    """Ten pages, and a file."""
    fs = either("size=40k,nr_inodes=10")
    fs.create("f")
    return fs


def blocks(fs) -> int:
    return fs.stat("f")["blocks"] // 8


def test_what_is_written_is_read(fs):
    fs.write("f", 5000, b"hello")
    assert fs.read("f", 0, 10_000) == bytes(5000) + b"hello"
    assert fs.read("f", 5001, 2) == b"el"
    assert fs.read("f", 5005, 10) == b""
    assert fs.read("f", 1 << 40, 10) == b""


def test_a_write_that_hits_the_limit_is_partial_then_fails(fs):
    assert fs.write("f", 100, b"x" * 100_000) == 10 * PAGE - 100
    assert fs.stat("f")["size"] == 10 * PAGE
    assert errno_of(fs.write, "f", 10 * PAGE, b"y") == "ENOSPC"
    assert fs.stat("f")["size"] == 10 * PAGE
    assert fs.write("f", 0, b"z" * 10 * PAGE) == 10 * PAGE  # what is there can be overwritten


def test_a_write_that_fails_does_not_extend(fs):
    fs.fallocate("f", KEEP, 0, 10 * PAGE)
    assert errno_of(fs.write, "f", 20 * PAGE, b"x") == "ENOSPC"
    assert fs.stat("f")["size"] == 0


def test_a_write_over_holes_is_cut_at_the_first_that_cannot_be_had(fs):
    for page in (1, 3, 5, 7, 9, 11, 13, 15):
        fs.write("f", page * PAGE, b"d")
    assert blocks(fs) == 8
    assert fs.write("f", 0, b"w" * 16 * PAGE) == 4 * PAGE
    assert fs.read("f", 4 * PAGE - 1, 2) == b"w\0"


def test_zero_bytes_change_nothing(fs):
    fs.write("f", 0, b"x" * 10 * PAGE)
    before, status = fs.times("f"), fs.stat("f")
    fs.wait()
    assert fs.write("f", 100 * PAGE, b"") == 0
    assert (fs.times("f"), fs.stat("f")) == (before, status)


def test_after_a_deletion_there_is_room_again(fs):
    fs.write("f", 0, b"x" * 10 * PAGE)
    fs.create("g")
    assert errno_of(fs.write, "g", 0, b"y") == "ENOSPC"
    fs.unlink("f")
    assert fs.write("g", 0, b"y" * 10 * PAGE) == 10 * PAGE


# ---- truncate


def test_truncate_zeroes_the_tail(fs):
    fs.write("f", 0, b"x" * 2 * PAGE)
    fs.truncate("f", 10)
    fs.truncate("f", 2 * PAGE)
    assert fs.read("f", 0, 2 * PAGE) == b"x" * 10 + bytes(2 * PAGE - 10)
    assert blocks(fs) == 1


def test_truncate_to_the_same_size_frees_what_lies_behind_the_end(fs):
    fs.write("f", 0, b"x")
    fs.fallocate("f", KEEP, 0, 5 * PAGE)
    assert blocks(fs) == 5
    fs.truncate("f", 1)
    assert blocks(fs) == 1


def test_growing_keeps_what_lies_behind_the_end(fs):
    fs.fallocate("f", KEEP, 0, 5 * PAGE)
    fs.truncate("f", 2 * PAGE)
    assert blocks(fs) == 5


def test_a_file_may_be_as_long_as_an_offset(fs):
    fs.truncate("f", MAX)
    assert fs.stat("f")["size"] == MAX
    assert fs.write("f", MAX - 3, b"end") == 3
    assert fs.read("f", MAX - 4, 4) == b"\0end"
    assert blocks(fs) == 1
    fs.truncate("f", 1 << 62)
    fs.write("f", 1 << 61, b"far")
    assert fs.seek("f", 5, os.SEEK_DATA) == 1 << 61
    fs.truncate("f", 1 << 40)
    assert blocks(fs) == 0


# ---- fallocate


@pytest.mark.parametrize("mode", [0, KEEP])
def test_fallocate_charges_and_reads_as_zeros(fs, mode):
    fs.fallocate("f", mode, 100, 2 * PAGE)
    assert blocks(fs) == 3
    assert fs.stat("f")["size"] == (0 if mode else 100 + 2 * PAGE)
    assert fs.read("f", 0, 4 * PAGE) == bytes(0 if mode else 100 + 2 * PAGE)


def test_fallocate_keeps_what_is_there(fs):
    fs.write("f", PAGE, b"kept")
    fs.fallocate("f", 0, 0, 4 * PAGE)
    assert fs.read("f", PAGE, 4) == b"kept"
    assert blocks(fs) == 4


def test_fallocate_does_not_shrink(fs):
    fs.truncate("f", 8 * PAGE)
    fs.fallocate("f", 0, 0, PAGE)
    assert fs.stat("f")["size"] == 8 * PAGE


@pytest.mark.parametrize("mode", [2, 8, 9, 16, 17, 32, 64, 1 << 20])
def test_other_modes_are_not_supported(fs, mode):
    assert errno_of(fs.fallocate, "f", mode, 0, PAGE) == "ENOTSUP"  # EOPNOTSUPP, by its other name


@pytest.mark.parametrize(
    ("offset", "length", "answer"),
    [(-1, 1, "EINVAL"), (0, 0, "EINVAL"), (0, -1, "EINVAL"), (MAX, 1, "EFBIG"), (MAX - 5, 6, "EFBIG")],
)
def test_bad_ranges(fs, offset, length, answer):
    assert errno_of(fs.fallocate, "f", 0, offset, length) == answer


def test_longer_than_the_file_system_is_refused_at_once(fs):
    assert errno_of(fs.fallocate, "f", 0, 0, 11 * PAGE) == "ENOSPC"
    assert (blocks(fs), fs.stat("f")["size"]) == (0, 0)


def test_a_failure_half_way_rolls_back(fs):
    fs.create("g")
    fs.write("g", 0, b"x" * 4 * PAGE)
    fs.write("f", 2 * PAGE, b"kept")
    before = fs.times("f")
    fs.wait()
    assert errno_of(fs.fallocate, "f", 0, 0, 8 * PAGE) == "ENOSPC"
    assert (blocks(fs), fs.stat("f")["size"]) == (1, 2 * PAGE + 4)
    assert fs.times("f") == before
    assert fs.read("f", 2 * PAGE, 4) == b"kept"
    assert fs.seek("f", 0, os.SEEK_DATA) == 2 * PAGE
    fs.fallocate("f", 0, 0, 6 * PAGE)


def test_punch_frees_pages_and_keeps_the_size(fs):
    fs.write("f", 0, b"x" * 4 * PAGE)
    fs.fallocate("f", PUNCH, 100, 2 * PAGE)
    assert blocks(fs) == 3
    assert fs.read("f", 0, 4 * PAGE) == b"x" * 100 + bytes(2 * PAGE) + b"x" * (2 * PAGE - 100)
    fs.fallocate("f", PUNCH, 0, 100 * PAGE)
    assert (blocks(fs), fs.stat("f")["size"]) == (0, 4 * PAGE)


# ---- seek


def test_seek_in_a_sparse_file(fs):
    fs.truncate("f", 8 * PAGE)
    fs.write("f", 2 * PAGE + 5, b"x")
    fs.write("f", 5 * PAGE, b"x" * PAGE)
    holes = [errno_of(fs.seek, "f", page * PAGE + 1, os.SEEK_HOLE) for page in range(9)]
    data = [errno_of(fs.seek, "f", page * PAGE + 1, os.SEEK_DATA) for page in range(9)]
    p = PAGE
    assert holes == [1, p + 1, 3 * p, 3 * p + 1, 4 * p + 1, 6 * p, 6 * p + 1, 7 * p + 1, "ENXIO"]
    assert data == [2 * p, 2 * p, 2 * p + 1, 5 * p, 5 * p, 5 * p + 1, "ENXIO", "ENXIO", "ENXIO"]


def test_the_end_of_a_full_file_is_a_hole(fs):
    fs.write("f", 0, b"x" * 100)
    assert fs.seek("f", 0, os.SEEK_HOLE) == 100
    assert fs.seek("f", 99, os.SEEK_DATA) == 99
    assert errno_of(fs.seek, "f", 100, os.SEEK_HOLE) == "ENXIO"


def test_seek_in_an_empty_file(fs):
    assert errno_of(fs.seek, "f", 0, os.SEEK_HOLE) == "ENXIO"
    assert errno_of(fs.seek, "f", 0, os.SEEK_DATA) == "ENXIO"
    assert errno_of(fs.seek, "f", -1, os.SEEK_HOLE) == "ENXIO"


def test_allocated_but_never_written_is_a_hole(fs):
    fs.fallocate("f", 0, 0, 4 * PAGE)
    assert fs.seek("f", 0, os.SEEK_HOLE) == 0
    assert errno_of(fs.seek, "f", 0, os.SEEK_DATA) == "ENXIO"
    fs.write("f", 2 * PAGE, b"x")
    assert fs.seek("f", 0, os.SEEK_DATA) == 2 * PAGE
    assert fs.seek("f", 2 * PAGE, os.SEEK_HOLE) == 3 * PAGE
    fs.fallocate("f", PUNCH, 2 * PAGE, 10)
    assert fs.seek("f", 0, os.SEEK_DATA) == 2 * PAGE  # the page is still there


# ---- the model alone


def test_the_model_refuses_what_the_vfs_stops_before(model_of):
    fs = model_of()
    fs.create("f")
    assert errno_of(fs.write, "f", MAX - 1, b"xyz") == "EFBIG"
    assert errno_of(fs.truncate, "f", MAX + 1) == "EFBIG"
    assert errno_of(fs.truncate, "f", -1) == "EINVAL"
    assert errno_of(fs.seek, "f", 0, os.SEEK_SET) == "EINVAL"
    assert fs.stat("f")["size"] == 0


def test_a_write_past_the_end_shows_zeros_between(model_of):
    fs = model_of()
    fs.create("f")
    fs.write("f", 0, b"x" * PAGE)
    fs.truncate("f", 5)
    fs.write("f", 3 * PAGE, b"y")
    assert fs.read("f", 0, 3 * PAGE) == b"x" * 5 + bytes(3 * PAGE - 5)


def test_a_16_gib_sparse_file_costs_its_pages_alone(model_of):
    fs = model_of("size=1m")
    fs.create("f")
    fs.truncate("f", 16 << 30)
    for gib in range(16):
        fs.write("f", gib << 30, b"x")
    assert fs.stat("f")["blocks"] == 16 * 8
    assert fs.seek("f", (3 << 30) + PAGE, os.SEEK_DATA) == 4 << 30
    fs.truncate("f", 0)
    assert fs.statfs()[:2] == (256, 256)
