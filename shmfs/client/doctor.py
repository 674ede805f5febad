"""What this system offers to shmfs, tried rather than assumed, and what to do about the rest.

Every check is a method of `_Doctor` that returns a state and a sentence. What may not answer (a mount, a file
system that somebody else serves) is asked in a thread and given up after a while (`trials`).
"""

import ctypes
import errno
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from shmfs.client import trials
from shmfs.client.trials import Later, Trial
from shmfs.errors import ShmfsError
from shmfs.system import maps, mounts, namespaces, proc, syscall_table
from shmfs.tracing import perf, probe, ring, tracefs

SYS = Path("/sys")
DEVICE = Path("/dev/fuse")
SHM = Path("/dev/shm")  # noqa: S108  # the name is the point

_OLDEST = (5, 15)
_FEATURES = (
    ((6, 9), "passthrough", "pages are never native"),
    ((6, 6), "statx", "files have no time of birth"),
    ((6, 2), "strict_limit", "stores through mappings are throttled"),
)
"""What later kernels brought to FUSE, and what goes without."""
_LIBFUSE = (3, 14)
_WITHOUT_EXTENSION = (
    "without it pages are never native, fallocate, SEEK_HOLE and O_TMPFILE fail, and requests take longer"
)

_NO_DEVICE = Trial("", "there is no /dev/fuse, see above")

State = Literal["ok", "warning", "failure"]
Said = tuple[State, str]


class Finding(msgspec.Struct, frozen=True):
    """What a check found."""

    name: str
    state: State
    """failure: a command cannot work; warning: something is missing or slower."""
    message: str
    """What there is; or what is missing, what that costs and what to do."""


class Findings(msgspec.Struct, frozen=True):
    """All of it."""

    works: bool
    """Whether a mount of either kind works."""
    mount: str
    """The store that `shmfs mount` would use, "native" or "managed"; "" where it cannot mount."""
    run: str
    """The same of `shmfs run`."""
    summary: str
    checks: list[Finding]


def examine() -> Findings:
    """Carry out every check; raises nothing that is the system's fault."""
    doctor = _Doctor()
    try:
        checks = [_carried_out(name, check) for name, check in doctor.checks()]
    finally:
        for trial in (doctor.plain, doctor.sandbox):
            trial.wait()  # also on Ctrl-C: they clean up after themselves
    return doctor.conclude(checks)


def _carried_out(name: str, check: Callable[[], Said]) -> Finding:
    try:
        state, message = check()
    except ShmfsError as error:
        state, message = "failure", str(error)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        state, message = (
            "warning",
            f"the check itself failed ({what}), so this is not known; please report it",
        )
    return Finding(name, state, message)


