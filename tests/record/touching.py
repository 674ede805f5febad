"""What programs begin with that touch pages of segments and tell which: `python -c PROGRAM DIRECTORY`."""

PRELUDE = """
import ctypes, ctypes.util, json, mmap, os, random, signal, sys
PAGE = 4096
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
number, size, address = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
libc.mmap.argtypes = [address, size, number, number, number, ctypes.c_long]
libc.mremap.argtypes = [address, size, size, number, address]
libc.munmap.argtypes = [address, size]

def segment(name, pages):
    fd = os.open(name, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, pages * PAGE)
    return fd

def map(fd, pages, at=0, first=0, flags=1):
    got = libc.mmap(at, pages * PAGE, 3, flags | (0x10 if at else 0), fd, first * PAGE)
    assert got != 2**64 - 1
    return got

def store(address, page):
    ctypes.c_char.from_address(address + page * PAGE).value = b"x"

def tell(*touched):
    os.write(1, json.dumps([os.getpid(), [list(one) for one in touched]]).encode() + b"\\n")
"""
"""The programs store: a store into a shared mapping maps just its page, a read those around it too."""
