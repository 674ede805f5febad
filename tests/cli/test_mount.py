"""`shmfs mount` and `umount`: mounts in the background and in the foreground, and their ends."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shmfs.daemon import runtime
from shmfs.system import mounts
from tests.cli.conftest import SHMFS, Cli, alive, eventually

pytestmark = pytest.mark.mount


def listed(cli: Cli, directory: Path) -> dict[str, Any] | None:
    """What `shmfs ps --json` says of a mount."""
    result = cli("ps", "--json")
    assert result.returncode == 0, result.stderr
    return next((mount for mount in json.loads(result.stdout) if mount["mountpoint"] == str(directory)), None)


def kill_daemon(mount: dict[str, Any]) -> None:
    os.kill(mount["pid"], signal.SIGKILL)
    eventually(lambda: not alive(mount["pid"]))


def test_in_the_background(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    assert mounted["mountpoint"] == str(directory)
    assert mounted["device"] == mounts.find(str(directory)).device  # type: ignore[union-attr]
    assert os.statvfs(directory).f_blocks == 1024
    (directory / "file").write_text("data")
    assert listed(cli, directory)["pid"] == mounted["pid"]  # type: ignore[index]
    assert runtime.log_path(mounted["device"]).read_text() == ""

    result = cli("umount", "--json", directory)
    assert result.returncode == 0
    assert json.loads(result.stdout) == {key: mounted[key] for key in ("mountpoint", "device", "pid")}
    assert not alive(mounted["pid"])
    assert mounts.find(str(directory)) is None
    assert os.listdir(directory) == []


def test_silence_is_success(cli: Cli, directory: Path) -> None:
    for command in ("mount", "umount"):
        result = cli(command, directory)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_on_a_directory_with_files(cli: Cli, directory: Path) -> None:
    (directory / "below").touch()
    assert cli("mount", directory).returncode == 0
    assert os.listdir(directory) == []
    assert cli("umount", directory).returncode == 0
    assert os.listdir(directory) == ["below"]


def test_a_relative_link_to_the_directory(cli: Cli, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    assert cli("mount", "link/.", cwd=tmp_path).returncode == 0
    assert mounts.find(str(directory))
    assert cli("umount", f"../{tmp_path.name}/{directory.name}/", cwd=tmp_path).returncode == 0


def test_options_in_several_pieces(cli: Cli, directory: Path) -> None:
    assert cli("mount", "-o", "size=1m,mode=750", "-osize=2m", directory).returncode == 0
    assert os.statvfs(directory).f_blocks == 512
    assert os.stat(directory).st_mode & 0o7777 == 0o750
    assert listed(cli, directory)["options"] == "size=1m,mode=750,size=2m"  # type: ignore[index]
    assert cli("umount", directory).returncode == 0


def test_sigterm_unmounts(directory: Path, mounted: dict[str, Any]) -> None:
    os.kill(mounted["pid"], signal.SIGTERM)
    eventually(lambda: not alive(mounted["pid"]))
    assert mounts.find(str(directory)) is None


def test_umount8_ends_the_daemon(directory: Path, mounted: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        pytest.skip("umount(8) needs root")
    subprocess.run(["umount", str(directory)], check=True)
    eventually(lambda: not alive(mounted["pid"]))


def test_a_copy_in_another_namespace_is_told(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        pytest.skip("unshare(1) of mounts alone needs root")
    script = ["unshare", "-m", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(script, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout
            other.stdout.readline()
            result = cli("umount", directory)
            assert (result.returncode, result.stdout) == (0, "")
            start = f"shmfs: {directory} is unmounted here, but seen in another mount namespace by "
            assert result.stderr.startswith(start)
            assert f"sleep ({other.pid})" in result.stderr or " and others" in result.stderr
            assert alive(mounted["pid"])
            assert mounts.find(str(directory)) is None
        finally:
            other.kill()
    eventually(lambda: not alive(mounted["pid"]))


def test_a_busy_mount(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    with open(directory / "file", "w"):
        result = cli("umount", directory)
        assert result.returncode == 1
        assert (
            f"is busy: held by python3 ({os.getpid()})" in result.stderr
            or f"({os.getpid()})" in result.stderr
        )
        assert "end them and try again" in result.stderr
    assert alive(mounted["pid"])
    assert cli("umount", directory).returncode == 0


def test_a_dead_mount_is_recognised(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    kill_daemon(mounted)
    entry = listed(cli, directory)
    assert entry
    assert entry["state"] == "dead"
    assert entry["pid"] is None
    advice = f"`shmfs umount {directory}` clears it away"
    assert advice in entry["reason"]
    result = cli("ps")
    assert result.returncode == 0
    assert advice in result.stderr
    result = cli("ps", directory)
    assert result.returncode == 1
    assert advice in result.stderr
    result = cli("mount", "-o", "remount,size=1m", directory)
    assert result.returncode == 1
    assert advice in result.stderr
    result = cli("map", directory / "file")
    assert result.returncode == 1
    assert "shmfs umount" in result.stderr

    result = cli("umount", "--json", directory)
    assert result.returncode == 0
    assert json.loads(result.stdout)["pid"] is None
    assert mounts.find(str(directory)) is None


def test_a_stopped_daemon_is_told(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    os.kill(mounted["pid"], signal.SIGSTOP)
    try:
        for command in ("umount", "ps", "gc"):
            result = cli(command, directory)
            assert result.returncode == 1
            assert f"is stopped; continue it with `kill -CONT {mounted['pid']}`" in result.stderr
    finally:
        os.kill(mounted["pid"], signal.SIGCONT)
    assert cli("umount", directory).returncode == 0


def test_a_dead_mount_is_replaced(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    kill_daemon(mounted)
    result = cli("mount", directory)
    assert (result.returncode, result.stderr) == (0, "")
    assert [mount.mountpoint for mount in mounts.mounts()].count(str(directory)) == 1
    (directory / "file").write_text("data")
    assert cli("umount", directory).returncode == 0


def test_what_a_daemon_said_at_its_end_is_kept(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    os.kill(mounted["pid"], signal.SIGABRT)  # faulthandler tells where it was
    eventually(lambda: not alive(mounted["pid"]))
    entry = listed(cli, directory)
    assert entry
    assert "Fatal Python error: Aborted" in Path(entry["log"]).read_text()
    assert entry["log"] in cli("ps", directory).stderr
    assert cli("umount", directory).returncode == 0
    os.unlink(entry["log"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_the_foreground(directory: Path, number: signal.Signals) -> None:
    command = [*SHMFS, "mount", "--foreground", "--json", "-o", "size=1m", str(directory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout
        mount = json.loads(process.stdout.readline())
        assert os.statvfs(directory).f_blocks == 256
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (0, "", "")
    assert not alive(mount["pid"])
    assert mounts.find(str(directory)) is None


@pytest.mark.parametrize(
    ("victim", "number", "status"),
    [("daemon", signal.SIGTERM, 0), ("daemon", signal.SIGKILL, 1), ("ours", signal.SIGKILL, -9)],
)
def test_ends_of_the_foreground(directory: Path, victim: str, number: int, status: int) -> None:
    command = [*SHMFS, "mount", "-f", "--json", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        mount = json.loads(process.stdout.readline())
        os.kill(mount["pid"] if victim == "daemon" else process.pid, number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == status
    assert ("was killed by SIGKILL" in stderr) == (status == 1)
    eventually(lambda: not alive(mount["pid"]) and mounts.find(str(directory)) is None)


def test_remount(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    result = cli("mount", "--json", "-o", "remount,size=8m", directory)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["device"] == mounted["device"]
    assert os.statvfs(directory).f_blocks == 2048
    (directory / "file").write_bytes(bytes(1 << 20))
    for options, words in (
        ("size=64k", "are in use"),
        ("reserve=strict", "cannot be changed by a remount"),
        ("size=x", "bad value 'x' for option 'size'"),
    ):
        result = cli("mount", "-o", f"remount,{options}", directory)
        assert result.returncode != 0
        assert words in result.stderr
        assert os.statvfs(directory).f_blocks == 2048


def test_remount_to_what_the_vfs_does(cli: Cli, directory: Path, mounted: dict[str, Any]) -> None:
    if os.geteuid() != 0:
        pytest.skip("these need root")
    assert cli("mount", "-o", "remount,ro,noexec", directory).returncode == 0
    with pytest.raises(OSError, match="Read-only"):
        (directory / "file").touch()
    assert cli("mount", "-o", "remount,rw", directory).returncode == 0
    (directory / "file").touch()
    assert "noexec" in mounts.find(str(directory)).options.split(",")  # type: ignore[union-attr]
    assert os.statvfs(directory).f_blocks == 1024
