"""Headless Chromium: its processes hand each other memory through /dev/shm, which is the mount."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.real.support import REAL, Tmpfs, as_nobody, needs, run

pytestmark = REAL

# Big enough that what is drawn does not travel in messages but in shared memory; the title is what a script
# read back from its own canvas.
PAGE = """<!doctype html>
<html><head><title>not yet</title></head><body style="margin: 0">
<canvas id="canvas" width="1600" height="1200"></canvas>
<script>
  const context = document.getElementById("canvas").getContext("2d");
  for (let row = 0; row < 60; row++)
    for (let column = 0; column < 80; column++) {
      context.fillStyle = `rgb(${row * 4}, ${column * 3}, ${(row * column) % 256})`;
      context.fillRect(column * 20, row * 20, 20, 20);
    }
  const image = context.getImageData(0, 0, 1600, 1200).data;
  let sum = 0;
  for (let at = 0; at < image.length; at++) sum = (sum * 31 + image[at]) % 1000003;
  document.title = "drawn " + sum;
</script></body></html>
"""


def checksum() -> int:
    """What the page's script makes of its picture."""
    total = 0
    for y in range(60):
        row = b"".join(bytes([y * 4, x * 3, y * x % 256, 255]) * 20 for x in range(80))
        for _ in range(20):
            for value in row:
                total = (total * 31 + value) % 1000003
    return total


def render(where: Any, page: Path) -> tuple[str, bytes]:
    """The document after its script has run, and a picture of it."""
    shell = needs("chromium-headless-shell")
    directory = page.parent
    picture = directory / "picture.png"
    picture.unlink(missing_ok=True)
    options = [
        "--disable-gpu",
        "--log-level=3",
        "--window-size=1600,1200",
        f"--screenshot={picture}",
        "--dump-dom",
    ]
    browser = as_nobody(shell, *options, page.as_uri())
    # Chromium of late asks for a memfd first, and for a file in /dev/shm where the kernel has none.
    command = [sys.executable, Path(__file__).with_name("without.py"), *browser]
    said = run(where, *command, cwd="/", env={"HOME": str(directory)})
    return said[said.index("<!DOCTYPE") :], picture.read_bytes()


@pytest.mark.parametrize("options", ["size=256m"])
def test_chromium_renders_a_page(shmfs: Any) -> None:
    # The directory of pytest is closed to others.
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        page = Path(directory, "page.html")
        page.write_text(PAGE)
        document, picture = render(shmfs, page)
        assert f"<title>drawn {checksum()}</title>" in document
        assert (document, picture) == render(Tmpfs(), page)
    shared = [segment for segment in shmfs.segments() if segment.path.startswith("/.org.chromium.Chromium.")]
    assert sum(segment.size for segment in shared) > 1600 * 1200 * 4
    assert all(segment.evicted for segment in shared)
    assert not any(shmfs.path.iterdir())