class _Doctor:
    """The checks; what takes long begins at once, in threads."""

    def __init__(self) -> None:
        deadline = time.monotonic() + trials.PATIENCE
        self.root = os.geteuid() == 0
        self.plain = Later(self.try_plain, deadline)
        self.sandbox = Later(self.try_sandbox, deadline)
        self.probe = Later(trials.probe, deadline)
        self.shm_figures = Later(lambda: os.statvfs(SHM), deadline)

    def try_plain(self) -> list[Trial]:
        """What `shmfs mount` does; the last of them is the one that may have worked."""
        return trials.mount_plain() if DEVICE.exists() else [_NO_DEVICE]

    def try_sandbox(self) -> Trial:
        """What `shmfs run` does."""
        return trials.mount("pages=managed", private=os.path.realpath(SHM)) if DEVICE.exists() else _NO_DEVICE

    def checks(self) -> list[tuple[str, Callable[[], Said]]]:
        """In the order of what needs what."""
        return [
            ("kernel", self.kernel),
            ("/dev/fuse", self.device),
            ("rights", self.rights),
            ("namespaces", self.namespaces),
            ("fusermount3", self.fusermount),
            ("pyfuse3", self.pyfuse),
            ("libfuse", self.libfuse),
            ("extension", self.extension),
            ("system calls", self.system_calls),
            ("shmfs mount", self.mount),
            ("shmfs run", self.run),
            ("native pages", self.native),
            ("write-back", self.bdi),
            (str(SHM), self.shm),
            ("page faults", self.perf),
            ("tracefs", self.tracefs),
            ("signals", self.signals),
            ("frame numbers", self.pagemap),
            ("OOM killer", self.oom),
        ]

    def conclude(self, checks: list[Finding]) -> Findings:
        """Say which store each command would use; `auto` is native for root only (see the daemon)."""
        plain, sandbox = self._trials()
        native = self.root and any(trial.store == "native" for trial in plain)
        mount = "native" if native else "managed" if any(trial.store for trial in plain) else ""
        run = sandbox.store
        how = [
            f"`{command}` would use the {store} store" if store else f"`{command}` would fail"
            for command, store in (("shmfs mount", mount), ("shmfs run", run))
        ]
        return Findings(bool(mount or run), mount, run, ", and ".join(how), checks)

    def _trials(self) -> tuple[list[Trial], Trial]:
        """The trials without and with a sandbox, failed where they raised."""
        try:
            plain = self.plain.result()
        except Exception as error:
            plain = [Trial("", str(error))]
        try:
            return plain, self.sandbox.result()
        except Exception as error:
            return plain, Trial("", str(error))

    # ---- what the system is

    def kernel(self) -> Said:
        """Linux, new enough or not."""
        release = os.uname().release
        numbers = re.match(r"(\d+)\.(\d+)", release)
        if numbers is None:
            return (
                "warning",
                f"the release {release!r} of the kernel tells no version, so nothing follows from it",
            )
        version = int(numbers[1]), int(numbers[2])
        if version < _OLDEST:
            return (
                "failure",
                f"Linux {release} is older than 5.15, with which shmfs was not tried; upgrade it",
            )
        lacking = [
            f"{name} ({since[0]}.{since[1]}): {cost}" for since, name, cost in _FEATURES if version < since
        ]
        if lacking:
            return (
                "warning",
                f"Linux {release} lacks for FUSE {'; '.join(lacking)}; upgrade it if that matters",
            )
        return "ok", f"Linux {release}"

    def device(self) -> Said:
        """/dev/fuse, opened as libfuse does."""
        try:
            os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            message = "it is missing, without which nothing can be mounted; "
            return "failure", message + "run `modprobe fuse`, or give the container --device /dev/fuse"
        except PermissionError as error:
            who = f"mode {stat.S_IMODE(DEVICE.stat().st_mode):o}"
            if self.root or error.errno == errno.EPERM:
                return "failure", f"it may not be opened ({who}); give the container --device /dev/fuse"
            cost = f"you may not open it ({who}), which `shmfs run` needs; "
            return "failure", cost + "have root run `chmod 666 /dev/fuse`, or run as root"
        except OSError as error:
            return "failure", f"it cannot be opened: {error.strerror}; load the module with `modprobe fuse`"
        return "ok", f"may be opened, mode {stat.S_IMODE(DEVICE.stat().st_mode):o}"

    def rights(self) -> Said:
        """Root, CAP_SYS_ADMIN, the initial user namespace."""
        admin = proc.has_capability(proc.CAP_SYS_ADMIN)
        initial = proc.is_initial_user_namespace()
        if self.root and admin and initial:
            return "ok", "root, with CAP_SYS_ADMIN, in the initial user namespace"
        costs = "pages are not native and frame numbers stay hidden"
        if not initial:
            who = f"uid {os.geteuid()} of a user namespace that is not the initial one"
            return "warning", f"{who}: {costs}; run as root outside of it for these"
        if not self.root:
            who = f"not root (uid {os.geteuid()})"
            return "warning", f"{who}: write-back is not tuned, {costs}; run as root for these"
        cost = f"only `shmfs run` may mount, {costs}"
        return "failure", f"root without CAP_SYS_ADMIN: {cost}; give the container --cap-add SYS_ADMIN"

    def namespaces(self) -> Said:
        """What `shmfs run` needs, entered by a child; and what the sysctls say to other users."""
        refused = self.probe.result()["namespace"]
        if refused:
            return "failure", f"{refused}; without them `shmfs run` cannot work"
        if not self.root:
            return "ok", "user and mount namespaces may be made"
        for name, refusing, _ in namespaces.SWITCHES:
            if proc.sysctl(name) == refusing:
                return "ok", f"root may make them; other users may not (the sysctl {name} is {refusing})"
        return "ok", "mount namespaces may be made; user namespaces are not switched off"

    def fusermount(self) -> Said:
        """The helper by which users mount."""
        helper = shutil.which("fusermount3")
        if self.root:
            return "ok", f"{helper or 'missing'}; root does not need it"
        need = "`shmfs mount` needs it where you are not root"
        if helper is None:
            return "failure", f"missing, and {need}; install the package fuse3"
        status = os.stat(helper)
        if status.st_uid or not status.st_mode & stat.S_ISUID:
            return "failure", f"{helper} is not set-uid root, and {need}; have root run `chmod u+s {helper}`"
        if proc.status("self", b"NoNewPrivs:") == [b"1"]:
            message = f"{helper} may not become root (no_new_privs is set), and {need}; "
            return "failure", message + "run the container without no-new-privileges"
        return "ok", f"{helper}, set-uid root"

    # ---- what shmfs stands on

    def pyfuse(self) -> Said:
        """Imported as the daemon does: after the extension."""
        try:
            importlib.import_module("shmfs.fuse.session")
            return "ok", f"version {importlib.metadata.version('pyfuse3')}"
        except ImportError as error:
            return (
                "failure",
                f"it cannot be loaded ({error}), and nothing works without it; reinstall pyfuse3",
            )

    def libfuse(self) -> Said:
        """The one that pyfuse3 loaded."""
        loaded = [vma.path for vma in maps.mappings("self") if re.search(r"/libfuse3.*\.so", vma.path)]
        for name in loaded[:1] or ("libfuse3.so.4", "libfuse3.so.3"):
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            library.fuse_pkgversion.restype = ctypes.c_char_p
            version = (library.fuse_pkgversion() or b"?").decode()
            if tuple(map(int, re.findall(r"\d+", version)[:2])) < _LIBFUSE:
                return (
                    "warning",
                    f"version {version} is older than 3.14, the oldest that was tried; upgrade it",
                )
            return "ok", f"version {version}, {name}"
        return (
            "failure",
            "libfuse3 cannot be loaded, and nothing works without it; install the package libfuse3-3",
        )

    def extension(self) -> Said:
        """Whether it was built, and loads."""
        again = "reinstall shmfs where gcc, libfuse3-dev and Python's headers are"
        if os.environ.get("SHMFS_EXTENSION") == "0":
            remedy = "unset SHMFS_EXTENSION, which is 0 in the environment"
            return "warning", f"it is switched off: {_WITHOUT_EXTENSION}; {remedy}"
        if importlib.util.find_spec("shmfs.fuse._lane") is None:
            return "warning", f"it was not built with shmfs: {_WITHOUT_EXTENSION}; {again}"
        try:
            importlib.import_module("shmfs.fuse._lane")
        except ImportError as error:
            return "warning", f"it does not load ({error}): {_WITHOUT_EXTENSION}; {again}"
        return "ok", "loads"

    def system_calls(self) -> Said:
        """Whether the numbers of those are known that the C library does not wrap."""
        missing, machine = syscall_table.missing(), syscall_table.machine()
        if missing:
            return "warning", f"not known on {machine}: {'; '.join(missing)}; please report it"
        return "ok", f"their numbers are known on {machine}"

    # ---- what was tried

    def mount(self) -> Said:
        """Without a sandbox."""
        made = self.plain.result()
        worked = [trial.store for trial in made if trial.store]
        if worked:
            return "ok", f"a mount was made, written to and read, with {worked[-1]} pages"
        return "failure", f"it cannot mount: {made[-1].reason}"

    def run(self) -> Said:
        """In a sandbox."""
        trial = self.sandbox.result()
        if trial.store:
            return "ok", f"a private mount was made, with {trial.store} pages"
        return "failure", f"it cannot have a private mount: {trial.reason}"

    def native(self) -> Said:
        """Served by the kernel from a tmpfs of its own, by FUSE passthrough."""
        trial, *again = self.plain.result()
        if trial.store == "native":
            return "ok", "the kernel serves files by itself (FUSE passthrough)"
        if not any(other.store for other in again):
            return "warning", "not known, as `shmfs mount` cannot mount"
        reason = re.sub(r"^native pages (cannot be had: )?|; mount with pages=managed$", "", trial.reason)
        cost = "pages are managed, which is exact but slower"
        return "warning", f"refused ({reason}): {cost}; they take root, Linux 6.9 and the extension"

    def bdi(self) -> Said:
        """Whether the backing device of a real mount may be tuned."""
        made = [trial for trial in (*self.plain.result(), self.sandbox.result()) if trial.store]
        if not made:
            return "warning", "not known, as nothing could be mounted"
        if made[0].untuned:
            cost = "the kernel throttles stores through mappings and reads ahead more pages than were touched"
            return "warning", f"it may not be tuned ({made[0].untuned}): {cost}; mount as root"
        return "ok", "throttling and read-ahead of a mount may be set"

    def shm(self) -> Said:
        """The directory of glibc's shm_open."""
        cost = "shm_open fails, and so does `shmfs run`"
        remedy = f"`mount -t tmpfs -o mode=1777 tmpfs {SHM}`"
        if SHM.is_symlink() and not os.path.lexists(os.path.realpath(SHM)):
            return (
                "failure",
                f"it is a link to {os.readlink(SHM)}, which is missing: {cost}; make it a directory",
            )
        if not os.path.lexists(SHM):
            return "failure", f"it is missing: {cost}; make it, and {remedy}"
        try:
            figures = self.shm_figures.result()
            mode = stat.S_IMODE(SHM.stat().st_mode)
        except OSError as error:
            return "failure", f"it may not be looked at ({error.strerror}): {cost}; see `shmfs umount --help`"
        mount = mounts.containing(os.path.realpath(SHM))
        kind = mount.fstype if mount else "?"
        size = f"{figures.f_blocks * figures.f_frsize >> 20} MiB"
        if kind not in ("tmpfs", "ramfs", mounts.FSTYPE):
            return "warning", f"it is on {kind}, so shared memory is written to a disk; {remedy}"
        if mode != 0o1777:
            return "warning", f"its mode is {mode:o}: shm_open fails for some users; `chmod 1777 {SHM}`"
        return "ok", f"{kind}, {size}, mode 1777"

    # ---- what can be seen

    def perf(self) -> Said:
        """Open the event by which faults are counted, for this process."""
        level = proc.sysctl("kernel.perf_event_paranoid") or "?"
        cost = "so faults cannot be traced as they happen"
        try:
            syscall_table.number("perf_event_open")  # where that is unknown, the rings do not matter
            ring.access()
            os.close(perf.open_faults(0, -1, 0))
        except ShmfsError as error:
            return "warning", f"{error}, {cost}"
        except OSError as error:
            reason = f"{error.strerror}, kernel.perf_event_paranoid is {level}"
            remedy = "`sysctl -w kernel.perf_event_paranoid=2`, or run the container with --cap-add PERFMON"
            return "warning", f"perf events are refused ({reason}), {cost}; {remedy}"
        return "ok", f"perf events may be opened, kernel.perf_event_paranoid is {level}"

    def tracefs(self) -> Said:
        """Whether tracepoints may be read, from a mounted tracefs or from a detached mount."""
        cost = "so reads are not distinguished from writes, and fault-around is not seen"
        for directory in (SYS / "kernel/tracing", SYS / "kernel/debug/tracing"):
            try:
                if os.listdir(directory / "events"):
                    return "ok", f"{directory}, readable"
            except PermissionError:
                return "warning", f"{directory} may not be read, {cost}; run as root"
            except OSError:
                continue
        if os.geteuid() != 0:
            return "warning", f"not mounted, {cost}; run as root: shmfs then mounts it for itself"
        try:
            with tracefs.detached() as root:
                os.listdir(f"{root}/events")
        except OSError as error:
            return "warning", f"not mounted, and mounting it privately is refused ({error.strerror}), {cost}"
        return "ok", "not mounted; shmfs mounts it privately while it opens tracepoints"

    def signals(self) -> Said:
        """Load and attach what watches them, for a moment."""
        if reason := probe.why_not():
            return "warning", f"without --trace, the page of a SIGBUS is often not known: {reason}"
        return "ok", "SIGBUS and SIGXFSZ may be watched in all processes"

    def pagemap(self) -> Said:
        """Whether the frame of a page of ours is shown."""
        if maps.frames_visible():
            return "ok", "shown by /proc/PID/pagemap"
        return "warning", "hidden from this user, so `shmfs map` cannot show them; run as root"

    def oom(self) -> Said:
        """Whether a daemon may exempt itself."""
        refused = self.probe.result()["oom"]
        if refused:
            cost = "one that is killed for lack of memory takes the files of its mount along"
            return "warning", f"a daemon may not be spared ({refused}): {cost}; it needs CAP_SYS_RESOURCE"
        return "ok", "daemons are spared"
