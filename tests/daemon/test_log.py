"""The log: regular files, pipes, and everything that can be wrong with them."""

import contextlib
import errno
import json
import os
import resource
import select
import stat
import subprocess
import sys
import threading
import time
import timeit

import pytest

from shmfs.daemon import log as log_module
from shmfs.daemon.log import JsonLines
from shmfs.events.hooks import HOOKS, Instruments

FILE = stat.S_IFREG | 0o600
DIRECTORY = stat.S_IFDIR | 0o700

ARGUMENTS = {
    "page_in": (5, 0, 1),
    "allocate": (5, 0, 1),
    "free": (5, 0, 1),
    "refuse": (5, 1, 1, "size"),
    "refusal": (5, "/a", {"errno": "ENOSPC"}),
    "usage": (5, 4096, 1),
    "create": (5, "/a", FILE, 7),
    "door": (5, "sysv", 4660, 1),
    "open": (5, 2, 7),
    "release": (5, 2),
    "link": (5, "/b", 7),
    "unlink": (5, "/b", 1, 7),
    "rename": (5, "/a", "/c", 7),
    "resize": (5, 0, 4096, 7),
    "evict": (5,),
    "read": (5, 0, 4096, 7, 8),
    "write": (5, 4096, 10, 7, 7),
}


@pytest.fixture
def regular(tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def lines(fd):
    data = os.pread(fd, 1 << 28, 0)
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.decode().splitlines()]


def fill(fd):
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, bytes(4096))
    except BlockingIOError:
        pass
    os.set_blocking(fd, True)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_every_hook_makes_a_record(regular):
    instruments = Instruments()
    log = JsonLines(regular)
    instruments.install(log)
    assert set(instruments) == set(HOOKS) == set(ARGUMENTS)
    order = ["create", *(hook for hook in HOOKS if hook not in ("create", "evict")), "evict"]
    before = time.time_ns()
    for hook in order:
        instruments.call(hook, *ARGUMENTS[hook])
    log.close()
    written = lines(regular)
    assert [line["event"] for line in written] == order
    for line in written:
        hook = line["event"]
        assert list(line)[:4] == ["time", "event", "inode", "path"]
        assert before <= line["time"] <= time.time_ns()
        for name, value in zip(HOOKS[hook], ARGUMENTS[hook], strict=True):
            assert line[name] == value
    assert written[-1]["path"] == "/c"
    assert log.lost == 0
    instruments.remove(log)
    assert instruments == {}


def test_paths_follow_the_names(regular):
    log = JsonLines(regular, {1: "/"})
    log.page_in(9, 0, 1)
    log.resize(1, 0, 0, 0)
    log.create(2, "/d", DIRECTORY, 0)
    log.create(5, "/d/a", FILE, 0)
    log.rename(2, "/d", "/e", 0)
    log.page_in(5, 0, 1)
    log.link(5, "/x", 0)
    log.page_in(5, 1, 1)
    log.unlink(5, "/x", 1, 0)
    log.page_in(5, 2, 1)
    log.evict(5)
    log.page_in(5, 3, 1)
    log.close()
    assert [line["path"] for line in lines(regular) if line["event"] in ("page_in", "resize")] == [
        "", "/", "/e/a", "/x", "/e/a", "",
    ]  # fmt: skip


def test_names_that_are_not_utf8(regular):
    log = JsonLines(regular)
    log.create(5, os.fsdecode(b"/\xff\xfe\xc3\xa9\n"), FILE, 0)
    log.rename(5, os.fsdecode(b"/\xff"), os.fsdecode(b"/\x80"), 0)
    log.create(6, "/fine", FILE, 0)
    log.close()
    first, second, third = lines(regular)
    assert first["path"] == "/\\xff\\xfe\u00e9\n"
    assert (second["old_path"], second["path"]) == ("/\\xff", "/\\x80")
    assert third["path"] == "/fine"


def test_a_regular_file_is_complete(regular):
    log = JsonLines(regular)
    for page in range(20_000):
        log.page_in(5, 2 * page, 1)
    log.close()
    assert [line["page"] for line in lines(regular)] == list(range(0, 40_000, 2))
    assert log.lost == 0


def test_pages_one_behind_the_other_are_one_record(regular, monkeypatch):
    monkeypatch.setattr(log_module, "PAUSE", 60)
    log = JsonLines(regular)
    log.create(5, "/a", FILE, 7)
    for page in range(9):
        log.allocate(5, page, 1)
        log.page_in(5, page, 1)
        log.allocate(6, 2 * page, 1)
    log.free(5, 0, 9)
    log.allocate(5, 9, 1)
    log.evict(5)
    log.close()
    written = [line for line in lines(regular) if line["inode"] == 5]
    assert [(line["event"], line.get("page"), line.get("pages")) for line in written] == [
        ("create", None, None), ("allocate", 0, 9), ("page_in", 0, 9), ("free", 0, 9), ("allocate", 9, 1),
        ("evict", None, None),
    ]  # fmt: skip
    assert [line["page"] for line in lines(regular) if line["inode"] == 6] == list(range(0, 18, 2))


