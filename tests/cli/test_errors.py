"""Bad input: a sentence on standard error, the exit status, and nothing mounted."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from shmfs import __version__
from shmfs.cli import main
from shmfs.cli.record import _tell
from shmfs.system import mounts
from tests.cli.conftest import SHMFS, Cli
from tests.record.recording import Recording

BAD_OPTIONS = [
    ("bogus", "unknown mount option 'bogus'"),
    ("bogus=1", "unknown mount option 'bogus'"),
    ("Size=1m", "unknown mount option 'Size'"),
    ("user_id=0", "unknown mount option 'user_id'"),
    ("size", "option 'size' needs a value"),
    ("size=", "option 'size' needs a value"),
    ("size=-1", "bad value '-1' for option 'size'"),
    ("size=1.5m", "bad value '1.5m' for option 'size'"),
    ("size=1mb", "bad value '1mb' for option 'size'"),
    ("size=x%", "bad value 'x%' for option 'size'"),
    ("size=9e", "value '9e' for option 'size' is larger"),
    ("nr_blocks=10%", "bad value '10%' for option 'nr_blocks'"),
    ("nr_inodes=many", "bad value 'many' for option 'nr_inodes'"),
    ("mode=789", "bad value '789' for option 'mode'"),
    ("mode=rwx", "bad value 'rwx' for option 'mode'"),
    ("mode=17777", "bad value '17777' for option 'mode'"),
    ("uid=root", "bad value 'root' for option 'uid'"),
    ("gid=-1", "bad value '-1' for option 'gid'"),
    ("inode64=1", "option 'inode64' takes no value"),
    ("reserve=perhaps", "bad value 'perhaps' for option 'reserve'"),
    ("readahead=1000", "bad value '1000' for option 'readahead'"),
    ("readahead=-1", "bad value '-1' for option 'readahead'"),
    ("huge=always,pages=managed", "option 'huge=always' needs pages=native"),
    ("noswap,pages=managed", "option 'noswap' needs pages=native"),
    ("mpol=bind:0,pages=managed", "option 'mpol=bind:0' needs pages=native"),
]


@pytest.mark.parametrize(("option", "words"), BAD_OPTIONS)
def test_bad_option(directory: Path, tmp_path: Path, option: str, words: str) -> None:
    trace = tmp_path / "trace"
    for arguments, status in (
        (["mount", "-o", "size=1m", "-o", option, str(directory)], 2),
        (["run", "-o", option, "--trace", str(trace), "--", "true"], 125),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == status
        assert result.output.startswith("shmfs: ")
        assert result.output.count("\n") == 1
        assert words in result.output
    assert not trace.exists()
    assert mounts.find(str(directory)) is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run", "--trace", "", "--", "true"], 125, "'--trace': the name is empty"),
        (["run", "--trace", "t", "--max-size", "-1", "--", "true"], 125, "'-1' is no size"),
        (["record", "--max-size", "much", "/dev/shm"], 2, "'much' is no size"),
        (["record", "--trace", "", "/dev/shm"], 2, "'--trace': the name is empty"),
        (["mount", ""], 2, "'DIR': the name is empty"),
        (["umount", ""], 2, "'DIR': the name is empty"),
        (["export", "-o", "", "t"], 2, "'--output': the name is empty"),
        (["report", "--html", "", "t"], 2, "'--html': the name is empty"),
    ],
)
def test_empty_names_and_sizes(arguments: list[str], status: int, words: str) -> None:
    """A variable of the shell that was not set is no trace that is not written."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == status
    assert words in result.output


def test_the_help_lists_every_option() -> None:
    for command in ("mount", "run"):
        text = CliRunner().invoke(main, [command, "--help"]).output
        for option in ("size=", "nr_blocks=", "nr_inodes=", "mode=", "uid=", "gid=", "inode32", "inode64"):
            assert option in text
        for option in ("reserve=lazy", "reserve=strict", "reserve=prefault", "readahead=", "allow_other"):
            assert option in text
        for option in ("pages=managed", "pages=native", "huge=", "noswap", "mpol="):
            assert option in text


@pytest.mark.parametrize("name", list(main.commands))
def test_each_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"  shmfs {name}" in result.output
    assert "--json" in result.output or name == "export"  # what it writes is JSON anyhow
    assert max(map(len, result.output.splitlines())) <= 80


def test_the_help_lists_every_command() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(f"\n  {name} " in output for name in main.commands)


def test_the_help_tells_the_exit_statuses() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(status in output for status in ("0 ", "1 ", "2 ", "125", "126", "127", "128+N", "130"))
    assert "_SHMFS_COMPLETE" in output
    assert CliRunner().invoke(main, ["--version"]).output == f"shmfs {__version__}\n"


