"""A full file system: ENOSPC after a partial write, SIGBUS for a touched page, and both work again later."""

from typing import Any

import pytest

from tests.mount.conftest import Actor, MakeActor

pytestmark = pytest.mark.mount

FILL = """
fd = new('filler')
offset = 0
while isinstance(stored := tried(os.pwrite, fd, b'f' * 65536, offset), int):
    offset += stored
os.close(fd)
stored
"""
KEEP = """
random.seed(7)
kept = {}
for index in range(20):
    data = random.randbytes(random.randrange(1, 20000))
    os.close(new(f'kept{index}', data))
    kept[f'kept{index}'] = hashlib.sha256(data).digest()
"""
DAMAGED = "[name for name, digest in kept.items() if hashlib.sha256(content(name)).digest() != digest]"


@pytest.fixture
def options() -> str:
    return "size=1m,nr_inodes=100"


@pytest.fixture
def small(shmfs: Any) -> Any:
    return shmfs


def damaged_after_cache_is_dropped(actor: MakeActor, path: Any, kept: Any) -> list[str]:
    """The names whose content is not what it was, as the daemon, not the kernel's cache, has it."""
    fresh: Actor = actor(path)
    fresh(f"kept = {kept!r}")
    fresh("for name in kept: os.posix_fadvise(os.open(name, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)")
    return fresh(DAMAGED)


def test_full_and_then_not(small: Any, actor: MakeActor) -> None:
    one, two = actor(small.path), actor(small.path)
    one(KEEP)
    one("fd = new('sparse', b'start'); os.ftruncate(fd, 64 * PAGE); m = Mapping(fd, 64 * PAGE)")
    two("m = Mapping(os.open('sparse', os.O_RDWR), 64 * PAGE)")
    one("m.store(b'before', 3 * PAGE)")
    room = one("free()[0]")
    one(f"p = new('partial'); os.pwrite(p, b'p' * PAGE * {room - 1}, 0)")
    assert one("os.pwrite(p, b'q' * 3 * PAGE, os.fstat(p).st_size)") == 4096
    assert one("tried(os.write, p, b'x')") == 1
    assert one(FILL) == "ENOSPC"
    assert one("free()[0]") == 0
    assert one("m.store(b'still', 3 * PAGE)") is None
    assert two("m.load(3 * PAGE, 5)") == b"still"
    assert two("child(m.load, 10 * PAGE)") == "SIGBUS"
    assert two("child(m.store, b'x', 20 * PAGE)") == "SIGBUS"
    assert two("m.store(b'x', 20 * PAGE)") == "SIGBUS"
    assert one(DAMAGED) == []
    one("os.unlink('partial'); os.close(p)")
    assert one("eventually(lambda: free()[0] >= 3, True)")  # the last close is told after it has returned
    assert one("os.pwrite(new('late'), b'l' * 2 * PAGE, 0)") == 8192
    three = actor(small.path)
    three("m = Mapping(os.open('sparse', os.O_RDWR), 64 * PAGE)")
    assert three("m.store(b'now it works', 20 * PAGE)") is None
    assert one("m.load(20 * PAGE, 12)") == b"now it works"
    assert one(DAMAGED) == []
    assert damaged_after_cache_is_dropped(actor, small.path, one("kept")) == []
    assert one("content('sparse')[:5], content('sparse')[3 * PAGE:][:5]") == (b"start", b"still")


@pytest.mark.parametrize("store", ["managed"])  # of a native page it is the kernel that refuses
def test_a_refusal_is_told(small: Any, actor: MakeActor) -> None:
    one = actor(small.path)
    one("fd = new('f'); os.ftruncate(fd, 64 * PAGE); m = Mapping(fd, 64 * PAGE)")
    assert one(FILL) == "ENOSPC"
    assert one("child(m.load)") == "SIGBUS"
    assert small.segment("filler").refused >= 1
    assert small.segment("f").refused >= 1
    figures = small.statistics()
    assert figures.used == figures.peak == figures.size_limit == 1 << 20


def test_no_store_is_lost_at_writeback(small: Any, actor: MakeActor) -> None:
    """Whatever could be stored through a mapping while the file system filled up is there afterwards."""
    one, two = actor(small.path), actor(small.path)
    one("fd = new('f'); os.ftruncate(fd, 200 * PAGE); m = Mapping(fd, 200 * PAGE)")
    one("def page(n): m.store(b'page %d' % n, n * PAGE)\nstored = []")
    for step in range(0, 200, 2):
        two(f"fd = new('other{step}'); tried(os.write, fd, b'x' * 2 * PAGE); os.close(fd)")
        if one(f"child(page, {step})") == "SIGBUS":
            break
        one(f"stored.append({step})")
    else:
        pytest.fail("never full")
    assert one("m.sync(4)") == 0
    assert one("m.unmap()") == 0
    one("os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)")
    lost = "[n for n in stored if os.pread(fd, 8, n * PAGE).rstrip(bytes(1)) != b'page %d' % n]"
    assert one(lost) == []
    assert len(one("stored")) > 50


@pytest.mark.parametrize("options", ["size=1m,reserve=strict", "size=1m,reserve=prefault"])
def test_reserved_pages_can_always_be_touched(shmfs: Any, actor: MakeActor) -> None:
    mount = shmfs
    one, two = actor(mount.path), actor(mount.path)
    assert one("fd = new('f'); os.ftruncate(fd, 2 << 20)") == "ENOSPC"
    assert one("os.fstat(fd).st_size, blocks('f'), free()[0]") == (0, 0, 256)
    assert one("os.ftruncate(fd, 100 * PAGE); blocks('f')") == 100
    assert one("os.ftruncate(fd, (100 << 20))") == "ENOSPC"
    assert one("os.fstat(fd).st_size, blocks('f')") == (100 * 4096, 100)
    assert two(FILL) == "ENOSPC"
    assert one("m = Mapping(fd, 100 * PAGE)\nfor p in range(100): m.store(b'%d' % p, p * PAGE)") is None
    assert two("content('f') == b''.join((b'%d' % p).ljust(PAGE, bytes(1)) for p in range(100))")
    assert one("os.ftruncate(fd, 101 * PAGE)") == "ENOSPC"
    assert one("os.pwrite(fd, b'x', 500 * PAGE)") == "ENOSPC"
    assert one("os.fstat(fd).st_size // PAGE, m.load(99 * PAGE, 2)") == (100, b"99")
    assert one(
        "os.ftruncate(fd, 50 * PAGE); os.ftruncate(fd, 100 * PAGE); blocks('f'), m.load(99 * PAGE, 2)"
    ) == (
        100,
        bytes(2),
    )
    assert mount.statistics().used == 1 << 20
    one("os.unlink('f'); m.unmap(); os.close(fd)")
    assert two("os.truncate('filler', 0); eventually(lambda: free()[0], 256)") == 256


def test_inodes_run_out_and_come_back(small: Any, actor: MakeActor) -> None:
    one = actor(small.path)
    assert one("[tried(new, f'f{i}') for i in range(120)].count('ENOSPC')") == 120 - 99
    assert one("[os.unlink(f'f{i}') for i in range(50)]; free()[1]") == 0  # they are still open
    assert one("[os.close(fd) for fd in range(3, 53)]; eventually(lambda: free()[1], 50)") == 50
    assert one("[tried(new, f'g{i}') for i in range(60)].count('ENOSPC')") == 10
