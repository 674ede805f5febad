"""System V and shared anonymous memory on a mount, by processes that ask without the library."""

import os
from pathlib import Path
from typing import Any

import pytest

from shmfs.client import control
from tests.mount.conftest import eventually

pytestmark = pytest.mark.mount

ROOT = Path(__file__).parent.parent.parent
START = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.mount.sysv import *
c = Client(".")
def free():
    figures = os.statvfs(".")
    return figures.f_bfree, figures.f_ffree
"""


@pytest.fixture
def actor_on(actor: Any, shmfs: Any) -> Any:
    def make() -> Any:
        one = actor(shmfs.path)
        one(START + "None")
        return one

    return make


@pytest.fixture(autouse=True)
def needs_the_lane(shmfs: Any) -> None:
    if any("extension is missing" in note for note in shmfs.server.notes):
        pytest.skip("needs the C extension, for ioctl")


def test_attaches_are_counted(actor_on):
    one, two = actor_on(), actor_on()
    shmid = one("c.get(0x1234, 64 * 4096)")
    assert one(f"c.nattch({shmid})") == 0
    one(f"a = c.attach({shmid}); b = c.attach({shmid}); None")
    assert two(f"c.nattch({shmid})") == 2
    one("""
r, w = os.pipe()
child = os.fork()
if not child:
    os.close(w); os.read(r, 1); os._exit(0)
os.close(r)
""")
    assert two(f"c.nattch({shmid})") == 4
    one("os.close(w); os.waitpid(child, 0)[1]")
    assert two(f"c.nattch({shmid})") == 2
    two(f"a = c.attach({shmid}); None")
    assert one(f"c.nattch({shmid})") == 3
    two.kill()
    assert one(f"c.nattch({shmid})") == 2  # it was waited for
    one("a.unmap(10, 5)")
    assert one(f"c.nattch({shmid})") == 3  # a hole makes two of one
    one("a._libc.mprotect(b.address, 4096, 1)")
    assert one(f"c.nattch({shmid})") == 4
    one("a.unmap(); b.unmap()")
    assert one(f"c.nattch({shmid})") == 0
    # FUSE tells of the last unmap after munmap(2) has returned.
    eventually(lambda: one(f"t = c.ctl({shmid}, STAT); t.dtime >= t.ctime > 0"))


def test_exec_detaches(actor_on):
    one = actor_on()
    shmid = one("c.get(0, 4096)")
    said = one(f"""
a = c.attach({shmid})
r, w = os.pipe()
child = os.fork()
if not child:
    os.set_inheritable(r, True); os.close(w)
    os.execv("/bin/sh", ["sh", "-c", f"read x <&{{r}}"])
os.close(r)
import time
while open(f"/proc/{{child}}/comm").read() != "sh\\n": time.sleep(0.01)
n = c.nattch({shmid})
os.close(w); os.waitpid(child, 0)
n
""")
    assert said == 1


def test_vfork_lends_its_memory(actor_on):
    """A child of vfork has no address space of its own, as long as it has executed nothing."""
    one, two = actor_on(), actor_on()
    shmid = one("c.get(0, 4096)")
    one(f"a = c.attach({shmid}); os.mkfifo('fifo')")
    one.order("""
action = (os.POSIX_SPAWN_OPEN, 5, "fifo", os.O_WRONLY, 0)
os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=[action]), 0)[1]
""")
    eventually(lambda: _children(one.pid))
    assert two(f"c.nattch({shmid})") == 1
    two("os.close(os.open('fifo', os.O_RDONLY))")
    assert one.answer() == 0


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_removed_one_dies_with_its_last_mapping(actor_on, shmfs):
    one, two = actor_on(), actor_on()
    before = one("free()")
    shmid = one("c.get(0x1234, 64 * 4096)")
    assert one("free()") == (before[0] - 64, before[1] - 1)
    one(f"a = c.attach({shmid}); a.memory[0] = b'x'; None")
    two(f"a = c.attach({shmid}); None")
    one(f"c.ctl({shmid}, RMID); None")
    assert one(f"t = c.ctl({shmid}, STAT); [t.key, oct(t.mode), t.nattch]") == [0, "0o1600", 2]
    assert one("c.get(0x1234, 1, 0)") == "ENOENT"
    one("a.unmap()")
    assert two(f"b = c.attach({shmid}); [b.memory[0], c.nattch({shmid})]") == [b"x", 2]
    assert one("free()") == (before[0] - 64, before[1] - 1)
    two.kill()
    assert one(f"c.ctl({shmid}, STAT)") == "EINVAL"
    assert eventually(lambda: one("free()") == before)
    assert one(f"c.attach({shmid})") == "EINVAL"
    assert one("c.ctl(0, SHM_INFO).info") == (0, 0, 0, 0, 0)


def test_one_after_another(actor_on):
    """Made, attached, detached, removed: nothing is left to be seen by the next."""
    one = actor_on()
    before = one("free()")
    said = one("""
