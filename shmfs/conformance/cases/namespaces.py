"""Capabilities, user namespaces and idmapped mounts."""

import ast
import contextlib
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.access_lists import ACCESS, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl
from shmfs.conformance.mounting import unshare_mounts
from shmfs.conformance.tools import NeedsRootError, call, child, libc, mode, new, opened, tried
from shmfs.conformance.users import ALICE, BOB, bob, owner, shared_directory
from shmfs.system.namespaces import CLONE_NEWUSER

# ---- capabilities


def with_capabilities(bits: int, function: Callable[[], Any]) -> Any:
    """As BOB with some capabilities; see capset(2)."""

    def look() -> Any:
        libc.prctl(8, 1)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(BOB, BOB, BOB)
        os.setresuid(BOB, BOB, BOB)
        call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", bits, bits, 0, 0, 0, 0))
        return function()

    return child(look)


@case()
def each_capability_for_files(d: Path) -> Any:
    os.close(new("f", b"x", 0o600)), os.chown("f", ALICE, ALICE)
    os.mkdir("d", 0o700), os.close(new("d/f"))
    shared = "s"
    os.mkdir(shared), os.chmod(shared, 0o1777), os.close(new("s/f"))

    def look() -> Any:
        return [
            opened("f"),
            opened("f", os.O_RDONLY),
            tried(os.listdir, "d"),
            tried(os.chmod, "f", 0o600),
            tried(os.chown, "f", ALICE, ALICE),
            tried(os.utime, "f", (1, 2)),
            tried(os.rename, "s/f", "s/f"),
            tried(os.setxattr, "f", "trusted.x", b"1"),
        ]

    names = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "fsetid": 4, "sys_admin": 21}
    return {name: with_capabilities(1 << bit, look) for name, bit in names.items()} | {
        "none": with_capabilities(0, look)
    }


@case()
def mknod_takes_a_capability(d: Path) -> Any:
    shared_directory()

    def look() -> Any:
        return [
            tried(os.mknod, f"d/{kind:o}", kind | 0o600, os.makedev(1, 3))
            for kind in (0o20000, 0o60000, 0o10000, 0o140000, 0o100000)
        ]

    return [
        bob(look),
        with_capabilities(1 << 27, lambda: tried(os.mknod, "d/dev", 0o20600, os.makedev(1, 3))),
    ]


# ---- user namespaces


def in_namespace(function: Callable[[], Any], inside: int = 0, outside: int = ALICE, count: int = 1) -> Any:
    """In a user namespace, as its user `inside`, who is `outside` without; see user_namespaces(7)."""
    if os.geteuid() != 0:
        raise NeedsRootError("only root may map another user")
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        call("unshare", CLONE_NEWUSER)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os.setgroups([]), os.setresgid(inside, inside, inside), os.setresuid(inside, inside, inside)
        os.write(ready[1], repr(tried(function)).encode())
        os._exit(0)
    os.read(ready[0], 1)
    for name in ("gid_map", "uid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"{inside} {outside} {count}\n")
    os.write(go[1], b"x")
    os.close(ready[1])
    with os.fdopen(ready[0], "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return ast.literal_eval(said.decode())


@case()
def a_namespace_sees_its_own_ids(d: Path) -> Any:
    os.close(new("hers")), os.chown("hers", ALICE, ALICE), os.close(new("roots"))
    return in_namespace(lambda: [owner("hers"), owner("roots")])


@case()
def a_namespace_makes_files_of_the_user_without(d: Path) -> Any:
    shared_directory()
    inside = in_namespace(lambda: [os.close(new("d/f")), os.mkdir("d/dir"), owner("d/f")])
    return [inside, owner("d/f"), owner("d/dir")]


@case()
def root_of_a_namespace_over_files_of_its_own(d: Path) -> Any:
    os.close(new("hers", b"x", 0o000)), os.chown("hers", ALICE, ALICE), os.chmod("hers", 0)
    os.close(new("roots", b"x", 0o600))
    return in_namespace(
        lambda: [
            opened("hers"),
            opened("roots"),
            tried(os.chmod, "roots", 0o666),
            tried(os.chmod, "hers", 0o640),
        ]
    )


@case()
def chown_in_a_namespace(d: Path) -> Any:
    os.close(new("hers")), os.chown("hers", ALICE, ALICE)

    def look() -> Any:
        return [tried(os.chown, "hers", 5, 6), owner("hers"), tried(os.chown, "hers", 77, -1)]

    return [in_namespace(look, count=10), owner("hers")]


@case()
def mknod_and_trusted_attributes_in_a_namespace(d: Path) -> Any:
    shared_directory()
    return in_namespace(
        lambda: [
            tried(os.mknod, "d/dev", 0o20600, os.makedev(1, 3)),
            tried(os.mkfifo, "d/p"),
            tried(os.setxattr, "d", "trusted.x", b"1"),
            tried(os.setxattr, "d", "user.x", b"1"),
        ]
    )


@case()
def lists_in_a_namespace(d: Path) -> Any:
    os.close(new("hers")), os.chown("hers", ALICE, ALICE)
    value = acl((USER_OBJ, 6), (USER, 6, ALICE + 5), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0))
    os.setxattr("hers", ACCESS, value)
    raw = in_namespace(lambda: os.getxattr("hers", ACCESS), count=10)
    put = acl((USER_OBJ, 6), (USER, 4, 7), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0))
    answer = in_namespace(lambda: tried(os.setxattr, "hers", ACCESS, put), count=10)
    return [raw, answer, os.getxattr("hers", ACCESS)]


@case()
def setgid_in_a_namespace(d: Path) -> Any:
    os.close(new("hers")), os.chown("hers", ALICE, 77), os.chmod("hers", 0o644)
    return [in_namespace(lambda: tried(os.chmod, "hers", 0o2755)), mode("hers")]


# ---- idmapped mounts


@case(mounts=True)
def an_idmapped_mount(d: Path) -> Any:
    """An idmapped bind mount (MOUNT_ATTR_IDMAP)."""
    unshare_mounts()
    os.mkdir("a"), os.mkdir("b")
    os.close(new("a/f"))
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            call("unshare", CLONE_NEWUSER)
            os.write(told, b"x")
            signal.pause()
        os._exit(1)
    os.close(told)
    if not os.read(ready, 1):
        return {"answer": "no user namespace"}
    for which in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{which}").write_text("0 1000 10")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    tree = call("syscall", "open_tree", -100, "a", 1)
    attributes = struct.pack("QQQQ", 1 << 20, 0, 0, namespace)
    seen = {"answer": tried(call, "syscall", "mount_setattr", tree, "", 0x1000, attributes, 32), "owner": -1}
    if seen["answer"] == 0:
        call("syscall", "move_mount", tree, "", -100, "b", 4)
        seen["owner"] = os.stat("b/f").st_uid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return seen
