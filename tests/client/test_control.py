"""The control socket's answers: whatever comes in, an answer goes out, and the mount lives on."""

import errno
import os
import socket
import stat
import threading
from typing import Any

import msgspec
import pytest

from shmfs.client import control as client
from shmfs.daemon import control, runtime
from shmfs.errors import ShmfsError
from shmfs.fs.options import parse


def fail(failure: BaseException):
    def handler(request: dict[str, Any]) -> None:
        raise failure

    return handler


HANDLERS: dict[str, control.Handler] = {
    "echo": lambda request: request,
    "nothing": lambda request: None,
    "needs": lambda request: request["options"],
    "option": lambda request: parse("bogus=1"),
    "refused": fail(OSError(errno.EINVAL, "size=1: more than 1 bytes are in use; remove files first")),
    "numberless": fail(OSError("no number")),
    "sentence": fail(ShmfsError("option 'mode' cannot be changed by a remount")),
    "bug": fail(ZeroDivisionError("division by zero")),
    "memory": fail(MemoryError()),
    "recursion": fail(RecursionError("too deep")),
    "type": fail(TypeError("not so")),
    "surrogate": lambda request: "/\udcff",
    "surrogate_error": fail(ShmfsError("cannot do it to /\udcff")),
    "unencodable": lambda request: object(),
}


def ask(line: bytes) -> dict[str, Any]:
    reply = control.answer(line, HANDLERS)
    assert reply.endswith(b"\n")
    assert reply.count(b"\n") == 1
    answered: dict[str, Any] = msgspec.json.decode(reply)
    assert len(answered) == 1
    assert set(answered) <= {"ok", "error"}
    return answered


def test_a_command_and_its_arguments():
    assert ask(b'{"command": "echo", "a": 1, "b": [null]}\n') == {"ok": {"a": 1, "b": [None]}}
    assert ask(b'{"command": "nothing"}') == {"ok": None}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"nonsense",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"echo"',
        b"\xff\xfe",
        b'{"command": "\xff"}',
        b'{"command": "echo"} {}',
        b'{"command": "echo", "a": NaN}',
        b"[" * 65_000,
        b'{"a":' * 13_000,
        b'{"command": "echo", "a": ' + b"[" * 60_000,
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(65_536),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_malformed_input(line):
    assert ask(line)["error"].startswith("malformed request")


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"command": "missing"}',
        b'{"command": null}',
        b'{"command": 5}',
        b'{"command": []}',
        b'{"command": {}}',
        b'{"command": ["echo"]}',
        b'{"command": ""}',
        b'{"command": "__class__"}',
        b'{"Command": "echo"}',
    ],
)
def test_unknown_commands(line):
    assert "unknown or missing command" in ask(line)["error"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("needs", "options"),
        ("option", "bogus"),
        ("refused", "more than 1 bytes are in use"),
        ("numberless", "no number"),
        ("sentence", "option 'mode' cannot be changed by a remount"),
        ("bug", "bug"),
        ("memory", "memory"),
        ("recursion", "recursion"),
        ("type", "type"),
        ("surrogate", "surrogate"),
        ("surrogate_error", "cannot do it to /?"),
        ("unencodable", "unencodable"),
    ],
)
def test_handlers_that_fail(command, said):
    assert said in ask(msgspec.json.encode({"command": command}))["error"]


@pytest.mark.parametrize("command", ["bug", "unencodable", "type"])
def test_a_bug_is_logged(command, caplog):
    ask(msgspec.json.encode({"command": command}))
    assert "Traceback" in caplog.text


# ---- the socket


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "directory", lambda: tmp_path)
    return tmp_path


def serve(listener: socket.socket, *replies: bytes) -> threading.Thread:
    """Answer as many connections as there are replies."""

    def work() -> None:
        for reply in replies:
            connection, _ = listener.accept()
            with connection:
                assert control.peer_allowed(connection)
                while not connection.recv(1 << 16).endswith(b"\n"):
                    pass
                connection.sendall(reply)
        listener.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_call_and_its_answer(directory):
    listener = control.listen("0:99")
    path = directory / "0:99.sock"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert [entry.name for entry in directory.iterdir()] == ["0:99.sock"]
    thread = serve(listener, b'{"ok": [1, 2]}\n', b'{"error": "no"}\n', b"")
    assert client.call("0:99", "anything", a=1) == [1, 2]
    with pytest.raises(ShmfsError, match=r"^no$"):
        client.call("0:99", "anything")
    with pytest.raises(ShmfsError, match="no daemon of yours serves the mount 0:99"):
        client.call("0:99", "anything")
    thread.join()


def test_nobody_listens(directory):
    with pytest.raises(ShmfsError, match="no daemon of yours"):
        client.call("0:99", "statistics")


def test_a_daemon_that_does_not_answer(directory, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.05)
    with control.listen("0:99"), pytest.raises(ShmfsError, match="does not answer"):
        client.call("0:99", "statistics")


def test_the_socket_of_a_dead_daemon_is_replaced(directory):
    control.listen("0:99").close()
    thread = serve(control.listen("0:99"), b'{"ok": 1}\n')
    assert client.call("0:99", "x") == 1
    thread.join()


def test_the_runtime_directory_is_the_user_s_alone(monkeypatch, tmp_path):
    if os.geteuid() == 0:
        assert str(runtime.directory()) == "/run/shmfs"
        assert stat.S_IMODE(runtime.directory().stat().st_mode) & 0o022 == 0
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "shmfs").mkdir(mode=0o700)
    (tmp_path / "shmfs").chmod(0o777)
    with pytest.raises(ShmfsError, match="not a directory of yours alone"):
        runtime.directory()
