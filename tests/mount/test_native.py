"""The native store: the kernel serves pages by itself, and nobody is told EIO or anything that is not so."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.errors import ShmfsError
from tests.mount.conftest import Actor, MakeActor, eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="FUSE passthrough needs the rights of root"),
]

HELPERS = """
ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
MORE = (0, os.O_DIRECT, os.O_APPEND, os.O_TRUNC, os.O_DIRECT | os.O_APPEND, os.O_DIRECT | os.O_TRUNC)
MODES = [access | more for access in ACCESS for more in MORE] + [os.O_PATH]

def use(fd, flags):
    if flags & os.O_PATH:
        return os.fstat(fd).st_size >= 0
    buffer = mmap.mmap(-1, PAGE)
    access = flags & os.O_ACCMODE
    if access != os.O_RDONLY:
        buffer[:] = b'd' * PAGE
        os.pwritev(fd, [buffer], 0)
    else:
        os.truncate(f'/proc/self/fd/{fd}', PAGE) if os.geteuid() == 0 else None
    if access != os.O_WRONLY:
        os.preadv(fd, [buffer], 0)
        Mapping(fd, PAGE, READ).unmap()
    if access == os.O_RDWR:
        os.ftruncate(fd, PAGE)
        mapping = Mapping(fd, PAGE)
        mapping.store(b'e')
        mapping.unmap()
    return True

def reopened(path):
    'What went wrong in reopening the file in every mode.'
    wrong = []
    for flags in MODES:
        fd = tried(os.open, path, flags)
        if isinstance(fd, int):
            answer = tried(use, fd, flags)
            os.close(fd)
        else:
            answer = fd
        if answer is not True:
            wrong.append((flags, answer))
    return wrong
"""


@pytest.fixture
def native(shmfs_mount: Any) -> Any:
    mount = shmfs_mount(options="size=16m,pages=native")
    assert mount.statistics().store == "native"
    return mount


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """The kernel's own, of 1 MiB."""
    path = tmp_path / "tmpfs"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def one(native: Any, actor: MakeActor) -> Actor:
    made = actor(native.path)
    made(HELPERS)
    return made


@pytest.fixture
def two(native: Any, actor: MakeActor) -> Actor:
    made = actor(native.path)
    made(HELPERS)
    return made


def descriptors(mount: Any) -> int:
    return len(os.listdir(f"/proc/{mount.server.pid}/fd"))


def all_is_given_back(mount: Any) -> None:
    eventually(lambda: (mount.statistics().inodes_used, mount.statistics().used) == (1, 0))


# ---- no open ever answers EIO


def test_held_open_while_reopened_in_every_mode(native: Any, one: Actor, two: Actor) -> None:
    one("os.close(new('f', b'x' * PAGE))")
    for flags in one("MODES"):
        one(f"fd = os.open('f', {flags}); held = use(fd, {flags})")
        assert two("reopened('f')") == [], f"while held open with {flags:#o}"
        assert one(f"use(fd, {flags}), reopened('f'), os.close(fd)") == (True, [], None)
    assert two("os.unlink('f')") is None
    all_is_given_back(native)


def test_mapped_with_every_descriptor_closed(native: Any, one: Actor, two: Actor) -> None:
    one("fd = new('f', b'x' * PAGE); m = Mapping(fd); os.close(fd)")
    assert two("reopened('f')") == []
    assert one("m.store(b'mapped'); reopened('f')") == []
    assert two("os.unlink('f')") is None
    one("m.unmap()")
    all_is_given_back(native)


def test_after_unlink(native: Any, one: Actor, two: Actor) -> None:
    one("fd = new('f', b'x' * PAGE); m = Mapping(fd); os.unlink('f')")
    path = one("f'/proc/{os.getpid()}/fd/{fd}'")
    assert two(f"reopened({path!r})") == []
    assert one(f"m.store(b'mapped'); reopened({path!r})") == []
    two(f"fd = os.open({path!r}, os.O_RDWR)")
    one("os.close(fd); m.unmap()")
    assert two("reopened(f'/proc/self/fd/{fd}'), os.fstat(fd).st_nlink") == ([], 0)
    two("os.close(fd)")
    all_is_given_back(native)


