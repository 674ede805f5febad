"""Hooks that the file system calls when something happens, after trio's `Instruments`.

Only hooks that somebody listens to are in the table, so a path without an instrument costs one
dictionary miss::

    if "page_in" in instruments:
        instruments.call("page_in", ino, index, count)

Inodes are named by number, pages by index and count; paths start at the mount with "/".

An observer only observes: nothing that the file system needs may be one. An observer may have

- `name`, by which reports call it (the name of its class otherwise),
- `figures`, the figures that it is the source of: all of them, or a dict of those of each hook,
- `stale(failure)`, which is called with each failure of any observer.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


class Failure(NamedTuple):
    """An observer failed: from then on figures of its are not brought up to date, or are wrong."""

    observer: str
    figures: tuple[str, ...]
    since: int
    """Nanoseconds since the epoch."""
    reason: str


class Instruments(dict[str, list[Callable[..., Any]]]):
    """The installed hooks by name. An absent name is a hook nobody listens to."""

    caller = 0
    """Thread id of the process whose request is being served, as the kernel's `current`; 0 is not known."""
    request = 0
    """The FUSE opcode of that request; 0 is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Failure] = []
        """The first failure of each observer, or of each hook where its hooks have figures of their own."""
        self._kept: list[object] = []

    def install(self, instrument: object, *, keep: bool = False) -> None:
        """Add every method of `instrument` that is named like a hook.

        An observer that is to be kept stays when it fails: statistics are made from it, and what it learns
        from later calls is still true. Any other is removed at its first failure.
        """
        if keep:
            self._kept.append(instrument)
        for hook in HOOKS:
            method = getattr(instrument, hook, None)
            if method is not None:
                self.setdefault(hook, []).append(method)

    def remove(self, instrument: object) -> None:
        """Take out every hook of `instrument`; unknown ones are ignored."""
        for hook in list(self):
            kept = [method for method in self[hook] if getattr(method, "__self__", method) is not instrument]
            if kept:
                self[hook] = kept
            else:
                del self[hook]

    def call(self, hook: str, *arguments: object) -> None:
        """Call every listener of `hook`; raises nothing.

        A failure is logged and kept in `failures`; the other listeners are called all the same.
        """
        for method in self.get(hook, ()):
            try:
                method(*arguments)
            except Exception as error:
                self._fail(getattr(method, "__self__", method), hook, error)

    def _fail(self, observer: object, hook: str, error: Exception) -> None:
        kept = any(one is observer for one in self._kept)
        if not kept:
            self.remove(observer)
        failure = Failure(
            getattr(observer, "name", type(observer).__name__),
            _figures(observer, hook if kept else None),
            getattr(observer, "failed_at", 0) or time.time_ns(),
            f"{type(error).__name__} in {hook}: {error}",
        )
        known = any(
            (one.observer, one.figures) == (failure.observer, failure.figures) for one in self.failures
        )
        if known and kept:
            return  # it may fail at each call
        figures = ", ".join(failure.figures) or "its figures"
        log.error("the observer %s failed in %s; stale from now on: %s", failure.observer, hook, figures,
                  exc_info=error)  # fmt: skip
        concerned = {id(observer): observer}
        if not known:
            self.failures.append(failure)
            concerned |= self._observers()
        for one in concerned.values():
            with contextlib.suppress(Exception):  # it may be the one that failed
                if note := getattr(one, "stale", None):
                    note(failure)

    def _observers(self) -> dict[int, object]:
        """The installed observers by id()."""
        owners = (getattr(method, "__self__", method) for methods in self.values() for method in methods)
        return {id(one): one for one in owners}


def _figures(observer: object, hook: str | None) -> tuple[str, ...]:
    """The figures that an observer is the source of; by one hook, or by all."""
    figures = getattr(observer, "figures", ())
    if not isinstance(figures, Mapping):
        return tuple(figures)
    return tuple(
        figures.get(hook, ()) if hook else sorted({one for many in figures.values() for one in many})
    )