said = []
for i in range(100):
    s = c.get(7, 3 * 4096, CREAT | EXCL | 0o600)
    a = c.attach(s)
    a.memory[i % 4096] = b"y"
    a.unmap()
    c.ctl(s, RMID)
    said.append(tried(c.ctl, s, STAT))
set(said)
""")
    assert said == {"EINVAL"}
    assert eventually(lambda: one("free()") == before)


def test_content_outlives_its_processes(actor_on):
    one, two = actor_on(), actor_on()
    shmid = one("c.get(0x77, 5000)")
    one(f"a = c.attach({shmid}); a.memory[4999] = b'z'; None")
    one.kill()
    assert two("c.get(0x77, 0, 0)") == shmid
    assert two(f"a = c.attach({shmid}, os.O_RDONLY); [a.memory[4999], a.size]") == [b"z", 8192]


def test_large_ones(actor_on):
    """The charge of a large one may be left to a thread: then too it is there or it is not."""
    one = actor_on()
    before = one("free()")
    assert one("c.get(1, 65 << 20)") == "ENOMEM"
    assert one("c.get(1, 40 << 20)") == 0
    assert one("c.get(2, 40 << 20)") == "ENOMEM"
    assert one("c.get(2, 40 << 20, CREAT | NORESERVE | 0o600)") == 1
    assert one("c.get(1, 0, 0)") == 0
    assert one("open('f', 'wb').write(bytes(30 << 20))") in ("ENOSPC", 24 << 20)
    one("os.unlink('f'); c.ctl(0, RMID); c.ctl(1, RMID); None")
    assert eventually(lambda: one("free()") == before)
    assert one("c.get(3, 64 << 20)") == 2


def test_a_thread_that_has_no_room(actor_on, store):
    """What was free when it was asked and is not when it is charged."""
    one = actor_on()
    said = one("""
import threading
said = []
def make(key): said.append(tried(c.get, key, 40 << 20))
threads = [threading.Thread(target=make, args=(key,)) for key in (1, 2)]
[t.start() for t in threads]; [t.join() for t in threads]
sorted(map(str, said))
""")
    assert said[1] == "ENOMEM"
    assert said[0] in ("0", "1")
    assert one("sum(isinstance(tried(c.get, key, 0, 0), int) for key in (1, 2))") == 1


@pytest.mark.parametrize("store", ["managed"])
def test_requests_that_are_none(actor_on):
    one = actor_on()
    one("""
def raw(data, command=protocol.COMMAND, fd=None):
    return fcntl.ioctl(c.directory if fd is None else fd, command, bytearray(data))
