"""Large directories and large files: correct, and in a time that grows with them and no faster."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import MakeActor, eventually

pytestmark = pytest.mark.mount


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["native"])  # names are the same for both stores
@pytest.mark.parametrize("options", ["size=64m,nr_inodes=200k"])
def test_a_hundred_thousand_names(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    count = 100_000
    one("os.mkdir('d'); d = os.open('d', os.O_RDONLY)")
    one(
        f"for i in range({count}): os.close(os.open(f'{{i}}', os.O_CREAT | os.O_WRONLY, dir_fd=d))",
        patience=200,
    )
    assert two("names = os.listdir('d'); len(names), len(set(names))", patience=100) == (count, count)
    assert two(f"set(map(int, names)) == set(range({count}))")
    assert two("os.stat('d').st_size, os.stat('d/99999').st_size") == (40 + 20 * count, 0)
    assert shmfs.statistics().inodes_used == count + 2
    assert one(f"for i in range(0, {count}, 2): os.unlink(f'{{i}}', dir_fd=d)", patience=200) is None
    assert two("len(os.listdir('d')), tried(os.stat, 'd/0'), os.stat('d/1').st_nlink", 100) == (
        count // 2,
        "ENOENT",
        1,
    )
    assert one("import shutil; shutil.rmtree('d'); os.close(d); os.listdir('.')", patience=200) == []
    eventually(lambda: shmfs.statistics().inodes_used == 1)


def test_a_sparse_file_of_16_gib(shmfs: Any, actor: MakeActor) -> None:
    one, two = actor(shmfs.path), actor(shmfs.path)
    size = 16 << 30
    one(f"size = {size}; fd = new('f'); os.ftruncate(fd, size); m = Mapping(fd, size)")
    places = [0, (1 << 32) - 2, 1 << 33, size // 2 + 12345, size - 10]
    for index, place in enumerate(places):
        one(
            f"os.pwrite(fd, b'written{index}', {place})"
            if index % 2
            else f"m.store(b'written{index}', {place})"
        )
    two(f"fd = os.open('f', os.O_RDWR); m = Mapping(fd, {size})")
    for index, place in enumerate(places):
        assert two(f"os.pread(fd, 8, {place}), m.load({place}, 8)") == (b"written%d" % index,) * 2
    assert two("os.stat('f').st_size") == size
    assert two("blocks('f')") == 6  # the second lies across two pages
    assert two(f"os.pread(fd, 8, {size // 3}), os.pread(fd, 100, {size} - 3)") == (bytes(8), b"4" + bytes(2))
    assert two(f"os.ftruncate(fd, 1 << 32); os.ftruncate(fd, {size}); m.load(1 << 33, 8)") == bytes(8)
    one("os.unlink('f')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "options"), [("managed", "size=1100m,readahead=32"), ("native", "size=1100m")]
)
def test_a_gibibyte_of_data(shmfs: Any, actor: MakeActor) -> None:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available < 4 << 30:
        pytest.skip("needs 4 GiB of free memory: the pages are held by the daemon and by the kernel's cache")
    one, two = actor(shmfs.path), actor(shmfs.path)
    one("""
fd = new('f')
digest = hashlib.blake2b()
block = random.randbytes(1 << 20)
for index in range(1024):
    part = index.to_bytes(4, 'little') + block[4:]
    assert os.write(fd, part) == len(part)
    digest.update(part)
""")
    read = """
digest = hashlib.blake2b()
fd = os.open('f', os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
while part := os.read(fd, 1 << 20): digest.update(part)
digest.hexdigest()
"""
    assert two(read, patience=100) == one("digest.hexdigest()")
    assert shmfs.statistics().used == 1 << 30
    assert two("m = Mapping(os.open('f', os.O_RDONLY), 1 << 30, 1); m.load(777 << 20, 4)") == (777).to_bytes(
        4, "little"
    )
    status = Path(f"/proc/{shmfs.server.pid}/status").read_text()
    assert int(status.partition("RssAnon:")[2].split()[0]) < 60 << 10  # KiB beside the frames
    one("os.unlink('f'); os.close(fd)")
    two.kill()
    eventually(lambda: shmfs.statistics().used == 0)
