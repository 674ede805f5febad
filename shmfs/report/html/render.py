"""`model.Page` as one HTML file: markup, style, script and data, and a policy that lets nothing else in."""

import base64
import hashlib
import html
import os
import tempfile
from importlib import resources

import msgspec

from shmfs.errors import ShmfsError
from shmfs.report.html.model import Page


def render(page: Page) -> bytes:
    """Return the file."""
    files = resources.files(__package__)
    template, style, script = (  # in UTF-8, whatever the locale
        files.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    data = msgspec.json.encode(page).decode()
    for character in "<>&\u2028\u2029":  # no name ends the element that it is in
        data = data.replace(character, f"\\u{ord(character):04x}")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(page.title),
        "style": style,
        "data": data,
        "script": script,
    }
    pieces = template.split("@@")  # text, name, text, name, …
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces).encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write(data: bytes, out: str) -> None:
    """Write a file in one piece: `out` is what it was, or all of `data`; raises ShmfsError."""
    try:
        if os.path.exists(out) and not os.path.isfile(out):
            if os.path.isdir(out):
                raise IsADirectoryError(21, "it is a directory: name a file in it")
            with open(out, "wb") as file:  # a pipe or a device
                file.write(data)
            return
        out = os.path.realpath(out)
        handle, path = tempfile.mkstemp(prefix=".shmfs-", suffix=".html", dir=os.path.dirname(out))
        try:
            with open(handle, "wb") as file:
                file.write(data)
            umask = os.umask(0o077)
            os.umask(umask)
            os.chmod(path, 0o666 & ~umask)
            os.replace(path, out)
        except BaseException:
            os.unlink(path)
            raise
    except OSError as error:
        raise ShmfsError(f"{out} cannot be written: {error.strerror or error}") from error