good = protocol.Request.of(op=2, cmd=INFO).pack()
None
""")
    assert one("raw(good)") == 0
    assert one("raw((2).to_bytes(4, 'little') + good[4:])") == "EPROTO"
    assert [one(f"c.ask(op={op})") for op in (0, 4, 7, 0xFFFFFFFF)] == ["ENOTSUP"] * 4
    size = "(size << 16 | protocol.COMMAND & ~(0x3FFF << 16))"
    assert one(f"[tried(raw, bytes(size), {size}) for size in (0, 8, 135, 137, 4096)]") == ["ENOTTY"] * 5
    assert one("raw(good, fd=os.open('.', os.O_RDONLY))") == "ENOTTY"
    assert one("raw(good, fd=os.open('f', os.O_RDWR | os.O_CREAT))") == "ENOTTY"
    assert one("c.ask(op=6, cmd=3)[0]") == 0
    assert one("c.ask(op=3, id=99)") == "EINVAL"


def test_the_hidden_directory(actor_on):
    one = actor_on()
    assert one("c.get(5, 4096)") == 0
    name = ".shmfs/SYSV00000005.0"
    assert one("[os.listdir('.'), os.listdir('.shmfs'), os.stat('.').st_nlink]") == [[], [], 2]
    assert one(f"s = os.stat({name!r}); [s.st_size, oct(s.st_mode), s.st_nlink]") == [4096, "0o100600", 1]
    refused = [
        *("os.mkdir('.shmfs')", "os.rmdir('.shmfs')", "os.rename('.shmfs', 'x')", "os.chmod('.shmfs', 0)"),
        *("os.mkdir('.shmfs/x')", "open('.shmfs/x', 'w')", "os.symlink('a', '.shmfs/x')"),
        *(f"os.unlink({name!r})", f"os.rename({name!r}, 'x')", f"os.link({name!r}, 'x')"),
        *(f"os.truncate({name!r}, 0)", f"os.truncate({name!r}, 8192)", f"open({name!r}, 'w')"),
        *(f"os.chmod({name!r}, 0o777)", f"os.chown({name!r}, 1, 1)", f"os.setxattr({name!r}, 'user.a', b'')"),
        f"os.posix_fallocate(os.open({name!r}, os.O_RDWR), 0, 8192)",
        f"os.pwrite(os.open({name!r}, os.O_RDWR), b'x', 4096)",
        f"os.pwrite(os.open({name!r}, os.O_RDWR), bytes(8192), 0)",
    ]
    said = {order: one(order) for order in refused}
    assert said.pop("os.mkdir('.shmfs')") == "EEXIST"
    assert said == dict.fromkeys(said, "EPERM")
    assert one("os.stat('.shmfs/SYSV00000005.1')") == "ENOENT"
    assert one("[c.get(0, 1), os.stat('.shmfs/SYSV00000000.1').st_size]") == [1, 1]
    assert one("os.mkdir('d'); os.rmdir('d'); os.listdir('.')") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
def test_users(actor_on):
    """Creator and owner have the owner's rights; the kernel's check knows one of them."""
    one = actor_on()
    one("""
def by(who, function, *arguments, groups=()):
    return child(function, *arguments, uid=who, gid=who, groups=groups)
def use(shmid, flags=os.O_RDWR):
    c.attach(shmid, flags).unmap()
    return "attached"
None
""")
    shmid = one("by(1000, c.get, 9, 4096, CREAT | 0o640)")
    assert one(f"t = c.ctl({shmid}, STAT); [t.uid, t.gid, t.cuid, t.cgid]") == [1000] * 4
    assert one(f"[by(1000, use, {shmid}), by(2000, use, {shmid}), use({shmid})]") == [
        *("attached", "EACCES", "attached")
    ]
    assert one(f"by(2000, use, {shmid}, os.O_RDONLY, groups=(1000,))") == "attached"
    assert one(f"by(2000, use, {shmid}, groups=(1000,))") == "EACCES"
    assert one(f"[by(2000, c.nattch, {shmid}), by(2000, c.get, 9, 0, 0)]") == ["EACCES", 0]
    assert one(f"by(2000, lambda: c.ctl({shmid}, RMID) and None)") == "EPERM"
    change = f"c.ctl({shmid}, SET, uid=2000, gid=2000, mode=0o600) and None"
    assert one(f"by(3000, lambda: {change})") == "EPERM"
    assert one(f"by(1000, lambda: {change})") is None
    assert one(f"[by(who, use, {shmid}) for who in (1000, 2000, 3000)]") == ["attached", "attached", "EACCES"]
    assert one(f"by(3000, lambda: os.close(os.open('.shmfs/SYSV00000009.{shmid}', os.O_RDWR)))") == "EACCES"
    assert one(f"by(2000, lambda: c.ctl({shmid}, RMID) and None)") is None


def test_shared_anonymous_memory(actor_on, shmfs):
    one = actor_on()
    before = one("free()")
    one("""
