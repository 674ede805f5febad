"""Every case of tmpfs_cases: shmfs answers what the kernel's own tmpfs answers."""

from collections.abc import Iterator
from typing import Any

import pytest
import tmpfs_cases
from conftest import Zygote
from known_differences import KNOWN_DIFFERENCES, KNOWN_OF, NEEDS_EXTENSION

CASES = tmpfs_cases.load()


def differences(expected: Any, answered: Any, where: str = "") -> Iterator[str]:
    """A line for each place where the two differ."""
    if isinstance(expected, dict) and isinstance(answered, dict) and expected.keys() == answered.keys():
        for key in expected:
            yield from differences(expected[key], answered[key], f"{where}[{key!r}]")
    elif isinstance(expected, list) and isinstance(answered, list) and len(expected) == len(answered):
        for index, (one, other) in enumerate(zip(expected, answered, strict=True)):
            yield from differences(one, other, f"{where}[{index}]")
    elif expected != answered:
        yield f"{where}: tmpfs {expected!r:.300}, shmfs {answered!r:.300}"


@pytest.mark.mount
@pytest.mark.parametrize("name", CASES)
def test_same_as_tmpfs(name: str, zygote: Zygote) -> None:
    if zygote.store == "no extension" and name in NEEDS_EXTENSION:
        pytest.skip(f"needs the C extension: {NEEDS_EXTENSION[name]}")
    said = zygote.run(name)
    assert said["tmpfs"][0] == "value", said["tmpfs"][1]
    assert said["shmfs"][0] == "value", said["shmfs"][1]
    expected, answered = said["tmpfs"][1], said["shmfs"][1]
    known = KNOWN_DIFFERENCES.get(name, {}) | KNOWN_OF[zygote.store].get(name, {})
    for key, (value, reason) in known.items():
        assert expected[key] != value, f"no difference any more: {key}: {reason}"
        expected[key] = value
    assert answered == expected, "\n".join(differences(expected, answered))
    assert not said["complaints"], said["complaints"]
    assert not said["left"], said["left"]


def test_known_differences_name_cases() -> None:
    assert set(KNOWN_DIFFERENCES) <= set(CASES)
