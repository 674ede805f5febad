"""What programs do to themselves, with the library preloaded: it must neither break them nor be broken."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.ipc.preloaded import PREAMBLE, compiled, environment, python, run, start

pytestmark = pytest.mark.mount

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(params=["managed", "native"])
def mount(request: pytest.FixtureRequest, shmfs_mount: Any) -> Any:
    """A mount with either store."""
    if request.param == "native" and os.geteuid() != 0:
        pytest.skip("native pages need root")
    return shmfs_mount(options=f"size=16m,pages={request.param}")


@pytest.fixture
def one(shmfs_mount: Any) -> Any:
    """A mount, whichever its store."""
    return shmfs_mount(options="size=16m")


def test_both_doors_lead_to_the_mount(mount: Any) -> None:
    said = python(
        mount.path,
        """
import mmap
one = doors.get(KEY, 8 * PAGE)
address = doors.at(one)
store(address + PAGE, b"segment")
nameless = mmap.mmap(-1, 5 * PAGE)
nameless[:4] = b"anon"
print(one, load(address + PAGE, 7), nameless[:4], flush=True)
doors.remove(one)
""",
    )
    assert said.split("\n")[0].endswith("b'segment' b'anon'")
    paths = {segment.path.split(" ")[0]: segment for segment in mount.segments()}
    assert {"/SYSV000005ec", "/dev/zero"} <= paths.keys()
    assert (paths["/SYSV000005ec"].size, paths["/dev/zero"].size) == (8 * 4096, 5 * 4096)


def test_the_whole_of_a_nameless_mapping_is_charged_at_once(mount: Any) -> None:
    said = python(
        mount.path,
        f"""
def used(): s = os.statvfs({str(mount.path)!r}); return s.f_blocks - s.f_bfree
before = used()
address = anonymous(100)
whole = used() - before
sparse = doors.map(100 * PAGE, READ | WRITE, SHARED | 0x20 | 0x4000)
nothing = used() - before - whole
print(whole, nothing, tried(anonymous, 5000), tried(doors.get, 0, 5000 * PAGE))
call("munmap", address, 50 * PAGE)
print(used() - before - nothing)
call("munmap", address + 50 * PAGE, 50 * PAGE)
print(eventually(lambda: used() - before, 0))
""",
    )
    assert said.split("\n")[:3] == ["100 0 ENOMEM ENOMEM", "100", "0"]


def test_pages_come_back_with_the_last_mapping_of_a_removed_segment(mount: Any) -> None:
    said = python(
        mount.path,
        f"""
def free(): return os.statvfs({str(mount.path)!r}).f_bfree
before = free()
one = doors.get(KEY, 100 * PAGE)
address = doors.at(one)
pid = os.fork()
if pid == 0:
    time.sleep(100)
doors.remove(one), doors.dt(address)
print(before - free(), doors.nattch(one))
os.kill(pid, 9), os.waitpid(pid, 0)
print(eventually(free, before) == before, gone(doors, one))
""",
    )
    assert said == "100 1\nTrue EINVAL\n"


def test_descriptors_are_closed_and_taken(mount: Any) -> None:
    said = python(
        mount.path,
        """
one = doors.get(KEY, PAGE)
print(min(ours()) > 100, len(ours()), os.get_inheritable(ours()[0]))
os.closerange(3, 5000)
address = doors.at(one)
number = ours()[0]
os.closerange(3, 5000)
reader, writer = os.pipe()
os.dup2(writer, number)
print(doors.nattch(one), doors.dt(address), doors.get(KEY, 0) == one)
os.write(number, b"still a pipe")
print(os.read(reader, 100))
print([doors.dt(doors.at(one)) for _ in range(3)], len(ours()), doors.remove(one))
""",
    )
    assert said == "True 1 False\n1 0 True\nb'still a pipe'\n[0, 0, 0] 1 0\n"


def test_no_descriptor_is_left(mount: Any) -> None:
    said = python(
        mount.path,
        """
one = doors.get(KEY, PAGE)
taken = []
while isinstance(fd := tried(os.open, "/dev/null", os.O_RDONLY), int):
    taken.append(fd)
