"""Offsets in the structures of the kernel, and files that are no description of them."""

import contextlib
import os
import struct
from pathlib import Path

import pytest

from shmfs.tracing import btf

needs_btf = pytest.mark.skipif(not os.path.exists(btf.VMLINUX), reason="the kernel has no BTF")

NAMES = b"\0task\0pid\0flags\0other\0"
TASK, PID, FLAGS, OTHER = (
    NAMES.index(b"\0" + name + b"\0") + 1 for name in (b"task", b"pid", b"flags", b"other")
)


def member(name: int, bits: int) -> bytes:
    return struct.pack("<III", name, 1, bits)


def structure(name: int, *members: bytes, kind: int = 4, flag: int = 0) -> bytes:
    return struct.pack("<III", name, flag << 31 | kind << 24 | len(members), 64) + b"".join(members)


def described(types: bytes, magic: int = 0xEB9F) -> bytes:
    return struct.pack("<HBBIIIII", magic, 1, 0, 24, 0, len(types), len(types), len(NAMES)) + types + NAMES


def offset(path: Path, content: bytes, *names: str) -> int:
    path.write_bytes(content)
    with contextlib.closing(btf.Types(str(path))) as types:
        return types.offset(*names)


def test_offsets(tmp_path: Path) -> None:
    types = structure(OTHER, member(PID, 64)) + structure(TASK, member(FLAGS, 0), member(PID, 800))
    assert offset(tmp_path / "x", described(types), "task", "pid") == 100
    assert offset(tmp_path / "x", described(types), "other", "pid") == 8


def test_a_structure_with_bit_fields(tmp_path: Path) -> None:
    types = structure(TASK, member(FLAGS, 3 << 24 | 5), member(PID, 32 << 24 | 160), flag=1)
    assert offset(tmp_path / "x", described(types), "task", "pid") == 20


def test_what_only_looks_like_it_is_left_out(tmp_path: Path) -> None:
    """A forward declaration, a member and a size that are the same number as the name."""
    others = structure(TASK, kind=7) + structure(OTHER, member(TASK, 0), member(TASK, TASK))
    types = others + structure(TASK, member(PID, 80))
    assert offset(tmp_path / "x", described(types), "task", "pid") == 10


@pytest.mark.parametrize("names", [("task", "other"), ("nothing", "pid"), ("task", "nothing")])
def test_what_is_not_there(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(KeyError):
        offset(tmp_path / "x", described(structure(TASK, member(PID, 80))), *names)


@pytest.mark.parametrize("content", [b"", b"short", described(b"", magic=0x9FEB)])
def test_what_is_no_description(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(OSError, match=r"too short|no BTF"):
        offset(tmp_path / "x", content, "task", "pid")


@needs_btf
def test_the_running_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by mapping and by reading, and as C has it: list_head is two pointers."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError

    with contextlib.closing(btf.Types()) as types:
        assert (types.offset("list_head", "next"), types.offset("list_head", "prev")) == (
            0,
            struct.calcsize("P"),
        )
        mapped = types.offset("task_struct", "files")
    monkeypatch.setattr(btf.mmap, "mmap", refuse)
    monkeypatch.setattr(btf.Types, "close", lambda self: None)
    assert btf.Types().offset("task_struct", "files") == mapped
