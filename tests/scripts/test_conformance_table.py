"""README.md says of conformance what the cases and the table of known differences say."""

from pathlib import Path

import pytest

from shmfs import conformance
from shmfs.conformance import known, markdown

README = Path(__file__).parent.parent.parent / "README.md"


def test_the_readme_is_up_to_date() -> None:
    """As every case comes out as foreseen (tests/mount), the figures can be told without a run."""
    text = README.read_text()
    expected = markdown.replaced(text, markdown.block(markdown.foreseen(len(conformance.load()))))
    assert text == expected, "run ./scripts/conformance, which writes that part of README.md"


def test_every_reason_is_told_once() -> None:
    block = markdown.block(markdown.foreseen(1000))
    for reason in known.by_reason():
        assert block.count(f"| {reason.what} | {reason.why} |") == 1


def test_a_page_without_the_block() -> None:
    with pytest.raises(ValueError, match="there is no block"):
        markdown.replaced("nothing", "block")
