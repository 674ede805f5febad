"""rename(2) with all flags. Asserted of the model and of the kernel's tmpfs alike."""

import stat

import pytest

from tests.fs.support import PAGE, WHITEOUT_MODE, errno_of

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def tree(fs, path: str = "") -> dict[str, object]:
    """Everything below, as plain values."""
    found: dict[str, object] = {}
    for name in fs.listdir(path):
        below = f"{path}/{name}" if path else name
        mode = fs.stat(below)["mode"]
        found[name] = tree(fs, below) if stat.S_ISDIR(mode) else stat.S_IFMT(mode)
    return found


def links(fs, *paths: str) -> list[int]:
    return [fs.stat(path)["nlink"] for path in paths]


F = stat.S_IFREG


@pytest.fixture
def fs(either):
    """A tree: f, g, full/{x,sub/}, empty/."""
    fs = either("size=256k,nr_inodes=32")
    fs.create("f")
    fs.write("f", 0, b"f")
    fs.create("g")
    fs.write("g", 0, b"g" * PAGE * 2)
    fs.mkdir("full")
    fs.create("full/x")
    fs.mkdir("full/sub")
    fs.mkdir("empty")
    return fs


WHOLE = {"f": F, "g": F, "full": {"x": F, "sub": {}}, "empty": {}}


def test_a_new_name(fs):
    fs.rename("f", "full/sub/n")
    assert tree(fs) == {"g": F, "full": {"x": F, "sub": {"n": F}}, "empty": {}}
    assert fs.read("full/sub/n", 0, 9) == b"f"
    assert [fs.stat(path)["size"] for path in ("", "full/sub")] == [40 + 3 * 20, 60]


def test_a_file_is_replaced(fs):
    used = fs.statfs()
    fs.rename("f", "g")
    assert tree(fs) == {"g": F, "full": {"x": F, "sub": {}}, "empty": {}}
    assert fs.read("g", 0, 9) == b"f"
    assert fs.statfs() == (used[0], used[1] + 2, used[2], used[3] + 1)


def test_an_empty_directory_is_replaced(fs):
    fs.rename("full", "empty")
    assert tree(fs) == {"f": F, "g": F, "empty": {"x": F, "sub": {}}}
    assert links(fs, "", "empty", "empty/sub") == [3, 3, 2]


def test_an_empty_directory_elsewhere_is_replaced(fs):
    fs.mkdir("empty/d")
    fs.rename("full/sub", "empty/d")
    assert tree(fs) == {"f": F, "g": F, "full": {"x": F}, "empty": {"d": {}}}
    assert links(fs, "", "full", "empty", "empty/d") == [4, 2, 3, 2]


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ("missing", "n", "ENOENT"),
        ("f", "missing/n", "ENOENT"),
        ("f", "g/n", "ENOTDIR"),
        ("f", "empty", "EISDIR"),
        ("f", "full", "EISDIR"),
        ("empty", "f", "ENOTDIR"),
        ("empty", "full", "ENOTEMPTY"),
        ("full", "full/n", "EINVAL"),
        ("full", "full/sub", "EINVAL"),
        ("full", "full/sub/n", "EINVAL"),
        ("full/sub", "full", "ENOTEMPTY"),
        ("full/x", "full", "ENOTEMPTY"),
        ("f", "n" * 256, "ENAMETOOLONG"),
    ],
)
def test_what_is_refused(fs, old, new, answer):
    before = fs.statfs()
    assert errno_of(fs.rename, old, new) == answer
    assert tree(fs) == WHOLE
    assert fs.statfs() == before


@pytest.mark.parametrize("flags", [3, 6, 7, 8, 16, 9])
def test_unknown_flags_and_combinations(fs, flags):
    assert errno_of(fs.rename, "f", "n", flags) == "EINVAL"
    assert tree(fs) == WHOLE


@pytest.mark.parametrize("path", ["f", "full"])
def test_onto_itself(fs, path):
    fs.rename(path, path)
    assert tree(fs) == WHOLE


@pytest.mark.parametrize("flags", [0, EXCHANGE, WHITEOUT])
def test_onto_its_own_hard_link_nothing_happens(fs, flags):
    fs.link("f", "full/l")
    fs.rename("f", "full/l", flags)
    assert tree(fs) == {**WHOLE, "full": {"x": F, "sub": {}, "l": F}}
    assert links(fs, "f") == [2]


def test_noreplace(fs):
    assert errno_of(fs.rename, "f", "g", NOREPLACE) == "EEXIST"
    assert errno_of(fs.rename, "empty", "full", NOREPLACE) == "EEXIST"
    assert errno_of(fs.rename, "f", "f", NOREPLACE) == "EEXIST"
    fs.rename("f", "n", NOREPLACE)
    assert fs.listdir()[0] == "n"


# ---- exchange