def test_an_interruption_before_a_command_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "parse_args", interrupted)
    result = CliRunner().invoke(main, ["ps"])
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mout", "/tmp"], "did you mean 'mount'?"),
        (["umont", "/"], "did you mean 'umount'?"),
        (["maps", "x"], "did you mean 'map'?"),
        (["bogus"], "it is one of run, mount, umount, env, ps, map"),
        (["bogus", "no directory"], "no such command 'bogus'"),
        (["--bogus"], "No such option"),
        (["mount"], "Missing argument"),
        (["umount"], "Missing argument"),
        (["map"], "Missing argument"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_completion(cli: Cli) -> None:
    result = cli(env={"_SHMFS_COMPLETE": "bash_source"})
    assert "_shmfs_completion" in result.stdout
    words = {"_SHMFS_COMPLETE": "bash_complete", "COMP_WORDS": "shmfs u", "COMP_CWORD": "1"}
    assert cli(env=words).stdout == "plain,umount\n"
    words |= {"COMP_WORDS": "shmfs mount /", "COMP_CWORD": "2"}
    assert cli(env=words).stdout == "dir,/\n"


@pytest.mark.mount
@pytest.mark.parametrize("flag", [[], ["--foreground"]])
def test_bad_mount_points(cli: Cli, directory: Path, flag: list[str]) -> None:
    file = directory / "file"
    file.touch()
    for path, words in (
        (directory / "missing", "does not exist; create it with `mkdir "),
        (file, "is not a directory; name a directory"),
        (file / "below", "is not a directory"),
        (directory / ("x" * 300), "cannot be used: File name too long"),
    ):
        result = cli("mount", *flag, path)
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr.startswith("shmfs: ")
        assert result.stderr.count("\n") == 1
        assert words in result.stderr
        assert mounts.find(str(path)) is None


@pytest.mark.mount
def test_mounting_twice(cli: Cli, directory: Path, mounted: dict[str, object]) -> None:
    result = cli("mount", directory)
    assert result.returncode == 1
    assert (
        result.stderr == f"shmfs: {directory} is a shmfs mount already; `shmfs umount {directory}` ends it\n"
    )
    mount = mounts.find(str(directory))
    assert mount
    assert mount.device == mounted["device"]


def test_what_is_no_mount(cli: Cli, tmp_path: Path) -> None:
    for command in ("umount", "ps"):
        for path in (tmp_path, tmp_path / "missing"):
            result = cli(command, path)
            assert result.returncode == 1
            assert result.stderr.startswith(f"shmfs: {path} is not ")
            assert "`shmfs ps` lists" in result.stderr
    result = cli("ps", "0:0")
    assert result.returncode == 1
    result = cli("mount", "-o", "remount,size=1m", tmp_path)
    assert result.returncode == 1
    assert "is not a shmfs mount, so it cannot be changed" in result.stderr


def test_map_of_no_file(cli: Cli, tmp_path: Path) -> None:
    assert (
        cli("map", tmp_path).stderr
        == f"shmfs: {tmp_path} is not a regular file, so nobody maps pages of it\n"
    )
    missing = tmp_path / "a\x1b[31mred\n"
    result = cli("map", missing)
    assert result.returncode == 1
    assert result.stderr == f"shmfs: {tmp_path}/a\\x1b[31mred\\n: No such file or directory\n"


def test_a_trace_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    trace = tmp_path / "missing" / "trace"
    result = cli("run", "--trace", trace, "--", "true")
    assert result.returncode == 125
    assert result.stderr == f"shmfs: {trace}: No such file or directory\n"


def test_a_full_disk(cli: Cli, directory: Path, mounted: dict[str, object]) -> None:
    """A trace and a report that cannot even be begun; no empty trace is left."""
    full, report = directory / "full", directory / "report"
    report.touch()
    with suppress(OSError), full.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    result = cli("run", "-q", "--trace", directory / "trace", "--", "true")
    words = f"shmfs: the command cannot be recorded: {directory}/trace: No space left on device\n"
    assert (result.returncode, result.stderr) == (125, words)
    assert sorted(directory.iterdir()) == [full, report]
    for form in ([], ["--json"]):
        result = cli("run", "--report", report, *form, "--", "true")
        assert (result.returncode, result.stderr) == (125, f"shmfs: {report}: No space left on device\n")


def test_faults_without_room_are_not_said_to_be_in_the_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recording: Any = SimpleNamespace(dropped=3, recorder=SimpleNamespace(faults=8, lost=0))
    _tell(recording, "trace", as_json=False)
    assert capsys.readouterr().err == "5 faults in trace; 3 faults for which the file had no room\n"
    _tell(recording, "trace", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"trace": "trace", "faults": 5, "dropped": 3, "lost": 0}


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_descriptors(directory: Path, mounted: dict[str, object], closed: str) -> None:
    """Python has no sys.stdin or sys.stderr then, and what is opened next gets their numbers."""
    for arguments, words in (
        (["top", str(directory)], "0 segments"),
        (["run", "--", "sh", "-c", "echo here >/dev/shm/f; cat /dev/shm/f"], "here"),
        (["explain", "--pause", "shm"], "shm_open"),
        (["ps", str(directory)], "0 segments"),
    ):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *SHMFS, *arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        assert (result.returncode, words in result.stdout) == (0, True), (arguments, result)


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        *((command, "") for command in ("--help", "map --help", "ps --json", "doctor")),
        *((command, "") for command in ("report {}", "report --json {}", "report --html - {}")),
        *((f"export -f {form} {{}}", "") for form in ("jsonl", "csv", "parquet", "perfetto")),
        *((command, "1") for command in ("--help", "report {}", "report --html - {}", "export {}")),
    ],
)
def test_output_that_cannot_be_written(cli: Cli, tmp_path: Path, command: str, unbuffered: str) -> None:
    recording = Recording(tmp_path / "trace")
    recording.touch(recording.process(1, "a"), 1, recording.segment(5, "/x"), range(3), 1, 2)
    words = command.format(recording.close()).split()
    how = {"stderr": subprocess.PIPE, "capture_output": False, "env": {"PYTHONUNBUFFERED": unbuffered}}
    with open("/dev/full", "w") as full:
        result = cli(*words, stdout=full, **how)
    assert (result.returncode, result.stderr) == (1, "shmfs: standard output: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    result = cli(*words, stdout=writer, **how)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
