"""Two unrelated processes map one file: one page, seen at once by both, and by the matrix."""

import os
from typing import Any

import pytest

from tests.mount.conftest import MakeActor, eventually

pytestmark = pytest.mark.mount

MAP = "m = Mapping(os.open({name!r}, os.O_RDWR), {pages} * PAGE)"


def test_a_store_is_seen_at_once_in_the_same_frame(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("fd = new('f'); os.ftruncate(fd, 8 * PAGE); os.close(fd)")
    for who in (one, two):
        who(MAP.format(name="f", pages=8))
    for page in range(8):
        one(f"m.store(b'one{page}', {page} * PAGE)")
        assert two(f"m.load({page} * PAGE, 4)") == f"one{page}".encode()
        two(f"m.store(b'two{page}', {page} * PAGE)")
        assert one(f"m.load({page} * PAGE, 4)") == f"two{page}".encode()
    sharing = shmfs.sharing("f")
    assert {process.pid for process in sharing.processes} == {one.pid, two.pid}
    assert sharing.shared == 8
    for page in sharing.pages:
        assert sorted(holder.pid for holder in page.processes) == sorted((one.pid, two.pid))
        if os.geteuid() == 0:
            assert len({holder.frame for holder in page.processes}) == 1
            assert page.processes[0].frame
    if os.geteuid() == 0:
        assert len({page.processes[0].frame for page in sharing.pages}) == 8


def test_a_private_copy_is_another_frame(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("fd = new('f', b'x' * PAGE); m = Mapping(fd); m.load()")
    two("m = Mapping(os.open('f', os.O_RDWR), flags=PRIVATE); m.load()")
    assert shmfs.sharing("f").shared == 1
    two("m.store(b'mine')")
    assert one("m.load(0, 4)") == b"xxxx"
    holders = {holder.pid: holder for holder in shmfs.sharing("f").pages[0].processes}
    assert holders[two.pid].private
    assert not holders[one.pid].private
    if os.geteuid() == 0:
        assert holders[one.pid].frame != holders[two.pid].frame


def test_what_happened_is_counted(store: str, shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("fd = new('f'); os.ftruncate(fd, 100 * PAGE); m = Mapping(fd, 100 * PAGE)")
    two("m = Mapping(os.open('f', os.O_RDWR), 100 * PAGE)")
    for page in (0, 50, 99):
        one(f"m.store(b'x', {page} * PAGE)")
        two(f"m.load({page} * PAGE)")
    segment = shmfs.segment("f")
    assert (segment.size, segment.resident) == (100 * 4096, 3)
    assert segment.page_ins == (3 if store == "managed" else None)  # the kernel tells nobody of a native page
    assert segment.created_by.pid == one.pid
    assert {process.pid for process in segment.opened_by} >= {two.pid}
    assert segment.open_handles == 2
    one("os.unlink('f'); m.unmap(); os.close(fd)")
    assert not shmfs.segment("f").evicted
    two("m.unmap(); import gc; gc.collect()")
    two.kill()
    assert eventually(lambda: shmfs.segment("f").evicted)
    assert shmfs.statistics().used == 0
    assert shmfs.statistics().peak == 3 * 4096


@pytest.mark.parametrize("store", ["managed"])
@pytest.mark.parametrize("options", ["size=64m,readahead=32"])
def test_readahead_is_correct_too(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("fd = new('f'); os.ftruncate(fd, 1000 * PAGE); m = Mapping(fd, 1000 * PAGE)")
    two("m = Mapping(os.open('f', os.O_RDWR), 1000 * PAGE)")
    one("for p in range(0, 1000, 3): m.store(b'%d' % p, p * PAGE)")
    two("for p in range(1, 1000, 3): m.store(b'%d' % p, p * PAGE)")
    stored = "(b'%d' % p if p % 3 < 2 else b'')"
    check = f"[p for p in range(1000) if m.load(p * PAGE, 3).rstrip(bytes(1)) != {stored}]"
    assert one(check) == []
    assert two(check) == []
    two("m.unmap()")
    assert one("os.ftruncate(fd, 500 * PAGE); m.load(499 * PAGE, 3)") == b"499"
    assert actor(shmfs.path)("hashlib.sha256(content('f')).hexdigest()") == one(
        "hashlib.sha256(m.load(0, 500 * PAGE)).hexdigest()"
    )


@pytest.mark.slow
def test_sixty_four_processes_at_once(shmfs: Any, actor: MakeActor) -> None:
    """Each has its own file, all have one mapping, one counter under a lock, and one directory of names."""
    lead = actor(shmfs.path)
    lead("""
os.mkdir('common')
os.ftruncate(new('shared'), 64 * PAGE)
os.pwrite(new('counter'), b'0', 0)

def work(channel, number):
    mapping = Mapping(os.open('shared', os.O_RDWR), 64 * PAGE)
    own = new(f'own{number}')
    for step in range(20):
        mapping.store(b'%02d' % number, number * PAGE + step * 2)
        os.pwrite(own, bytes([number]) * 3000, step * 3000)
        fd = os.open('counter', os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        value = int(os.pread(fd, 20, 0))
        os.pwrite(fd, b'%d' % (value + 1), 0)
        os.close(fd)
        os.close(new(f'common/{number}.{step}'))
        os.rename(f'common/{number}.{step}', f'common/{number}')
    whole = os.pread(own, 100000, 0) == bytes([number]) * 60000
    channel.send([whole, mapping.load(number * PAGE, 40) == (b'%02d' % number) * 20])

def crowd():
    import contextlib
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process(work, number)) for number in range(64)]
        return [worker.receive() for worker in workers]
""")
    assert lead("crowd()", patience=110) == [[True, True]] * 64
    assert lead("content('counter')") == b"1280"
    assert lead("sorted(map(int, os.listdir('common')))") == list(range(64))
    data = lead("[content('shared')[n * PAGE : n * PAGE + 40] for n in range(64)]")
    assert data == [b"%02d" % number * 20 for number in range(64)]
