"""The FUSE protocol as the lane needs it: opcodes, flags and layouts of include/uapi/linux/fuse.h (7.41)."""

import enum
import os
import struct

from shmfs.fs.inode import Inode
from shmfs.mm import PAGE_SIZE


class Opcode(enum.IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


# Flags of INIT.
DONT_MASK = 1 << 6
DO_READDIRPLUS = 1 << 13
AUTO_INVAL_DATA = 1 << 12
ASYNC_DIO = 1 << 15
HANDLE_KILLPRIV = 1 << 19
EXPLICIT_INVAL_DATA = 1 << 25
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
PASSTHROUGH = 1 << 37

# Flags of an open's reply.
FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
FOPEN_NOFLUSH = 1 << 5
FOPEN_PASSTHROUGH = 1 << 7

# Flags of requests.
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = (1 << n for n in range(7))
FATTR_ATIME_NOW, FATTR_MTIME_NOW, _FATTR_LOCKOWNER, FATTR_CTIME, FATTR_KILL_SUIDGID = (
    1 << n for n in range(7, 12)
)
READ_LOCKOWNER = 1 << 1
"""In READ: of a call with direct I/O, not of the page cache."""
WRITE_CACHE = 1 << 0
"""In WRITE: of write-back, not of write(2)."""
WRITE_KILL_SUIDGID = 1 << 2
SETXATTR_ACL_KILL_SGID = 1

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FOREVER = 365 * 86400
"""Seconds that the kernel may keep what only a request through itself can change."""
FSXATTR = struct.Struct("<IIIII8x")
"""Flags, extent size, number of extents, project, extent size of copy on write."""
XFLAGS = {0x10: 0x8, 0x20: 0x10, 0x80: 0x40, 0x40: 0x80}
"""FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NOATIME_FL and FS_NODUMP_FL as FS_XFLAG_."""

# Bodies of requests.
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
MKNOD_IN = struct.Struct("<IIII")
MKDIR_IN = struct.Struct("<II")
CREATE_IN = struct.Struct("<IIII")
OPEN_IN = struct.Struct("<II")
RELEASE_IN = struct.Struct("<QIIQ")
READ_IN = struct.Struct("<QQIIQII")
WRITE_IN = struct.Struct("<QQIIQII")
RENAME2_IN = struct.Struct("<QII")
GETXATTR_IN = struct.Struct("<II")
SETXATTR_IN_EXT = struct.Struct("<IIII")
FALLOCATE_IN = struct.Struct("<QQQII")
LSEEK_IN = struct.Struct("<QqII")
COPY_FILE_RANGE_IN = struct.Struct("<QQQQQQQ")
STATX_IN = struct.Struct("<IIQII")
IOCTL_IN = struct.Struct("<QIIQII")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
FORGET_ONE = struct.Struct("<QQ")
BATCH_FORGET_IN = struct.Struct("<II")

# Answers.
ENTRY_OUT = struct.Struct("<QQQQII" + "QQQQQQIIIIIIIIII")
ATTR_OUT = struct.Struct("<QII" + "QQQQQQIIIIIIIIII")
OPEN_OUT = struct.Struct("<QIi")
WRITE_OUT = struct.Struct("<II")
STATFS_OUT = struct.Struct("<QQQQQIII28x")
GETXATTR_OUT = struct.Struct("<II")
DIRENT = struct.Struct("<QQII")
STATX_OUT = struct.Struct("<QII16x" + "IIQIIIHHQQQQ" + "qIi" * 4 + "IIII112x")
IOCTL_OUT = struct.Struct("<iIII")

_STATX_MASK = 0x0FFF  # STATX_BASIC_STATS and STATX_BTIME
_NANO = 1_000_000_000
_U64 = 0xFFFF_FFFF_FFFF_FFFF  # signed seconds go as unsigned ones
_SECTORS = PAGE_SIZE // 512


def entry(inode: Inode, entry_valid: int, attr_valid: int) -> bytes:
    """Struct fuse_entry_out; how long name and attributes may be kept is in seconds."""
    ino, atime, mtime, ctime = inode.ino, inode.atime, inode.mtime, inode.ctime
    # fmt: off
    return ENTRY_OUT.pack(
        ino, 0, entry_valid, attr_valid, 0, 0,
        ino, inode.size, inode.allocated * _SECTORS,
        atime // _NANO & _U64, mtime // _NANO & _U64, ctime // _NANO & _U64,
        atime % _NANO, mtime % _NANO, ctime % _NANO,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, PAGE_SIZE, 0,
    )
    # fmt: on


def attributes(inode: Inode, attr_valid: int) -> bytes:
    """Struct fuse_attr_out."""
    atime, mtime, ctime = inode.atime, inode.mtime, inode.ctime
    # fmt: off
    return ATTR_OUT.pack(
        attr_valid, 0, 0,
        inode.ino, inode.size, inode.allocated * _SECTORS,
        atime // _NANO & _U64, mtime // _NANO & _U64, ctime // _NANO & _U64,
        atime % _NANO, mtime % _NANO, ctime % _NANO,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, PAGE_SIZE, 0,
    )
    # fmt: on


def statx(inode: Inode, attr_valid: int) -> bytes:
    """Struct fuse_statx_out."""
    times = (inode.atime, inode.btime, inode.ctime, inode.mtime)
    # fmt: off
    return STATX_OUT.pack(
        attr_valid, 0, 0,
        _STATX_MASK, PAGE_SIZE, 0, inode.nlink, inode.uid, inode.gid, inode.mode, 0,
        inode.ino, inode.size, inode.allocated * _SECTORS, 0,
        *(field for time in times for field in (*divmod(time, _NANO), 0)),
        os.major(inode.rdev), os.minor(inode.rdev), 0, 0,
    )
    # fmt: on
