"""The lane under load, and with requests that go wrong: everybody else gets an answer, and soon."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shmfs.client import control, launch
from shmfs.errors import ShmfsError
from tests.mount.conftest import Actor, MakeActor, eventually

pytestmark = pytest.mark.mount

STORES = [
    "managed",
    pytest.param("native", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights of root")),
]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, shmfs_mount: Any) -> Any:
    """A mount of 64 MiB on each store."""
    mount = shmfs_mount(options=f"size=64m,pages={request.param}")
    assert mount.statistics().store == request.param
    return mount


def descriptors(mount: Any) -> int:
    return len(os.listdir(f"/proc/{mount.server.pid}/fd"))


# ---- many processes, few names

HAMMER = r"""
import errno, mmap, os, random, sys, time

number, seconds = int(sys.argv[1]), float(sys.argv[2])
random.seed(number)
end = time.monotonic() + seconds
held, mapped, expected = [], [], {errno.ENOENT, errno.EEXIST}
rounds = 0
while time.monotonic() < end:
    rounds += 1
    name = f"n{random.randrange(100)}"
    kind = random.randrange(10)
    try:
        if kind < 3:
            flags = random.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
            flags |= random.choice([0, os.O_CREAT, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_EXCL])
            flags |= random.choice([0, 0, os.O_APPEND, os.O_DIRECT])
            held.append(os.open(name, flags, random.choice([0o666, 0o4777])))
            if len(held) > 8:
                os.close(held.pop(random.randrange(8)))
        elif kind == 3:
            os.truncate(name, random.randrange(20000))
        elif kind == 4 and held:
            fd = random.choice(held)
            size = os.fstat(fd).st_size
            if size >= 4096:
                try:
                    mapped.append(mmap.mmap(fd, 4096, prot=mmap.PROT_READ))
                except OSError as failure:
                    if failure.errno != errno.EACCES:  # not open for reading
                        raise
                except ValueError:  # shorter by now, says Python
                    continue
                if len(mapped) > 4:
                    mapped.pop(random.randrange(4)).close()
        elif kind == 5:
            os.unlink(name)
        elif kind == 6 and held:
            fd = random.choice(held)
            try:
                os.pwrite(fd, b"x" * random.randrange(1, 9000), random.randrange(9000))
            except OSError as failure:
                if failure.errno not in (errno.EBADF, errno.EINVAL):  # read-only; O_DIRECT
                    raise
        elif kind == 7:
            os.rename(name, f"n{random.randrange(100)}")
        elif kind == 8:
            os.link(name, f"n{random.randrange(100)}")
        else:
            os.stat(name)
    except OSError as failure:
        if failure.errno not in expected:
            print(number, kind, name, repr(failure), flush=True)
            sys.exit(1)
print("rounds", rounds, flush=True)
"""


def hammer(mount: Any, processes: int, seconds: float) -> None:
    """No errno but those of a name that is there or not, nobody stuck, and nothing left afterwards."""
    mount.statistics()
    before = descriptors(mount)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(number), str(seconds)],
            cwd=mount.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]
    try:
        said = [process.communicate(timeout=seconds + 100)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    wrong = [words for process, words in zip(running, said, strict=True) if process.returncode]
    assert not wrong, "".join(wrong)
    assert sum(int(words.split()[-1]) for words in said) > processes
    subprocess.run("rm -rf ./*", shell=True, cwd=mount.path, check=True, timeout=60)
    eventually(lambda: (mount.statistics().inodes_used, mount.statistics().used) == (1, 0))
    assert eventually(lambda: descriptors(mount) <= before)


def test_64_processes_and_100_names(store: Any) -> None:
    hammer(store, 64, 5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_64_processes_and_100_names_for_a_minute(store: Any) -> None:
    hammer(store, 64, 60)


# ---- the event loop has its turn

BUSY = """
import os, sys
while True:
    fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x", 0)
    os.close(fd)
    os.unlink(sys.argv[1])
