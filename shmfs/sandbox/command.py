"""The command: found by PATH as a shell finds it, and executed in the sandbox.

The exit statuses are those of env(1) and timeout(1): 127 for a command that does not exist, 126 for one
that may not or cannot be run.
"""

import errno
import os
import signal
import stat
from collections.abc import Iterable, Sequence
from typing import NoReturn

from shmfs.errors import ShmfsError
from shmfs.ipc import library
from shmfs.system import namespaces, syscalls

NOT_RUNNABLE = 126
NOT_FOUND = 127
SHM = "/dev/shm"  # noqa: S108  # the name is the point

Dispositions = dict[signal.Signals, signal.Handlers]
"""What the user's shell wants done with a signal, where the supervisor had to change it."""


def resolve(command: list[str]) -> str:
    """Return the path of the file that `command` will execute, without executing anything.

    Raises ShmfsError with status 127 when there is none and 126 when it may not be run.
    """
    if not command:
        raise ShmfsError("no command given: name one after `--`", 2)
    problem = errno.ENOENT
    for path in _candidates(command[0]):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            problem = _worse(problem, error.errno)
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            return path
        problem = errno.EACCES
    raise _cannot_run(command[0], problem)


def start(
    command: list[str],
    server: int,
    parent: int,
    dispositions: Dispositions,
    mask: Iterable[int],
    doors: Sequence[str] = (),
) -> NoReturn:
    """Become `command` in the namespaces of process `server`; never returns. The child's side of a fork.

    `mask` is the user's signal mask, `doors` what the preloaded library is to serve. Dies with `parent`.
    Raises ShmfsError when the namespaces cannot be joined or the command not be executed.
    """
    environment = original_environment()
    preload = library.environment(environment, SHM, doors)
    namespaces.join(server)
    if preload and "sysv" in doors:
        namespaces.hide_sysvipc()
        namespaces.leave_ipc()  # what the library does not reach must not mix with the segments of the host
    # Joining changes credentials, which clears the signal: ask for it afterwards.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)
    execute(command, environment | preload, dispositions, mask)


def execute(
    command: list[str], environment: dict[bytes, bytes], dispositions: Dispositions, mask: Iterable[int]
) -> NoReturn:
    """Become `command` with the signals as the user's shell gave them; raises ShmfsError."""
    _reset_signals(dispositions)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    problem = errno.ENOENT
    for path in _candidates(command[0]):
        try:
            _execute(path, command, environment)
        except OSError as error:
            problem = _worse(problem, error.errno)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                break
    raise _cannot_run(command[0], problem)


def _candidates(name: str) -> list[str]:
    """Return the paths to try for `name`. Compare glibc's posix/execvpe.c."""
    if "/" in name:
        return [name]
    if not name:
        return []
    path = os.environ.get("PATH", os.defpath)
    # An empty entry is the current directory.
    return [os.path.join(directory, name) for directory in path.split(":")]


def _execute(path: str, command: list[str], environment: dict[bytes, bytes]) -> None:
    """Execute `path`; a text without `#!` by the shell, as execvp(3) and shells do."""
    try:
        os.execve(path, command, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC or _is_binary(path):
            raise
    os.execve("/bin/sh", ["/bin/sh", path, *command[1:]], environment)


def _is_binary(path: str) -> bool:
    """Say whether the first line holds a NUL, the test by which bash tells a program from a script."""
    with open(path, "rb") as file:
        return b"\0" in file.read(80).partition(b"\n")[0]


def _reset_signals(dispositions: Dispositions) -> None:
    """Give back the signals that Python handles or ignores for itself; ignored ones stay ignored (nohup)."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    for number, disposition in dispositions.items():
        signal.signal(number, disposition)


def original_environment() -> dict[bytes, bytes]:
    """Return the user's environment: without the LC_CTYPE that Python adds in the C locale (PEP 538)."""
    environment = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb") as file:
            original = file.read().split(b"\0")
    except OSError:
        return environment
    if not any(entry.startswith(b"LC_CTYPE=") for entry in original):
        environment.pop(b"LC_CTYPE", None)
    return environment


def _worse(problem: int, number: int | None) -> int:
    """Return which error to report: any other tells more than "not found", and the first counts."""
    if problem == errno.ENOENT and number not in (None, errno.ENOTDIR):
        return number
    return problem


def _cannot_run(name: str, problem: int) -> ShmfsError:
    if problem == errno.ENOENT and "/" in name and os.path.exists(name):
        return ShmfsError(f"cannot run {name}: the interpreter it names does not exist", NOT_FOUND)
    if problem == errno.ENOENT and "/" not in name:
        return ShmfsError(f"cannot run {name!r}: no such command in PATH", NOT_FOUND)
    if problem == errno.ENOENT:
        return ShmfsError(f"cannot run {name}: no such file", NOT_FOUND)
    if problem == errno.EACCES and "/" in name and os.path.isdir(name):
        return ShmfsError(f"cannot run {name}: it is a directory", NOT_RUNNABLE)
    if problem == errno.EACCES:
        return ShmfsError(f"cannot run {name}: permission denied, or not an executable file", NOT_RUNNABLE)
    return ShmfsError(f"cannot run {name}: {os.strerror(problem)}", NOT_RUNNABLE)
