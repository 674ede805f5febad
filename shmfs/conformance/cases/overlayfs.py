"""overlayfs(5) with its layers on the file system."""

import os
from pathlib import Path
from typing import Any

from shmfs.conformance import case
from shmfs.conformance.mounting import unshare_mounts
from shmfs.conformance.tools import call, mode, new, tried


@case(mounts=True)
def operations_on_layers(d: Path) -> Any:
    """Copy up, rename and remove; a copied-up file keeps its set-id bits although its owner is set last."""
    unshare_mounts()
    here = Path.cwd()
    for name in ("lower", "upper", "work", "m", "lower/d"):
        os.mkdir(name)
    for name in ("f", "gone", "d/f", "program"):
        os.close(new(f"lower/{name}", b"content"))
    os.chmod("lower/program", 0o4755)
    layers = ",".join(
        f"{key}={here / name}"
        for key, name in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
    )
    answer = tried(call, "mount", "overlay", here / "m", "overlay", 0, layers)
    if answer:
        return {"answer": answer}
    os.chdir("m")
    seen: dict[str, Any] = {
        "write": tried(os.truncate, "f", 3),
        "write a set-id program": tried(os.pwrite, os.open("program", os.O_WRONLY), b"x", 0),
        "rename": tried(os.rename, "f", "d/g"),
        "rename a directory": tried(os.rename, "d", "e"),
        "link": tried(os.link, "d/f", "h"),
        "unlink": tried(os.unlink, "gone"),
        "attribute": tried(os.setxattr, "h", "user.a", b"1"),
        "list": sorted(os.listdir(".")),
        "below": sorted((name, mode(here / "upper" / name)) for name in os.listdir(here / "upper")),
    }
    os.chdir(here)
    call("umount2", here / "m", 2)  # MNT_DETACH
    return seen