fd = os.open(".shmfs", os.O_TMPFILE | os.O_RDWR, 0o600)
os.posix_fallocate(fd, 0, 8 * 4096)
a = Attach(fd, 8 * 4096)
os.close(fd)
None
""")
    assert one("free()") == (before[0] - 8, before[1] - 1)
    [segment] = [one for one in shmfs.segments() if not one.evicted]
    assert (segment.kind, segment.path, segment.nlink, segment.size) == ("anon", "/dev/zero", 0, 32768)
    said = one("""
pid = os.fork()
if not pid: a.memory[5] = b"q"; os._exit(0)
os.waitpid(pid, 0)
a.memory[5]
""")
    assert said == b"q"
    one("a.unmap()")
    assert eventually(lambda: one("free()") == before)


@pytest.mark.parametrize("options", ["size=8m,shmmni=3,shmmax=8192,shmall=5"])
def test_limits_and_their_remount(actor_on, shmfs):
    one = actor_on()
    assert one("c.get(0, 8193)") == "EINVAL"
    assert [one("c.get(0, 8192)") for _ in range(3)] == [0, 1, "ENOSPC"]
    assert one("c.get(0, 1)") == 2
    assert one("c.get(0, 1)") == "ENOSPC"
    control.call(shmfs.server.device, "remount", options="shmmni=10,shmall=6,shmmax=4096")
    assert [one("c.get(0, 1)") for _ in range(2)] == [3, "ENOSPC"]
    assert one("c.get(0, 4097)") == "EINVAL"
    assert one("c.ctl(0, INFO).info") == (4096, 1, 10, 10, 6)


@pytest.mark.parametrize("store", ["managed"])
@pytest.mark.parametrize("options", ["size=8m,shmmni=500"])
def test_as_many_as_there_may_be(actor_on):
    one = actor_on()
    assert one("[c.get(0, 1, 0o600 | NORESERVE) for _ in range(500)] == list(range(500))")
    assert one("c.get(0, 1)") == "ENOSPC"
    assert one("[c.ctl(0, INFO).id, c.ask(op=2, cmd=INFO)[0]]")[1] == 499
    one("[c.ctl(i, RMID) for i in range(500)]; None", 120)
    assert one("c.ctl(0, SHM_INFO).info") == (0, 0, 0, 0, 0)


def test_what_the_library_left_to_the_kernel_is_told(actor_on, shmfs):
    one = actor_on()
    one("c.ask(op=6, cmd=1) and None")
    assert any("MAP_HUGETLB" in note for note in shmfs.statistics().notes)


def test_counting_stalls_nobody(actor_on):
    """A count waits for the mmap_lock of a process that waits for a fault; others are served meanwhile."""
    one, two = actor_on(), actor_on()
    shmid = one("c.get(0, 1 << 20)")
    one(f"a = c.attach({shmid}); None")
    two.order(f"""
import threading
t = threading.Thread(target=lambda: [c.nattch({shmid}) for _ in range(10)]); t.start()
for i in range(60): open(f"f{{i}}", "w").close()
t.join()
len(os.listdir("."))
""")
    assert two.answer() == 60


def test_many_at_once(actor_on):
    """They make, find, attach and remove the same segments; nothing is left of them in the end."""
    several = [actor_on() for _ in range(4)]
    before = several[0]("free()")
    for one in several:
        one.order("""
said = set()
for i in range(60):
    s = tried(c.get, 1 + i % 3, 4096)
    a = tried(c.attach, s) if isinstance(s, int) else s
    said.add(tried(lambda: c.ctl(s, RMID) and None) if i % 2 else None)
    if isinstance(a, str):
        said.add(a)
    else:
        a.memory[0] = b"x"
        a.unmap()
said
""")
    said = set().union(*(one.answer(120) for one in several))
    assert said <= {None, "EINVAL", "ENOENT"}  # another removed it meanwhile
    several[0]("""
for key in (1, 2, 3):
    s = tried(c.get, key, 0, 0)
    if isinstance(s, int): c.ctl(s, RMID)
""")
    assert eventually(lambda: several[0]("free()") == before)
    assert several[0]("c.ctl(0, SHM_INFO).info[:2]") == (0, 0)