address = doors.at(one)
store(address, b"full")
print(fd, load(address, 4), load(anonymous()), doors.dt(address) if False else "", len(ours()))
os.close(taken[0]), os.close(taken[1])
print(doors.dt(address), doors.nattch(one), doors.remove(one))
""",
    )
    assert said == "EMFILE b'full' b'\\x00'  0\n0 0 0\n"


def test_children_of_every_kind(mount: Any) -> None:
    said = python(
        mount.path,
        """
import subprocess
one = doors.get(KEY, PAGE)
address = doors.at(one)
program = [sys.executable, "-c", '''
import ctypes, sys
from shmfs.conformance.doors import *
doors = Doors(ctypes.CDLL(None, use_errno=True))
one = doors.get(0x5EC, 0, 0)
address = doors.at(one)
print(ctypes.string_at(address, 3).decode(), doors.nattch(one), flush=True)
''']
store(address, b"one")
subprocess.run(program, close_fds=True, check=True)  # vfork
store(address, b"two")
os.waitpid(os.posix_spawn(sys.executable, program, os.environ), 0)
store(address, b"tri")
if (pid := os.fork()) == 0:
    os.execv(sys.executable, program)
os.waitpid(pid, 0)
print(doors.nattch(one), doors.dt(address), doors.nattch(one), doors.remove(one))
""",
    )
    assert said == "one 2\ntwo 2\ntri 2\n1 0 0 0\n"


VFORK = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int id;
int main(void)
{
    struct shmid_ds status;
    pid_t pid = vfork(); /* the first use is the child's, whose descriptors are not its parent's */
    if (pid == 0) {
        id = shmget(IPC_PRIVATE, 4096, 0600);
        char *address = shmat(id, NULL, 0);
        strcpy(address, "child");
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    char *address = shmat(id, NULL, 0);
    shmctl(id, IPC_STAT, &status);
    printf("%s %lu", address, status.shm_nattch); /* the child has attached it in the memory of both */
    shmctl(id, IPC_RMID, NULL);
    puts("");
}
"""


def test_vfork(one: Any, tmp_path: Path) -> None:
    assert run(one.path, compiled(tmp_path, VFORK)) == "child 2\n"


HANDLER = r"""
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/time.h>
static volatile sig_atomic_t bad, count;
static int one;
static const struct itimerval soon = {{0, 0}, {0, 300}};
static void use(void)
{
    int id = shmget(IPC_PRIVATE, 4096, 0600);
    char *address = shmat(id, NULL, 0), *other = shmat(one, NULL, 0);
    char *nameless = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (id < 0 || address == (char *)-1 || other == (char *)-1 || nameless == MAP_FAILED) {
        bad++;
        return;
    }
    address[0] = other[0] = nameless[0] = 1;
    bad += shmdt(address) || shmdt(other) || munmap(nameless, 4096) || shmctl(id, IPC_RMID, NULL);
}
static void handler(int number)
{
    int before = errno;
    errno = 0;
    use();
    bad += errno != 0; /* nothing failed */
    errno = before;
    count++;
    setitimer(ITIMER_REAL, &soon, NULL);
}
int main(void)
{
    one = shmget(IPC_PRIVATE, 4096, 0600);
    signal(SIGALRM, handler);
    setitimer(ITIMER_REAL, &soon, NULL);
    for (int i = 0; i < 40 || count < 20; i++)
        use();
    signal(SIGALRM, SIG_IGN);
    shmctl(one, IPC_RMID, NULL);
    printf("%d\n", bad);
}
"""


def test_in_signal_handlers(mount: Any, tmp_path: Path) -> None:
    assert run(mount.path, compiled(tmp_path, HANDLER)) == "0\n"


EARLY = r"""
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>
static char *early;
static int id;
static void first(void)
{
    early = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(early, "early");
    id = shmget(IPC_PRIVATE, 4096, 0600);
}
__attribute__((section(".preinit_array"), used)) static void (*preinit)(void) = first;
int main(void)
{
    printf("%s %s\n", early, shmat(id, NULL, 0) == (void *)-1 ? "lost" : "attached");
    shmctl(id, IPC_RMID, NULL);
}
"""


