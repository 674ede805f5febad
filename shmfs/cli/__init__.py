"""The commands: arguments in, text out, no logic.

Starting must be quick: modules of this package import click at the top and
all else in the function that needs it.
"""

import signal
import threading

# Ctrl-C while modules are loaded is the end. As an exception it would give a traceback, or get lost.
_quiet = (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _quiet:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from shmfs.cli.group import main  # noqa: E402
from shmfs.cli.helper import mount_helper  # noqa: E402

if _quiet:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main", "mount_helper"]
