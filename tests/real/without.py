"""Become a command for which the kernel lacks memfd_create(2): `python without.py COMMAND…`.

Programs that share memory use /dev/shm then. The filter is that of seccomp(2): the system call's number is
at offset 0 of struct seccomp_data.
"""

import ctypes
import errno
import os
import struct
import sys

NUMBER = {"x86_64": 319, "aarch64": 279}[os.uname().machine]

LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
REFUSE, ALLOW = 0x00050000 | errno.ENOSYS, 0x7FFF0000  # linux/seccomp.h
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


instructions = [
    (LOAD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 1, NUMBER),
    (RETURN, 0, 0, REFUSE),
    (RETURN, 0, 0, ALLOW),
]
program = Program(len(instructions), b"".join(struct.pack("=HBBI", *one) for one in instructions))
libc = ctypes.CDLL(None, use_errno=True)
for call in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
):
    if libc.prctl(*call):
        sys.exit(f"without.py: prctl: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