def test_before_any_constructor(one: Any, tmp_path: Path) -> None:
    assert run(one.path, compiled(tmp_path, EARLY)) == "early attached\n"


NAMELESS = r"""
#include <stdio.h>
#include <sys/mman.h>
int main(void)
{
    char *address = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    address[0] = 'o', address[1] = 'k';
    puts(address);
}
"""


@pytest.mark.parametrize("sanitizer", ["address", "thread", "undefined"])
def test_sanitizers(sanitizer: str, one: Any, tmp_path: Path) -> None:
    program = compiled(tmp_path, NAMELESS, f"-fsanitize={sanitizer}")
    plain = subprocess.run([program], capture_output=True, check=False)
    if plain.returncode:
        pytest.skip("it does not run here at all")
    assert run(one.path, program) == "ok\n"
    assert [segment.size for segment in one.segments() if segment.path == "/dev/zero"] == [8192]


def test_a_static_program_has_the_kernel_s(one: Any, tmp_path: Path) -> None:
    assert run(one.path, compiled(tmp_path, NAMELESS, "-static")) == "ok\n"
    assert not one.segments()


@root_only
def test_a_set_uid_program_has_the_kernel_s(one: Any, tmp_path: Path) -> None:
    program = compiled(tmp_path, NAMELESS)
    private = Path("/tmp") / f"shmfs-test-{os.getpid()}"
    shutil.copy(program, private)
    try:
        os.chmod(private, 0o4755)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(private)]
        assert run(one.path, *command) == "ok\n"
    finally:
        private.unlink()
    assert not one.segments()


@root_only
def test_another_root_directory(one: Any) -> None:
    """Where the mount is out of sight all is the kernel's; what was reached before stays so."""
    said = python(
        one.path,
        """
import tempfile
one = doors.get(KEY, PAGE)
def elsewhere():
    os.chroot(empty)
    address = doors.at(one)
    store(address, b"inside")
    nameless = anonymous()
    store(nameless, b"kernel")
    return [doors.get(KEY, 0) == one, doors.nattch(one), load(nameless, 6), tried(doors.dt, address)]
with tempfile.TemporaryDirectory() as empty:
    print(child(elsewhere))
address = doors.at(one)
print(load(address, 6), doors.remove(one))
""",
    )
    # There is no /proc to be seen, so nobody knows what is attached where.
    assert said == "[True, 1, b'kernel', 'EINVAL']\nb'inside' 0\n"


@root_only
def test_another_user_and_another_mount_namespace(one: Any) -> None:
    said = python(
        one.path,
        f"""
import subprocess
one = doors.get(KEY, PAGE, CREAT | 0o600)
two = doors.get(KEY + 1, PAGE, CREAT | 0o666)
def nobody():
    return [tried(doors.at, one), doors.dt(doors.at(two)), load(anonymous()), tried(doors.remove, two)]
print(unprivileged(nobody))
def apart():
    call("unshare", 0x20000)
    call("mount", "none", "/", 0, 0x44000, 0)
    call("umount2", {str(one.path)!r}, 2)
    return [doors.get(KEY, 0) == one, doors.dt(doors.at(one)), load(anonymous())]
print(child(apart), doors.remove(one), doors.remove(two))
""",
    )
    assert said == "['EACCES', 0, b'\\x00', 'EPERM']\n[True, 0, b'\\x00'] 0 0\n"


@pytest.mark.parametrize(
    ("doors", "expected"), [(("sysv",), "/SYSV000005ec"), (("anon",), "/dev/zero")], ids=["sysv", "anon"]
)
@root_only
def test_one_door_alone(doors: tuple[str, ...], expected: str, one: Any) -> None:
    program = "anonymous(), doors.get(KEY, PAGE)\n"
    python(one.path, program, doors=doors, **_private())
    assert [segment.path.split(" ")[0] for segment in one.segments()] == [expected]