def test_no_page_is_told_twice_or_never_while_runs_are_taken(regular, monkeypatch):
    monkeypatch.setattr(log_module, "PAUSE", 0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        log = JsonLines(regular)
        for page in range(30_000):
            log.allocate(5, page, 1)
            if page % 1000 == 999:
                log.free(5, page - 999, 1000)
        log.close()
    finally:
        sys.setswitchinterval(before)
    next_page = held = 0
    for line in lines(regular):
        if line["event"] == "allocate":
            assert line["page"] == next_page
            next_page += line["pages"]
            held += line["pages"]
        else:
            assert held == 1000
            held = 0
    assert (next_page, held, log.lost) == (30_000, 0, 0)


def test_a_record_is_written_soon(regular):
    log = JsonLines(regular)
    log.page_in(5, 0, 1)
    wait_for(lambda: lines(regular))
    log.page_in(5, 1, 1)
    wait_for(lambda: len(lines(regular)) == 2)
    log.close()


def test_a_pipe_that_nobody_reads(pipe):
    _, writer = pipe
    fill(writer)
    log = JsonLines(writer, room=10)
    for page in range(1000):
        log.page_in(5, 2 * page, 1)
    assert log.lost >= 1000 - 10 - log_module.BATCH
    started = time.monotonic()
    log.close(timeout=0.1)
    assert time.monotonic() - started < 5
    assert not log._writer.is_alive()
    assert log.lost == 1000


def test_a_pipe_that_is_read_late(pipe):
    reader, writer = pipe
    fill(writer)
    log = JsonLines(writer, room=200)
    for page in range(1000):
        log.page_in(5, 2 * page, 1)
    received = bytearray()

    def read():
        while data := os.read(reader, 65536):
            received.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    log.close(timeout=10)
    os.close(writer)
    thread.join()
    written = [json.loads(line) for line in received.lstrip(b"\0").decode().splitlines()]
    assert written[-1]["event"] == "lost"
    assert written[-1]["count"] == log.lost > 0
    assert len(written) - 1 + log.lost == 1000
    pages = [line["page"] for line in written[:-1]]
    assert pages == sorted(pages)


def test_no_write_to_a_pipe_can_block(pipe):
    """The writer stays alive to the end of its own free will, even if the descriptor blocks."""
    _, writer = pipe
    log = JsonLines(writer)
    for page in range(5000):
        log.page_in(5, 2 * page, 1)
    wait_for(lambda: not select.select([], [writer], [], 0)[1])
    log.close(timeout=0.1)
    assert not log._writer.is_alive()
    assert 0 < log.lost < 5000


def test_a_pipe_whose_reader_is_gone(pipe, caplog):
    reader, writer = pipe
    os.close(reader)
    log = JsonLines(writer)
    for page in range(1000):
        log.page_in(5, 2 * page, 1)
    log.close()
    assert log.lost == 1000
    assert caplog.text.count(os.strerror(errno.EPIPE)) == 1


def test_a_bad_descriptor(caplog):
    fd = os.open("/dev/null", os.O_RDONLY)  # never writable: EBADF, and nobody else can get the number
    log = JsonLines(fd)
    for page in range(1000):
        log.page_in(5, 2 * page, 1)
    log.close()
    os.close(fd)
    assert log.lost == 1000
    assert caplog.text.count(os.strerror(errno.EBADF)) == 1


def test_no_space(caplog):
    fd = os.open("/dev/full", os.O_WRONLY)
    log = JsonLines(fd)
    for page in range(1000):
        log.page_in(5, 2 * page, 1)
    log.close()
    os.close(fd)
    assert log.lost == 1000
    assert caplog.text.count(os.strerror(errno.ENOSPC)) == 1


def test_a_line_that_was_cut_is_ended(regular, monkeypatch, caplog):
    """ENOSPC in the middle of a line, then room again."""
    real = os.write
    full = [True]

    def write(fd, data):
        if fd != regular:
            return real(fd, data)
        if not full[0]:
            return real(fd, data)
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: len(data) - 50])

    monkeypatch.setattr(os, "write", write)
    log = JsonLines(regular)
    log.page_in(5, 0, 1)
    log.page_in(5, 7, 1)
    wait_for(lambda: log.lost == 1 or log.lost == 2)
    wait_for(lambda: not log._buffer)
    full[0] = False
    log.page_in(5, 2, 1)
    log.close()
    data = os.pread(regular, 1 << 20, 0)
    whole = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            whole.append(json.loads(line))
    events = [line["event"] for line in whole]
    assert events[-1] == "lost"
    assert whole[-1]["count"] == log.lost
    assert 2 in [line.get("page") for line in whole]
    assert len(whole) - 1 + log.lost == 3


def test_a_file_size_limit(tmp_path):
    """EFBIG from a real kernel, in a process of its own for the limit's sake."""
    program = f"""
import os, resource
from shmfs.daemon.log import JsonLines
fd = os.open({str(tmp_path / "log")!r}, os.O_RDWR | os.O_CREAT)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
log = JsonLines(fd)
for page in range(1000):
    log.page_in(5, 2 * page, 1)
log.close()
print(log.lost, os.fstat(fd).st_size)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    lost, size = map(int, done.stdout.split())
    whole = [line for line in (tmp_path / "log").read_bytes().split(b"\n")[:-1] if line]
    assert size == 1000
    assert lost + len(whole) == 1000
    assert "records are lost" in done.stderr


def test_after_close_records_are_lost(regular):
    log = JsonLines(regular)
    log.close()
    log.page_in(5, 0, 1)
    assert log.lost == 1
    log.close()
    assert lines(regular) == []


def test_a_record_costs_little(regular):
    log = JsonLines(regular, {5: "/segment"})
    best = min(timeit.repeat(lambda: log.page_in(5, 1, 1), number=200, repeat=50)) / 200
    log.close()
    assert best < 10e-6
    assert len(lines(regular)) == 200 * 50


def test_many_records_need_little_memory(regular):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log = JsonLines(regular, {5: "/segment"})
    for page in range(100_000):
        log.page_in(5, 2 * page, 1)
    log.close()
    assert log.lost == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
