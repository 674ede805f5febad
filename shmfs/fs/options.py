"""Mount options. Compare tmpfs(5) and mm/shmem.c:shmem_parse_one."""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shmfs.mm import PAGE_SIZE

READAHEAD_MAX = 256
"""Pages; the kernel sends no larger READ than 1 MiB."""
POLL_MAX = 10_000
"""Microseconds."""

VFS_OPTIONS = frozenset(
    {"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "sync", "async", "dirsync"}
    | {"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime"}
)
"""Options that the kernel's VFS carries out; the last of a pair wins."""
MOUNT_OPTIONS = frozenset(
    {"allow_other", "auto", "noauto", "user", "nouser", "users", "owner", "group", "defaults", "nofail"}
    | {"_netdev", "remount"}
)
"""Options that are for mount(8), fstab(5) or the FUSE mount."""

SYSV_LIMITS = frozenset({"shmmax", "shmall", "shmmni"})
"""The limits of System V shared memory, as in /proc/sys/kernel."""
_ULONG_MAX = 0xFFFF_FFFF_FFFF_FFFF
_IPCMNI = 32768

_SUFFIXES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_NUMBER = re.compile(r"(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*|(?=[a-z]))([kmgtpe]?)", re.IGNORECASE)


class OptionError(OSError):
    """A mount option that is unknown or malformed (EINVAL); its text is a sentence that names it."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EINVAL, message)

    def __str__(self) -> str:
        return str(self.strerror)


def _half_of_ram() -> int:
    return os.sysconf("SC_PHYS_PAGES") // 2


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What a mount was asked for; the defaults are tmpfs's (mm/shmem.c:shmem_default_max_blocks)."""

    blocks: int = field(default_factory=_half_of_ram)
    """Limit in pages of 4 KiB; 0 is unlimited."""
    inodes: int = field(default_factory=_half_of_ram)
    """Limit in inodes; 0 is unlimited."""
    mode: int = 0o1777
    uid: int | None = None
    gid: int | None = None
    inode64: bool = True
    pages: str = "auto"
    """Whose the pages are: `managed` by shmfs, `native` in the kernel, or `auto`: native where possible."""
    reserve: str = "lazy"
    """lazy: pages are charged at first touch; strict: when a file grows; prefault: and given memory then."""
    readahead: int = 0
    """Pages that the kernel may read ahead; above 0, pages are charged before they are touched."""
    poll: int = 100
    """Microseconds that the daemon looks for a next request before it sleeps; less where that is in vain."""
    shmmax: int = _ULONG_MAX - (1 << 24)
    """Bytes of a System V segment at most."""
    shmall: int = _ULONG_MAX - (1 << 24)
    """Pages of all of them together."""
    shmmni: int = 4096
    """How many there may be."""
    native: dict[str, str | None] = field(default_factory=dict)
    """Options for the native store's tmpfs: huge, noswap, mpol."""
    vfs: frozenset[str] = frozenset()
    allow_other: bool | None = None
    """Whether other users may use the mount; None leaves it to the caller's rights."""
    seen: frozenset[str] = frozenset()
    """The names that were given, so that a remount changes nothing else."""

    @property
    def atime(self) -> str:
        """The option that says when reading updates st_atime."""
        chosen = self.vfs & {"noatime", "strictatime", "norelatime"}
        return next(iter(chosen), "relatime")

    @property
    def read_only(self) -> bool:
        """Whether the mount refuses writes (EROFS, by the kernel)."""
        return "ro" in self.vfs


def parse(text: str) -> MountOptions:
    """Read a comma-separated list; raises OptionError. The last of size and nr_blocks wins, as in tmpfs."""
    options = MountOptions()
    seen = set()
    vfs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        seen.add(name)
        if name in VFS_OPTIONS and not equals:
            pair = {"rw": "ro", "async": "sync"}.get(name, name.removeprefix("no"))
            vfs[pair] = name
            if name.endswith("atime") and "diratime" not in name:
                vfs = {key: kept for key, kept in vfs.items() if key == "diratime" or "atime" not in key}
                vfs["atime"] = name
        elif name == "allow_other" and not equals:
            options = replace(options, allow_other=True)
        elif name.startswith(("x-", "X-", "comment")) or item in MOUNT_OPTIONS or name == "user":
            continue
        elif name in VFS_OPTIONS | MOUNT_OPTIONS:
            raise OptionError(f"option {name!r} takes no value, got {value!r}")
        else:
            options = _apply(options, name, value if equals else None)
    if options.native:
        if options.pages == "managed" or options.readahead:
            item = next(
                name if value is None else f"{name}={value}" for name, value in options.native.items()
            )
            raise OptionError(f"option {item!r} needs pages=native; the managed store cannot honour it")
        options = replace(options, pages="native")
    return replace(options, vfs=frozenset(vfs.values()), seen=frozenset(seen))


def merged(text: str, newer: str) -> str:
    """The list as it stands after a remount: `newer` replaces what it names."""
    items = [item for item in newer.split(",") if item and item not in MOUNT_OPTIONS]
    names = {item.partition("=")[0] for item in items}
    if names & {"size", "nr_blocks"}:
        names |= {"size", "nr_blocks"}
    kept = [item for item in text.split(",") if item and item.partition("=")[0] not in names]
    return ",".join(kept + items)


def _apply(options: MountOptions, name: str, value: str | None) -> MountOptions:
    flags = {"inode32": False, "inode64": True}
    if name in flags:
        if value is not None:
            raise OptionError(f"option {name!r} takes no value, got {value!r}")
        return replace(options, inode64=flags[name])
    if name in ("noswap", "huge", "mpol"):
        return _native_only(options, name, value)
    handlers: dict[str, Callable[[str], dict[str, object]]] = {
        "size": lambda v: {"blocks": _size(v)},
        "nr_blocks": lambda v: {"blocks": _number("nr_blocks", v)},
        "nr_inodes": lambda v: {"inodes": _number("nr_inodes", v)},
        "mode": lambda v: {"mode": _octal(v)},
        "uid": lambda v: {"uid": _identity("uid", v)},
        "gid": lambda v: {"gid": _identity("gid", v)},
        "reserve": lambda v: {"reserve": _choice("reserve", v, ("lazy", "strict", "prefault"))},
        "pages": lambda v: {"pages": _choice("pages", v, ("auto", "native", "managed"))},
        "readahead": lambda v: {"readahead": _up_to("readahead", v, READAHEAD_MAX, "pages")},
        "poll": lambda v: {"poll": _up_to("poll", v, POLL_MAX, "microseconds")},
        "shmmax": lambda v: {"shmmax": _at_most("shmmax", v, _ULONG_MAX, "bytes")},
        "shmall": lambda v: {"shmall": _at_most("shmall", v, _ULONG_MAX, "pages")},
        "shmmni": lambda v: {"shmmni": _at_most("shmmni", v, _IPCMNI, "segments")},
    }
    if name not in handlers:
        raise OptionError(f"unknown mount option {name!r}; see `shmfs mount --help` for the list")
    if not value:
        raise OptionError(f"option {name!r} needs a value, as in {name}={_EXAMPLES[name]}")
    changed = handlers[name](value)
    return replace(options, **changed)  # type: ignore[arg-type]


_EXAMPLES = {
    "size": "64m",
    "nr_blocks": "16k",
    "nr_inodes": "1k",
    "mode": "1777",
    "uid": "1000",
    "gid": "1000",
    "reserve": "strict",
    "readahead": "32",
    "poll": "100",
    "pages": "native",
    "shmmax": "64m",
    "shmall": "16k",
    "shmmni": "4096",
}


def _native_only(options: MountOptions, name: str, value: str | None) -> MountOptions:
    """What only the kernel's own pages can honour, except where it asks for what is so anyway."""
    if (name, value) in (("huge", "never"), ("mpol", "default")):
        return options
    if name == "huge":
        _choice(name, value or "", ("never", "always", "within_size", "advise"))
    elif (value is None) != (name == "noswap"):
        raise OptionError(f"option {name!r} {'takes no' if value else 'needs a'} value; see tmpfs(5)")
    return replace(options, native={**options.native, name: value})


def _memparse(name: str, text: str) -> int:
    """A number in decimal, octal or hex with a suffix k, m, g, t, p or e, which may stand alone for 0.

    Compare lib/cmdline.c:memparse.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise OptionError(f"bad value {text!r} for option {name!r}; give a number such as {_EXAMPLES[name]}")
    digits, suffix = match.groups()
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") else 10
    return int(digits or "0", base) << _SUFFIXES[suffix.lower()]


def _size(text: str) -> int:
    """Pages, rounded up; a percentage is of physical memory."""
    if text.endswith("%"):
        percent = text[:-1]
        if not percent.isdecimal():
            raise OptionError(f"bad value {text!r} for option 'size'; give a percentage such as 50%")
        size = int(percent) * os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // 100
    else:
        size = _memparse("size", text)
    return _bounded("size", text, -(-size // PAGE_SIZE))


def _number(name: str, text: str) -> int:
    return _bounded(name, text, _memparse(name, text))


def _at_most(name: str, text: str, most: int, unit: str) -> int:
    value = _memparse(name, text)
    if value > most:
        raise OptionError(f"value {text!r} for option {name!r} is more than the {most} {unit} there can be")
    return value


def _bounded(name: str, text: str, value: int) -> int:
    if value >= 1 << 51:
        raise OptionError(f"value {text!r} for option {name!r} is larger than a file system can be")
    return value


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not text.isdecimal() or mode < 0 or mode > 0o7777:
        raise OptionError(f"bad value {text!r} for option 'mode'; give octal permissions such as 1777")
    return mode


def _identity(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) >= 0xFFFF_FFFF:
        raise OptionError(f"bad value {text!r} for option {name!r}; give a number such as 1000")
    return int(text)


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise OptionError(f"bad value {text!r} for option {name!r}; it is one of {', '.join(choices)}")
    return text


def _up_to(name: str, text: str, most: int, unit: str) -> int:
    if not text.isdecimal() or int(text) > most:
        raise OptionError(f"bad value {text!r} for option {name!r}; give a number of {unit} up to {most}")
    return int(text)