def _private() -> dict[str, Any]:
    """Options of Popen by which what the kernel keeps is gone afterwards."""
    import ctypes

    return {"preexec_fn": lambda: ctypes.CDLL(None).unshare(0x08000000)}


def test_the_daemon_is_killed(mount: Any) -> None:
    program = """
one = doors.get(KEY, PAGE)
address = doors.at(one)
store(address, b"kept")
print("ready", flush=True)
sys.stdin.readline()
seen = [tried(doors.get, KEY + 1, PAGE), *(tried(use, one) for use in (doors.at, doors.stat, doors.remove))]
nameless = anonymous()
store(nameless, b"kernel")
print(seen, load(nameless, 6), load(address, 4), tried(doors.dt, address), tried(doors.dt, address))
"""
    process = start(mount.path, sys.executable, "-c", PREAMBLE + program)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    mount.server.process.kill()
    mount.server.process.wait(30)
    said, _ = process.communicate("\n", timeout=60)
    gone = ["ENOSYS", "EIDRM", "EIDRM", "EIDRM"]
    assert said == f"{gone} b'kernel' b'kept' 0 EINVAL\n"
    # A program that starts now finds a dead mount: nothing of the kernel's is taken for a segment of shmfs.
    said = python(mount.path, "print(tried(doors.get, KEY, PAGE), tried(doors.at, 0), load(anonymous()))")
    assert said == "ENOSYS EIDRM b'\\x00'\n"


@root_only
def test_no_mount_at_all(tmp_path: Path) -> None:
    said = python(
        tmp_path,
        """
one = doors.get(KEY, PAGE)
address = doors.at(one)
print(doors.nattch(one), doors.dt(address), doors.remove(one), load(anonymous()), maps(".shmfs"), ours())
""",
        env={"SHMFS_PRELOAD_DEBUG": "1"},
        **_private(),
    )
    assert said == "shmfs: left to the kernel, reason 5\n1 0 0 b'\\x00' 0 []\n"


def test_what_is_left_to_the_kernel_is_told_once(mount: Any) -> None:
    program = """
import resource
for _ in range(3):
    tried(doors.map, 1 << 21, READ | WRITE, SHARED | 0x20 | 0x40000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for _ in range(3):
    anonymous()
"""
    said = python(mount.path, program, env={"SHMFS_PRELOAD_DEBUG": "1"})
    assert said == "shmfs: left to the kernel, reason 1\nshmfs: left to the kernel, reason 2\n"
    notes = [note for note in mount.statistics().notes if "left to the kernel" in note]
    assert [("MAP_HUGETLB" in note, "RLIMIT_FSIZE" in note) for note in notes] == [
        (True, False),
        (False, True),
    ]


def test_many_threads_that_close_what_is_ours(one: Any) -> None:
    said = python(
        one.path,
        """
import threading
one = doors.get(KEY, PAGE)
bad = []
def work():
    for _ in range(100):
        try:
            doors.dt(doors.at(one))
        except OSError as failure:
            bad.append(failure)
team = [threading.Thread(target=work) for _ in range(4)]
for thread in team: thread.start()
print([bool(thread.join()) for thread in team], bad, doors.nattch(one), len(ours()), doors.remove(one))
""",
    )
    assert said == "[False, False, False, False] [] 0 1 0\n"


def test_a_stop_of_the_daemon_is_waited_for(one: Any) -> None:
    """As with any file system: nothing fails, and all goes on when it does."""
    process = start(
        one.path,
        sys.executable,
        "-c",
        PREAMBLE
        + "print('ready', flush=True); sys.stdin.readline(); print(doors.remove(doors.get(KEY, PAGE)))",
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    os.kill(one.server.pid, signal.SIGSTOP)
    try:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
    finally:
        os.kill(one.server.pid, signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "0\n"


def test_the_daemon_s_own_programs_do_not_wait_for_themselves(one: Any) -> None:
    """`shmfs` from a shell that `shmfs env` has set up."""
    command = [sys.executable, "-P", "-m", "shmfs", "ps", str(one.path)]
    done = subprocess.run(command, env=environment(one.path), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
