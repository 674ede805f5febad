"""reserve=strict and reserve=prefault: what a file's size promises is charged when it is promised."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmfs.fs.deferred import Deferred
from shmfs.mm import PAGE_SHIFT
from tests.fs.support import PAGE, Model, errno_of

KEEP, PUNCH = 1, 3


@pytest.fixture
def strict(model_of):
    """Ten pages, and a file."""
    fs = model_of("size=40k,reserve=strict")
    fs.create("f")
    return fs


@pytest.fixture
def prefault(model_of):
    fs = model_of("size=40k,reserve=prefault")
    fs.create("f")
    return fs


def promised(fs: Model, path: str = "f") -> bool:
    """Whether every page of the file has a frame."""
    inode = fs.file(path)
    return not list(inode.pages.holes(0, -(-inode.size // PAGE)))


def carry_out(fs: Model) -> None:
    """Do the deferred work, as the adapter does before it answers."""
    assert isinstance(fs.deferred, Deferred)
    fs.deferred.work()


def test_ftruncate_charges(strict):
    strict.truncate("f", 3 * PAGE + 1)
    assert strict.stat("f")["blocks"] == 4 * 8
    assert strict.statfs()[1] == 6
    assert promised(strict)
    assert strict.seek("f", 0, os.SEEK_HOLE) == 0  # and they still count as holes


def test_ftruncate_beyond_the_limit_changes_nothing(strict):
    strict.write("f", 0, b"kept")
    before = strict.stat("f"), strict.times("f"), strict.statfs()
    strict.wait()
    assert errno_of(strict.truncate, "f", 11 * PAGE) == "ENOSPC"
    assert errno_of(strict.ftruncate, "f", 1 << 60) == "ENOSPC"
    assert (strict.stat("f"), strict.times("f"), strict.statfs()) == before
    strict.truncate("f", 10 * PAGE)
    assert promised(strict)


def test_lazy_promises_nothing(model_of):
    fs = model_of("size=40k")
    fs.create("f")
    fs.truncate("f", 1 << 60)
    assert fs.stat("f")["blocks"] == 0


def test_shrinking_gives_back(strict):
    strict.truncate("f", 8 * PAGE)
    strict.truncate("f", PAGE)
    assert strict.statfs()[1] == 9
    strict.truncate("f", 10 * PAGE)
    assert promised(strict)


def test_a_write_behind_the_end_charges_what_lies_between(strict):
    assert strict.write("f", 4 * PAGE + 10, b"x") == 1
    assert strict.stat("f")["blocks"] == 5 * 8
    assert promised(strict)


def test_a_write_behind_the_end_that_fails_charges_nothing(strict):
    assert errno_of(strict.write, "f", 10 * PAGE, b"x") == "ENOSPC"
    assert (strict.stat("f")["size"], strict.stat("f")["blocks"]) == (0, 0)
    assert errno_of(strict.write, "f", 1 << 61, b"x") == "ENOSPC"
    assert strict.statfs()[1] == 10


def test_a_write_behind_the_end_may_be_partial(strict):
    assert strict.write("f", 8 * PAGE, b"x" * 5 * PAGE) == 2 * PAGE
    assert promised(strict)
    assert strict.stat("f")["size"] == 10 * PAGE


def test_punch_keeps_the_promise(strict):
    strict.write("f", 0, b"x" * 4 * PAGE)
    strict.fallocate("f", PUNCH, PAGE + 5, 2 * PAGE)
    assert promised(strict)
    assert strict.read("f", 0, 4 * PAGE) == b"x" * (PAGE + 5) + bytes(2 * PAGE) + b"x" * (PAGE - 5)
    strict.fallocate("f", PUNCH, 0, 100 * PAGE)
    assert promised(strict)
    assert strict.read("f", 0, 4 * PAGE) == bytes(4 * PAGE)
    strict.fallocate("f", PUNCH, 50 * PAGE, PAGE)
    assert strict.statfs()[1] == 6


def test_fallocate_behind_the_end_charges_what_lies_between(strict):
    strict.fallocate("f", 0, 5 * PAGE, PAGE)
    assert (strict.stat("f")["size"], strict.stat("f")["blocks"]) == (6 * PAGE, 6 * 8)
    assert promised(strict)
    assert errno_of(strict.fallocate, "f", 0, 10 * PAGE, 1) == "ENOSPC"
    assert strict.stat("f")["size"] == 6 * PAGE
    strict.fallocate("f", KEEP, 8 * PAGE, PAGE)  # extends nothing, so nothing lies between
    assert strict.stat("f")["blocks"] == 7 * 8


def test_a_read_for_the_cache_cannot_fail(strict):
    """The promise itself: with the file system full every page of the file can be faulted in."""
    strict.truncate("f", 6 * PAGE)
    strict.create("g")
    assert strict.write("g", 0, b"x" * 10 * PAGE) == 4 * PAGE
    strict.file("f").open(os.O_RDWR)
    assert strict.read("f", 0, 6 * PAGE) == bytes(6 * PAGE)
    strict.file("f").release(os.O_RDWR)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["truncate", "write", "punch", "fallocate", "keep", "other"]),
            st.integers(0, 12 * PAGE),
            st.integers(1, 4 * PAGE),
        ),
        max_size=25,
    )
)
def test_no_page_below_the_end_is_ever_uncharged(steps):
    fs = Model("size=40k,reserve=strict")
    fs.create("f")
    fs.create("other")
    for what, offset, length in steps:
        if what == "truncate":
            errno_of(fs.truncate, "f", offset)
        elif what == "write":
            errno_of(fs.write, "f", offset, b"x" * length)
        elif what == "other":
            errno_of(fs.truncate, "other", offset)
        else:
            mode = {"punch": PUNCH, "fallocate": 0, "keep": KEEP}[what]
            errno_of(fs.fallocate, "f", mode, offset, length)
        assert promised(fs)
        assert promised(fs, "other")
    fs.check()
    fs.close_arena()


# ---- prefault


def blocks(fs: Model) -> int:
    """Pages of memory that the arena really takes."""
    return os.fstat(fs.sb.store.arena.fileno()).st_blocks * 512 >> PAGE_SHIFT


def test_prefault_leaves_the_memory_to_work_that_is_deferred(prefault):
    prefault.truncate("f", 5 * PAGE)
    assert prefault.stat("f")["blocks"] == 5 * 8
    assert blocks(prefault) == 0
    carry_out(prefault)
    assert blocks(prefault) == 5


def test_what_prefault_defers_can_be_undone(prefault):
    prefault.write("f", 0, b"x" * 100)
    prefault.truncate("f", 5 * PAGE)
    assert isinstance(prefault.deferred, Deferred)
    prefault.deferred.rollback()
    assert (prefault.stat("f")["size"], prefault.stat("f")["blocks"]) == (100, 8)
    assert prefault.read("f", 0, 200) == b"x" * 100
    prefault.truncate("f", 10 * PAGE)
    assert promised(prefault)


def test_a_write_behind_the_end_can_be_undone(prefault):
    prefault.write("f", 3 * PAGE, b"x")
    assert isinstance(prefault.deferred, Deferred)
    prefault.deferred.rollback()
    assert (prefault.stat("f")["size"], prefault.stat("f")["blocks"]) == (0, 0)


@pytest.mark.parametrize(
    "work",
    [
        lambda fs: fs.truncate("f", 11 * PAGE),
        lambda fs: fs.write("f", 10 * PAGE, b"x"),
        lambda fs: fs.write("f", 11 * PAGE, b"x"),
        lambda fs: fs.write("f", 1 << 60, b"x"),
    ],
)
def test_what_fails_defers_nothing(prefault, work):
    assert errno_of(work, prefault) == "ENOSPC"
    assert prefault.deferred is None


@pytest.mark.parametrize("reserve", ["lazy", "strict"])
def test_nothing_else_defers(model_of, reserve):
    fs = model_of(f"size=40k,reserve={reserve}")
    fs.create("f")
    fs.truncate("f", 5 * PAGE)
    fs.write("f", 9 * PAGE, b"x")
    assert not isinstance(fs.deferred, Deferred)


def test_shrinking_defers_nothing(prefault):
    prefault.truncate("f", 5 * PAGE)
    carry_out(prefault)
    prefault.truncate("f", PAGE)
    prefault.write("f", 0, b"x" * PAGE)
    assert not isinstance(prefault.deferred, Deferred)


@pytest.mark.parametrize("reserve", ["strict", "prefault"])
def test_without_a_limit_what_the_machine_cannot_hold_is_refused(model_of, reserve):
    fs = model_of(f"size=0,reserve={reserve}")
    fs.create("f")
    huge = (os.sysconf("SC_PHYS_PAGES") + 1) * PAGE
    assert errno_of(fs.truncate, "f", huge) == "ENOSPC"
    assert errno_of(fs.fallocate, "f", 0, 0, huge) == "ENOSPC"
    assert errno_of(fs.fallocate, "f", KEEP, 0, 1 << 50) == "ENOSPC"
    assert errno_of(fs.write, "f", huge, b"x") == "ENOSPC"
    assert fs.stat("f")["size"] == fs.stat("f")["blocks"] == 0
    assert not isinstance(fs.deferred, Deferred)
