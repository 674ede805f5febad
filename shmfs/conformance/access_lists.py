"""POSIX access control lists, as the raw values of their extended attributes.

Source: include/uapi/linux/posix_acl_xattr.h.
"""

import struct

from shmfs.conformance.tools import NOBODY

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
"""Tags of the entries of a list."""


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """The value of a list of entries: tag, permissions and, for USER and GROUP, an id."""
    lines = [struct.pack("<HHI", tag, bits, *(who or (0xFFFFFFFF,))) for tag, bits, *who in entries]
    return struct.pack("<I", 2) + b"".join(lines)


FULL = acl((USER_OBJ, 7), (USER, 6, NOBODY), (GROUP_OBJ, 5), (GROUP, 4, 100), (MASK, 7), (OTHER, 1))
MINIMAL = acl((USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0))