@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o6777, 0o2767])
def test_set_id_files(mode: int, native: Any, one: Actor, two: Actor) -> None:
    """Those that another user writes go another way, on which the bits are cleared."""
    one(f"fd = new('f', b'x' * PAGE); os.chmod('f', {mode}); m = Mapping(fd)")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_DIRECT, os.O_WRONLY | os.O_APPEND):
        one(f"other = os.open('f', {flags})")
        for who in ("reopened('f')", "unprivileged(reopened, 'f')"):
            two(f"os.chmod('f', {mode})")
            assert two(who) == [], f"{who} while held open with {flags:#o}"
            two(f"os.chmod('f', {mode}); held = os.open('f', os.O_RDWR)")
            assert one(f"use(other, {flags}), m.store(b's'), {who}") == (True, None, [])
            two("os.close(held)")
        one("os.close(other)")
    two(f"os.chmod('f', {mode})")
    assert two("unprivileged(lambda: os.pwrite(os.open('f', os.O_WRONLY), b'x', 0))") == 1
    assert two("os.stat('f').st_mode & 0o6000") == 0


def test_executed_while_held_open(native: Any, one: Actor, two: Actor) -> None:
    one("import shutil; shutil.copy('/bin/sleep', 'f')")
    two("import subprocess; run = lambda: subprocess.run(['./f', '0']).returncode")
    for flags in one("MODES"):
        if flags & os.O_TRUNC:
            continue
        one(f"fd = os.open('f', {flags})")
        assert two("tried(run)") == (0 if flags & os.O_ACCMODE == 0 else "ETXTBSY"), f"{flags:#o}"
        one("os.close(fd)")
        assert eventually(lambda: two("tried(run)") == 0)
    two("running = subprocess.Popen(['./f', '60'])")
    assert one("opened('f', os.O_RDONLY), opened('f', os.O_RDWR), opened('f', os.O_PATH)") == (
        "ok",
        "ETXTBSY",
        "ok",
    )
    two("running.kill(); running.wait()")
    assert one("opened('f')") == "ok"


# ---- attributes


@pytest.mark.parametrize("closed", [False, True])
def test_stores_through_mappings_are_told_at_once(one: Actor, two: Actor, closed: bool) -> None:
    one("fd = new('f'); os.ftruncate(fd, 64 * PAGE); m = Mapping(fd, 64 * PAGE)")
    if closed:
        one("os.close(fd)")
    before = two("time.sleep(0.02); s = os.stat('f'); s.st_mtime_ns")
    for count in range(1, 65):
        one(f"m.store(b'x', {count - 1} * PAGE)")
        assert two(f"s = os.stat('f'); s.st_blocks, s.st_size, s.st_mtime_ns > {before}") == (
            count * 8,
            64 * 4096,
            True,
        )
    assert two("[e.stat().st_blocks for e in os.scandir('.')], os.lstat('f').st_blocks") == ([512], 512)


def test_faults_of_readers_are_told_at_once(one: Actor, two: Actor) -> None:
    """Of a file that nobody ever had open for writing."""
    one("os.mknod('f', 0o666); os.truncate('f', 64 * PAGE); fd = os.open('f', os.O_RDONLY)")
    one("m = Mapping(fd, 64 * PAGE, READ)")
    assert two("blocks('f')") == 0
    assert one("m.load(5 * PAGE), blocks('f')") == (b"\0", 1)
    one("os.close(fd)")
    assert two("time.sleep(0.1); blocks('f')") == 1
    assert one("m.load(9 * PAGE), blocks('f')") == (b"\0", 2)
    assert two("blocks('f')") == 2


