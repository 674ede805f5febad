"""`shmfs doctor`: what it says of this system, and of systems that lack something."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from shmfs.cli import doctor as command
from shmfs.cli import main
from shmfs.client import doctor, trials
from shmfs.client.doctor import Finding, Findings
from shmfs.client.trials import Later, Trial
from shmfs.errors import ShmfsError
from shmfs.system import mounts, proc, syscall_table
from shmfs.testing.plugin import why_absent
from tests.cli.conftest import SHMFS, Cli

needs_fuse = pytest.mark.skipif(bool(why_absent()), reason="no FUSE here")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="fakes a system in a mount namespace as root")

WORKED = {"plain": [Trial("native", "")], "sandbox": Trial("managed", "")}

Examine = Callable[..., dict[str, Finding]]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No mount of a trial stays."""

    def ours() -> set[str]:
        return {mount.mountpoint for mount in mounts.shmfs_mounts() if "shmfs-doctor-" in mount.mountpoint}

    before = ours()
    yield
    assert ours() <= before


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch) -> Examine:
    """The findings by name, where the trials end as given instead of being made."""

    def examined(
        plain: list[Trial] = WORKED["plain"],  # type: ignore[assignment]
        sandbox: Trial = WORKED["sandbox"],  # type: ignore[assignment]
        oom: str = "",
        namespace: str = "",
    ) -> dict[str, Finding]:
        monkeypatch.setattr(trials, "mount_plain", lambda: plain)
        monkeypatch.setattr(trials, "mount", lambda options, private: sandbox)
        monkeypatch.setattr(trials, "probe", lambda: {"oom": oom, "namespace": namespace})
        found = doctor.examine()
        return {check.name: check for check in found.checks} | {
            "end": Finding("end", "ok" if found.works else "failure", found.summary)
        }

    return examined


# ---- this system


@pytest.mark.mount
@needs_fuse
def test_here(cli: Cli) -> None:
    begin = time.monotonic()
    done = cli("doctor", "--json")
    assert time.monotonic() - begin < 20  # less than two seconds where nothing else runs
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr, found["works"]) == (0, "", True)
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert len(states) == len(found["checks"]) == 19
    assert set(states.values()) <= {"ok", "warning", "failure"}
    assert not [check for check in found["checks"] if "report it" in check["message"]]
    for name, store in (("shmfs mount", found["mount"]), ("shmfs run", found["run"])):
        assert states[name] == ("ok" if store else "failure")
        assert f"`{name}` would {f'use the {store} store' if store else 'fail'}" in found["summary"]
    assert (found["mount"] == "native") == (states["native pages"] == "ok" and os.geteuid() == 0)


@pytest.mark.mount
@needs_fuse
def test_without_the_extension(cli: Cli) -> None:
    done = cli("doctor", env={"SHMFS_EXTENSION": "0"})
    assert done.returncode == 0
    assert "! extension:     it is switched off" in done.stdout
    assert (
        "! native pages:  refused (need the C extension, which is missing): pages are managed" in done.stdout
    )
    assert "`shmfs mount` would use the managed store" in done.stdout.splitlines()[-1]


@pytest.mark.mount
@needs_fuse
@root_only
def test_as_a_user_who_may_not_open_fuse(tmp_path: Path) -> None:
    """The device is hidden in a mount namespace; this Python must be readable to all."""
    drop = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    if not shutil.which("setpriv") or subprocess.run([*drop.split(), *SHMFS, "--version"]).returncode:
        pytest.skip("nobody may not run this Python")
    script = f"""
mount -t tmpfs tmpfs {tmp_path} && mknod -m 600 {tmp_path}/fuse c 10 229 || exit
mount --bind {tmp_path}/fuse /dev/fuse && exec {drop} "$@"
"""
    words = ["unshare", "-m", "sh", "-c", script, "sh", *SHMFS, "doctor"]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "✗ /dev/fuse:     you may not open it (mode 600)" in done.stdout
    assert "! rights:        not root (uid 65534)" in done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1] == "`shmfs mount` would fail, and `shmfs run` would fail"


# ---- systems that lack something


def test_everything_there(examine: Examine) -> None:
    found = examine()
    assert found["end"].state == "ok"
    assert found["shmfs mount"].message == "a mount was made, written to and read, with native pages"
    assert found["native pages"].state == found["write-back"].state == found["OOM killer"].state == "ok"


def test_no_device(monkeypatch: pytest.MonkeyPatch, examine: Examine, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "DEVICE", tmp_path / "fuse")
    found = examine()
    assert found["/dev/fuse"].state == "failure"
    assert "modprobe fuse" in found["/dev/fuse"].message
    assert found["shmfs mount"].message == "it cannot mount: there is no /dev/fuse, see above"
    assert found["native pages"].message == "not known, as `shmfs mount` cannot mount"
    assert found["end"] == Finding("end", "failure", "`shmfs mount` would fail, and `shmfs run` would fail")


