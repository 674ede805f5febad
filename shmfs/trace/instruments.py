"""Hooks that the file system calls when something happens, after trio's `Instruments`.

Only hooks that somebody listens to are in the table, so a path without an instrument costs one
dictionary miss::

    if "page_in" in instruments:
        instruments.call("page_in", ino, index, count)

Inodes are named by number, pages by index and count; paths start at the mount with "/".
"""

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

HOOKS: dict[str, tuple[str, ...]] = {
    # Sources in mm.
    "page_in": ("inode", "page", "pages"),
    "allocate": ("inode", "page", "pages"),
    "free": ("inode", "page", "pages"),
    "refuse": ("inode", "page", "pages", "limit"),
    # The first refusal of each kind, see `records.Refusal`, which has the same fields.
    "refusal": ("inode", "path", "refusal"),
    # Where pages come and go without a request (native store): bytes and pages as seen by looking.
    "usage": ("inode", "size", "pages"),
    # Sources in fuse.
    "create": ("inode", "path", "mode", "pid"),
    # After `create`, of what did not come by a name: "sysv" or "anon", and its System V key and id.
    "door": ("inode", "kind", "key", "id"),
    "open": ("inode", "flags", "pid"),
    "release": ("inode", "flags"),
    "link": ("inode", "path", "pid"),
    "unlink": ("inode", "path", "nlink", "pid"),
    "rename": ("inode", "old_path", "path", "pid"),
    "resize": ("inode", "old_size", "size", "pid"),
    "evict": ("inode",),
    # read(2) and write(2), only where that was asked for (`Operations.trace_io`): bytes, process, thread.
    "read": ("inode", "offset", "length", "pid", "tid"),
    "write": ("inode", "offset", "length", "pid", "tid"),
}
"""Every hook with the names of its arguments, in order; a record in the log uses the same names."""


class Instruments(dict[str, list[Callable[..., Any]]]):
    """The installed hooks by name. An absent name is a hook nobody listens to."""

    caller = 0
    """Thread id of the process whose request is being served, as the kernel's `current`; 0 is not known."""
    request = 0
    """The FUSE opcode of that request; 0 is not known."""

    def install(self, instrument: object) -> None:
        """Add every method of `instrument` that is named like a hook."""
        for hook in HOOKS:
            method = getattr(instrument, hook, None)
            if method is not None:
                self.setdefault(hook, []).append(method)

    def remove(self, instrument: object) -> None:
        """Take out every hook of `instrument`; unknown ones are ignored."""
        for hook in list(self):
            kept = [method for method in self[hook] if getattr(method, "__self__", None) is not instrument]
            if kept:
                self[hook] = kept
            else:
                del self[hook]

    def call(self, hook: str, *arguments: object) -> None:
        """Tell every listener of `hook`; one that raises is logged and removed, and harms nobody else."""
        for method in self.get(hook, ()):
            try:
                method(*arguments)
            except Exception:
                log.exception("the instrument %r failed in %s and was removed", method, hook)
                self.remove(getattr(method, "__self__", None))