def test_sizes_are_told_at_once(one: Actor, two: Actor) -> None:
    one("fd = new('f')")
    assert two("os.stat('f').st_size, blocks('f')") == (0, 0)
    one("os.write(fd, b'x' * 5000)")
    assert two("os.stat('f').st_size, blocks('f')") == (5000, 2)
    one("os.ftruncate(fd, 100)")
    assert two("os.stat('f').st_size, blocks('f')") == (100, 1)
    one("os.posix_fallocate(fd, 0, 10 * PAGE); os.close(fd)")
    assert two("os.stat('f').st_size, blocks('f')") == (40960, 10)
    two("fd = os.open('f', os.O_WRONLY | os.O_APPEND); os.write(fd, b'end'); os.close(fd)")
    assert one("os.stat('f').st_size, content('f')[-4:]") == (40963, b"\0end")
    two("os.truncate('f', 0)")
    assert one("os.stat('f').st_size, blocks('f')") == (0, 0)


# ---- limits


def test_resize_while_in_use(native: Any, one: Actor) -> None:
    from shmfs.client import control

    def resize(options: str) -> Any:
        return control.call(native.server.device, "remount", options=options)

    one("fd = new('f', b'x' * (1 << 20)); m = Mapping(fd, 1 << 20); m.load(5000)")
    with pytest.raises(ShmfsError, match="size=1044480: more than 1044480 bytes are in use"):
        resize("size=1020k")
    resize("size=1m")
    assert one("free()[0], tried(os.pwrite, fd, b'x', 1 << 20)") == (0, "ENOSPC")
    resize("size=1028k")
    assert one("os.statvfs('.').f_blocks, os.pwrite(fd, b'x' * 9000, 1 << 20)") == (257, 4096)
    resize("nr_inodes=2")
    assert one("tried(new, 'g'), content('f').count(b'x')") == ("ENOSPC", (1 << 20) + 4096)
    with pytest.raises(ShmfsError, match="nr_inodes=1"):
        resize("nr_inodes=1,size=64m")
    assert one("os.statvfs('.').f_blocks") == 257
    resize("size=0")
    assert one("os.statvfs('.').f_blocks") == 0
    with pytest.raises(ShmfsError, match="unlimited"):
        resize("size=64m")
    for option in ("huge=always", "mpol=local", "noswap", "pages=managed"):
        with pytest.raises(ShmfsError, match="cannot be changed by a remount"):
            resize(option)


@pytest.mark.parametrize("reserve", ["strict", "prefault"])
def test_reserved(reserve: str, shmfs_mount: Any, actor: MakeActor) -> None:
    """What ftruncate has promised can be stored into, and a promise that cannot be kept is not made."""
    mount = shmfs_mount(options=f"size=1m,pages=native,reserve={reserve}")
    one = actor(mount.path)
    assert one("fd = new('f'); os.ftruncate(fd, 200 * PAGE); blocks('f')") == 200
    assert one("other = new('g'); tried(os.ftruncate, other, 57 * PAGE)") == "ENOSPC"
    assert one("os.fstat(other).st_size, blocks('g'), free()[0]") == (0, 0, 56)
    assert one("os.ftruncate(other, 56 * PAGE); tried(new, 'h', b'x')") == "ENOSPC"
    assert one("m = Mapping(fd, 200 * PAGE); [m.store(b'x', n * PAGE) for n in range(200)]; 1") == 1
    assert one("os.ftruncate(fd, 100 * PAGE); free()[0]") == 100
    assert one("os.ftruncate(fd, 50 * PAGE); os.ftruncate(fd, 150 * PAGE); blocks('f')") == 150
    assert one("tried(call, 'fallocate', fd, 3, 0, 20 * PAGE), blocks('f'), m.load(0)") == (0, 150, b"\0")


def test_large_reservations(shmfs_mount: Any, actor: MakeActor) -> None:
    mount = shmfs_mount(options="size=128m,pages=native,reserve=strict")
    one, two = actor(mount.path), actor(mount.path)
    one("fd = new('f', b'start')")
    one.order("os.ftruncate(fd, 100 << 20); os.fstat(fd).st_size, blocks('f')")
    while not one.answers_within(0):
        assert two("tried(os.stat, 'missing')") == "ENOENT"
    assert one.answer() == (100 << 20, 25600)
    assert one("tried(os.ftruncate, fd, 200 << 20), os.fstat(fd).st_size, blocks('f')") == (
        "ENOSPC",
        100 << 20,
        25600,
    )
    assert two("content('f')[:6], os.stat('f').st_size") == (b"start\0", 100 << 20)
    two("os.unlink('f')")
    one("os.close(fd)")
    eventually(lambda: mount.statistics().used == 0)
    one("os.mknod('never opened', 0o666); os.truncate('never opened', 100 << 20)")
    assert two("blocks('never opened'), os.stat('never opened').st_size") == (25600, 100 << 20)
    one("os.truncate('never opened', 5)")
    assert two("blocks('never opened'), os.stat('never opened').st_size") == (1, 5)