def test_passthrough_refused(examine: Examine) -> None:
    reason = "native pages cannot be had: Operation not permitted; mount with pages=managed"
    found = examine(plain=[Trial("", reason), Trial("managed", "", "Permission denied")])
    assert found["native pages"].state == "warning"
    assert found["native pages"].message.startswith("refused (Operation not permitted): pages are managed")
    assert found["write-back"].message.startswith("it may not be tuned (Permission denied)")
    assert found["shmfs mount"].state == "ok"
    assert found["end"].message.startswith("`shmfs mount` would use the managed store")


def test_only_run_works(examine: Examine) -> None:
    found = examine(plain=[Trial("", "no"), Trial("", "fusermount3 is missing")])
    assert found["shmfs mount"].message == "it cannot mount: fusermount3 is missing"
    assert found["end"].state == "ok"
    assert found["end"].message == "`shmfs mount` would fail, and `shmfs run` would use the managed store"


def test_no_namespaces(examine: Examine) -> None:
    found = examine(
        sandbox=Trial("", "refused"), namespace="user namespaces are switched off: set it", oom="No"
    )
    assert found["namespaces"].state == found["shmfs run"].state == "failure"
    assert "`shmfs run` cannot work" in found["namespaces"].message
    assert found["OOM killer"].message.startswith("a daemon may not be spared (No)")
    assert found["end"].state == "ok"


@root_only
@pytest.mark.parametrize("name", ["kernel.unprivileged_userns_clone", "user.max_user_namespaces"])
def test_sysctl_that_refuses_others(monkeypatch: pytest.MonkeyPatch, examine: Examine, name: str) -> None:
    def missing(*path: object) -> bytes:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(proc, "sysctl", {name: "0"}.get)
    monkeypatch.setattr(proc, "read", missing)
    found = examine()
    assert f"other users may not (the sysctl {name} is 0)" in found["namespaces"].message
    # what else is missing in this /proc is told too, and is no traceback
    assert "the check itself failed (FileNotFoundError" in found["rights"].message
    assert found["rights"].state == "warning"


@pytest.mark.parametrize(
    ("release", "state", "words"),
    [
        ("6.18.44-fc", "ok", "Linux 6.18.44-fc"),
        ("6.9.0", "ok", "Linux 6.9.0"),
        ("6.8.0-31-generic", "warning", "lacks for FUSE passthrough (6.9): pages are never native; upgrade"),
        ("5.15.0", "warning", "statx (6.6): files have no time of birth; strict_limit (6.2)"),
        ("4.19.0", "failure", "older than 5.15"),
        ("unknown", "warning", "'unknown'"),
    ],
)
def test_kernel(
    monkeypatch: pytest.MonkeyPatch, examine: Examine, release: str, state: str, words: str
) -> None:
    monkeypatch.setattr(doctor.os, "uname", lambda: SimpleNamespace(release=release))
    kernel = examine()["kernel"]
    assert kernel.state == state
    assert words in kernel.message


def test_shm(monkeypatch: pytest.MonkeyPatch, examine: Examine, tmp_path: Path) -> None:
    shm = tmp_path / "shm"
    monkeypatch.setattr(doctor, "SHM", shm)

    def said() -> tuple[str, str]:
        check = examine()[str(shm)]
        return check.state, check.message

    state, message = said()
    assert (state, message.partition(":")[0]) == ("failure", "it is missing")
    shm.symlink_to(tmp_path / "run")
    state, message = said()
    assert (state, message.partition(":")[0]) == (
        "failure",
        f"it is a link to {tmp_path}/run, which is missing",
    )
    (tmp_path / "run").mkdir()
    state, message = said()
    if mounts.containing(str(tmp_path)).fstype not in ("tmpfs", "ramfs"):  # type: ignore[union-attr]
        assert state == "warning"
        assert "so shared memory is written to a disk" in message
    monkeypatch.setattr(
        doctor.mounts, "containing", lambda path: mounts.Mount(path, "0:1", "tmpfs", "", "tmpfs")
    )
    (tmp_path / "run").chmod(0o755)
    assert said()[1].startswith("its mode is 755")
    (tmp_path / "run").chmod(0o1777)
    assert re.fullmatch(r"tmpfs, \d+ MiB, mode 1777", said()[1])


@pytest.mark.parametrize("missing", [True, False])
def test_fusermount(monkeypatch: pytest.MonkeyPatch, examine: Examine, tmp_path: Path, missing: bool) -> None:
    helper = tmp_path / "fusermount3"
    if not missing:
        helper.write_text("")
        helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    check = examine()["fusermount3"]
    assert check.state == "failure"
    assert ("install the package fuse3" if missing else "is not set-uid root") in check.message


