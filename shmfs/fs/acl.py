"""POSIX access control lists as extended attributes. Compare fs/posix_acl.c and acl(5).

The kernel checks them; what is left to the file system is to keep mode and list in step and to inherit.
"""

import errno
import os
import struct
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


class Entry(NamedTuple):
    """One line of a list: its tag, its permission bits, and the user or group it names."""

    tag: int
    permissions: int
    identity: int


def parse(value: bytes) -> list[Entry]:
    """Read the attribute's value; raises EINVAL, or EOPNOTSUPP for another version."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]


def pack(entries: list[Entry]) -> bytes:
    """The attribute's value for a list."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _group_class(entries: list[Entry]) -> int:
    """The tag that the mode's group bits stand for: the mask where there is one."""
    return _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ


def mode_of(entries: list[Entry]) -> int:
    """The nine permission bits that a list stands for (posix_acl_equiv_mode)."""
    shift = {_USER_OBJ: 6, _group_class(entries): 3, _OTHER: 0}
    return sum(entry.permissions << shift[entry.tag] for entry in entries if entry.tag in shift)


def is_minimal(entries: list[Entry]) -> bool:
    """Whether the mode says all that the list says."""
    return all(entry.tag in (_USER_OBJ, _GROUP_OBJ, _OTHER) for entry in entries)


def with_mode(entries: list[Entry], mode: int) -> list[Entry]:
    """The list after chmod (posix_acl_chmod)."""
    shift = {_USER_OBJ: 6, _group_class(entries): 3, _OTHER: 0}
    return [
        entry._replace(permissions=(mode >> shift[entry.tag]) & 7) if entry.tag in shift else entry
        for entry in entries
    ]


def inherit(entries: list[Entry], mode: int) -> tuple[list[Entry], int]:
    """List and mode of a new file from its directory's default list (posix_acl_create_masq)."""
    allowed = mode_of(entries)
    mode = (mode & ~0o777) | (mode & allowed)
    return with_mode(entries, mode), mode
