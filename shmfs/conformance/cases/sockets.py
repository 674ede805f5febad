"""Sockets that are bound to a name."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import changes, mode, opened, tried, unprivileged


@case()
def a_socket_is_bound(d: Path) -> Any:
    os.umask(0o077)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        seen = [mode("s"), stat.S_ISSOCK(os.stat("s").st_mode), tried(client.connect, "s")]
        server.listen()
        seen += [
            tried(client.connect, "s"),
            opened("s"),
            unprivileged(lambda: socket.socket(socket.AF_UNIX).connect("s")),
        ]
    return [*seen, os.listdir(".")]


@case()
def a_socket_is_bound_twice(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind("s")
        seen = [tried(other.bind, "s"), tried(other.bind, "none/s")]
        os.unlink("s")
        return [*seen, tried(other.bind, "s")]


@case()
def a_socket_by_a_link(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        os.link("s", "t"), os.symlink("t", "l"), os.unlink("s")
        return [tried(client.connect, "l"), mode("t")]


@case()
def streams_and_datagrams(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")
        accepted = server.accept()[0]
        client.sendall(b"hello")
        seen = [accepted.recv(10), mode("s"), opened("s"), tried(server.getsockname)]
        with socket.socket(socket.AF_UNIX) as second:
            seen.append(tried(second.bind, "s"))
        os.rename("s", "moved")
        with socket.socket(socket.AF_UNIX) as late:
            late.connect("moved")
        os.unlink("moved")
        with socket.socket(socket.AF_UNIX) as late:
            seen.append(tried(late.connect, "moved"))
        accepted.close()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, 2) as sender,
    ):
        receiver.bind("dgram")
        sender.sendto(b"datagram", "dgram")
        seen.append(receiver.recv(100))
    with socket.socket(socket.AF_UNIX) as dead:
        seen.append(tried(dead.connect, "dgram"))
    return seen


@case()
def datagrams_to_a_renamed_socket(d: Path) -> Any:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind("r"), sender.bind("s")
        sender.sendto(b"one", "r")
        data, source = receiver.recvfrom(10)
        os.rename("r", "moved")
        return [
            data,
            source,
            tried(sender.sendto, b"two", "r"),
            tried(sender.sendto, b"two", "moved"),
            receiver.recv(10),
        ]


@case()
def times_of_a_socket(d: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        seen = {"connect": changes(lambda: client.connect("s"), s="s")}
        seen["send"] = changes(lambda: client.sendall(b"x"), s="s")
        return seen
