"""`shmfs ps` and `shmfs map`: what is mounted, what is on it, and who has which page."""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmfs.testing import PrivateMount
from tests.cli.conftest import Cli

pytestmark = pytest.mark.mount

MAPPER = """
import mmap, os, sys
path, size, stores, copies = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3]), eval(sys.argv[4])
descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(descriptor, size)
shared = mmap.mmap(descriptor, size)
private = mmap.mmap(descriptor, size, mmap.MAP_PRIVATE)
for page in stores: shared[page * 4096] = 1
for page in copies: private[page * 4096] = 2
print("ready", flush=True)
sys.stdin.read()
"""

Map = Callable[[Path, int, str, str], int]


@pytest.fixture
def mapper() -> Iterator[Map]:
    """Start a process that maps a file of `size` pages, stores to some and has its own copies of some."""
    processes: list[subprocess.Popen[str]] = []

    def start(path: Path, pages: int, stores: str, copies: str = "()") -> int:
        arguments = [str(path), str(pages * 4096), stores, copies]
        command = [sys.executable, "-S", "-c", MAPPER, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in processes:
        process.communicate()


@pytest.mark.parametrize("shmfs", ["size=64m,pages=managed"], indirect=True)
def test_ps_of_the_mounts(cli: Cli, shmfs: PrivateMount) -> None:
    (shmfs.path / "file").write_bytes(bytes(8192))
    text = cli("ps").stdout
    line = next(line for line in text.splitlines() if str(shmfs.path) in line)
    assert line.split()[1:] == [
        *(shmfs.server.device, str(shmfs.server.pid), "64", "MiB", "8", "KiB", "8", "KiB"),
        *("managed", "0", "size=64m,pages=managed"),
    ]
    mounts = json.loads(cli("ps", "--json").stdout)
    [mount] = [mount for mount in mounts if mount["mountpoint"] == str(shmfs.path)]
    assert mount == {
        "mountpoint": str(shmfs.path),
        "device": shmfs.server.device,
        "state": "serving",
        "sandbox": False,
        "pid": shmfs.server.pid,
        "size": 64 << 20,
        "used": 8192,
        "peak": 8192,
        "inodes": mount["inodes"],
        "inodes_used": 2,
        "readahead": 0,
        "store": "managed",
        "options": "size=64m,pages=managed",
        "notes": shmfs.server.notes,
        "stale": [],
        "reason": "",
        "log": "",
    }


@pytest.mark.parametrize("shmfs", ["size=64m,pages=managed"], indirect=True)
def test_ps_of_segments(cli: Cli, shmfs: PrivateMount, mapper: Map) -> None:
    pids = [mapper(shmfs.path / "seg", 8, "range(6)"), mapper(shmfs.path / "seg", 8, "range(4, 8)")]
    (shmfs.path / "gone").touch()
    (shmfs.path / "gone").unlink()
    found = json.loads(cli("ps", "--json", shmfs.path).stdout)
    assert found["pid"] == shmfs.server.pid
    [segment] = found["segments"]
    assert segment["path"] == "/seg"
    assert segment["resident"] == segment["page_ins"] == 8
    assert segment["created_by"]["pid"] == pids[0]
    assert sorted(one["process"]["pid"] for one in segment["mapped_by"]) == sorted(pids)
    assert segment["shared"] == 2

    for target in (shmfs.path, shmfs.path / "seg", shmfs.server.device):
        head, names, line = cli("ps", target).stdout.splitlines()
        assert head.startswith(f"{shmfs.path}: 32 KiB of 64 MiB, 1 segment, device {shmfs.server.device}, ")
        assert names.split()[:5] == ["SEGMENT", "KIND", "SIZE", "PAGES", "PAGE-INS"]
        assert line.split()[:6] == ["/seg", "posix", "32", "KiB", "8", "8"]
        assert line.split()[-1] == "2"
        assert all(f"python3 {pid}" in line or str(pid) in line for pid in pids)


def test_ps_of_what_is_gone(cli: Cli, shmfs: PrivateMount) -> None:
    (shmfs.path / "gone").touch()
    with open(shmfs.path / "held", "w"):
        (shmfs.path / "gone").unlink()
        (shmfs.path / "held").unlink()
        text = cli("ps", shmfs.path).stdout
        assert "/held (unlinked)" in text
        assert "/gone" not in text
        assert "/gone (ended)" in cli("ps", "--all", shmfs.path).stdout
        paths = [one["path"] for one in json.loads(cli("ps", "-a", "--json", shmfs.path).stdout)["segments"]]
        assert sorted(paths) == ["/gone", "/held"]


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_any_width_and_any_name(cli: Cli, shmfs: PrivateMount, mapper: Map, columns: int) -> None:
    name = "[bold]\x1b[2J\u202eevil\n"
    mapper(shmfs.path / name, 100, "range(0, 100, 7)", "(99,)")
    for command in (["ps"], ["ps", shmfs.path], ["map", shmfs.path / name], ["map", "-p", shmfs.path / name]):
        result = cli(*command, env={"COLUMNS": str(columns)})
        assert result.returncode == 0
        assert "\x1b" not in result.stdout
        assert "\u202e" not in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= columns
    text = cli("ps", shmfs.path, env={"COLUMNS": "40", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}).stdout
    assert text.isascii()
    assert "[bold]\\x1b[2J\\u202eevil\\n" in text


def test_map(cli: Cli, shmfs: PrivateMount, mapper: Map) -> None:
    path = shmfs.path / "seg"
    first, second = mapper(path, 8, "range(5)"), mapper(path, 8, "range(3, 7)", "(7,)")
    found = json.loads(cli("map", "--json", path).stdout)
    assert found["path"] == str(path)
    assert found["size"] == 8 * 4096
    assert {one["pid"]: (one["pages"], one["private"]) for one in found["processes"]} == {
        first: (5, 0),
        second: (4, 1),
    }
    assert found["shared"] == 2
    pages = {page["page"]: page["processes"] for page in found["pages"]}
    assert sorted(pages) == list(range(8))
    assert sorted(holder["pid"] for holder in pages[3]) == sorted([first, second])
    if os.geteuid() == 0:
        assert found["frames_visible"]
        assert len({holder["frame"] for holder in pages[3]}) == 1
        assert pages[3][0]["frame"] != pages[4][0]["frame"]

    lines = cli("map", path).stdout.splitlines()
    assert "2 processes, 2 shared" in lines[0]
    strips = {int(line.split()[1]): line.split()[2] for line in lines[1:3]}
    assert strips == {first: "▒▒▒██···", second: "···██▒▒c"}
    assert lines[3] == "█ shared  ▒ only here  c own copy  · not present  a cell is one page"
    listed = [line.split(maxsplit=2) for line in lines[6:]]
    assert [line[0] for line in listed] == list("01234567")
    assert all(str(first) in line[2] and str(second) in line[2] for line in listed[3:5])
    assert listed[7][2].rstrip().endswith(f"{second} (own copy)")

    text = cli("map", path, env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}).stdout
    assert "...##++c" in text


