"""Compare two answers to a case, and say which differences are known."""

from collections.abc import Iterator
from typing import Any

from shmfs.conformance import known
from shmfs.conformance.messages import Difference, Outcome

SHOWN = 400
"""Characters of an answer that are told."""


def judge(name: str, said: dict[str, Any]) -> Outcome:
    """What a case came to, from what a worker said."""
    section = name.partition(".")[0]
    if "why not" in said:
        return Outcome(name, section, "not run", note=said["why not"])
    (kind, expected), (other, answered) = said["expected"], said["answered"]
    if kind == "refused":
        return Outcome(name, section, "not run", note="needs root")
    if kind != "value":
        text = f"it failed on the file system that is compared with: {_last(expected)}"
        return Outcome(name, section, "differs", note=text)
    store = said.get("store", "")
    whole = known.WHOLE.get(store, {}).get(name)
    if other != "value":
        found = [Difference("", shown(expected), f"{other}: {_last(answered)}", str(whole) if whole else "")]
    elif whole:
        found = [_with(one, str(whole)) for one in differences(expected, answered)]
    else:
        found = list(_explained(expected, answered, known.of(store, name)))
    if any(not one.reason for one in found) or said["complaints"]:
        return Outcome(name, section, "differs", found, said["complaints"])
    gone = [] if whole else _gone(expected, answered, known.of(store, name))
    return Outcome(name, section, "known" if found else "agrees", found, "; ".join(gone))


def differences(expected: Any, answered: Any, where: str = "") -> Iterator[Difference]:
    """The places where two answers differ."""
    if isinstance(expected, dict) and isinstance(answered, dict) and expected.keys() == answered.keys():
        for key in expected:
            yield from differences(expected[key], answered[key], f"{where}[{key!r}]")
    elif isinstance(expected, list) and isinstance(answered, list) and len(expected) == len(answered):
        for index, (one, other) in enumerate(zip(expected, answered, strict=True)):
            yield from differences(one, other, f"{where}[{index}]")
    elif expected != answered:
        yield Difference(where, shown(expected), shown(answered))


def shown(value: Any) -> str:
    """A value, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


def _last(text: Any) -> str:
    """What a traceback says at its end."""
    return str(text).strip().rpartition("\n")[2]


def _with(difference: Difference, reason: str) -> Difference:
    difference.reason = reason
    return difference


def _explained(
    expected: Any, answered: Any, table: dict[Any, tuple[Any, known.Reason]]
) -> Iterator[Difference]:
    """All differences; those that the table foresees have a reason."""
    for one in differences(expected, answered):
        for key, (value, reason) in table.items():
            if one.where.startswith(f"[{key!r}]") and value in (..., answered[key]):
                one.reason = str(reason)
        yield one


def _gone(expected: Any, answered: Any, table: dict[Any, tuple[Any, known.Reason]]) -> Iterator[str]:
    """What the table foresees and is not so."""
    for key, (value, _) in table.items():
        if value is not ... and expected[key] == answered[key]:
            yield f"no difference any more: {key}"