def test_exchange_of_files(fs):
    fs.rename("f", "g", EXCHANGE)
    assert (fs.read("f", 0, 3), fs.read("g", 0, 3)) == (b"ggg", b"f")
    assert tree(fs) == WHOLE


def test_exchange_with_nothing(fs):
    assert errno_of(fs.rename, "f", "n", EXCHANGE) == "ENOENT"
    assert errno_of(fs.rename, "n", "f", EXCHANGE) == "ENOENT"


def test_exchange_of_a_full_directory_and_a_file(fs):
    """Links and parents follow: the directory is below `empty` now."""
    fs.create("empty/y")
    fs.rename("full", "empty/y", EXCHANGE)
    assert tree(fs) == {"f": F, "g": F, "full": F, "empty": {"y": {"x": F, "sub": {}}}}
    assert links(fs, "", "empty", "empty/y", "full") == [3, 3, 3, 1]
    assert errno_of(fs.rename, "empty", "empty/y/n") == "EINVAL"
    fs.rename("empty/y", "full", EXCHANGE)
    assert links(fs, "", "empty", "full") == [4, 2, 3]


def test_exchange_of_directories_of_different_parents(fs):
    fs.rename("full/sub", "empty", EXCHANGE)
    fs.create("empty/n")
    assert tree(fs) == {"f": F, "g": F, "full": {"x": F, "sub": {}}, "empty": {"n": F}}
    assert links(fs, "", "full", "full/sub", "empty") == [4, 3, 2, 2]
    assert errno_of(fs.rename, "full", "full/sub/n") == "EINVAL"


def test_exchange_with_what_lies_below(fs):
    assert errno_of(fs.rename, "full", "full/x", EXCHANGE) == "EINVAL"
    assert errno_of(fs.rename, "full/sub", "full", EXCHANGE) == "EINVAL"
    assert tree(fs) == WHOLE


def test_exchange_costs_nothing(either):
    fs = either("nr_inodes=3")
    fs.create("a")
    fs.create("b")
    fs.rename("a", "b", EXCHANGE)
    assert fs.statfs()[3] == 0


# ---- whiteout


def test_a_whiteout_is_left(fs):
    fs.rename("f", "n", WHITEOUT)
    status = fs.stat("f")
    assert (status["mode"], status["rdev"], status["nlink"]) == (WHITEOUT_MODE, 0, 1)
    assert fs.listdir()[:2] == ["n", "f"]
    assert fs.read("n", 0, 9) == b"f"


def test_a_whiteout_replaces_and_is_replaced(fs):
    fs.rename("f", "g", WHITEOUT)
    assert fs.stat("f")["mode"] == WHITEOUT_MODE
    fs.rename("g", "f")
    assert sorted(fs.listdir()) == ["empty", "f", "full"]
    assert fs.read("f", 0, 9) == b"f"


def test_a_whiteout_in_place_of_a_directory(fs):
    fs.rename("full", "empty/d", WHITEOUT)
    assert tree(fs) == {"f": F, "g": F, "full": stat.S_IFCHR, "empty": {"d": {"x": F, "sub": {}}}}
    assert links(fs, "", "empty") == [3, 3]
    assert fs.stat()["size"] == 40 + 4 * 20


def test_whiteout_with_noreplace(fs):
    assert errno_of(fs.rename, "f", "g", WHITEOUT | NOREPLACE) == "EEXIST"
    fs.rename("f", "n", WHITEOUT | NOREPLACE)
    assert fs.stat("f")["mode"] == WHITEOUT_MODE


@pytest.mark.parametrize("new", ["b", "n"])
def test_a_whiteout_with_inodes_exhausted_changes_nothing(either, new):
    """Also where the victim would make room: it is freed too late."""
    fs = either("nr_inodes=3")
    fs.create("a")
    fs.create("b")
    before = fs.statfs()
    assert errno_of(fs.rename, "a", new, WHITEOUT) == "ENOSPC"
    assert (fs.listdir(), fs.statfs()) == (["b", "a"], before)
    fs.rename("a", "b")
    fs.rename("b", "c", WHITEOUT)
    assert fs.statfs()[3] == 0


def test_a_victim_that_is_open_lives_on(either):
    fs = either()
    fs.create("a")
    fs.create("b")
    fs.write("b", 0, b"x" * PAGE)
    handle = fs.open("b")
    fs.rename("a", "b")
    assert fs.statfs()[1] == 63
    fs.close(handle)
    assert fs.statfs()[1] == 64


def test_a_victim_directory_that_is_held_takes_no_names(model_of):
    fs = model_of()
    fs.mkdir("a")
    fs.mkdir("b")
    held = fs.open("b")
    fs.rename("a", "b")
    assert held.nlink == 0
    from shmfs.fs import namei

    assert errno_of(namei.create, fs.sb, held, b"x", stat.S_IFREG, fs.cred) == "ENOENT"
    fs.close(held)
