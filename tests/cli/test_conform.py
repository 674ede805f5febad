"""`shmfs conform`: exit statuses, what is printed, nothing left behind."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shmfs.system import mounts
from tests.cli.conftest import Cli

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs of the kernel")


def test_wrong_usage(cli: Cli, tmp_path: Path) -> None:
    for arguments, words in (
        (["--against", tmp_path], "--against takes a DIR"),
        (["-o", "size=1m", tmp_path], "-o is for the mounts"),
        (["-k", "no such case"], "no case has 'no such case' in its name"),
        (["-o", "bogus"], "unknown mount option 'bogus'"),
    ):
        result = cli("conform", *arguments)
        assert (result.returncode, words in result.stderr) == (2, True), result.stderr
    result = cli("conform", "-k", "many", tmp_path / "missing")
    assert result.returncode == 1
    assert "missing cannot be used: No such file or directory" in result.stderr


def test_two_directories_that_agree(cli: Cli, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    result = cli("conform", "-k", "sharing.over_fork", "-k", "accounting.statfs", "--against", one, other)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0].split() == [
        "SECTION",
        "CASES",
        "AGREE",
        "KNOWN",
        "DIFFER",
        "NOT",
        "RUN",
    ]
    assert "needs an empty mount with the options of the case" in result.stdout
    assert result.stdout.endswith(f"1 case run, all as on {one}; 5 not run\n")
    assert not [*one.iterdir(), *other.iterdir()]


@pytest.mark.mount
@needs_root
@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_mount_of_its_own(cli: Cli, columns: str) -> None:
    result = cli(
        "conform",
        "-o",
        "pages=managed",
        "-k",
        "of_first_stores",
        "-k",
        "sharing.over_fork",
        env={"COLUMNS": columns},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert max(map(len, result.stdout.splitlines())) <= int(columns)
    text = " ".join(result.stdout.split())
    assert "known differences mtime after a store through a mapping changes at write-back: a store" in text
    assert text.endswith("2 cases run, all as on tmpfs, 1 but for known differences")
    assert not [one for one in mounts.shmfs_mounts() if "shmfs-conform" in one.mountpoint]


@pytest.mark.mount
@needs_root
def test_a_mount_of_the_user(cli: Cli, mounted: dict[str, Any]) -> None:
    """With the options that a case takes it is run as well, if the mount is empty."""
    result = cli("conform", "--json", "-k", "locks.polling", "-k", "accounting.statfs", mounted["mountpoint"])
    found = json.loads(result.stdout)
    assert found["store"] in ("managed", "native", "no extension")
    states = {one["name"]: (one["state"], one["note"]) for one in found["outcomes"]}
    assert states["locks.polling"] == ("not run", "needs 16 MiB that are free")
    assert states["accounting.statfs"] == ("not run", "needs an empty mount with the options of the case")
    assert found["total"] == {
        "section": "all", "cases": 6, "agree": 0, "known": 0, "differ": 0, "not_run": 6
    }  # fmt: skip
    assert not list(Path(mounted["mountpoint"]).iterdir())


@pytest.mark.mount
@needs_root
def test_a_difference_is_shown(cli: Cli, directory: Path) -> None:
    """Of a mount with other options than those it is compared with."""
    (directory / "one").mkdir()
    (directory / "other").mkdir()
    for name, options in (("one", "size=20m"), ("other", "size=20m,noexec")):
        assert cli("mount", "-o", options, directory / name).returncode == 0
    try:
        result = cli(
            "conform",
            "-k",
            "mapping.a_program_is_executed",
            "--against",
            directory / "one",
            directory / "other",
        )
    finally:
        cli("umount", directory / "one"), cli("umount", directory / "other")
    assert result.returncode == 1
    assert "\nmapping.a_program_is_executed\n" in result.stdout
    assert f"    {directory}/other: " in result.stdout
    assert result.stdout.endswith(f"1 of 1 case differ from {directory}/one\n")
