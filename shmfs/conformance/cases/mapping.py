"""Use of mappings: holes, stores, many mappings, and programs and libraries that the kernel maps."""

import ctypes
import mmap
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.tools import (
    EXEC,
    PAGE,
    PRIVATE,
    READ,
    SHARED,
    WRITE,
    Mapping,
    blocks,
    call,
    child,
    content,
    new,
    tried,
)


@case(options="size=1m,noexec")
def noexec(d: Path) -> Any:
    fd = new("f", b"x" * PAGE, 0o777)
    mapping = Mapping(fd, PAGE, READ)
    return {
        "map": tried(Mapping, fd, PAGE, READ | EXEC),
        "map private": tried(Mapping, fd, PAGE, READ | EXEC, PRIVATE),
        "mprotect": tried(mapping.protect, READ | EXEC),
        "exec": child(os.execv, "f", ["f"]),
        "access": tried(os.access, "f", os.X_OK),
    }


@case()
def max_map_count(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    most = int(Path("/proc/sys/vm/max_map_count").read_text())

    def exhaust() -> Any:
        for index in range(most + 10):
            # neighbours with different protection do not merge
            answer = tried(call, "mmap", 0, PAGE, READ if index % 2 else WRITE | READ, SHARED, fd, 0)
            if isinstance(answer, str):
                return answer
        return "no limit"

    return child(exhaust) if most < 200_000 else "too many to try"


@case()
def a_thousand_mappings_of_one_file(d: Path) -> Any:
    fd = new("f", b"x" * PAGE)
    mappings = [Mapping(fd) for _ in range(1000)]
    mappings[0].store(b"seen")
    return [{m.load(0, 4) for m in mappings}, [m.unmap() for m in mappings[:3]]]


@case()
def stores_into_holes_that_were_read(d: Path) -> Any:
    """Readers see the stored data, not a page of zeros that was cached for the hole."""
    fd = new("f")
    os.ftruncate(fd, 4 * PAGE)
    os.close(fd)
    reader = os.open("f", os.O_RDONLY)
    view = Mapping(reader, 4 * PAGE, READ)
    seen = [view.load(PAGE, 3), os.pread(reader, 3, 2 * PAGE)]
    writer = os.open("f", os.O_RDWR)
    os.pwrite(writer, b"abc", PAGE)
    seen += [view.load(PAGE, 3)]
    mapping = Mapping(writer, 4 * PAGE)
    mapping.store(b"def", 2 * PAGE)
    mapping.store(b"ghi", 3 * PAGE)
    seen += [view.load(2 * PAGE, 3), os.pread(reader, 3, 3 * PAGE), view.load(3 * PAGE, 3)]
    mapping.unmap()
    os.close(writer)
    return [seen, digest_of("f"), blocks("f")]


def digest_of(path: str) -> list[bytes]:
    data = content(path)
    return [data[i : i + 4] for i in range(0, len(data), PAGE)]


@case()
def after_close_and_unlink(d: Path) -> Any:
    fd = new("f", b"content")
    mapping = Mapping(fd)
    os.unlink("f")
    os.close(fd)
    mapping.store(b"CON")
    other = child(mapping.load, 0, 7)
    child(mapping.store, b"x", 6)
    return [other, mapping.load(0, 8), os.path.exists("f")]


@case()
def stores_reach_the_file(d: Path) -> Any:
    fd = new("f")
    os.ftruncate(fd, 300 * PAGE)
    mapping = Mapping(fd, 300 * PAGE)
    for page in range(0, 300, 7):
        mapping.store(str(page).encode(), page * PAGE + 5)
    readable = [os.pread(fd, 3, page * PAGE + 5) for page in range(0, 300, 7)]
    mapping.unmap()
    os.close(fd)
    data = content("f")
    return [readable, [data[page * PAGE + 5 : page * PAGE + 8] for page in range(0, 300, 7)], blocks("f")]


@case()
def mmap_of_python(d: Path) -> Any:
    with open("f", "w+b") as file:
        file.write(b"0123456789" * 1000)
        file.flush()
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[5:10] = b"abcde"
            mapped.resize(20000)
            mapped[19990:] = b"z" * 10
            seen = [len(mapped), mapped.find(b"cde"), mapped.rfind(b"9"), os.fstat(file.fileno()).st_size]
            mapped.flush()
            mapped.move(0, 19990, 10)
    return [seen, content("f")[:12], len(content("f"))]


@case()
def a_program_is_executed(d: Path) -> Any:
    os.close(new("script", b"#!/bin/sh\nexit 7\n", 0o755))
    Path("true").write_bytes(Path("/bin/sleep").read_bytes())
    os.chmod("true", 0o755)

    def wait(*argv: str) -> int:
        pid = os.posix_spawn(argv[0], list(argv), dict(os.environ))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    seen = [wait("./script"), wait("./true", "0")]
    pid = os.posix_spawn("./true", ["./true", "60"], dict(os.environ))
    busy = [tried(os.open, "true", os.O_RDWR), tried(os.truncate, "true", 0), tried(os.unlink, "true")]
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.chmod("script", 0o644)
    fd = os.open("script", os.O_RDWR)
    os.chmod("script", 0o755)
    return [seen, busy, child(os.execv, "script", ["script"]), os.close(fd)]


@case()
def a_library_is_loaded(d: Path) -> Any:
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    library = next(Path(path) for path in sorted(mapped) if "/libc.so" in path or "/libm" in path)
    Path("lib.so").write_bytes(library.read_bytes())
    return child(lambda: bool(ctypes.CDLL("./lib.so")))


def status_of(*command: str) -> Any:
    """Exit status of a program, or the name of the errno that kept it from being executed."""
    return tried(lambda: subprocess.run(command, check=False).returncode)


@case()
def a_truncating_open_of_a_running_program(d: Path) -> Any:
    shutil.copy("/bin/cat", "s")
    running = subprocess.Popen(["./s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert running.stdin is not None  # noqa: S101
    assert running.stdout is not None  # noqa: S101
    running.stdin.write(b"x"), running.stdout.read(1)  # now it only waits, and needs no page
    seen: dict[str, Any] = {}
    for name, flags in (("write", os.O_WRONLY), ("read", os.O_RDONLY)):
        seen[name] = [tried(os.open, "s", flags | os.O_TRUNC), os.stat("s").st_size > 0]
    running.send_signal(signal.SIGKILL)
    running.wait()
    return seen


@case()
def a_writable_mapping_without_a_descriptor(d: Path) -> Any:
    """The mapping keeps the file open for writing: for inotify, for execve(2) and for leases."""
    shutil.copy("/bin/true", "t")
    watch = call("inotify_init1", os.O_NONBLOCK)
    fd = os.open("t", os.O_RDWR)
    mapping = Mapping(fd)
    call("inotify_add_watch", watch, "t", 0x8)  # IN_CLOSE_WRITE
    os.close(fd)
    seen = {
        "closed": isinstance(tried(os.read, watch, 100), bytes),
        "executed": status_of("./t"),
        "leased": tried(call, "fcntl", os.open("t", os.O_RDONLY), 1024, 0),  # F_SETLEASE, F_RDLCK
    }
    mapping.unmap()
    return seen | {"executed later": status_of("./t")}
