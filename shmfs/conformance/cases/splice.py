"""sendfile(2), splice(2), tee(2) and vmsplice(2)."""

import os
import socket
import struct
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import PAGE, Mapping, call, changes, content, digest, new, tried, unprivileged


@case()
def sendfile(d: Path) -> Any:
    source, sink = new("a", b"0123456789" * 1000), new("b", b"#" * 20)
    seen = [os.sendfile(sink, source, 5, 6000), os.lseek(sink, 0, os.SEEK_CUR), digest(content("b"))]
    left, right = socket.socketpair()
    seen += [os.sendfile(left.fileno(), source, 9990, 100), right.recv(100)]
    seen += [tried(os.sendfile, sink, source, 20000, 10), tried(os.sendfile, source, source, 0, 10)]
    outside = os.memfd_create("outside")
    seen += [os.sendfile(outside, source, 0, 10000), os.pread(outside, 5, 9990)]
    seen += [os.sendfile(sink, outside, 0, 10000), digest(content("b"))]
    return seen


@case(options="size=64k,nr_inodes=16")
def sendfile_into_a_full_file_system(d: Path) -> Any:
    source = os.memfd_create("source")
    os.write(source, b"x" * 30 * PAGE)
    sink = new("f")
    seen = [tried(os.sendfile, sink, source, 0, 30 * PAGE), tried(os.sendfile, sink, source, 0, PAGE)]
    return [*seen, os.fstat(sink).st_size]


def _sent() -> Any:
    fd = os.open("s", os.O_RDWR)
    return os.sendfile(fd, fd, 0, 1)


def _spliced() -> Any:
    return os.splice(os.open("s", os.O_RDWR), os.pipe()[1], 1, offset_src=0)


@case()
def times_of_sendfile(d: Path) -> Any:
    os.close(new("s")), os.chmod("s", 0o2777)
    fd, target = new("f", b"x"), new("target")
    return {
        "data": changes(lambda: os.sendfile(target, fd, 0, 10), f="f"),
        "at the end": changes(lambda: os.sendfile(target, fd, 1, 10), f="f"),
        "at the end of a set-id file": changes(lambda: unprivileged(_sent), f="s"),
        "splice at the end of a set-id file": changes(lambda: unprivileged(_spliced), f="s"),
    }


@case()
def atime_of_a_directory_after_a_refused_sendfile(d: Path) -> Any:
    os.mkdir("d")
    target = new("target")
    return changes(lambda: os.sendfile(target, os.open("d", os.O_RDONLY), 0, 1), f="d")


@case()
def splice(d: Path) -> Any:
    fd = new("f", b"0123456789" * 2000)
    reader, writer = os.pipe()
    seen = [os.splice(fd, writer, 5000, offset_src=3), digest(os.read(reader, 5000))]
    os.write(writer, b"spliced" * 100)
    seen += [os.splice(reader, fd, 700, offset_dst=4090), digest(content("f"))]
    seen += [tried(os.splice, fd, fd, 10), tried(os.splice, fd, writer, 10, offset_src=1 << 40)]
    end = os.open("f", os.O_WRONLY | os.O_APPEND)
    os.write(writer, b"x")
    seen += [tried(os.splice, reader, end, 1)]
    return seen


@case(options="size=64k,nr_inodes=16")
def splice_into_a_full_file_system(d: Path) -> Any:
    reader, writer = os.pipe()
    sink = new("f", b"x" * 15 * PAGE)
    os.write(writer, b"y" * 2 * PAGE)
    seen = [tried(os.splice, reader, sink, 2 * PAGE, offset_dst=15 * PAGE)]
    return [*seen, tried(os.splice, reader, sink, PAGE, offset_dst=16 * PAGE), os.fstat(sink).st_size]


@case()
def splice_and_tee(d: Path) -> Any:
    fd = new("f", b"0123456789" * 1000)
    (one, into), (other, end) = os.pipe(), os.pipe()
    seen = [os.splice(fd, into, 5000, offset_src=5), call("tee", one, end, 5000, 0)]
    return [*seen, os.read(one, 10), os.read(other, 10), os.lseek(fd, 0, os.SEEK_CUR)]


@case()
def splice_of_holes(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 8 * PAGE)
    reader, writer = os.pipe()
    return [os.splice(fd, writer, 2 * PAGE, offset_src=PAGE), os.read(reader, 2 * PAGE) == bytes(2 * PAGE)]


@case()
def vmsplice_gives_pages(d: Path) -> Any:
    fd = new("f", b"a" * PAGE)
    mapping = Mapping(fd)
    reader, writer = os.pipe()
    vector = struct.pack("PP", mapping.address, PAGE)
    seen = [call("vmsplice", writer, vector, 1, 0)]
    mapping.store(b"later")
    return [seen, os.read(reader, 8)]