def test_tracefs(monkeypatch: pytest.MonkeyPatch, examine: Examine, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "SYS", tmp_path)

    @contextlib.contextmanager
    def detached() -> Iterator[str]:
        if not (tmp_path / "detached").exists():
            raise PermissionError(errno.EPERM, "Operation not permitted")
        yield str(tmp_path / "detached")

    monkeypatch.setattr(doctor.tracefs, "detached", detached)
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    assert examine()["tracefs"].message.startswith("not mounted, so reads are not distinguished")
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 0)
    state, message = examine()["tracefs"].state, examine()["tracefs"].message
    assert state == "warning"
    assert "is refused (Operation not permitted), so reads" in message
    (tmp_path / "detached/events").mkdir(parents=True)
    assert examine()["tracefs"].state == "ok"
    (tmp_path / "kernel/tracing/events/filemap").mkdir(parents=True)
    assert examine()["tracefs"] == Finding("tracefs", "ok", f"{tmp_path}/kernel/tracing, readable")


def test_signals(monkeypatch: pytest.MonkeyPatch, examine: Examine) -> None:
    monkeypatch.setattr(doctor.probe, "why_not", lambda: "bpf(2) cannot create a map: it is locked down")
    assert examine()["signals"].state == "warning"
    assert examine()["signals"].message.endswith("not known: bpf(2) cannot create a map: it is locked down")
    monkeypatch.setattr(doctor.probe, "why_not", lambda: "")
    assert examine()["signals"].state == "ok"


def test_perf_on_an_unknown_machine(monkeypatch: pytest.MonkeyPatch, examine: Examine) -> None:
    monkeypatch.setattr(syscall_table.platform, "machine", lambda: "vax")
    found = examine()
    assert found["page faults"].state == found["system calls"].state == "warning"
    assert found["page faults"].message == (
        "perf_event_open(2) cannot be called: its number on vax is not known to shmfs,"
        " so faults cannot be traced as they happen"
    )
    assert found["system calls"].message.startswith("not known on vax: page faults cannot be recorded (")
    for name in syscall_table.FEATURES:
        assert f"({name}(2))" in found["system calls"].message


def test_a_machine_whose_rings_take_the_extension(monkeypatch: pytest.MonkeyPatch, examine: Examine) -> None:
    monkeypatch.setattr(syscall_table.platform, "machine", lambda: "aarch64")
    monkeypatch.setitem(sys.modules, "shmfs.tracing._ring", None)
    found = examine()["page faults"]
    assert found.state == "warning"
    assert found.message.startswith("page faults cannot be recorded on aarch64 without the C extension")
    assert "reinstall shmfs" in found.message


def test_extension_that_does_not_load(monkeypatch: pytest.MonkeyPatch, examine: Examine) -> None:
    monkeypatch.delenv("SHMFS_EXTENSION", raising=False)
    monkeypatch.setitem(sys.modules, "shmfs.fuse._lane", None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    assert examine()["extension"].message.startswith("it does not load (")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert examine()["extension"].message.startswith("it was not built with shmfs: without it")


# ---- how it is said


def test_a_trial_that_raises(monkeypatch: pytest.MonkeyPatch, examine: Examine) -> None:
    def fail() -> list[Trial]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor._Doctor, "try_plain", lambda self: fail())
    found = examine()
    assert found["shmfs mount"].state == "warning"
    assert "No space left on device" in found["shmfs mount"].message
    assert found["end"].message.startswith("`shmfs mount` would fail")


def test_what_does_not_answer() -> None:
    later = Later(lambda: time.sleep(0.2), time.monotonic() + 0.01)
    with pytest.raises(ShmfsError, match="did not answer within 10 seconds"):
        later.result()
    later._thread.join()


def _fake(monkeypatch: pytest.MonkeyPatch, *, works: bool = True) -> None:
    checks = [
        Finding("kernel", "ok", "Linux 6.18"),
        Finding("frame numbers", "warning", "hidden from this user, " * 6 + "run as root"),
        Finding("/dev/fuse", "failure", "it is missing; \x1b[31mload \n it"),
    ]
    found = Findings(works, "managed", "", "`shmfs mount` would use the managed store", checks)
    monkeypatch.setattr(doctor, "examine", lambda: found)


@pytest.mark.parametrize("width", [40, 79, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text(monkeypatch: pytest.MonkeyPatch, width: int, encoding: str) -> None:
    _fake(monkeypatch)
    result = CliRunner(charset=encoding).invoke(main, ["doctor"], env={"COLUMNS": str(width)})
    assert result.exit_code == 0
    lines = result.output.splitlines()
    signs = ("✓ ", "! ", "✗ ") if encoding == "utf-8" else ("ok ", "!  ", "X  ")
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line != line.rstrip()] == []
    heads = [line for line in lines if line.startswith(signs)]
    assert [line.split(":")[0][len(signs[0]) :].strip() for line in heads] == [
        "kernel",
        "frame numbers",
        "/dev/fuse",
    ]
    assert "\x1b" not in result.output
    if encoding == "ascii":
        assert result.output.isascii()


def test_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch)
    result = CliRunner().invoke(main, ["doctor"], env={"COLUMNS": "0"})
    assert (result.exit_code, result.output.count("\n")) == (0, 4)


def test_names_fit_their_column(examine: Examine) -> None:
    assert max(map(len, examine())) < command.NAMES


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_exit_status_where_nothing_works(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    _fake(monkeypatch, works=False)
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == 1
    if arguments:
        assert json.loads(result.output)["works"] is False
