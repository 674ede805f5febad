"""The command as PATH names it, before anything is started."""

from pathlib import Path

import pytest

from shmfs.errors import ShmfsError
from shmfs.sandbox import resolve


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with programs, and things that are none, in three places of PATH."""
    for name, mode in (
        ("bin/tool", 0o755),
        ("bin/plain", 0o644),
        ("bin/data", 0o644),
        ("later/tool", 0o755),
        ("later/plain", 0o755),
        ("here", 0o755),
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(mode)
    (tmp_path / "bin/folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"/nonexistent:{tmp_path}/bin/data:{tmp_path}/bin:later:")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tool", "{}/bin/tool"),
        ("plain", "later/plain"),
        ("here", "here"),
        ("./here", "./here"),
        ("later/tool", "later/tool"),
    ],
)
def test_found(room: Path, name: str, found: str) -> None:
    assert resolve([name, "argument"]) == found.format(room)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("missing", 127, "no such command in PATH"),
        ("", 127, "no such command in PATH"),
        ("./missing", 127, "no such file"),
        ("here/below", 127, "no such file"),
        ("data", 126, "permission denied"),
        ("folder", 126, "permission denied"),
        ("./bin", 126, "it is a directory"),
        ("bin/plain", 126, "permission denied"),
    ],
)
def test_refused(room: Path, name: str, status: int, words: str) -> None:
    with pytest.raises(ShmfsError, match=words) as caught:
        resolve([name])
    assert caught.value.status == status


def test_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    assert resolve(["sh"]).endswith("/sh")


def test_no_command() -> None:
    with pytest.raises(ShmfsError, match="no command") as caught:
        resolve([])
    assert caught.value.status == 2
