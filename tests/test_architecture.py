"""The rules of the house, as far as a test can see them: rooms, arrows, sizes, what the daemon loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shmfs"
MODULES = sorted(PACKAGE.rglob("*.py"))

TOP_LEVEL = {"pyproject.toml", "shmfs", "tests", "scripts", "README.md", "LICENSE"}
LONGEST_MODULE = 450

ARROWS: dict[str, set[str]] = {
    "events": set(),
    "system": {"events"},
    "mm": {"events", "system"},
    "fs": {"events", "system", "mm"},
    "ipc": {"system", "fs"},
    "fuse": {"system", "mm", "fs", "ipc"},
    "daemon": {"events", "system", "mm", "fs", "ipc", "fuse"},
    "tracing": {"system"},
    "client": {"events", "system", "fs", "ipc", "fuse", "daemon", "tracing"},
    "tracefile": {"events"},
    "analysis": {"events", "tracefile"},
    "record": {"events", "system", "tracing", "tracefile", "analysis"},
    "report": {"events", "system", "tracefile", "analysis"},
    "export": {"tracefile", "analysis", "report"},
    "sandbox": {"events", "system", "ipc", "client", "tracefile", "analysis", "record", "report"},
    "live": {"events", "system", "client", "tracing", "tracefile", "record", "report"},
    "explain": {"system", "ipc", "client", "report"},
    "conformance": {"events", "system", "fs", "ipc", "client"},
    "testing": {"events", "system", "client", "tracefile", "analysis", "report", "sandbox"},
}
"""What a room may import, beside itself and `errors`; from the ground up. `cli` may import every room."""
ROOMS = {*ARROWS, "cli"}
LARGEST_ROOM = 3000
"""Lines of Python and C, without the cases of `conformance`."""

HEAVY = {
    *(
        "numpy",
        "zstandard",
        "pyarrow",
        "rich",
        "textual",
        "click",
        "posix_ipc",
        "pytest",
        "hypothesis",
    )
}
"""What the daemon must not load: its memory is the file system's."""


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(source: str, package: str) -> Iterator[str]:
    """The modules that a source imports anywhere in it, also within functions; `package` is where it lies."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            for alias in node.names:
                dotted = f"{base}.{alias.name}"
                yield dotted if dotted in NAMES else base
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def package_of(path: Path) -> str:
    name = name_of(path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def imports_of(path: Path) -> set[str]:
    return set(imports(path.read_text(), package_of(path)))


def allowed(room: str, imported: str) -> bool:
    """Whether a module of the room may import `imported`, a module of shmfs."""
    inside = imported.removeprefix("shmfs").removeprefix(".")
    return room == "cli" or inside in ("", "errors") or inside.split(".")[0] in ARROWS[room] | {room}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room not in ROOMS:
        assert room in ("__init__.py", "__main__.py", "errors.py", "trace.py")
        return
    back = [name for name in imports_of(path) if name.split(".")[0] == "shmfs" and not allowed(room, name)]
    assert back == [], f"{name_of(path)} must not import {back}"


def test_arrows_lead_down():
    """Each room is declared above what it imports, so that there is no cycle."""
    declared = list(ARROWS)
    for number, (room, below) in enumerate(ARROWS.items()):
        assert below <= set(declared[:number]), room


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_is_too_large(room):
    files = [path for path in (PACKAGE / room).rglob("*") if path.suffix in (".py", ".c")]
    lines = sum(len(path.read_text().splitlines()) for path in files if "cases" not in path.parts)
    assert 0 < lines <= LARGEST_ROOM


@pytest.mark.parametrize("room", ["mm", "fs"])
def test_the_model_knows_neither_fuse_nor_trio(room):
    for path in (PACKAGE / room).rglob("*.py"):
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert not roots & {"pyfuse3", "trio", "asyncio"}, name_of(path)


def test_the_table_of_operations_awaits_nothing():
    for path in (PACKAGE / "fuse/operations").glob("*.py"):
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))
        assert not {"pyfuse3", "trio"} & imports_of(path)


def test_imports_are_found():
    """The walk itself: one that finds nothing would pass everything."""
    source = """
import a.b
from c import d
from shmfs import fs
from shmfs.mm import arena, PAGE_SIZE
from . import inode
from .options import parse
from ..mm import runs
def f():
    import numpy
    importlib.import_module("click")
if TYPE_CHECKING:
    from shmfs.fuse.adapter import Adapter
"""
    assert set(imports(source, "shmfs.fs")) == {
        "a.b",
        "c",
        "shmfs.fs",
        "shmfs.mm.arena",
        "shmfs.mm",
        "shmfs.fs.inode",
        "shmfs.fs.options",
        "shmfs.mm.runs",
        "numpy",
        "click",
        "shmfs.fuse.adapter",
    }


@pytest.mark.parametrize(
    ("room", "imported"),
    [
        ("events", "shmfs.system"),
        ("mm", "shmfs.fs.inode"),
        ("mm", "shmfs.tracefile"),
        ("fs", "shmfs.fuse.operations"),
        ("fs", "shmfs.daemon.history"),
        ("ipc", "shmfs.mm"),
        ("record", "shmfs.mm"),
        ("fuse", "shmfs.daemon"),
        ("daemon", "shmfs.client.control"),
        ("record", "shmfs.cli"),
        ("sandbox", "shmfs.fs.options"),
    ],
)
def test_an_arrow_that_points_back_is_found(room, imported):
    assert not allowed(room, imported)


@pytest.mark.parametrize(
    ("room", "imported"),
    [
        ("mm", "shmfs.system.mounts"),
        ("mm", "shmfs.events.hooks"),
        ("fs", "shmfs.mm"),
        ("fuse", "shmfs.fs.inode"),
        ("cli", "shmfs.mm"),
        ("live", "shmfs.errors"),
    ],
)
def test_an_arrow_that_points_forward_is_let_pass(room, imported):
    assert allowed(room, imported)


def test_the_daemon_loads_nothing_heavy():
    program = "import sys, shmfs.daemon.serve; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"pyfuse3", "trio", "msgspec", "shmfs"} <= loaded
    assert not loaded & HEAVY


def test_the_model_loads_neither_fuse_nor_trio():
    program = "import sys, shmfs.fs.check, shmfs.fs.namei, shmfs.fs.attributes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pyfuse3", "trio", "msgspec"} & set(done.stdout.split())


def test_the_top_level_is_what_the_design_says():
    """Of what git knows or would know: what it ignores (caches, a built package) may lie about."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a clone, to tell what belongs to the project")
    top = {line.partition("/")[0] for line in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_too_long(path):
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