REFUSALS = """
random.seed(11)
answers = []
def touch(mapping, page):
    mapping.store(b'x', page * PAGE)
sparse = new('sparse')
os.ftruncate(sparse, 300 * PAGE)
m = Mapping(sparse, 300 * PAGE)
fds = [new(f'f{n}') for n in range(4)]
for step in range(600):
    fd = random.choice(fds)
    kind = random.randrange(6)
    place = random.randrange(120 * PAGE)
    if kind < 3:
        answers.append(tried(os.pwrite, fd, b'x' * random.randrange(1, 30000), place))
    elif kind == 3:
        answers.append(child(touch, m, random.randrange(300)))
    elif kind == 4:
        answers.append(tried(os.posix_fallocate, fd, place, random.randrange(1, 50000)))
    elif step % 5 == 0:
        answers.append(tried(os.ftruncate, fd, random.randrange(100 * PAGE)))
    answers.append((os.fstat(fd).st_size, os.fstat(fd).st_blocks, free()[0]))
answers
"""


def test_full_at_the_same_write_and_the_same_page_as_tmpfs(
    tmpfs: Path, shmfs_mount: Any, actor: MakeActor
) -> None:
    mount = shmfs_mount(options="size=1m,pages=native")
    expected, answered = actor(tmpfs)(REFUSALS), actor(mount.path)(REFUSALS)
    assert {"ENOSPC", "SIGBUS"} <= {answer for answer in expected if isinstance(answer, str)}
    for step, (theirs, ours) in enumerate(zip(expected, answered, strict=True)):
        assert ours == theirs, f"answer {step}"


@pytest.mark.parametrize("option", ["huge=always", "huge=within_size", "noswap", "mpol=local", "mpol=bind:0"])
def test_options_for_the_kernel(option: str, shmfs_mount: Any, actor: MakeActor) -> None:
    """They reach the store: a huge page is allocated as one."""
    try:
        mount = shmfs_mount(options=f"size=64m,{option}")
    except ShmfsError as refused:
        pytest.skip(f"this kernel refuses {option}: {refused}")
    one = actor(mount.path)
    assert mount.statistics().store == "native"
    one("fd = new('f'); os.ftruncate(fd, 8 << 20); m = Mapping(fd, 8 << 20); m.store(b'x')")
    if option.startswith("huge="):
        enabled = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text()
        assert one("blocks('f')") == (1 if "[deny]" in enabled else 512)
    else:
        assert one("blocks('f')") == 1
    assert one("m.store(b'x', 5 << 20); m.load(5 << 20), os.ftruncate(fd, 0), blocks('f')") == (b"x", None, 0)


@pytest.mark.parametrize("option", ["mpol=nonsense", "mpol=bind:4000"])
def test_an_option_that_the_kernel_refuses(option: str, shmfs_mount: Any) -> None:
    with pytest.raises(ShmfsError, match="native pages cannot be had: Invalid argument"):
        shmfs_mount(options=option)


# ---- large files and many files