"""


@pytest.fixture
def busy() -> Iterator[Callable[[Any], None]]:
    """Starts three clients that let the daemon never rest."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(mount: Any) -> None:
        running.extend(
            subprocess.Popen(
                [sys.executable, "-c", BUSY, f"busy{number}"], cwd=mount.path, stderr=subprocess.DEVNULL
            )
            for number in range(3)
        )
        eventually(lambda: len(mount.segments()) > 20)

    yield begin
    for process in running:
        process.kill()
        process.wait()


def test_control_answers_under_load(store: Any, busy: Callable[[Any], None]) -> None:
    busy(store)
    for size in range(65, 75):
        start = time.monotonic()
        control.call(store.server.device, "remount", options=f"size={size}m")
        assert store.statistics().size_limit == size << 20
        assert time.monotonic() - start < 10


def test_sigterm_ends_under_load(store: Any, busy: Callable[[Any], None]) -> None:
    busy(store)
    os.kill(store.server.pid, signal.SIGTERM)
    assert store.server.process.wait(20) == 0


def test_freed_memory_is_given_back_under_load(
    shmfs_mount: Any, actor: MakeActor, busy: Callable[[Any], None]
) -> None:
    """The task that does it runs beside the requests."""
    mount = shmfs_mount(options="size=128m,pages=managed")
    one = actor(mount.path)
    one("fd = new('f'); [os.write(fd, b'x' * (1 << 20)) for _ in range(64)]")
    shared = f"/proc/{mount.server.pid}/status"

    def resident() -> int:
        return int(Path(shared).read_text().partition("RssShmem:")[2].split()[0])

    before = resident()
    busy(mount)
    one("os.unlink('f'); os.close(fd)")
    eventually(lambda: mount.statistics().used < 32 << 20)
    assert eventually(lambda: resident() < max(before // 2, 8 << 10), 60)


def test_an_idle_daemon_uses_no_processor(store: Any, actor: MakeActor) -> None:
    one = actor(store.path)
    one("[os.close(new(f'f{n}')) for n in range(200)]")

    def ticks() -> int:
        fields = Path(f"/proc/{store.server.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def ticks_of_a_second() -> int:
        before = ticks()
        time.sleep(1)
        return ticks() - before

    assert eventually(lambda: ticks_of_a_second() <= 2, 60)  # once it is done with what came before


# ---- clients that go away


def test_a_client_is_killed_while_it_waits(store: Any, actor: MakeActor) -> None:
    """FUSE_INTERRUPT comes for what has not been read yet, or behind it."""
    one = actor(store.path)
    one("os.close(new('f', b'content'))")
    for code in ("os.stat('missing{}')", "os.mkdir('d{}')", "open('f', 'r+b').write(b'c')"):
        waiting = [actor(store.path) for _ in range(4)]
        os.kill(store.server.pid, signal.SIGSTOP)
        try:
            for number, client in enumerate(waiting):
                client.order(code.format(number))
            time.sleep(0.2)
            assert not waiting[0].answers_within(0)
            for client in waiting[:2]:
                os.kill(client.pid, signal.SIGKILL)
            os.kill(waiting[2].pid, signal.SIGINT)
            time.sleep(0.1)
        finally:
            os.kill(store.server.pid, signal.SIGCONT)
        for client in waiting[:2]:
            assert client.process.wait(20) == -signal.SIGKILL
        waiting[3].answer()
    assert one("content('f'), os.stat('f').st_nlink") == (b"content", 1)
    assert one("[os.rmdir(n) for n in os.listdir('.') if n != 'f']; os.unlink('f')") is None
    eventually(lambda: store.statistics().inodes_used == 1)


def test_a_client_is_killed_during_long_work(shmfs_mount: Any, actor: MakeActor) -> None:
    """What is answered later is answered to nobody; the mount goes on."""
    mount = shmfs_mount(options="size=600m,reserve=prefault,pages=managed")
    one, two = actor(mount.path), actor(mount.path)
    two.order("fd = new('f'); os.ftruncate(fd, 400 << 20)")
    time.sleep(0.05)
    os.kill(two.pid, signal.SIGKILL)
    assert one("os.close(new('g', b'g')); content('g')") == b"g"
    assert two.process.wait(60) == -signal.SIGKILL
    assert one("os.stat('f').st_size, os.unlink('f'), os.unlink('g')")[0] in (0, 400 << 20)
    eventually(lambda: (mount.statistics().inodes_used, mount.statistics().used) == (1, 0))


def test_forgets_in_batches(store: Any, actor: MakeActor) -> None:
    """Thousands of inodes that the kernel forgets at once."""
    one = actor(store.path)
    one("os.mkdir('d')\nfor n in range(3000): os.close(new(f'd/f{n}', b'x'))")
    one("fds = [os.open(f'd/f{n}', os.O_RDONLY) for n in range(900)]")
    os.kill(store.server.pid, signal.SIGSTOP)
    try:
        os.kill(one.pid, signal.SIGKILL)  # all descriptors are closed: RELEASE without an answer
        time.sleep(0.2)
    finally:
        os.kill(store.server.pid, signal.SIGCONT)
    subprocess.run(["rm", "-r", "d"], cwd=store.path, check=True, timeout=60)
    eventually(lambda: (store.statistics().inodes_used, store.statistics().used) == (1, 0))


# ---- what goes wrong in the daemon


class Started:
    """A daemon whose code was changed before it began; `said` is what it wrote to its log."""

    def __init__(self, path: Path, options: str, server: launch.Server, log: Path) -> None:
        self.path, self.options, self.server, self.log = path, options, server, log

    @property
    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Started]]:
    """Starts daemons in which some lines of Python were run first."""
    servers: list[launch.Server] = []

    def start(code: str, options: str = "size=4m") -> Started:
        script = tmp_path / "python"
        (tmp_path / "changed.py").write_text(
            f"import sys\nfrom shmfs.daemon import serve\nfrom shmfs.fuse import lane, session\n{code}\n"
            "sys.exit(serve.main())\n"
        )
        script.write_text(f"#!/bin/sh\nexec {sys.executable} -P {tmp_path}/changed.py\n")
        script.chmod(0o755)
        monkeypatch.setattr(launch, "sys", SimpleNamespace(executable=str(script)))
        path, log = tmp_path / "shm", tmp_path / "log"
        path.mkdir()
        with log.open("wb") as stderr:
            server = launch.start(str(path), options, stderr=stderr)
        servers.append(server)
        return Started(path, options, server, log)

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("where", ["lane.Lane.getxattr", "lane.Operations.getxattr"])
def test_an_exception_is_one_requests_error(
    where: str, changed: Callable[..., Started], actor: MakeActor
) -> None:
    mount = changed(f"def broken(*args):\n    raise RuntimeError('on purpose')\n{where} = broken")
    one = actor(mount.path)
    assert one("fd = new('f', b'x'); tried(os.getxattr, 'f', 'user.x')") == "EIO"
    assert one("tried(os.getxattr, 'f', 'user.x'), content('f'), os.listdir('.')") == ("EIO", b"x", ["f"])
    assert mount.server.statistics().inodes_used == 2
    assert "on purpose" in mount.said


@pytest.mark.parametrize(
    ("answer", "told"), [("'text'", "EIO"), ("(b'x', 5)", "EIO"), ("1 / 0", "EIO"), ("95", "ENOTSUP")]
)
def test_an_answer_that_cannot_be_sent(
    answer: str, told: str, changed: Callable[..., Started], actor: MakeActor
) -> None:
    """The extension itself survives what its handler does."""
    mount = changed(
        f"call = lane.Lane.__call__\n"
        f"lane.Lane.__call__ = lambda self, *a: ({answer}) if a[0] == 22 else call(self, *a)"
    )
    one = actor(mount.path)
    assert one("fd = new('f', b'x'); tried(os.getxattr, 'f', 'user.x')") == told
    assert one("content('f'), os.listdir('.')") == (b"x", ["f"])


@pytest.mark.parametrize("answer", ["10000", "-5", "1 << 70", "b'x' * 5000", "(b'x',) * 40"])
def test_an_answer_that_the_kernel_refuses(
    answer: str, changed: Callable[..., Started], actor: MakeActor
) -> None:
    """The client is not left waiting."""
    mount = changed(
        f"call = lane.Lane.__call__\n"
        f"lane.Lane.__call__ = lambda self, *a: ({answer}) if a[0] == 22 else call(self, *a)"
    )
    one = actor(mount.path)
    one("os.close(os.open('f', os.O_CREAT))")
    one.order("tried(os.getxattr, 'f', 'user.x')")
    assert one.answers_within(10), "the client waits for ever"
    assert one.answer() in ("EIO", "EINVAL", "ERANGE")
    assert one("content('f'), os.listdir('.')") == (b"", ["f"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts fusectl")
def test_an_aborted_connection_ends_the_daemon(changed: Callable[..., Started], tmp_path: Path) -> None:
    mount = changed("")
    number = mount.server.device.partition(":")[2]
    script = f"mount -t fusectl fusectl {tmp_path}; echo 1 > {tmp_path}/{number}/abort"
    subprocess.run(["unshare", "-m", "sh", "-c", script], check=True)
    assert mount.server.process.wait(20) in (0, 1)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)


# ---- the native store refused, or the extension missing


@pytest.mark.skipif(os.geteuid() != 0, reason="/dev/fuse may be root's alone")
@pytest.mark.parametrize("pages", ["auto", "native", "native,huge=always", "managed"])
def test_passthrough_refused(pages: str, tmp_path: Path) -> None:
    """Root of a user namespace may mount FUSE, but not pass through."""
    code = f"""
from shmfs.errors import ShmfsError
from shmfs.client import launch
import os
try:
    server = launch.start({str(tmp_path)!r}, "size=1m,pages={pages}")
except ShmfsError as failure:
    print(failure)
else:
    with open({str(tmp_path / "f")!r}, "wb") as file:
        file.write(b"x")
    print(server.statistics().store, os.listdir({str(tmp_path)!r}))
    server.stop()
"""
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    if "unshare failed" in done.stderr:
        pytest.skip("needs user namespaces")
    if pages in ("auto", "managed"):
        assert (done.stdout, done.stderr) == ("managed ['f']\n", "")
    else:
        assert done.stdout.startswith("native pages cannot be had: Operation not permitted; mount with")
    assert not os.path.ismount(tmp_path)


def test_without_the_extension(shmfs_mount: Any, actor: MakeActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMFS_EXTENSION", "0")
    mount = shmfs_mount(options="size=1m")
    assert mount.statistics().store == "managed"
    assert "the C extension is missing: no fallocate" in "".join(mount.statistics().notes)
    one = actor(mount.path)
    assert one("fd = new('f', b'x'); tried(call, 'fallocate', fd, 0, 0, PAGE)") == "ENOTSUP"
    assert one("os.posix_fallocate(fd, 0, PAGE); content('f')[:2]") == b"x\0"
    for options in ("pages=native", "huge=always"):
        with pytest.raises(ShmfsError, match="native pages need the C extension, which is missing"):
            shmfs_mount(options=options)


def test_full_descriptor_table_and_control(shmfs_mount: Any, actor: MakeActor) -> None:
    """A daemon at its limit of descriptors goes on serving, and is asked again when it has some."""
    mount = shmfs_mount(options="size=1m")
    one = actor(mount.path)
    limit = resource.prlimit(mount.server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mount.server.pid, resource.RLIMIT_NOFILE, (4, limit[1]))
    assert one("os.mkdir('d'); os.listdir('.')") == ["d"]
    asked: Actor = actor("/")
    asked("import sys; from shmfs.client import control")
    asked.order(f"control.call({mount.server.device!r}, 'statistics')['inodes_used']")
    assert not asked.answers_within(0.5)
    resource.prlimit(mount.server.pid, resource.RLIMIT_NOFILE, limit)
    assert asked.answer() == 2
    assert one("os.rmdir('d')") is None