def test_map_of_many_pages(cli: Cli, shmfs: PrivateMount, mapper: Map) -> None:
    path = shmfs.path / "seg"
    first, second = mapper(path, 1000, "range(600)"), mapper(path, 1000, "range(500, 800)")
    lines = cli("map", path, env={"COLUMNS": "132"}).stdout.splitlines()
    assert len(lines) == 10
    strips = {line.split()[1]: line.split()[2] for line in lines[1:3]}
    per_cell = int(lines[4].partition("a cell is ")[2].split()[0])
    cells = -(-1000 // per_cell)
    assert {len(strip) for strip in strips.values()} == {cells}
    assert (
        strips[str(first)].count("█")
        == strips[str(second)].count("█")
        == pytest.approx(100 / per_cell, abs=1)
    )
    listed = [line.replace("\N{EN DASH}", "-").split()[:2] for line in lines[7:]]
    assert listed == [["0-499", "500"], ["500-599", "100"], ["600-799", "200"]]
    pages = cli("map", "--pages", path).stdout.splitlines()[7:]
    assert [int(line.split()[0]) for line in pages] == list(range(800))


def test_map_of_the_kernels_tmpfs(cli: Cli, tmp_path: Path, mapper: Map) -> None:
    path = Path("/dev/shm") / f"shmfs-test-{os.getpid()}"
    try:
        pid = mapper(path, 2, "(1,)")
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
            mapped[4096]
            found: dict[str, Any] = json.loads(cli("map", "--json", path).stdout)
        assert sorted(one["pid"] for one in found["processes"]) == sorted([pid, os.getpid()])
        assert [page["page"] for page in found["pages"] if len(page["processes"]) == 2] == [1]
    finally:
        path.unlink(missing_ok=True)


def test_map_of_what_nobody_maps(cli: Cli, shmfs: PrivateMount) -> None:
    (shmfs.path / "file").write_bytes(bytes(5000))
    (shmfs.path / "empty").touch()
    assert "4.88 KiB, 2 pages, mapped by 0 processes, 0 shared" in cli("map", shmfs.path / "file").stdout
    assert "0 B, 0 pages" in cli("map", shmfs.path / "empty").stdout
    assert json.loads(cli("map", "--json", shmfs.path / "empty").stdout)["pages"] == []