def test_large_changes_delay_nobody(shmfs_mount: Any, actor: MakeActor) -> None:
    """While one process waits for hundreds of megabytes to come or go, another gets its answers."""
    mount = shmfs_mount(options="size=600m,pages=native")
    one, two = actor(mount.path), actor(mount.path)
    two("os.close(new('small'))")
    size = 256 << 20

    def meanwhile(code: str) -> Any:
        one.order(code)
        looks = 0
        while not one.answers_within(0) or looks < 3:
            assert two("tried(os.stat, f'missing{time.time_ns()}'), os.stat('small').st_size") == (
                "ENOENT",
                0,
            )
            looks += 1
        return one.answer()

    assert meanwhile(f"fd = new('f'); os.posix_fallocate(fd, 0, {size}); blocks('f')") == size // 4096
    assert two("os.stat('f').st_size") == size
    assert meanwhile("os.ftruncate(fd, 5000); os.fstat(fd).st_size, blocks('f')") == (5000, 2)
    assert meanwhile(f"call('fallocate', fd, 1, 0, {size}); blocks('f')") == size // 4096
    assert meanwhile(f"call('fallocate', fd, 3, 0, {size}); blocks('f'), os.fstat(fd).st_size") == (0, 5000)
    assert (
        meanwhile(f"os.posix_fallocate(fd, 0, {size}); os.close(os.open('f', os.O_WRONLY | os.O_TRUNC))")
        is None
    )
    assert two("os.stat('f').st_size, blocks('f')") == (0, 0)
    assert meanwhile(f"os.posix_fallocate(fd, 0, {size}); os.unlink('f'); os.close(fd)") is None
    eventually(lambda: (mount.statistics().inodes_used, mount.statistics().used) == (2, 0))
    fds = descriptors(mount)
    assert meanwhile("tried(os.posix_fallocate, new('g'), 0, 700 << 20)") == "ENOSPC"
    assert two("blocks('g'), os.stat('g').st_size, os.unlink('g')") == (0, 0, None)
    assert descriptors(mount) <= fds + 2


MANY = """
COUNT = 2000
resource.setrlimit(resource.RLIMIT_NOFILE, (COUNT + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
fds = []
for n in range(COUNT):
    fds.append(new(f'f{n}', b'%d' % n))
random.shuffle(order := list(range(COUNT)))
for n in order:
    os.pwrite(fds[n], b'again', PAGE)
    os.ftruncate(fds[n], 3 * PAGE)
wanted = lambda n: (b'%d' % n).ljust(PAGE, bytes(1)) + b'again'.ljust(2 * PAGE, bytes(1))
[n for n in order if content(f'f{n}') != wanted(n)]
"""


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_few_descriptors(when: str, shmfs_mount: Any, actor: MakeActor) -> None:
    """There may be more open files than the daemon may have descriptors, and it can still be asked."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if when == "from the start":
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limit[1]))
    try:
        mount = shmfs_mount(options="size=64m,pages=native,nr_inodes=3000")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    mount.statistics()
    before = descriptors(mount)
    if when == "later":
        resource.prlimit(mount.server.pid, resource.RLIMIT_NOFILE, (200, limit[1]))
    one, two = actor(mount.path), actor(mount.path)
    one("import resource")
    two("import resource")
    assert one(MANY) == []
    assert mount.statistics().inodes_used == 2001
    assert two(MANY.replace("new(f'f{n}', b'%d' % n)", "os.open(f'f{n}', os.O_RDWR)")) == []
    assert descriptors(mount) <= 200
    assert len(mount.segments()) == 2000
    assert one("for fd in fds: os.close(fd)\nfor n in order: os.unlink(f'f{n}')") is None
    assert two("[n for n in order if os.pread(fds[n], 5, PAGE) != b'again']") == []
    assert two("for fd in fds: os.close(fd)\nos.listdir('.')") == []
    all_is_given_back(mount)
    assert descriptors(mount) <= before


def test_nothing_is_leaked(native: Any, one: Actor) -> None:
    def round_trip(count: int) -> None:
        one(f"""
for n in range({count}):
    fd = new(f'f{{n}}', b'x' * 9000)
    m = Mapping(fd)
    os.close(os.open(f'f{{n}}', os.O_RDONLY))
    if n % 3 == 0: os.unlink(f'f{{n}}')
    m.store(b'y'); os.close(fd); m.unmap()
for n in range({count}):
    if n % 3: os.unlink(f'f{{n}}')
""")
        all_is_given_back(native)

    round_trip(10)
    before = descriptors(native)
    for _ in range(5):
        round_trip(100)
    assert eventually(lambda: descriptors(native) <= before)
    assert native.statistics().inodes_used == 1
