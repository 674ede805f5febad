"""`shmfs ps`, `map`, `rm` and `gc` on System V and shared anonymous memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.testing import PrivateMount
from tests.cli.conftest import Cli, eventually

pytestmark = pytest.mark.mount

HOLDER = f"""
import os, sys; sys.path.insert(0, {str(Path(__file__).parent.parent.parent)!r})
from tests.mount.sysv import *
os.chdir(sys.argv[1])
c = Client(".")
s = c.get(0x1234, 3 * 4096); c.get(0, 100); c.get(-1, 8192)
a = c.attach(s); a.memory[4096] = b"x"; b = c.attach(s)
fd = os.open(".shmfs", os.O_TMPFILE | os.O_RDWR, 0o600)
os.posix_fallocate(fd, 0, 8192)
d = Attach(fd, 8192); os.close(fd); d.memory[0] = b"x"
for name in ("named", "held"): open(name, "w").write("content")
os.mkdir("directory"); open("directory/file", "w").close()
print("ready", flush=True); sys.stdin.read()
"""


@pytest.fixture
def holder(shmfs: PrivateMount) -> "Iterator[subprocess.Popen[str]]":
    """A process with segments of all kinds: ids 0 (attached twice), 1 and 2."""
    if any("extension is missing" in note for note in shmfs.server.notes):
        pytest.skip("needs the C extension, for ioctl")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(shmfs.path)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate()


def listed(cli: Cli, shmfs: PrivateMount) -> dict[str, Any]:
    found = json.loads(cli("ps", "--json", shmfs.path).stdout)["segments"]
    return {one["path"]: one for one in found}


def test_ps_and_map(cli: Cli, shmfs: PrivateMount, holder: Any) -> None:
    found = listed(cli, shmfs)
    assert {path: (one["kind"], one["key"], one["id"], one["attaches"]) for path, one in found.items()} == {
        "/SYSV00001234 (id 0)": ("sysv", 0x1234, 0, 2),
        "/SYSV00000000 (id 1)": ("sysv", 0, 1, 0),
        "/SYSVffffffff (id 2)": ("sysv", -1, 2, 0),
        "/dev/zero": ("anon", None, None, 1),
        "/named": ("posix", None, None, 0),
        "/held": ("posix", None, None, 0),
        "/directory/file": ("posix", None, None, 0),
    }
    text = cli("ps", shmfs.path).stdout
    anonymous = found["/dev/zero"]["inode"]
    assert f"/dev/zero (inode {anonymous})" in text
    for option, number in (("--id", 0), ("--inode", anonymous)):
        shown = json.loads(cli("map", "--json", option, number, shmfs.path).stdout)
        assert [one["pid"] for one in shown["processes"]] == [holder.pid]
        assert [page["page"] for page in shown["pages"]] == ([1] if option == "--id" else [0])
    refused = cli("map", "--id", 99, shmfs.path)
    assert (refused.returncode, "no segment with id 99" in refused.stderr) == (1, True)


def test_rm(cli: Cli, shmfs: PrivateMount, holder: Any) -> None:
    removed = cli("rm", "--json", "--mount", shmfs.path, "-m", 0, "-M", "0xffffffff", shmfs.path / "named")
    assert json.loads(removed.stdout) == [
        *({"path": str(shmfs.path / "named")}, {"id": 0}, {"key": 0xFFFFFFFF})
    ]
    found = listed(cli, shmfs)
    assert set(found) == {
        *("/SYSV00001234 (id 0)", "/SYSV00000000 (id 1)"),
        *("/dev/zero", "/held", "/directory/file"),
    }
    assert (found["/SYSV00001234 (id 0)"]["nlink"], found["/SYSV00001234 (id 0)"]["attaches"]) == (0, 2)
    for wrong in (["-m", 2], ["-M", 7], ["-m", 1 << 40], ["-m", "x"], [shmfs.path / "named"], [__file__], []):
        refused = cli("rm", "--mount", shmfs.path, *wrong)
        assert refused.returncode in (1, 2)
        assert refused.stderr.startswith(("shmfs: ", "Usage: "))
        assert "Traceback" not in refused.stderr
    holder.kill()
    holder.wait()
    assert eventually(lambda: "/SYSV00001234 (id 0)" not in listed(cli, shmfs))


def test_gc(cli: Cli, shmfs: PrivateMount, holder: Any) -> None:
    assert json.loads(cli("gc", "--json", shmfs.path).stdout) == []
    with open(shmfs.path / "held"):
        holder.kill()
        holder.wait()
        expected = {"/SYSV00001234 (id 0)", "/SYSV00000000 (id 1)", "/SYSVffffffff (id 2)", "/named"}
        would = json.loads(eventually(lambda: _orphans(cli, shmfs, 4)))
        assert {one["path"] for one in would} == expected
        assert {one["uid"] for one in would} == {os.geteuid()}
        assert {one["created_by"]["pid"] for one in would} == {holder.pid}
        assert not any(one["removed"] for one in would)
        text = cli("gc", "-n", shmfs.path).stdout
        assert text.startswith(f"{shmfs.path}: 4 segments of 28 KiB would be removed\n")
        assert (shmfs.path / "named").exists()
        assert cli("gc", shmfs.path).stdout.startswith(f"{shmfs.path}: 4 segments of 28 KiB removed\n")
        assert sorted(os.listdir(shmfs.path)) == ["directory", "held"]
        assert set(listed(cli, shmfs)) == {"/held", "/directory/file"}


def _orphans(cli: Cli, shmfs: PrivateMount, number: int) -> str:
    said = cli("gc", "--json", "--dry-run", shmfs.path).stdout
    return said if len(json.loads(said)) == number else ""


@pytest.mark.parametrize("shmfs", ["size=64m,pages=managed"], indirect=True)
def test_gc_spares_what_is_mapped(cli: Cli, shmfs: PrivateMount) -> None:
    program = "import sys; open(sys.argv[1], 'wb').write(bytes(4096))"
    subprocess.run([sys.executable, "-c", program, str(shmfs.path / "mapped")], check=True)
    import mmap

    with open(shmfs.path / "mapped", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096)
    with memory:
        assert json.loads(cli("gc", "--json", shmfs.path).stdout) == []
    assert len(json.loads(cli("gc", "--json", shmfs.path).stdout)) == 1
