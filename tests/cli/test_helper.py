"""mount(8) and fstab(5) through the mount helper, in a mount namespace where /usr/local/bin has a shmfs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from shmfs.cli import mount_helper

pytestmark = pytest.mark.mount

Script = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(directory: Path, tmp_path: Path) -> Script:
    """Run a shell script in a private mount namespace; $M is the mount point."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) needs root")
    if not Path("/sbin/mount.fuse").exists() or not shutil.which("unshare"):
        pytest.skip("mount.fuse (package fuse3) or unshare (util-linux) is missing")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "shmfs").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m shmfs "$@"\n')
    (binaries / "shmfs").chmod(0o755)
    where = str(directory).replace(" ", "\\040")
    (tmp_path / "fstab").write_text(
        f"shmfs {where} fuse.shmfs size=2m,mode=750,noauto,nofail,x-why=test 0 0\n"
    )
    environment = dict(os.environ) | {
        "M": str(directory),
        "BIN": str(binaries),
        "TAB": str(tmp_path / "fstab"),
    }

    def run(text: str) -> "subprocess.CompletedProcess[str]":
        text = 'mount --bind "$BIN" /usr/local/bin || exit 99\n' + text
        text += '\nstatus=$?; umount "$M" 2>/dev/null; exit $status'
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", text],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


BLOCKS = 'stat -f -c "%b %S" "$M"'


def test_mount8(script: Script) -> None:
    result = script(
        f'mount -t fuse.shmfs shmfs "$M" -o size=64m && {BLOCKS} && echo data >"$M/file" && umount "$M"'
    )
    assert (result.stdout, result.stderr, result.returncode) == ("16384 4096\n", "", 0)


def test_any_source(script: Script) -> None:
    result = script(
        f'mount -t fuse.shmfs "a source" "$M" -o ro,noexec,size=1m,user && {BLOCKS} && touch "$M/file"'
    )
    assert result.stdout == "256 4096\n"
    assert "Read-only" in result.stderr


def test_fstab(script: Script) -> None:
    result = script(
        f'mount -T "$TAB" "$M" && {BLOCKS} && stat -c %a "$M" && '
        f'mount -T "$TAB" -o remount,size=3m "$M" && {BLOCKS}'
    )
    assert (result.stdout, result.stderr, result.returncode) == ("512 4096\n750\n768 4096\n", "", 0)


def test_remount(script: Script) -> None:
    result = script(
        'mount -t fuse.shmfs shmfs "$M" -o size=1m,noexec && '
        f'mount -o remount,size=2m "$M" && {BLOCKS} && grep -c "$M.* rw,noexec," /proc/self/mounts;'
        f'mount -o remount,ro "$M" && {BLOCKS} && touch "$M/file"; '
        'mount -o remount,rw "$M" && touch "$M/file" && '
        'grep -c " rw,noexec," /proc/self/mounts'
    )
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Read-only" in result.stderr
    assert result.stdout.startswith("512 4096\n")
    assert result.stdout.endswith("512 4096\n1\n")
    assert result.returncode == 0


def test_remount_takes_flags_away(script: Script) -> None:
    """mount(8) hands on all that are to hold, and not those that take others away."""
    result = script(
        'mount -t fuse.shmfs shmfs "$M" -o size=1m,noexec,sync && '
        'mount -o remount,nodiratime "$M" && grep -o "rw,.*relatime" /proc/self/mounts | tail -n 1 && '
        'mount -o remount,exec,async,diratime "$M" && grep -o "rw,.*relatime" /proc/self/mounts | tail -n 1'
    )
    assert (result.stdout, result.stderr) == ("rw,sync,noexec,nodiratime,relatime\nrw,relatime\n", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('mount -t fuse.shmfs shmfs "$M" -o size=x', "bad value 'x' for option 'size'"),
        ('mount -t fuse.shmfs shmfs "$M" -o bogus', "unknown mount option 'bogus'"),
        ('mount -t fuse.shmfs shmfs "$M/missing"', "does not exist"),
        ('mount -t fuse.shmfs shmfs "$M" && mount -t fuse.shmfs shmfs "$M"', "is a shmfs mount already"),
        ('mount -t fuse.shmfs shmfs -o remount,size=1m "$M"', "is not a shmfs mount"),
        (
            'mount -t fuse.shmfs shmfs "$M" && mount -o remount,size=x "$M"',
            "bad value 'x' for option 'size'",
        ),
    ],
)
def test_failures(script: Script, command: str, words: str) -> None:
    result = script(command)
    assert result.returncode == 32
    assert result.stderr.startswith("shmfs: ")
    assert words in result.stderr


def test_as_mount_fuse_shmfs(script: Script) -> None:
    helper = f"{sys.executable} -P -c 'from shmfs.cli import mount_helper as m; m()'"
    result = script(f'{helper} shmfs "$M" -snv -t fuse.shmfs -o rw,size=1m && {BLOCKS}')
    assert (result.stdout, result.stderr) == ("256 4096\n", "")


def test_wrong_usage_and_no_mount(directory: Path) -> None:
    assert CliRunner().invoke(mount_helper, ["shmfs"]).exit_code == 1
    assert CliRunner().invoke(mount_helper, ["shmfs", str(directory), "-f"]).exit_code == 0
    assert CliRunner().invoke(mount_helper, ["shmfs", str(directory), "-f", "-o", "bogus"]).exit_code == 32
