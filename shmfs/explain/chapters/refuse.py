"""refuse: what mmap answers when it does not want to. Compare mm/mmap.c:do_mmap: it checks in this order."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from shmfs.explain import actors
from shmfs.explain.actors import MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE, SHM, Actor
from shmfs.explain.chapters.tools import answer, create, named
from shmfs.explain.records import Claim, Step
from shmfs.explain.stage import PAGE, Mapping, Stage

NAME = "checks"
_O_RDONLY, _O_WRONLY, _O_DIRECTORY = 0, 1, 0o200000
_LOCKED = MAP_SHARED | actors.MAP_LOCKED
_ADDRESSES = 1 << 62
"""More than any machine has, in bytes."""


class _Files(NamedTuple):
    """Descriptors of one file of four pages, and of the directory."""

    actor: Actor
    both: int
    reading: int
    writing: int
    directory: int
    there: Mapping
    """A mapping, for reading, made through `reading`."""


_Call = tuple[str, *tuple[int, ...]]


def _mmap(
    fd: int, protection: int = PROT_READ, flags: int = MAP_SHARED, length: int = PAGE, offset: int = 0
) -> _Call:
    return ("mmap", 0, length, protection, flags, fd, offset)


class _Check(NamedTuple):
    """A call, what it should answer, and why."""

    text: str
    expected: str
    reason: str
    function: str
    run: Callable[[_Files], str]


def _call(of: Callable[[_Files], _Call]) -> Callable[[_Files], str]:
    return lambda files: answer(files.actor, *of(files))


def _limited(limit: str, value: int, of: Callable[[_Files], _Call]) -> Callable[[_Files], str]:
    return lambda files: named(lambda: files.actor.ask("limited", limit, value, *of(files)))


CHECKS = (
    _Check(
        "mmap at an offset of 1 byte", "EINVAL", "files are mapped in whole pages", "sys_mmap",
        _call(lambda f: _mmap(f.both, offset=1)),
    ),
    _Check(
        "mmap of a closed descriptor", "EBADF", "there is no file to map", "ksys_mmap_pgoff",
        _call(lambda f: _mmap(9999)),
    ),
    _Check(
        "mmap of 0 bytes", "EINVAL", "a VMA has a page at least", "do_mmap",
        _call(lambda f: _mmap(f.both, length=0)),
    ),
    _Check(
        "mmap of 4 EiB", "ENOMEM", "no address space is so large", "__get_unmapped_area",
        _call(lambda f: _mmap(f.both, length=_ADDRESSES)),
    ),
    _Check(
        "mmap to an address in use (MAP_FIXED_NOREPLACE)", "EEXIST", "a VMA is there already", "do_mmap",
        _call(
            lambda f: (
                "mmap", f.there.address, PAGE, PROT_READ, MAP_SHARED | actors.MAP_FIXED_NOREPLACE, f.both, 0,
            )
        ),
    ),
    _Check(
        "mmap with MAP_LOCKED over RLIMIT_MEMLOCK", "EAGAIN", "more than may be kept from swap",
        "mlock_future_ok",
        _limited(
            "RLIMIT_MEMLOCK", PAGE, lambda f: _mmap(f.both, flags=_LOCKED, length=4 * PAGE)
        ),
    ),
    _Check(
        "mmap that ends behind the largest offset", "EOVERFLOW", "no file is so large", "file_mmap_ok",
        _call(lambda f: _mmap(f.both, offset=(1 << 63) - PAGE, length=2 * PAGE)),
    ),
    _Check(
        "mmap, neither MAP_SHARED nor MAP_PRIVATE", "EINVAL", "whose are the stores?", "do_mmap",
        _call(lambda f: _mmap(f.both, flags=0)),
    ),
    _Check(
        "mmap, shared, for writing, of a file opened for reading", "EACCES",
        "stores would go round the file's permissions", "do_mmap",
        _call(lambda f: _mmap(f.reading, PROT_READ | PROT_WRITE)),
    ),
    _Check(
        "mmap, private, for writing, of the same file", "done", "its stores stay with the process", "do_mmap",
        _call(lambda f: _mmap(f.reading, PROT_READ | PROT_WRITE, MAP_PRIVATE)),
    ),
    _Check(
        "mprotect, for writing, of a mapping made as allowed", "EACCES", "the VMA remembers (VM_MAYWRITE)",
        "do_mprotect_pkey",
        _call(lambda f: ("mprotect", f.there.address, PAGE, PROT_READ | PROT_WRITE)),
    ),
    _Check(
        "mmap of a file opened for writing alone", "EACCES", "a fault has to read the page", "do_mmap",
        _call(lambda f: _mmap(f.writing, PROT_WRITE)),
    ),
    _Check(
        "mmap with PROT_EXEC on a mount with noexec", "EPERM", "that is what noexec means", "path_noexec",
        _call(lambda f: _mmap(f.both, PROT_READ | PROT_EXEC)),
    ),
    _Check(
        "mmap of a directory", "ENODEV", "it has no f_op->mmap", "do_mmap",
        _call(lambda f: _mmap(f.directory)),
    ),
    _Check(
        "mmap over RLIMIT_AS", "ENOMEM", "the process has addresses enough", "may_expand_vm",
        _limited("RLIMIT_AS", 1 << 20, lambda f: _mmap(f.both)),
    ),
)  # fmt: skip


def steps(stage: Stage) -> Iterator[Step]:
    """One step with all checks."""
    actor, path = stage.a, f"{SHM}/{NAME}"
    both = create(actor, NAME, 4, PAGE)
    reading, writing = actor.call("open", path, _O_RDONLY), actor.call("open", path, _O_WRONLY)
    directory = actor.call("open", SHM, _O_RDONLY | _O_DIRECTORY)
    there = stage.map(actor, reading, 1, protection=PROT_READ)
    files = _Files(actor, both, reading, writing, directory, there)
    claims = [Claim(one.text, one.expected, one.run(files), one.reason, one.function) for one in CHECKS]
    yield stage.step(
        "A asks for what mmap refuses",
        "mmap allocates no memory, so it fails for what is asked only: arguments, limits, and the way the "
        "file was opened, checked in this order.",
        "ksys_mmap_pgoff vm_mmap_pgoff do_mmap mmap_region",
        claims,
    )
    there.unmap()
    for fd in (both, reading, writing, directory):
        actor.call("close", fd)
    actor.call("unlink", path)
    stage.settled(0)
