"""The library that programs preload (`preload.c`): where it is, and the environment that loads it."""

import importlib.util
import os
from collections.abc import Mapping, Sequence

from shmfs.errors import ShmfsError

DOORS = ("sysv", "anon")
"""What it can serve: System V segments, and shared anonymous mappings."""

_SEPARATORS = " \t\n:$"
"""ld.so(8) splits LD_PRELOAD at blanks and colons, and replaces what follows a dollar."""


def path() -> str | None:
    """The file of the library; None where it was not built, or ld.so could not be told its name."""
    spec = importlib.util.find_spec("shmfs.ipc._preload")
    if spec is None or spec.origin is None or set(spec.origin) & set(_SEPARATORS):
        return None
    return spec.origin


def environment(given: Mapping[bytes, bytes], mountpoint: str, doors: Sequence[str]) -> dict[bytes, bytes]:
    """The variables to add to `given`, so that a program has `doors` on the mount; none where it cannot.

    What is preloaded already stays before it, as some (the runtime of a sanitizer) must come first.
    """
    library = path()
    if library is None or not doors:
        return {}
    before = given.get(b"LD_PRELOAD", b"")
    words = [word for word in before.replace(b":", b" ").split() if word != os.fsencode(library)]
    sanitizer = given.get(b"ASAN_OPTIONS", b"")
    return {
        b"LD_PRELOAD": b":".join([*words, os.fsencode(library)]),
        b"SHMFS_DIR": os.fsencode(mountpoint),
        b"SHMFS_PRELOAD": ",".join(doors).encode(),
        # It would refuse to start; the order means nothing to it, as we allocate nothing.
        b"ASAN_OPTIONS": b":".join(filter(None, [sanitizer, b"verify_asan_link_order=0"])),
    }


def variables(mountpoint: str, doors: Sequence[str]) -> dict[str, str]:
    """The same for this process's environment; raises ShmfsError where there is no library."""
    found = environment(os.environb, mountpoint, doors)
    if doors and not found:
        raise ShmfsError(
            "the library that programs would preload could not be built, or its path has a blank, a colon or"
            " a dollar: install a C compiler, and shmfs again in another place"
        )
    return {os.fsdecode(name): os.fsdecode(text) for name, text in found.items()}
