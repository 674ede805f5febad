"""Where fields are in the structures of the running kernel, from its own description of its types.

/sys/kernel/btf/vmlinux has 150,000 types. Only what is asked for is looked for, by the place of its name:
that takes 2 ms where the file may be mapped (Linux 6.16), and otherwise 50 ms to read it.

Source: Documentation/bpf/btf.rst. Any thread may call.
"""

import contextlib
import mmap
import os
import struct

VMLINUX = "/sys/kernel/btf/vmlinux"

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, length; types and strings: place and length
_MAGIC = 0xEB9F
_STRUCT, _KIND_SHIFT, _KIND_MASK, _VLEN_MASK = 4, 24, 0x1F, 0xFFFF
_BIT_FIELDS = 1 << 31
"""kind_flag: the upper 8 bits of an offset are the size of a bit field."""
_TYPE_BYTES, _MEMBER_BYTES = 12, 12


class Types:
    """The types of the running kernel. Close it after use."""

    def __init__(self, path: str = VMLINUX) -> None:
        """Raises OSError where the kernel has no description."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._data = _content(fd)
            magic, _, _, head, types, types_bytes, strings, strings_bytes = _HEADER.unpack_from(self._data)
        except struct.error as short:
            raise OSError(f"{path} is too short") from short
        finally:
            os.close(fd)
        if magic != _MAGIC:
            raise OSError(f"{path} is of another byte order, or no BTF")
        self._types = range(head + types, head + types + types_bytes)
        self._strings = range(head + strings, head + strings + strings_bytes)

    def close(self) -> None:
        """Unmap the file."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def offset(self, structure: str, member: str) -> int:
        """Return the offset of a member of a structure in bytes; raises KeyError."""
        wanted, name = self._string(structure).to_bytes(4, "little"), self._string(member)
        at = self._types.start - 1
        while (at := self._data.find(wanted, at + 1, self._types.stop)) >= 0:
            if (at - self._types.start) % 4:
                continue
            (info,) = struct.unpack_from("<I", self._data, at + 4)
            members, count = at + _TYPE_BYTES, info & _VLEN_MASK
            if info >> _KIND_SHIFT & _KIND_MASK != _STRUCT:
                continue
            if members + count * _MEMBER_BYTES > self._types.stop:
                continue
            for place in range(members, members + count * _MEMBER_BYTES, _MEMBER_BYTES):
                known, _, bits = struct.unpack_from("<III", self._data, place)
                if known == name:
                    return int(bits & 0xFF_FFFF if info & _BIT_FIELDS else bits) // 8
        raise KeyError(f"{structure}.{member}")

    def _string(self, name: str) -> int:
        """The place of a name among the strings."""
        at = self._data.find(b"\0" + name.encode() + b"\0", self._strings.start, self._strings.stop)
        if at < 0:
            raise KeyError(name)
        return at + 1 - self._strings.start


def _content(fd: int) -> mmap.mmap | bytes:
    with contextlib.suppress(OSError, ValueError):
        return mmap.mmap(fd, os.fstat(fd).st_size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    with open(fd, "rb", closefd=False) as file:
        return file.read()
