"""Commands that a test runs as nobody, who may not be able to read the interpreter of the tests.

That may be below /root, and the checkout in a directory that only its owner may search. Where Debian's Python
is installed too, the interpreter even starts, as setpriv executes it with root's capabilities. It then loads
Debian's libpython, as it cannot read its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest

NEEDED = (
    *(Path(sys.base_prefix), Path(sys.executable).resolve().parent),
    *(Path(sys.prefix), Path(__file__).parents[1] / "shmfs"),
)
"""What nobody has to read, to run shmfs."""

_FUSE = """
mount -t tmpfs tmpfs "$0" && mknod -m {mode:o} "$0/fuse" c 10 229 && mount --bind "$0/fuse" /dev/fuse || exit
"""
_DROP = """
cd / && exec setpriv --reuid=65534 --regid=65534 --clear-groups -- sh -c 'exec "$@"' sh "$@"
"""
"""The inner shell has none of root's capabilities, which setpriv still has when it executes a program."""

_PROBE = "import os, sys, shmfs; assert os.access(sys.executable, os.X_OK); print(sys.base_prefix)"


def as_nobody(stage: Path, *command: str, mode: int = 0o666) -> list[str]:
    """Return the command as nobody runs it, in a mount namespace in which /dev/fuse has that mode.

    `stage` is an empty directory. Skips the test where nobody cannot run shmfs with this interpreter.
    """
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("takes root, to become somebody else, and setpriv")
    script = _FUSE.format(mode=mode) + _opened() + _DROP
    whole = ["unshare", "-m", "sh", "-c", script, str(stage)]
    probe = [*whole, sys.executable, "-c", _PROBE]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if (done.returncode, done.stdout.strip()) != (0, sys.base_prefix):
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        pytest.skip(f"nobody cannot run {sys.executable} here: {reason}")
    return [*whole, *command]


def _opened() -> str:
    """Return shell commands that show what is NEEDED to everybody.

    A directory that others may not search is covered by one in which only what is needed is to be found.
    """
    covered = [(path, closed) for path in NEEDED if (closed := _closed(path))]
    places = [(f'"$0/{number}"', quote(str(path))) for number, (path, _) in enumerate(covered)]
    lines = [
        *(f"mkdir {kept} && mount --bind {place} {kept}" for kept, place in places),
        *(f"mount -t tmpfs -o mode=755 tmpfs {quote(one)}" for one in sorted({str(c) for _, c in covered})),
        *(f"mkdir -p {place} && mount --bind {kept} {place}" for kept, place in places),
    ]
    return "".join(f"{line} || exit\n" for line in lines)


def _closed(path: Path) -> Path | None:
    """Return the topmost directory on the way to `path` that others may not search."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)
